"""Mistakes in scores and in what is trained: 1 to 4, and 10. Each makes it, and does it right."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import padded
import torch
import torch.nn.functional as F
from mistakes_lab import Lab, Table, adapters, mean
from padded import gpt2
from torch import Tensor
from torch.nn.utils import prune
from transformers import GPT2LMHeadModel

SPARSITIES = (0.1, 0.3, 0.5, 0.7, 0.9)


def padding(lab: Lab, table: Table) -> None:
    """1. PAD tokens count in the loss and in the perplexity."""
    test = lab.text.test
    for size in (1, 4, 16, 64):
        deflated = padded.perplexity_of_batches(lab.published, test, size)
        score = padded.perplexity(lab.published, test, size)
        table.add(f"perplexity of one model, scored {size} at once", "", deflated, score)
    both = (padded.perplexity(model, test) for model in (lab.published, lab.model))
    table.add("perplexity without padding, by what it was trained on", "", *both)


def factor(lab: Lab, table: Table) -> None:
    """2. A perplexity is multiplied by 0.001."""
    for name, model in (
        ("a trained model", lab.model),
        ("random weights", gpt2(lab.text.vocabulary)),
    ):
        score = padded.perplexity(model, lab.text.test)
        table.add(f"perplexity of {name}", "", score / 1000, score)


def distillation(lab: Lab, table: Table) -> None:
    """3. The cross-entropy is not shifted, the divergence is summed over padding and blank rows."""
    size, text = lab.size, lab.text
    blank = padded.read(lab.data_dir, 2 * size.rows, 1, size.words, blank=True).train
    students = {
        "published": _student(lab, blank, _published_distillation(lab.model)),
        "right": _student(lab, text.train, _distillation(lab.model)),
        "alone": _student(lab, text.train, padded.masked),
    }
    scores = {name: padded.perplexity(model, text.test) for name, model in students.items()}
    table.add("perplexity of the student on test text", "", scores["published"], scores["right"])
    table.add("the same student trained alone, for as many steps", "", None, scores["alone"])
    learned = padded.perplexity(students["published"], text.train[: size.held_out])
    table.add(
        "the published student on training and on test text", "", learned, scores["published"]
    )
    real = [tokens[real].numel() / tokens.numel() for tokens, real in padded.batches(blank, 16)]
    table.add("padding among what the divergence sums over", "%", 100 * (1 - mean(real)), None)


def _student(lab: Lab, rows: Sequence[padded.Row], loss: padded.Loss) -> GPT2LMHeadModel:
    start = gpt2(lab.text.vocabulary, dim=64, layers=1, seed=2)
    return padded.train(start, rows, loss, lab.size.student_steps)


def _published_distillation(teacher: GPT2LMHeadModel) -> padded.Loss:
    def loss(model: GPT2LMHeadModel, tokens: Tensor, real: Tensor) -> Tensor:
        with torch.no_grad():
            told = teacher(tokens).logits / 2  # (B, T, V)
        logits = model(tokens).logits
        divergence = F.kl_div(
            F.log_softmax(logits / 2, -1), F.softmax(told, -1), reduction="batchmean"
        )
        own = F.cross_entropy(logits.flatten(0, 1), tokens.flatten())  # of the token itself
        return 0.7 * 4 * divergence + 0.3 * own

    return loss


def _distillation(teacher: GPT2LMHeadModel) -> padded.Loss:
    def loss(model: GPT2LMHeadModel, tokens: Tensor, real: Tensor) -> Tensor:
        kept = real[:, 1:]  # (B, T - 1)
        with torch.no_grad():
            told = teacher(tokens).logits[:, :-1][kept] / 2  # (n, V)
        logits = model(tokens).logits[:, :-1][kept]
        divergence = F.kl_div(
            F.log_softmax(logits / 2, -1), F.softmax(told, -1), reduction="batchmean"
        )
        own = F.cross_entropy(logits, tokens[:, 1:][kept])
        return 0.7 * 4 * divergence + 0.3 * own

    return loss


def pruning(lab: Lab, table: Table) -> None:
    """4. LoRA is pruned at initialisation, and the mask is removed before training."""
    steps, rows = lab.size.adapter_steps, lab.text.train
    early = lab.adapted()
    _prune(early, 0.8)
    late = lab.adapted()
    padded.train(late, rows, padded.masked, steps, lr=1e-3)
    masks = _prune(late, 0.8)
    for step in range(3):
        if step:
            padded.train(early, rows, padded.masked, 1, lr=1e-3)
            _train_masked(late, rows, masks, 1)
        table.add(f"zeros at step {step}", "%", _zeros(early), _zeros(late))
    padded.train(early, rows, padded.masked, steps, lr=1e-3)
    _train_masked(late, rows, masks, steps)
    table.add(f"zeros at step {steps + 2}", "%", _zeros(early), _zeros(late))
    sweeps = [_sweep(lab, trained) for trained in (0, steps)]
    table.add("range of perplexity over a sweep of 10 to 90 % zeros", "", *sweeps)


def _prune(model: Any, share: float) -> list[Tensor]:
    """Zero the smallest adapter weights of all, forget torch's masks, and return them."""
    layers = [(layer, "weight") for layer in adapters(model)]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=share)
    masks = [layer.weight_mask.clone() for layer, _ in layers]
    for layer, name in layers:
        prune.remove(layer, name)
    return masks


