"""Adapters around a model's layers, and which part of a model a fine-tuning trains; no torch.

`adapters: [{kind: lora, targets: [attention.qkv], r: 8}]` in a model's config. They are applied in
order, each around whatever kind the layer has. A fresh adapter changes nothing, but for a prefix in
the text's softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field

from flyweight.config.base import PositiveInt, Probability, Rate, Strict, added

TrainedPart = Literal["full", "frozen", "adapters"]
"""What a training moves: everything, the head and the final norm, or adapters alone."""

Per = Literal["layer", "visit"]
"""Whether all visits of a shared layer have one adapter, or each visit has its own."""


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Targets = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    Field(min_length=1),
    BeforeValidator(_listed),
]
"""Glob patterns over the names of layers in blocks; `blocks.*.` may be left out."""


class Lora(Strict):
    """A product of two thin matrices beside a matrix: W + s B A (Hu et al. 2021).

    A is (r, in) and drawn at random, B is (out, r) and starts at zero. `scale: standard` is
    s = alpha / r, `rs` is alpha / sqrt(r) (Kalajdzievski 2023). The joint names `attention.qkv` and
    `mlp.gate_up` have one A for all their matrices. `dora` learns the length of each row apart from
    its direction (Liu et al. 2024). `dropout` is on what A reads, in training alone. `masked`: both
    matrices have a bit mask, and pruned numbers stay zero; the stage `prune` sets it.
    """

    kind: Literal["lora"] = "lora"
    targets: Targets = ("attention.qkv",)
    r: PositiveInt = 8
    alpha: Rate = 32.0
    dropout: Probability = 0.0
    scale: Literal["standard", "rs"] = "standard"
    dora: bool = False
    per: Per = "layer"
    masked: bool = added(False)

    trains: ClassVar[TrainedPart] = "adapters"

    @property
    def factor(self) -> float:
        """What the product of both matrices is multiplied by."""
        return self.alpha / (self.r if self.scale == "standard" else sqrt(self.r))


class Ia3(Strict):
    """A learned factor for every channel that a matrix puts out (IA3, Liu et al. 2022).

    On `mlp.down` the factors are on what it reads. They start at one.
    """

    kind: Literal["ia3"] = "ia3"
    targets: Targets = ("attention.k", "attention.v", "mlp.down")
    per: Per = "layer"

    trains: ClassVar[TrainedPart] = "adapters"


Branch = Literal["attention", "mlp"]


class Bottleneck(Strict):
    """A small network behind a branch: branch + up(activation(down(branch))) (Houlsby et al. 2019).

    Both matrices have biases; `up` starts at zero.
    """

    kind: Literal["bottleneck"] = "bottleneck"
    after: Annotated[tuple[Branch, ...], Field(min_length=1), BeforeValidator(_listed)] = (
        "attention",
        "mlp",
    )
    dim: PositiveInt = 64
    activation: Literal["gelu", "relu", "silu"] = "gelu"
    per: Per = "layer"

    trains: ClassVar[TrainedPart] = "adapters"


class Prefix(Strict):
    """Learned keys and values that every token attends to (prefix tuning, Li and Liang 2021).

    `softmax: own`: what a token reads of them is added to what it reads of the text. The values
    start at zero, so that a fresh prefix changes nothing, as in LLaMA-Adapter (Zhang et al. 2023).
    Such a prefix is at no position: queries read it before they are rotated.

    `softmax: shared`: they stand in front of the text's own keys and values, as in Li and Liang and
    in peft. The text's positions begin behind them, at `length`; the keys themselves are not
    rotated. Keys and values are drawn at random, so a fresh prefix changes the model.
    """

    kind: Literal["prefix"] = "prefix"
    length: PositiveInt = 20
    softmax: Literal["own", "shared"] = added("own")
    per: Per = "visit"

    trains: ClassVar[TrainedPart] = "adapters"


class Frozen(Strict):
    """Train a head and the final norm only; everything else stays as it is (feature-based).

    A head that is tied to the embedding is copied first: the table of the inputs stays as it is.
    """

    kind: Literal["frozen"] = "frozen"

    trains: ClassVar[TrainedPart] = "frozen"


class Full(Strict):
    """Train every tensor."""

    kind: Literal["full"] = "full"

    trains: ClassVar[TrainedPart] = "full"


MERGEABLE = ("lora", "ia3")
"""Kinds that can become part of the matrices that they are around."""

MUON_REFUSED = (
    "train.optimizer: muon makes all directions of a matrix equally long, and an adapter's thin "
    "matrices have few of them; use adamw"
)
"""Why adapters are not trained by Muon."""

NAMED: dict[str, dict[str, Any]] = {
    "rslora": {"kind": "lora", "scale": "rs"},
    "dora": {"kind": "lora", "dora": True},
}
"""Names of adapters that are another one with an option."""


def _named(value: object) -> Any:
    """Read a bare name as `{kind: name}`, and the names in NAMED as what they stand for."""
    if isinstance(value, str):
        value = {"kind": value}
    if isinstance(value, dict) and isinstance(value.get("kind"), str):
        named = NAMED.get(value["kind"], {})
        for field, meant in named.items():
            if field != "kind" and value.get(field, meant) != meant:
                raise ValueError(
                    f"{value['kind']} is lora with {field}={str(meant).lower()}, and {field} is "
                    f"{str(value[field]).lower()}; leave {field} out, or write kind: lora"
                )
        return {**value, **named}
    return value


Adapter = Annotated[
    Annotated[Lora | Ia3 | Bottleneck | Prefix, Discriminator("kind")], BeforeValidator(_named)
]
Method = Annotated[
    Annotated[Lora | Ia3 | Bottleneck | Prefix | Frozen | Full, Discriminator("kind")],
    BeforeValidator(_named),
]
"""How a model is fine-tuned: by an adapter, by its head alone, or whole."""


def shared_length(adapters: Sequence[Adapter]) -> int:
    """Return how many keys prefixes put in front of the text's own, where they share its softmax.

    The text's first token is at this position.
    """
    return sum(
        adapter.length
        for adapter in adapters
        if isinstance(adapter, Prefix) and adapter.softmax == "shared"
    )
