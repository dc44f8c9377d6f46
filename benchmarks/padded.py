"""WikiText-2 as LightGPT2 reads it: a line is a sample of at most 128 words, padded to its batch's longest.

GPT-2 in a small shape, as transformers has it, is trained and scored on them in plain torch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

LONGEST = 128
PAD, UNKNOWN = 0, 1
IGNORED = -100
BATCH = 16

Row = list[int]
Loss = Callable[[GPT2LMHeadModel, Tensor, Tensor], Tensor]
"""(model, tokens (B, T), which of them are real (B, T)) -> the loss of a batch."""


@dataclass(frozen=True)
class Text:
    """The samples of each split, by words; `vocabulary` counts padding and the unknown word."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]
    vocabulary: int


def read(folder: Path, rows: int, held_out: int, words: int, blank: bool = False) -> Text:
    """Return the first samples of each split, with the most frequent words of the training lines.

    Lines without a word are left out, unless `blank`.
    """

    def lines(split: str, most: int) -> list[list[str]]:
        text = (folder / "wikitext-2" / f"{split}.txt").read_text(encoding="utf-8")
        found = [line.split()[:LONGEST] for line in text.splitlines()]
        return [line for line in found if line or blank][:most]

    train = lines("train", rows)
    counted = Counter(word for line in train for word in line).most_common(words)
    number = {word: index + UNKNOWN + 1 for index, (word, _) in enumerate(counted)}

    def encoded(found: list[list[str]]) -> list[Row]:
        return [[number.get(word, UNKNOWN) for word in line] for line in found]

    held = (encoded(lines(split, held_out)) for split in ("valid", "test"))
    return Text(encoded(train), *held, vocabulary=len(number) + UNKNOWN + 1)


def batches(rows: Sequence[Row], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield tokens (B, T) and which of them are real (B, T)."""
    for first in range(0, len(rows), size):
        yield padded(rows[first : first + size])


def padded(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Return tokens (B, T) and which of them are real (B, T), as long as the longest row."""
    longest = max(2, *map(len, rows)) if len(rows) > 1 else max(2, len(rows[0]))
    tokens = torch.tensor([[*row, *[PAD] * (longest - len(row))] for row in rows])  # (B, T)
    return tokens, tokens != PAD


def gpt2(vocabulary: int, dim: int = 96, layers: int = 2, seed: int = 0) -> GPT2LMHeadModel:
    """Return a GPT-2 of random weights, without dropout."""
    torch.manual_seed(seed)
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=LONGEST,
        n_embd=dim,
        n_layer=layers,
        n_head=4,
        bos_token_id=PAD,
        eos_token_id=PAD,
        pad_token_id=PAD,
        **quiet,
    )
    return GPT2LMHeadModel(config)


def train(
    model: GPT2LMHeadModel, rows: Sequence[Row], loss: Loss, steps: int, lr: float = 3e-3
) -> GPT2LMHeadModel:
    """Train a model for so many batches of the rows in a fixed order; return it in eval mode."""
    order = torch.Generator().manual_seed(0)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1)
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(rows), (BATCH,), generator=order).tolist()
        tokens, real = padded([rows[index] for index in chosen])
        optimizer.zero_grad()
        loss(model, tokens, real).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def pads_counted(model: GPT2LMHeadModel, tokens: Tensor, real: Tensor) -> Tensor:
    """Return the mean loss as published: the labels are the tokens, padding among them."""
    return model(tokens, labels=tokens).loss


def masked(model: GPT2LMHeadModel, tokens: Tensor, real: Tensor) -> Tensor:
    """Return the mean loss of the next real token."""
    return model(tokens, labels=tokens.masked_fill(~real, IGNORED)).loss


@torch.no_grad()
def perplexity_of_batches(model: GPT2LMHeadModel, rows: Sequence[Row], size: int) -> float:
    """Return exp of the mean of the batches' mean losses, padding counted: as published."""
    losses = [pads_counted(model, *batch).item() for batch in batches(rows, size)]
    return math.exp(sum(losses) / len(losses))


@torch.no_grad()
def nlls(model: GPT2LMHeadModel, rows: Sequence[Row], size: int = 64) -> Tensor:
    """Return the NLL (n,) of every real target."""
    found = []
    for tokens, real in batches(rows, size):
        logits = model(tokens).logits[:, :-1]  # (B, T - 1, V)
        targets = tokens[:, 1:].masked_fill(~real[:, 1:], IGNORED)  # (B, T - 1)
        nll = F.cross_entropy(
            logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"
        )
        found.append(nll[targets != IGNORED])
    return torch.cat(found)


def perplexity(model: GPT2LMHeadModel, rows: Sequence[Row], size: int = 64) -> float:
    """Return exp of the summed NLL by the number of real targets: as it should be."""
    return math.exp(nlls(model, rows, size).double().mean().item())
