"""The same model with its matrices in fewer bits."""

from __future__ import annotations

import torch
from torch import Tensor

from flyweight.config.schema import Architecture, LinearConfig, LinearKind
from flyweight.errors import FlyweightError, RequestError
from flyweight.model import linear
from flyweight.model.build import Model, build
from flyweight.model.dense_state import dense_state, written_out
from flyweight.spec.linears import kind_of, linear_names


@torch.no_grad()
def quantize(model: Model, kind: LinearKind, embedding: LinearKind) -> Model:
    """Return a copy of a model whose blocks' matrices are of `kind`, and its tables of `embedding`.

    Tables are the token embedding, an untied head and a bigram table, which can be most of a file;
    the head of a linear model is its one matrix and no table. Norms, gains, biases, padding and
    learned positions stay as they are. Raises RequestError if the model is quantized already, as
    errors would add up. Raises it as well if every matrix would
    stay dense. Raises FlyweightError if a weight is not finite.
    """
    config, old = quantized(model.config, kind, embedding), dense_state(model)
    with torch.device("meta"):
        small = build(config)
    tensors: dict[str, Tensor] = {}
    for name in linear_names(config):
        weight, bias = old.pop(f"{name}.weight"), old.pop(f"{name}.bias", None)
        try:
            layer = linear.from_dense(kind_of(config, name), weight, bias)
        except FlyweightError as error:
            raise FlyweightError(f"quantize: {name}: {error}") from error
        tensors.update({f"{name}.{key}": value for key, value in layer.state_dict().items()})
    tensors.update({name: value.clone() for name, value in old.items()})
    small.load_state_dict(tensors, assign=True)
    return small.to(model.dtype).train(model.training)


def quantized(config: Architecture, kind: LinearKind, embedding: LinearKind) -> Architecture:
    """Return the config that `quantize` gives a model of this one.

    Masks are left behind: what they keep at zero stays zero in codes. Raises RequestError as
    `quantize` does.
    """
    if chosen := next((each for each in (kind, embedding) if written_out(each)), None):
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
    if not linears:
        raise RequestError(
            "quantize: every matrix would stay dense, so nothing would change; choose int8 or nf4"
        )
    return config.model_copy(update={"linears": linears})
