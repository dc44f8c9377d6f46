"""Which weights of a trained model become zero and stay zero."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, NonNegativeInt, Tag, field_validator

from flyweight.config.base import PositiveInt, Strict, added
from flyweight.config.compression import Calibrated
from flyweight.config.sparse_kinds import Pattern
from flyweight.config.stage import INHERITED, Origin, StageConfig
from flyweight.config.units import Tokens

Sparsity = Annotated[float, Field(gt=0, lt=1)]
"""The share of numbers that are zero."""

CALIBRATED = ("wanda", "sparsegpt")
"""Methods that weigh a weight by what it multiplies."""

HALF = 0.5
"""The sparsity of the pattern 2:4."""


class Within(Strict):
    """What a sparsity may cost: so much more perplexity than the model has before."""

    perplexity: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SparsitySweep(Strict):
    """Several sparsities, of which the largest is taken that stays `within` a cost.

    Each is measured on the validation split: on all of it or, with `tokens`, on its first ones, as
    the choice then is. With `tokens`, the whole split is measured beside them.
    """

    among: Annotated[tuple[Sparsity, ...], Field(min_length=2)]
    within: Within
    tokens: Tokens | None = None

    @field_validator("among", mode="after")
    @classmethod
    def _ascending(cls, among: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(among)))


def _kind_of_sparsity(value: object) -> str:
    return "sweep" if isinstance(value, dict | SparsitySweep) else "number"


AnySparsity = Annotated[
    Annotated[Sparsity, Tag("number")] | Annotated[SparsitySweep, Tag("sweep")],
    Discriminator(_kind_of_sparsity),
]


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Patterns = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    Field(min_length=1),
    BeforeValidator(_listed),
]
"""Glob patterns over the names of layers, as in a model's `linears`."""