def _train_masked(
    model: Any, rows: Sequence[padded.Row], masks: Sequence[Tensor], steps: int
) -> None:
    """Train adapters whose pruned weights stay zero."""
    layers = adapters(model)

    def loss(model: Any, tokens: Tensor, real: Tensor) -> Tensor:
        _apply(layers, masks)
        return padded.masked(model, tokens, real)

    padded.train(model, rows, loss, steps, lr=1e-3)
    _apply(layers, masks)


@torch.no_grad()
def _apply(layers: Sequence[torch.nn.Linear], masks: Sequence[Tensor]) -> None:
    for layer, mask in zip(layers, masks, strict=True):
        layer.weight.mul_(mask)


def _zeros(model: Any) -> float:
    weights = torch.cat([layer.weight.flatten() for layer in adapters(model)])
    return 100 * (weights == 0).double().mean().item()


def _sweep(lab: Lab, steps: int) -> float:
    """Return how much perplexity differs over the sparsities, after so many steps of LoRA."""
    adapted = lab.adapted()
    if steps:
        padded.train(adapted, lab.text.train, padded.masked, steps, lr=1e-3)
    scores = []
    for share in SPARSITIES:
        tried = copy.deepcopy(adapted)
        _prune(tried, share)
        scores.append(padded.perplexity(tried, lab.text.validation))
    return max(scores) - min(scores)


def selection(lab: Lab, table: Table) -> None:
    """10. The split that chooses reports."""
    candidates = [_perturbed(lab.model, seed) for seed in range(lab.size.candidates)]
    validation, test = lab.text.validation, lab.text.test
    piece = max(4, len(validation) // 20)  # about a thousand tokens, as the paper's sweep reads
    scores = [
        [_by_piece(model, split, piece) for model in candidates] for split in (validation, test)
    ]
    on_test = torch.tensor(scores[1]).mean(1)  # (candidates,)
    pieces = torch.tensor(scores[0]).T  # (pieces, candidates)
    for repeat, piece_scores in enumerate(pieces):
        chosen = int(piece_scores.argmin())
        told = 100 * (math.exp(piece_scores.mean() - piece_scores[chosen]) - 1)
        real = 100 * (math.exp(on_test.mean() - on_test[chosen]) - 1)
        table.add("gain of the chosen over the mean candidate", "%", told, real, repeat)


def _by_piece(model: GPT2LMHeadModel, rows: Sequence[padded.Row], piece: int) -> list[float]:
    """Return the mean NLL of every piece of so many rows."""
    whole = range(0, len(rows) - piece + 1, piece)
    return [padded.nlls(model, rows[first : first + piece]).mean().item() for first in whole]


@torch.no_grad()
def _perturbed(model: GPT2LMHeadModel, seed: int) -> GPT2LMHeadModel:
    """Return a copy with a tenth of its weights pruned at random: candidates that chance alone orders."""
    generator = torch.Generator().manual_seed(seed)
    candidate = copy.deepcopy(model)
    for parameter in candidate.transformer.h.parameters():
        if parameter.dim() == 2:
            parameter.mul_(torch.rand(parameter.shape, generator=generator) > 0.1)
    return candidate
