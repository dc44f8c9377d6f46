"""What a file format cannot say of a model: whatever is not at its default and not claimed.

A format lists the fields of `ModelConfig` that its writer looks at. Any other field that is not at
its default is refused, so that a new field is not lost where nobody thought of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from pydantic import BaseModel

from flyweight.config import schema
from flyweight.config.adapters import MERGEABLE
from flyweight.config.model_rules import packed_kinds

FRESH_WEIGHTS = frozenset({"init.std", "init.embedding", "init.damped", "init.zero_out"})
"""Fields that only say how random weights are drawn: written weights need none of them."""

DROPOUTS = frozenset({f"dropout.{name}" for name in schema.Dropout.model_fields})
"""Fields that act in training alone; an export says which of them a format has no words for."""


def changed_fields(config: BaseModel, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield every field of a config that is not at its default: its path and its value.

    A choice of another kind is `position.kind`, with that kind's own fields after it.
    """
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        default = field.get_default(call_default_factory=True)
        here = f"{path}{name}"
        if not isinstance(value, BaseModel):
            if value != default:
                yield here, value
            continue
        kind = getattr(value, "kind", None)
        if type(value) is not type(default):
            yield (here, value) if kind is None else (f"{here}.kind", kind)
        yield from changed_fields(value, f"{here}.")


def beyond(config: schema.ModelConfig, claims: Collection[str]) -> list[str]:
    """Return what a format that claims these fields cannot say, each with the field to change."""
    reasons: list[str] = []
    covered: list[str] = []
    for path, value in changed_fields(config):
        if path in claims or path.startswith(tuple(covered)):
            continue
        if path == "linears" and all(map(_is_a_matrix, config.linears.values())):
            continue
        covered.append(path.removesuffix("kind") if path.endswith(".kind") else f"{path}.")
        describe = _REASONS.get(path)
        reasons.append(_plainly(path, value) if describe is None else describe(config))
    return reasons


def _is_a_matrix(kind: schema.LinearKind) -> bool:
    """Return whether a format of float matrices can say all that a kind of layer computes."""
    return kind.plain or kind.lossless


def _plainly(path: str, value: object) -> str:
    text = repr(value)
    shown = text if len(text) <= 80 else f"{text[:80]}..."
    return f"model.{path} is {shown}, which it has no words for (leave model.{path} out)"


def _adapted(config: schema.ModelConfig) -> str:
    kinds = list(dict.fromkeys(adapter.kind for adapter in config.adapters))
    fixed = [kind for kind in kinds if kind not in MERGEABLE]
    if fixed:
        return (
            f"it has adapters of kind {' and '.join(fixed)}, which become part of no matrix "
            f"(fine-tune with lora or ia3, and merge)"
        )
    unpack = " --unpack" if packed_kinds(config) else ""
    return f"it has adapters of kind {' and '.join(kinds)} (flyweight merge MODEL{unpack} first)"


_REASONS: dict[str, Callable[[schema.ModelConfig], str]] = {
    "sharing.kind": lambda config: (
        f"sharing {config.sharing.kind}: layers are used more than once (model.sharing=none)"
    ),
    "embedding.bigram.kind": lambda config: "it has a bigram table (model.embedding.bigram=none)",
    "embedding.rank": lambda config: (
        f"its embedding is factorised through {config.embedding.rank} channels "
        f"(model.embedding.rank=null)"
    ),
    "head.softcap": lambda config: "it has a logit softcap (model.head.softcap=null)",
    "head.bias": lambda config: "its head has a bias (model.head.bias=false)",
    "norm.placement": lambda config: "its norms come after the branches (model.norm.placement=pre)",
    "norm.final": lambda config: "it has no final norm (model.norm.final=true)",
    "residual.kind": lambda config: (
        f"its residual branches are joined by {config.residual.kind}, not added "
        f"(model.residual=add)"
    ),
    "thinking.kind": lambda config: (
        "it thinks: several passes with a memory of keys and values (model.thinking=none)"
    ),
    "mlp.rank": lambda config: (
        f"its MLP goes through a bottleneck of {config.mlp.rank} channels (model.mlp.rank=null)"
    ),
    "attention.window": lambda config: (
        f"its attention has a sliding window of {config.attention.window} tokens "
        f"(model.attention.window=null model.attention.sinks=0)"
    ),
    "attention.sinks": lambda config: (
        f"its attention always sees the first {config.attention.sinks} tokens "
        f"(model.attention.sinks=0)"
    ),
    "attention.gain": lambda config: "it has attention gains (model.attention.gain=false)",
    "skips": lambda config: (
        f"it has connections past layers: {' and '.join(config.skips)} (leave model.skips out)"
    ),
    "attention.gate": lambda config: "its heads have gates (model.attention.gate=false)",
    "attention.value_residual": lambda config: (
        "its layers mix their values with the first layer's (model.attention.value_residual=false)"
    ),
    "blocks": lambda config: (
        f"its layers differ: {', '.join(config.blocks)} (leave model.blocks out)"
    ),
    "mixture": lambda config: (
        "it is a mixture with n-gram counts or a pointer: export the network that it was made from"
    ),
    "linears": lambda config: "it is quantized",
    "adapters": lambda config: _adapted(config),
}
