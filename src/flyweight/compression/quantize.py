"""The same model with its matrices in fewer bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from flyweight.compression.calibration import Progress, calibrated_layers, ignore, layer_inputs
from flyweight.compression.gptq import RoundingError, clipped, round_by_inputs
from flyweight.config.schema import Architecture, LinearConfig, LinearKind
from flyweight.errors import FlyweightError, RequestError
from flyweight.model import linear
from flyweight.model.build import Model, build
from flyweight.model.dense_state import dense_state, written_out
from flyweight.model.linear import KINDS, build_linear
from flyweight.model.linear_layer import LinearLayer
from flyweight.model.masked import MaskedLinear
from flyweight.model.rounded import Rounded
from flyweight.spec.linears import kind_of, linear_names, pattern_faults


@torch.no_grad()
def quantize(
    model: Model,
    kind: LinearKind,
    embedding: LinearKind,
    clip: float | None = None,
    layers: Mapping[str, LinearKind] = MappingProxyType({}),
) -> Model:
    """Return a copy of a model whose blocks' matrices are of `kind`, and its tables of `embedding`.

    Tables are the token embedding, an untied head and a bigram table, which can be most of a file;
    the head of a linear model is its one matrix and no table. Norms, gains, biases, padding and
    learned positions stay as they are. Values are rounded to nearest; those beyond `clip` standard
    deviations of their row are cut off first. `layers` gives some matrices a kind of their own, by
    patterns. Raises RequestError if the model is quantized
    already, as errors would add up. Raises it as well if every matrix would
    stay dense. Raises FlyweightError if a weight is not finite.
    """
    config = quantized(model.config, kind, embedding, layers)
    return _assembled(model, config, {}, clip)


@torch.no_grad()
def quantize_by_inputs(
    model: Model,
    kind: LinearKind,
    embedding: LinearKind,
    batches: Sequence[Tensor],
    damping: float,
    clip: float | None = None,
    layers: Mapping[str, LinearKind] = MappingProxyType({}),
    progress: Progress = ignore,
) -> tuple[Model, dict[str, RoundingError]]:
    """Return what `quantize` does, with the blocks and an untied head rounded by GPTQ.

    `batches` are the calibration text (B, T). A block is rounded by what the rounded blocks before
    it make of the text. Tables that are looked up are rounded to nearest: a row that stands alone
    has no inputs to weigh. Returns the errors by the layer's name as well. Raises as `quantize`
    does, and RequestError where GPTQ has nothing to round or does not know the kind.
    """
    config = quantized(model.config, kind, embedding, layers)
    check_gptq(config)
    # Its modules are replaced one by one; its tensors are the model's own.
    with torch.device("meta"):
        working = build(model.config)
    working.load_state_dict(model.state_dict(), assign=True)
    rounded: dict[str, LinearLayer] = {}
    errors: dict[str, RoundingError] = {}
    for inputs in layer_inputs(working, batches, progress):
        for name in inputs.names:
            dense = working.get_submodule(name)
            if kind_of(config, name).plain:
                continue
            assert isinstance(dense, LinearLayer)
            kept = dense.kept() if isinstance(dense, MaskedLinear) else None
            layer = build_linear(config, name, dense.in_features, dense.out_features)
            assert isinstance(layer, Rounded)
            layer = layer.to(model.device, model.dtype)
            try:
                errors[name] = round_by_inputs(
                    layer, dense.dense(), inputs.gram, damping, clip, kept
                )
            except FlyweightError as error:
                raise FlyweightError(f"quantize: {name}: {error}") from error
            layer.bias, layer.adapters = dense.bias, dense.adapters
            rounded[name] = layer
            working.set_submodule(name, layer)
    return _assembled(model, config, rounded, clip), errors


def check_gptq(config: Architecture) -> None:
    """Raise RequestError where GPTQ has nothing to round in a quantized config, or cannot."""
    names = calibrated_layers(config, linear_names(config))
    kinds = {kind.kind: kind for name in names if not (kind := kind_of(config, name)).plain}
    if not kinds:
        raise RequestError(
            "quantize: rounding gptq is for the matrices of blocks and for an untied head, and all "
            "of them stay dense; use rounding: nearest"
        )
    for name in kinds:
        if not issubclass(KINDS[name], Rounded):
            raise RequestError(
                f"quantize: rounding gptq does not know the codes of kind {name}; use rounding: "
                f"nearest"
            )


def _assembled(
    model: Model, config: Architecture, layers: Mapping[str, LinearLayer], clip: float | None
) -> Model:
    """Return a model of a quantized config: `layers` as they are, and the others rounded now."""
    old = dense_state(model)
    with torch.device("meta"):
        small = build(config)
    tensors: dict[str, Tensor] = {}
    for name in linear_names(config):
        weight, bias = old.pop(f"{name}.weight"), old.pop(f"{name}.bias", None)
        try:
            layer = layers.get(name) or linear.from_dense(
                kind_of(config, name), clipped(weight, clip), bias
            )
        except FlyweightError as error:
            raise FlyweightError(f"quantize: {name}: {error}") from error
        tensors.update({f"{name}.{key}": value for key, value in layer.state_dict().items()})
    tensors.update({name: value.clone() for name, value in old.items()})
    small.load_state_dict(tensors, assign=True)
    return small.to(model.dtype).train(model.training)


def quantized(
    config: Architecture,
    kind: LinearKind,
    embedding: LinearKind,
    layers: Mapping[str, LinearKind] = MappingProxyType({}),
) -> Architecture:
    """Return the config that `quantize` gives a model of this one.

    Masks are left behind: what they keep at zero stays zero in codes. Raises RequestError as
    `quantize` does.
    """
    kinds = (kind, embedding, *layers.values())
    if chosen := next((each for each in kinds if written_out(each)), None):
        raise RequestError(
            f"quantize: {chosen.label} stores pruned matrices and rounds nothing; use the stages "
            f"prune and pack"
        )
    for name in linear_names(config):
        present = kind_of(config, name)
        if not (present.plain or (present.lossless and present.trains)):
            raise RequestError(
                f"quantize: the model is quantized already ({name} is {present.label}), and its "
                f"errors would add up; start from the model that it was made from"
            )
    chosen = {
        "blocks": kind,
        "embedding": embedding,
        "head": kind if isinstance(config, LinearConfig) else embedding,
    }
    names = {name.split(".")[0] for name in linear_names(config)}
    linears = {name: part for name, part in chosen.items() if name in names and not part.plain}
    if not linears and all(each.plain for each in layers.values()):
        raise RequestError(
            "quantize: every matrix would stay dense, so nothing would change; choose "
            "another kind, such as int8 or int4"
        )
    made = config.model_copy(update={"linears": {**layers, **linears}})
    if faults := pattern_faults(made):
        raise RequestError(
            "\n".join(f"quantize: {fault.replace('linears', 'layers', 1)}" for fault in faults)
        )
    return made