class Prune(Calibrated):
    """Set the least important weights of a model to zero, with masks that keep them there.

    `method` says what is important. `magnitude` is a weight's absolute value. `wanda` multiplies it
    by the size of what the weight multiplies (Sun et al. 2023), and compares the weights of one
    output. `sparsegpt` lets later weights make up for the loss (Frantar and Alistarh 2023). Both
    read the calibration text. `random` is chance, the control.

    `scope: global` compares all chosen weights with each other, `layer` those of one matrix.
    `pattern: 2:4` keeps two of every four numbers in a row. `of: adapters` prunes the A and B of
    every LoRA instead of matrices. `targets` are the matrices: those of blocks, unless others are
    named.

    The model is neither smaller nor faster: the stage `pack` stores less.

    `structured` removes whole parts instead, and makes an ordinary smaller and faster model. Each
    layer keeps `heads` heads and `hidden` channels of its MLP. `layers` are those that stay, or how
    many. `score` says which: by the size of their weights, by the change of the loss without them
    (`taylor`, Molchanov et al. 2019, which reads the calibration text), or by chance.
    `vocabulary: used` removes the entries of a byte-level BPE tokenizer, with their rows, that the
    training split never uses: that of `calibration.data`, or of the input's own text.
    """

    stage: Literal["prune"]
    input: str
    method: Literal["magnitude", "wanda", "sparsegpt", "random", "structured"] = "magnitude"
    of: Literal["weights", "adapters"] = "weights"
    scope: Literal["global", "layer"] = "layer"
    sparsity: AnySparsity | None = None
    pattern: Pattern | None = None
    targets: Patterns = ("blocks",)
    heads: PositiveInt | None = added(None)
    hidden: PositiveInt | None = added(None)
    layers: PositiveInt | tuple[NonNegativeInt, ...] | None = added(None)
    score: Literal["magnitude", "taylor", "random"] | None = added(None)
    vocabulary: Literal["used"] | None = added(None)

    makes_model: ClassVar[bool] = True

    @property
    def calibrates(self) -> bool:
        """Inputs are gathered on a text, and a choice among sparsities is made on one."""
        swept = isinstance(self.sparsity, SparsitySweep)
        return self.weighs_inputs or swept or self.score == "taylor" or self.vocabulary is not None

    @property
    def weighs_inputs(self) -> bool:
        """Whether weights are compared by what they multiply as well."""
        return self.method in CALIBRATED

    def without_calibration(self) -> str:
        """Return that a method reads no text."""
        return f"{self.method} at one sparsity reads no text"

    @property
    def share(self) -> float:
        """The sparsity where one is named; that of the pattern where none is."""
        assert not isinstance(self.sparsity, SparsitySweep)
        return HALF if self.sparsity is None else self.sparsity

    def faults(self) -> list[str]:
        """Return every contradiction between the fields."""
        return [
            *super().faults(),
            *self._structured_faults(),
            *self._method_faults(),
            *self._pattern_faults(),
            *self._adapter_faults(),
        ]

    def _pattern_faults(self) -> Iterator[str]:
        if self.pattern is None:
            if self.sparsity is None and self.method != "structured":
                yield "sparsity: say which share of the weights becomes zero, such as 0.5"
            return
        if self.sparsity not in (None, HALF):
            yield "sparsity: the pattern 2:4 makes half of the weights zero; leave sparsity out"
        if self.scope == "global":
            yield "scope: the pattern 2:4 compares four weights with each other; leave scope out"

    def _structured_faults(self) -> Iterator[str]:
        parts = {"heads": self.heads, "hidden": self.hidden, "layers": self.layers}
        parts |= {"vocabulary": self.vocabulary}
        if self.method != "structured":
            for name in (name for name, value in parts.items() if value is not None):
                yield f"{name}: {self.method} removes no whole parts; use method: structured"
            if self.score is not None:
                yield f"score: {self.method} is a score of its own; use method: structured"
            return
        if all(value is None for value in parts.values()):
            yield (
                "method: structured: say how many heads, hidden channels or layers stay, or "
                "vocabulary: used"
            )
        others = {"sparsity": self.sparsity, "pattern": self.pattern}
        for name in (name for name, value in others.items() if value is not None):
            yield f"{name}: structured removes whole parts; leave {name} out"
        if self.of == "adapters" or self.scope == "global" or self.targets != ("blocks",):
            yield "of, scope, targets: structured removes parts of blocks; leave them out"
        if isinstance(self.layers, tuple) and list(self.layers) != sorted(set(self.layers)):
            yield "layers: name each layer once, in their order"

    def _method_faults(self) -> Iterator[str]:
        if not self.weighs_inputs:
            return
        if self.scope == "global":
            yield f"scope: {self.method} compares the weights of one matrix; leave scope out"
        if self.of == "adapters":
            yield f"of: {self.method} prunes whole matrices; use magnitude or random for adapters"

    def _adapter_faults(self) -> Iterator[str]:
        if self.of == "weights":
            return
        if self.targets != ("blocks",):
            yield "targets: of: adapters prunes every LoRA of the model; leave targets out"
        if self.pattern is not None:
            yield "pattern: 2:4 is for whole matrices, and a LoRA's are thin; leave pattern out"

    def role(self) -> str:
        """Return what it was made from, and how much of it is zero."""
        if self.method == "structured":
            return f"{self.input} with fewer parts"
        swept = isinstance(self.sparsity, SparsitySweep)
        share = "as much as it can bear" if swept else f"{self.share:.0%}"
        what = "adapters" if self.of == "adapters" else "weights"
        return f"{self.input}, {share} of its {what} pruned ({self.method})"

    @classmethod
    def describe(cls, origin: Origin) -> str:
        """Return how a model came about, as a card says it."""
        if origin.config["method"] == "structured":
            facts = origin.facts
            fewer = 1 - facts["parameters"] / facts["parameters_before"]
            faster = 1 - facts["forward_flops"] / facts["forward_flops_before"]
            return (
                f"{origin.parent('input')} with {fewer:.0%} of its parameters and {faster:.0%} of "
                f"its FLOPs removed: whole heads, channels, layers or vocabulary rows"
            )
        method, pattern = origin.quote(origin.config["method"]), origin.config.get("pattern")
        shape = "" if pattern is None else f" in the pattern {origin.quote(pattern)}"
        if origin.config.get("of") == "adapters":
            share = f"{origin.facts['adapter_sparsity']:.1%} of its adapters' numbers"
        else:
            share = f"{origin.facts['sparsity']:.1%} of the pruned matrices"
        return (
            f"{origin.parent('input')} pruned by {method}{shape}: {share} is zero and stays zero; "
            f"the file is no smaller for it"
        )


class Pack(StageConfig):
    """Store a pruned model without its zeros: each masked matrix in its smallest form.

    That is `sparse`, a bit for each place and the numbers that are not zero, or `two_four`, where
    the pattern is 2:4. A matrix that takes no fewer bytes so becomes dense. A model that would not
    get smaller is refused, unless `keep` packs it all the same.
    """

    stage: Literal["pack"]
    input: str
    keep: bool = False

    makes_model: ClassVar[bool] = True
    spends: ClassVar[tuple[str, ...]] = INHERITED
    compresses: ClassVar[bool] = True

    def untrainable(self) -> str:
        """Return why its model cannot be trained further."""
        return (
            f"stores its pruned matrices packed, and these cannot be trained; start from "
            f"{self.input}, and pack the result"
        )

    def role(self) -> str:
        """Return what it was made from."""
        return f"{self.input}, its zeros not stored"

    @classmethod
    def describe(cls, origin: Origin) -> str:
        """Return how a model came about, as a card says it."""
        facts = origin.facts
        share = facts["packed_bytes"] / facts["dense_bytes"]
        return (
            f"{origin.parent('input')} without the zeros of its pruned matrices "
            f"({facts['sparsity']:.1%}), which take {share:.0%} of their dense bytes"
        )
