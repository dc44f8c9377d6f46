"""Layers that differ: which layers a key of `blocks` names, and what its fields change in them.

`blocks: {"2-5": {mlp: {hidden: 96}, attention: {heads: 2}}}`. A key is a layer, counted from 0, or
an inclusive range of layers. A field that is not named stays the model's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    model_serializer,
)

from flyweight.config.base import Strict, choice
from flyweight.config.layers import Attention, Mlp, MlpOptions

_KEY = re.compile(r"(0|[1-9]\d{0,4})(?:-(0|[1-9]\d{0,4}))?")


class _Partial(BaseModel):
    """Fields of which only those that were given count, and are written out."""

    @model_serializer(mode="wrap")
    def _given(self, plain: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out what was not given: at its default it would mean something."""
        fields: dict[str, Any] = plain(self)
        return {
            name: fields.get(name, getattr(self, name))
            for name in type(self).model_fields
            if name in self.model_fields_set
        }

    def given(self) -> dict[str, object]:
        """Return the fields that were given."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    def __eq__(self, other: object) -> bool:
        """Compare what was given, too: `heads` left out is not `heads: null`."""
        same = super().__eq__(other)
        return same is True and self.given() == getattr(other, "given", dict)()


class AttentionOverride(_Partial, Attention):
    """Fields of attention that differ in some layers.

    `heads` alone keeps the number of heads that share a key, and the size of a head.
    """


class MlpOverride(_Partial, MlpOptions):
    """Fields of the MLP that differ in some layers.

    With another `kind` the rest is that kind's defaults.
    """

    kind: (
        Literal["gelu", "relu", "relu2", "swiglu", "geglu", "double_relu", "double_silu"] | None
    ) = None
    approximate: Literal["none", "tanh"] | None = None


class BlockOverride(_Partial, Strict):
    """What differs in some layers."""

    attention: AttentionOverride | None = None
    mlp: Annotated[MlpOverride | None, choice()] = None


def _text_keys(value: object) -> object:
    """Let a number stand for a layer: YAML reads `2:` as one."""
    if not isinstance(value, dict):
        return value
    return {str(key) if type(key) is int else key: inner for key, inner in value.items()}


Blocks = Annotated[dict[str, BlockOverride], BeforeValidator(_text_keys)]


def layers_named(key: str) -> range:
    """Return the layers that a key names, such as `3` or `2-5`; ValueError where it names none."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise ValueError(f"{key!r} is not a layer or a range of layers, such as 3 or 2-5")
    first = int(match[1])
    last = int(match[2] or first)
    if last < first:
        raise ValueError(f"the range ends with layer {last} before it begins with layer {first}")
    return range(first, last + 1)


def override_of(blocks: Mapping[str, BlockOverride], layer: int) -> BlockOverride | None:
    """Return what differs in a layer, None where nothing does."""
    return next((block for key, block in blocks.items() if layer in layers_named(key)), None)


def resolved_attention(attention: Attention, dim: int) -> Attention:
    """Return attention with every derived number written out, for a model of this width."""
    head_dim = attention.head_dim
    heads = attention.heads or max(1, dim // (head_dim or (64 if dim >= 512 else 32)))
    out_bias = attention.bias if attention.out_bias is None else attention.out_bias
    derived = {
        "heads": heads,
        "kv_heads": attention.kv_heads or heads,
        "head_dim": head_dim or dim // heads,
        "out_bias": out_bias,
    }
    return Attention.model_validate({**attention.model_dump(), **derived})


def resolved_mlp(mlp: Mlp, dim: int) -> Mlp:
    """Return an MLP with its width written out, for a model of this width."""
    return type(mlp).model_validate({**mlp.model_dump(), "hidden": mlp.width(dim)})


def layer_attention(model: Attention, override: AttentionOverride, dim: int) -> Attention:
    """Return the attention of a layer: the model's, resolved, with what differs, resolved.

    Raises pydantic's ValidationError.
    """
    changes = override.given()
    fields = {**model.model_dump(), **changes}
    if "kv_heads" not in changes:
        fields["kv_heads"] = _shared_alike(model, override)
    if "bias" in changes and "out_bias" not in changes:
        fields["out_bias"] = None
    return resolved_attention(Attention.model_validate(fields), dim)


def _shared_alike(model: Attention, override: AttentionOverride) -> int | None:
    """Return the key/value heads of a layer that names its heads alone."""
    assert model.heads and model.kv_heads
    heads = override.heads
    if heads is None:
        return model.kv_heads if "heads" not in override.model_fields_set else None
    group = model.heads // model.kv_heads
    return model.kv_heads if heads % group else heads // group


def layer_mlp(model: Mlp, override: MlpOverride, dim: int) -> Mlp:
    """Return the MLP of a layer: the model's, resolved, with what differs, resolved.

    Raises pydantic's ValidationError.
    """
    changes = override.given()
    shared = model.model_dump() if changes.get("kind", model.kind) == model.kind else {}
    mlp = _MLP.validate_python({**shared, **changes})
    return resolved_mlp(mlp, dim)


_MLP: TypeAdapter[Mlp] = TypeAdapter(Mlp)
