"""Mixing a trained network with n-gram counts and a pointer.

Tables come from training text, gates from validation text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flyweight.checkpoints import load_any
from flyweight.checkpoints.convert import copy_tokenizer
from flyweight.config import schema
from flyweight.core.files import disk_errors
from flyweight.data.corpus import Corpus
from flyweight.data.shards import Tokens
from flyweight.errors import RequestError
from flyweight.evaluation.floors import TRAIN_LIMIT
from flyweight.evaluation.kneser_ney import KneserNey
from flyweight.model import folder
from flyweight.model.build import build
from flyweight.model.decoder import Decoder
from flyweight.model.mixture import CODE_STEPS, NOTHING, MixtureHead
from flyweight.spec import flops as cost
from flyweight.store.artifact import Draft
from flyweight.store.stage import Context, Inputs, Outline, PlannedInputs, Stage

ROWS = 512
"""Tokens whose distributions exist at once while the gates' features are collected."""

STEPS = 100
"""L-BFGS steps at most; the objective is smooth and has some hundred parameters."""

LEAST_TARGETS = 64
"""Validation targets below which no gate is fitted."""

GATES_SECONDS = 4.0
"""Of fitting the gates, the passes over validation text included."""

TABLE_SECONDS_PER_TOKEN = 1.2e-6
"""Of counting the n-grams of a training text and of unpacking what was counted."""


# --- tables ---


def count_tables(
    tokens: np.ndarray, vocab_size: int, config: schema.Counts
) -> tuple[schema.Counts, dict[str, Tensor]]:
    """Return the config with its entries, and the tensors of `CountTables`.

    `tokens` (N,) are the training text. An n-gram stays where it was counted `min_count` times or
    is the context of one that stays.
    """
    counted = KneserNey(tokens, vocab_size, config.order)
    if counted.order < config.order:
        raise RequestError(
            f"counts.order: {config.order} is more than the text's {len(tokens)} tokens"
        )
    stays, config = _pruned(counted, config)
    numbers: np.ndarray = np.zeros(1, np.int64)  # of the contexts that stay
    entries, tensors = [], dict[str, Tensor]()
    token_type = torch.int16 if vocab_size <= 2**15 else torch.int32
    for n, (level, keep) in enumerate(zip(counted.levels, stays, strict=True), start=1):
        context, token = np.divmod(level.keys[keep], vocab_size)
        total = np.maximum(level.total[context], 1.0)  # nothing was counted after a few contexts
        share = level.kept[keep] / total
        tensors[f"tokens_{n}"] = torch.from_numpy(token).to(token_type)
        tensors[f"codes_{n}"] = torch.from_numpy(_codes(share))
        if n > 1:
            starts = np.searchsorted(numbers[context], np.arange(entries[-1] + 1))
            tensors[f"starts_{n}"] = torch.from_numpy(starts.astype(np.int32))
        numbers = np.cumsum(keep) - 1
        entries.append(int(keep.sum()))
    return config.model_copy(update={"entries": tuple(entries)}), tensors


def _pruned(counted: KneserNey, config: schema.Counts) -> tuple[list[np.ndarray], schema.Counts]:
    """Return which n-grams of each order stay, and the config with the `min_count` that was used.

    It rises until the n-grams are within the limit.
    """
    least = config.min_count
    while True:
        stays = _kept(counted, least)
        ngrams = sum(int(keep.sum()) for keep in stays)
        if config.limit is None or ngrams <= config.limit:
            return stays, config.model_copy(update={"min_count": least})
        if ngrams == len(stays[0]) + config.order - 1:
            raise RequestError(
                f"counts.limit: {config.limit} is less than the {ngrams} n-grams that are needed"
            )
        least = least + 1 if least < 8 else least * 5 // 4


def mixing_seconds(counted_tokens: float) -> float:
    """Return the seconds of mixing a network, whose text has so many tokens to count."""
    return GATES_SECONDS + TABLE_SECONDS_PER_TOKEN * min(counted_tokens, TRAIN_LIMIT)


def planned(network: schema.ModelConfig, config: schema.Mix) -> schema.ModelConfig:
    """Return the config of a mixture before its text is counted.

    It has `limit` n-grams, or hardly any where there is no limit.
    """
    counts = config.counts
    if counts is not None:
        vocab = network.vocab_size or 1
        inner = max(1, (counts.limit or 0) - vocab - counts.order + 2)
        entries = (
            (vocab, *[1] * (counts.order - 3), inner, 1) if counts.order > 2 else (vocab, inner)
        )
        counts = counts.model_copy(update={"entries": entries})
    mixture = schema.Mixture(counts=counts, pointer=config.pointer)
    return network.model_copy(update={"mixture": mixture})


