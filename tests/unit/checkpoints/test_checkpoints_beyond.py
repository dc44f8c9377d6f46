"""What a family or GGUF cannot say is refused: every field of a model, one after the other."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from flyweight.checkpoints import attributes
from flyweight.checkpoints.beyond import DROPOUTS, FRESH_WEIGHTS, changed_fields
from flyweight.checkpoints.families import FAMILIES
from flyweight.checkpoints.family import Inexpressible
from flyweight.config.layers import Attention
from flyweight.config.schema import ModelConfig
from flyweight.formats import gguf_family

SIZES = {"vocab_size": 50, "context": 16, "dim": 32, "layers": 2}
NATIVE: dict[str, dict[str, Any]] = {
    "gpt2": {
        **SIZES,
        "attention": {"heads": 4, "bias": True},
        "position": "learned",
        "mlp": {"kind": "gelu", "approximate": "tanh", "bias": True},
        "norm": "layernorm",
    },
    "llama": {**SIZES, "attention": {"heads": 4}},
    "qwen3": {**SIZES, "attention": {"heads": 4, "qk_norm": True}},
}
NOT_SAVED = FRESH_WEIGHTS | DROPOUTS
"""Fields that act before or during training alone: a file of weights need not say them."""

GIVEN: dict[str, list[Any]] = {
    "adapters": [["lora"], ["ia3", "prefix"]],
    "linears": [{"blocks": "int8"}],
    "blocks": [{"1": {"mlp": {"hidden": 40}}}],
    "mixture": [{"pointer": {}}],
    "skips": [["embedding"]],
    "sharing.span": [(0, 0)],
    "mixture.counts": [{}],
    "mixture.counts.entries": [(3, 3)],
    "mixture.pointer": [{"longest": 3}],
}
LLAMA3 = {"kind": "llama3", "factor": 2.0}
BESIDE: dict[str, dict[str, Any]] = {
    "sharing.kind=all": {"layers": 1, "sharing": {"times": 2}},
    "sharing.kind=span": {"sharing": {"span": (0, 0)}},
    "thinking.learned": {"thinking": {"passes": 2}},
    "position.scaling.kind": {"position": {"scaling": {"factor": 2.0}}},
    "position.scaling.factor": {"position": {"scaling": {"kind": "llama3"}}},
    "position.scaling.low_frequency_factor": {"position": {"scaling": {**LLAMA3}}},
    "position.scaling.high_frequency_factor": {"position": {"scaling": {**LLAMA3}}},
    "position.scaling.original_context": {"position": {"scaling": {**LLAMA3}}},
    "attention.out_bias": {"attention": {"bias": False}},
    "attention.sinks": {"attention": {"window": 8}},
}


def choices(annotation: Any) -> tuple[list[type[BaseModel]], list[Any]]:
    """Return the configs of a field, and values to try where it has none."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return choices(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        parts = [choices(part) for part in typing.get_args(annotation)]
        configs = [config for part in parts for config in part[0]]
        return configs, [value for part in parts for value in part[1]]
    if origin is Literal:
        return [], list(typing.get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation], []
    return [], {bool: [True, False], int: [2, 1, 3, 8, 64], float: [0.25, 2.0, 0.5]}.get(
        annotation, [None] if annotation is type(None) else []
    )


def kind_of(config: type[BaseModel]) -> str | None:
    field = config.model_fields.get("kind")
    return None if field is None else typing.get_args(field.annotation)[0]


def fields(config: type[BaseModel], path: str = "") -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield every field below a config, values to try, and what its place needs beside it."""
    for name, field in config.model_fields.items():
        here = f"{path}{name}"
        inner, values = choices(field.annotation)
        if here in GIVEN:
            yield here, GIVEN[here], {}
        elif not inner:
            if name != "kind" or here == "position.scaling.kind":
                yield here, values, {}
            continue
        for below in inner:
            kind = kind_of(below)
            kinds = {} if kind is None or here == "position.scaling" else {f"{here}.kind": kind}
            if kinds:
                yield f"{here}.kind", [kind], {}
            for deeper, tried, needs in fields(below, f"{here}."):
                yield deeper, tried, {**kinds, **needs}


def every_field() -> dict[tuple[str, str], tuple[str, list[Any], dict[str, Any]]]:
    found: dict[tuple[str, str], tuple[str, list[Any], dict[str, Any]]] = {}
    for path, values, needs in fields(ModelConfig):
        _, known, _ = found.get((path, str(needs)), (path, [], needs))
        found[path, str(needs)] = (path, [*known, *values], needs)
    return found


EVERY = every_field()


def laid(raw: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a raw config with a value at a path."""
    name, _, rest = path.partition(".")
    if not rest:
        return {**raw, name: value}
    inner = raw.get(name)
    inner = {"kind": inner} if isinstance(inner, str) else inner or {}
    if rest == "kind" and inner.get("kind") != value:
        inner = {}
    return {**raw, name: laid(inner, rest, value)}


