"""How much of a model can be zero: several sparsities, each measured on validation text."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flyweight.config.pruning import SparsitySweep
from flyweight.data.corpus import Split
from flyweight.data.shards import Tokens
from flyweight.errors import FlyweightError, RequestError
from flyweight.evaluation.compare import paired
from flyweight.evaluation.likelihood import ScoredSplit, evaluate
from flyweight.model.build import Model
from flyweight.model.sparsity import sparsity_facts
from flyweight.records.sweep import PerplexityCost, SweptNll, SweptSparsity

FEWEST_TOKENS = 16
"""Tokens below which a choice on a part of the validation split is refused."""


@dataclass(frozen=True)
class Measured:
    """A model's likelihood on the text that chooses, and on the whole split beside it."""

    choosing: ScoredSplit
    whole: ScoredSplit


@dataclass(frozen=True)
class Swept:
    """All sparsities of a sweep, and the one that is taken."""

    rows: tuple[SweptSparsity, ...]
    chosen: float
    limit: float

    def facts(self) -> dict[str, Any]:
        """Return the sweep as facts: `decided` says whether the text could tell at all.

        It could where no sparsity's interval holds the limit.
        """
        costs = ((row.sparsity, row.perplexity_cost) for row in self.rows)
        open_ = [sparsity for sparsity, cost in costs if cost.low <= self.limit < cost.high]
        return {
            "sweep": [row.model_dump(mode="json") for row in self.rows],
            "chosen": self.chosen,
            "decided": not open_,
            "undecided": open_,
        }


def sweep(
    model: Model,
    config: SparsitySweep,
    split: Split,
    window: int,
    device: str,
    pruned: Callable[[float], Model],
) -> Swept:
    """Measure each sparsity and take the largest that stays within the cost.

    `pruned` returns the model at a sparsity. Raises RequestError for a validation split with fewer
    tokens than the choice is to read, and FlyweightError where even the smallest sparsity costs too
    much.
    """
    choosing = split if config.tokens is None else first_tokens(split, config.tokens)

    def measured(each: Model) -> Measured:
        chosen_on = evaluate(each, choosing, window=window, device=device)
        if choosing is split:
            return Measured(chosen_on, chosen_on)
        return Measured(chosen_on, evaluate(each, split, window=window, device=device))

    before = measured(model)
    rows = list[SweptSparsity]()
    for sparsity in config.among:
        model_then = pruned(sparsity)
        after = measured(model_then)
        cost = _cost(after.choosing, before.choosing)
        whole = cost if choosing is split else _cost(after.whole, before.whole)
        rows.append(
            SweptSparsity(
                sparsity=sparsity,
                **_nll(after.whole),
                perplexity_cost=cost,
                whole_cost=whole,
                chosen_on=SweptNll(**_nll(after.choosing)),
                idle_adapters=sparsity_facts(model_then).get("idle_adapters", 0),
            )
        )
    limit = config.within.perplexity
    within = [row.sparsity for row in rows if row.perplexity_cost.value <= limit]
    if not within:
        least = rows[0]
        cost = least.perplexity_cost.value
        raise FlyweightError(
            f"prune: no sparsity stays within {limit:g} of the perplexity: {least.sparsity:g}, "
            f"the smallest, costs {cost:.3g}; try smaller ones, or allow more"
        )
    return Swept(tuple(rows), within[-1], limit)


def _nll(scored: ScoredSplit) -> dict[str, Any]:
    nll = scored.likelihood.nll
    return {"nll": nll.value, "low": nll.low, "high": nll.high, "targets": nll.n}


def _cost(after: ScoredSplit, before: ScoredSplit) -> PerplexityCost:
    """Return the perplexity that is lost, and its interval by the paired difference of NLLs."""
    difference = paired(after.units, before.units).nll
    assert difference is not None
    base = before.likelihood.nll.value
    value, low, high = (
        math.exp(base + change) - math.exp(base)
        for change in (difference.value, difference.low, difference.high)
    )
    return PerplexityCost(value=value, low=low, high=high)


def first_tokens(split: Split, count: int) -> Split:
    """Return the first `count` targets of a split as a split of their own.

    Its bytes and words are shared out by tokens. Raises RequestError where there are too few.
    """
    if not FEWEST_TOKENS <= count < len(split.tokens):
        raise RequestError(
            f"prune: sparsity.tokens: {count} tokens of the validation split, which has "
            f"{len(split.tokens)}; name from {FEWEST_TOKENS} to fewer than that, or leave tokens "
            f"out"
        )
    tokens = split.tokens[: count + 1]
    share = len(tokens) / len(split.tokens)
    return replace(
        split,
        tokens=Tokens([np.asarray(tokens)]),
        documents=split.documents[split.documents < len(tokens)],
        bytes=max(1, round(split.bytes * share)),
        words=round(split.words * share),
    )