def _kept(counted: KneserNey, min_count: int) -> list[np.ndarray]:
    """Return for every order which n-grams stay, shortest first; all single tokens do."""
    stays: list[np.ndarray] = []
    children: np.ndarray | None = None
    for level in reversed(counted.levels[1:]):
        keep = level.counts >= min_count
        if children is not None:
            keep[children] = True
        if not keep.any():
            keep[int(np.argmax(level.kept))] = True  # no order is empty
        children = np.unique(level.keys[keep] // counted.vocab_size)
        stays.append(keep)
    stays.append(np.ones(len(counted.levels[0].keys), bool))
    return stays[::-1]


def _codes(share: np.ndarray) -> np.ndarray:
    """Return shares of probability as 16-bit codes, rounded down: 2^(-code / CODE_STEPS)."""
    with np.errstate(divide="ignore"):
        steps = np.ceil(-CODE_STEPS * np.log2(share) - 1e-6)
    return np.where(steps < NOTHING, np.maximum(steps, 0), NOTHING).astype(np.int16)


# --- gates ---


@dataclass
class Evidence:
    """What the gates are fitted on.

    `scores` (N, experts) are the targets' log-probabilities by expert; `numbers`, `case` and
    `speaks` are the gates' features.
    """

    scores: Tensor
    numbers: Tensor
    case: Tensor
    speaks: Tensor

    def part(self, rows: slice) -> Evidence:
        """Return some of the targets."""
        return Evidence(self.scores[rows], self.numbers[rows], self.case[rows], self.speaks[rows])


@torch.no_grad()
def collect(model: Decoder, tokens: np.ndarray | Tokens, context: int, batch: int = 8) -> Evidence:
    """Return the evidence of all whole windows of a stream (N,), in order.

    The model is a mixture.
    """
    head = model.mixture
    assert head is not None
    windows = (len(tokens) - 1) // context
    parts: list[tuple[Tensor, ...]] = []
    for first in range(0, windows, batch):
        starts = range(first * context, min(windows, first + batch) * context, context)
        windows_read = np.stack(
            [np.asarray(tokens[start : start + context + 1], np.int64) for start in starts]
        )
        window = torch.from_numpy(windows_read).to(model.device)  # (B, T + 1)
        hidden = model.hidden(window[:, :-1]).flatten(0, 1)  # (B * T, dim + E)
        targets = window[:, 1:].flatten()
        for rows, row_targets in zip(hidden.split(ROWS), targets.split(ROWS), strict=True):
            experts = head.experts(rows, model.network_logits(rows))
            picked = [expert.gather(1, row_targets[:, None])[:, 0] for expert in experts]
            tiny = torch.finfo(torch.float32).tiny
            scores = [picked[0], *(value.clamp(min=tiny).log() for value in picked[1:])]
            parts.append((torch.stack(scores, 1), *head.features(rows, experts[0])))
    return Evidence(*(torch.cat(column) for column in zip(*parts, strict=True)))


def mixed_nll(head: MixtureHead, evidence: Evidence) -> Tensor:
    """Return the mixture's NLL of every target (N,), in nats."""
    shares = head.shares(evidence.numbers, evidence.case, evidence.speaks)
    return -torch.logsumexp(shares + evidence.scores, 1)


def fit(head: MixtureHead, evidence: Evidence) -> None:
    """Fit the gates to targets by L-BFGS.

    They minimise the summed NLL plus half the squared weights, a standard normal prior. Weights act
    on standardised features, and cases differ from a common bias; both are written into the head's
    two tensors.
    """
    mean, std = evidence.numbers.mean(0), evidence.numbers.std(0).clamp(min=1e-6)
    weight = torch.zeros_like(head.gate, requires_grad=True)
    cases = torch.zeros_like(head.cases, requires_grad=True)
    bias = torch.zeros(head.gate.shape[0], device=weight.device, requires_grad=True)

    def write() -> None:
        scaled = weight / std
        head.gate, head.cases = nn.Parameter(scaled), nn.Parameter(cases + bias - scaled @ mean)

    standard = (evidence.numbers - mean) / std

    def closure() -> Tensor:
        optimizer.zero_grad()
        scores = standard @ weight.T + cases[evidence.case] + bias
        shares = scores.masked_fill(~evidence.speaks, -torch.inf).log_softmax(-1)
        nll = -torch.logsumexp(shares + evidence.scores, 1).sum()
        loss = (nll + 0.5 * (weight.square().sum() + cases.square().sum())) / len(standard)
        loss.backward()
        return loss

    options = {"max_iter": STEPS, "history_size": 10, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS([weight, cases, bias], **options)
    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        write()


def crossfit_nll(head: MixtureHead, evidence: Evidence) -> float:
    """Return the mean NLL of targets; gates fitted on one half score the other."""
    half, total = len(evidence.scores) // 2, 0.0
    halves = (slice(0, half), slice(half, None))
    for mine, other in (halves, halves[::-1]):
        fit(head, evidence.part(mine))
        with torch.no_grad():
            total += float(mixed_nll(head, evidence.part(other)).double().sum())
    return total / len(evidence.scores)


# --- the stage ---


class MixStage(Stage[schema.Mix]):
    """A trained network mixed with counts and a pointer.

    It must be at hand as one of our decoders.
    """

    version = 1

    def run(
        self, config: schema.Mix, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Write the mixed `model/`.

        `best_nll` is cross-fitted on validation text, `network_nll` the network's own.
        """
        source, where = inputs.model("input"), f"stages.{inputs.name}.input"
        network = load_any.decoder(source, context.runtime.device, where)
        if not isinstance(network, Decoder):
            raise RequestError(f"{where}: only decoders are mixed; this is a baseline")
        if inputs.artifacts["input"].facts.get("documents") == "isolated":
            raise RequestError(
                f"{where}: this network reads documents apart, and the counts and the pointer of "
                f"a mixture look across them; mix a network of joined documents"
            )
        check_tokenizer(inputs)
        corpus = Corpus.open(inputs.text(), verify=False)
        model = mixed(network, corpus, config)
        validation = corpus.split("validation").tokens
        window = load_any.window(model.config)
        tokens = validation[: max(config.validation_tokens, window) + 1]
        window = min(window, len(tokens) - 1)
        if len(tokens) - 1 < LEAST_TARGETS:
            raise RequestError(
                f"stages.{inputs.name}: the validation split has {len(validation)} tokens; the "
                f"gates need {LEAST_TARGETS + 1} of them: use more text or a larger data.validation"
            )
        evidence = collect(model, tokens, window)
        assert model.mixture is not None
        best = crossfit_nll(model.mixture, evidence)
        fit(model.mixture, evidence)
        with disk_errors(draft.path):
            folder.save(model, draft.new_folder("model"))
            copy_tokenizer(source, draft.path / "model")
        flops = len(evidence.scores) // window * cost.forward_flops(model.config, window)
        network_nll = -float(evidence.scores[:, 0].double().mean())
        draft.events.emit("mixed", network_nll=network_nll, nll=best, targets=len(evidence.scores))
        return {
            **inputs.artifacts["input"].facts,  # how the network was trained
            "best_nll": best,
            "network_nll": network_nll,
            "total_flops": inputs.spent("total_flops") + flops,
            "total_seconds": inputs.spent("total_seconds"),
        }

    def plan(self, config: schema.Mix, inputs: PlannedInputs) -> Outline:
        """Return the mixture as far as it is known before its text is counted."""
        seconds = mixing_seconds((inputs.train_tokens or 0) if config.counts else 0)
        network = inputs.models.get("input")
        if not isinstance(network, schema.ModelConfig):
            return Outline(seconds=seconds)
        notes: tuple[str, ...] = ()
        if config.counts is not None and config.counts.limit is None:
            notes = ("its n-gram counts are not planned: their size follows from the text",)
        return Outline(planned(network, config), seconds, notes)


def check_tokenizer(inputs: Inputs) -> None:
    """Raise RequestError where the network reads other tokens than the corpus has."""
    theirs = inputs.model("input") / "tokenizer.json"
    if (inputs.text() / "tokenizer.json").read_bytes() != theirs.read_bytes():
        raise RequestError(
            f"stages.{inputs.name}.data: the corpus and the network use different tokenizers; give"
            f" data.tokenizer={{kind: file, path: {theirs}}}"
        )


def mixed(network: Decoder, corpus: Corpus, config: schema.Mix) -> Decoder:
    """Return a network with the tables of a corpus and gates that are still to be fitted."""
    vocab, counts, tables = network.config.vocab_size or 0, config.counts, dict[str, Tensor]()
    if counts is not None:
        text = np.asarray(corpus.split("train").tokens[:TRAIN_LIMIT])
        counts, tables = count_tables(text, vocab, counts)
    mixture = schema.Mixture(counts=counts, pointer=config.pointer)
    with torch.device("meta"):
        model = build(network.config.model_copy(update={"mixture": mixture}))
    assert isinstance(model, Decoder) and model.mixture is not None
    weights = {
        name: value for name, value in network.state_dict().items() if "mixture." not in name
    }
    gates = {
        f"mixture.{name}": torch.zeros(value.shape, dtype=network.dtype, device=network.device)
        for name, value in model.mixture.named_parameters()
    }
    counted = {f"mixture.counts.{name}": value.to(network.device) for name, value in tables.items()}
    model.load_state_dict({**weights, **gates, **counted}, assign=True)
    return model.eval()
