"""What zeros cost: a pruning's sparsity, and every sparsity that its sweep measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

from flyweight.records.sealed import Record


class PerplexityCost(Record):
    """Perplexity beyond that of the model before, with its paired 95 % interval."""

    value: float
    low: float
    high: float


class SweptNll(Record):
    """The NLL of `targets` tokens, nats per token, with its 95 % interval."""

    nll: float
    low: float
    high: float
    targets: int


class SweptSparsity(SweptNll):
    """One sparsity of a sweep: its NLL on the whole split, and what it costs.

    `chosen_on` is its NLL on the text that chooses, and `perplexity_cost` its cost there.
    `whole_cost` is its cost on the whole split, None where an earlier version did not measure it.
    `idle_adapters` add nothing any more.
    """

    sparsity: float
    perplexity_cost: PerplexityCost
    whole_cost: PerplexityCost | None = None
    chosen_on: SweptNll
    idle_adapters: int = 0

    def before(self) -> float | None:
        """Return the perplexity of the whole split before pruning; None where it is not known."""
        return None if self.whole_cost is None else math.exp(self.nll) - self.whole_cost.value

    def before_on_choice(self) -> float:
        """Return the perplexity before pruning on the text that chooses."""
        return math.exp(self.chosen_on.nll) - self.perplexity_cost.value


class Pruning(Record):
    """The zeros of a pruned model, and the sweep that chose their share where there was one.

    `sparsity` is of its pruned matrices with their adapters, `adapter_sparsity` of the adapters
    alone. `idle_adapters` of its `adapters` add nothing any more. `limit` is the perplexity that
    zeros may cost. `undecided` sparsities are those whose interval holds it.
    """

    sparsity: float | None = None
    adapter_sparsity: float | None = None
    adapters: int = 0
    idle_adapters: int = 0
    sweep: tuple[SweptSparsity, ...] = ()
    chosen: float | None = None
    undecided: tuple[float, ...] = ()
    limit: float | None = None

    @classmethod
    def from_facts(cls, facts: Mapping[str, object], limit: float | None) -> Self:
        """Return the pruning that an artifact's facts tell of."""
        names = cls.model_fields.keys() - {"limit"}
        known = {name: facts[name] for name in names if name in facts}
        return cls.model_validate({**known, "limit": limit})
