"""A distillation whose cross-entropy is not shifted, as in DistilQwen3's code, beside the one that is.

    python benchmarks/bench_unshifted.py [--quick] [--data-dir DIR]

The published loss is 0.8 * T^2 * KL(teacher || student) + 0.2 * CE with T = 2, and its targets are the
tokens that the model has just read. Its perplexity has the same targets. A student learns by each loss
from the same teacher on the same windows, three seeds, and each is scored on held-out text both ways.
The text is Tiny Shakespeare in bytes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from rows import Rows
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from flyweight.config.schema import Data, ModelConfig
from flyweight.data.document import Document
from flyweight.data.sources import source_of
from flyweight.data.sources.local import data_folder
from flyweight.model.build import build

CONTEXT, BATCH, VOCABULARY, TEMPERATURE = 128, 16, 256, 2.0
PUBLISHED, RIGHT = "as published", "as it should be"

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits (B, T, V), what was read (B, T), what comes next (B, T)) -> a number."""


def unshifted(logits: Tensor, read: Tensor, following: Tensor) -> Tensor:
    """Return the cross-entropy of the tokens that were read."""
    return cross_entropy(logits.flatten(0, 1), read.flatten())


def shifted(logits: Tensor, read: Tensor, following: Tensor) -> Tensor:
    """Return the cross-entropy of the next tokens."""
    return cross_entropy(logits.flatten(0, 1), following.flatten())


def text(data_dir: Path | None, split: str) -> Tensor:
    """Return the bytes of a split (N,)."""
    source = source_of(Data(corpus="tiny-shakespeare"), data_dir)
    parts = [each.text for each in source.documents(split) if isinstance(each, Document)]
    return torch.tensor(list("".join(parts).encode()))


def model(dim: int, layers: int, seed: int) -> torch.nn.Module:
    config = ModelConfig(
        dim=dim, layers=layers, vocab_size=VOCABULARY, context=CONTEXT, attention={"heads": 4}
    )
    return build(config.resolved(), seed)


def windows(tokens: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a batch of windows (B, T), and what follows each token (B, T)."""
    starts = torch.randint(len(tokens) - CONTEXT - 1, (BATCH, 1), generator=generator)
    at = starts + torch.arange(CONTEXT)
    return tokens[at], tokens[at + 1]


def train(
    student: torch.nn.Module,
    tokens: Tensor,
    steps: int,
    loss: Loss,
    seed: int,
    teacher: torch.nn.Module | None = None,
) -> torch.nn.Module:
    """Train a model by a loss, and by the divergence from a teacher where there is one."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        read, following = windows(tokens, generator)
        logits = student(read)
        value = loss(logits, read, following)
        if teacher is not None:
            with torch.no_grad():
                told = log_softmax(teacher(read) / TEMPERATURE, -1).flatten(0, 1)
            own = log_softmax(logits / TEMPERATURE, -1).flatten(0, 1)
            divergence = kl_div(own, told, reduction="batchmean", log_target=True)
            value = 0.8 * TEMPERATURE**2 * divergence + 0.2 * value
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
    return student.eval()


@torch.inference_mode()
def perplexity(student: torch.nn.Module, tokens: Tensor, loss: Loss) -> float:
    """Return exp of the mean loss over whole windows of held-out text."""
    count = (len(tokens) - 1) // CONTEXT
    read = tokens[: count * CONTEXT].view(count, CONTEXT)
    following = tokens[1 : count * CONTEXT + 1].view(count, CONTEXT)
    losses = [
        float(loss(student(some), some, after)) * len(some)
        for some, after in zip(read.split(BATCH), following.split(BATCH), strict=True)
    ]
    return math.exp(sum(losses) / count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--data-dir", help="local copies of corpora")
    asked = parser.parse_args()
    folder = data_folder(asked.data_dir)
    taught, learned = (10, 5) if asked.quick else (800, 400)
    tokens, held_out = text(folder, "train"), text(folder, "test")
    rows = Rows("unshifted")
    for seed in range(1 if asked.quick else 3):
        teacher = train(model(128, 4, seed), tokens, taught, shifted, seed)
        for who, loss in ((PUBLISHED, unshifted), (RIGHT, shifted)):
            student = train(model(96, 2, seed), tokens, learned, loss, seed, teacher)
            for metric, score in (("read tokens", unshifted), ("next tokens", shifted)):
                value = perplexity(student, held_out, score)
                rows.add(who, "a student", f"perplexity of {metric}", seed, value, "1/token")
        value = perplexity(teacher, held_out, shifted)
        rows.add("teacher", "a student", "perplexity of next tokens", seed, value, "1/token")
    if not asked.quick:
        rows.write()


if __name__ == "__main__":
    main()