def merged(raw: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    for name, value in more.items():
        held = raw.get(name)
        both = isinstance(held, dict) and isinstance(value, dict)
        raw = {**raw, name: merged(held, value) if both else value}
    return raw


def changed(native: dict[str, Any], path: str, values: Any, needs: Any) -> list[ModelConfig]:
    """Return the native model with this field changed, for each value that is possible."""
    base = native
    for place, kind in needs.items():
        base = laid(base, place, kind)
        base = merged(base, BESIDE.get(f"{place}={kind}", {}))
    found = []
    plain = ModelConfig.model_validate(native).resolved()
    for value in values:
        raw = merged(laid(base, path, value), BESIDE.get(path, BESIDE.get(f"{path}={value}", {})))
        raw = laid(raw, path, value)
        try:
            found.append(ModelConfig.model_validate(raw).resolved())
        except ValueError:
            continue
    return [model for model in found if model != plain]


def names_the_field(message: str, path: str) -> bool:
    parts = path.split(".")
    paths = [f"model.{'.'.join(parts[: end + 1])}" for end in range(len(parts))]
    return any(each in message for each in paths) or any(
        path.startswith(name) and word in message
        for name, word in (
            ("mixture", "mixture"),
            ("linears", "quantized"),
            ("adapters", "adapters"),
            ("norm.eps", "qk_norm_eps"),  # which has to be the same
        )
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("key", EVERY, ids=lambda key: f"{key[0]} {key[1]}")
def test_every_field_is_written_or_refused_by_name(key: Any, family: str) -> None:
    path, values, needs = EVERY[key]
    models = changed(NATIVE[family], path, values, needs)
    assert models, f"{path}: give this test a value for it"
    for model in models:
        try:
            raw = FAMILIES[family].raw(model)
        except Inexpressible as error:
            assert names_the_field(str(error), path) or any(
                names_the_field(str(error), place) for place in needs
            )
            continue
        read = FAMILIES[family].config(attributes.strict(raw))
        silent = {name for name, _ in changed_fields(model)} & NOT_SAVED
        if silent:
            assert path in NOT_SAVED
        elif model.position.kind == "rope" and getattr(model.position.scaling, "kind", "") == "ntk":
            assert read.position.base > model.position.base  # said by another base
        else:
            assert read == model


@pytest.mark.parametrize("key", EVERY, ids=lambda key: f"{key[0]} {key[1]}")
def test_gguf_refuses_what_its_family_does_and_nothing_is_dropped(key: Any) -> None:
    path, values, needs = EVERY[key]
    allowed = {"linears", "sharing", "dropout"}  # written out, or without effect on a file
    for family in FAMILIES:
        for model in changed(NATIVE[family], path, values, needs):
            plain, chosen, reasons = gguf_family.written_out(model)
            if not reasons and path.split(".")[0] not in allowed and path not in NOT_SAVED:
                assert chosen.raw(plain) != {} and path in chosen.claims


def test_a_field_that_nobody_thought_of_is_refused() -> None:
    class Surprising(Attention):
        surprise: int = 0

    class Later(ModelConfig):
        attention: Surprising = Surprising()
        mystery: bool = False

        def resolved(self, *_: Any) -> Any:
            return self

    for name, family in FAMILIES.items():
        native = ModelConfig.model_validate(NATIVE[name]).resolved().model_dump()
        family.raw(Later.model_validate(native))
        native["attention"]["surprise"] = 4
        model = Later.model_validate({**native, "mystery": True})
        with pytest.raises(Inexpressible, match=r"model\.attention\.surprise is 4") as refusal:
            family.raw(model)
        assert "model.mystery is True" in str(refusal.value)
        _, _, reasons = gguf_family.written_out(model)
        assert sum("surprise" in reason or "mystery" in reason for reason in reasons) == 2


def test_matrices_that_are_called_dense_are_no_reason() -> None:
    model = ModelConfig.model_validate({**NATIVE["llama"], "linears": {"*": "dense"}}).resolved()
    assert FAMILIES["llama"].raw(model)["model_type"] == "llama"
