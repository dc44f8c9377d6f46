"""Random initial weights from one seed, without touching torch's global generator."""

from __future__ import annotations

import math

import torch
from torch import nn

from flyweight.config.schema import LinearConfig, LstmConfig, MlpConfig, ModelConfig
from flyweight.model.attention import AttentionLayer
from flyweight.model.linear_layer import layers_of, normal
from flyweight.model.norm import LayerNormLayer, RMSNormLayer
from flyweight.model.position import LearnedPositions
from flyweight.model.residual import AlphaResidual, ValueResidual
from flyweight.model.skips import Skips
from flyweight.model.thinking import MemoryRate
from flyweight.spec.visits import stack_size

_BY_START = (AlphaResidual, MemoryRate, ValueResidual)
"""Modules of learned scalars, which say what these begin with."""

_OUTPUTS = ("attention.out", "mlp.down")


@torch.no_grad()
def initialise(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Fill every weight of a decoder.

    Matrices are normal, output projections damped or zero, biases, gates and the bigram table zero.

    The two factors of a bottleneck are drawn so that their product has the std of the matrix that
    they stand for. Values are drawn on the CPU in module order, so that every device gets the same
    ones; on the meta device nothing happens.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    layers = dict(layers_of(model))
    for name, module in model.named_modules():
        if name in layers:
            layers[name].reset(_std(config, name), generator)
        elif isinstance(module, LearnedPositions):
            module.weight.copy_(normal(module.weight, config.init.std, generator))
        elif isinstance(module, (LayerNormLayer, RMSNormLayer)):
            module.weight.fill_(1.0)
            if isinstance(module, LayerNormLayer) and module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, AttentionLayer) and module.gain is not None:
            module.gain.fill_(1.0)
        elif isinstance(module, Skips):
            module.reset()
        elif isinstance(module, _BY_START) and module.weight is not None:
            module.weight.fill_(module.start)


def _std(config: ModelConfig, name: str) -> float:
    """Return the std of one matrix of a decoder."""
    init, rank = config.init, None
    if name.startswith("embedding."):
        std = 0.0 if name == "embedding.bigram" else init.embedding or init.std
        rank = config.embedding.rank if std else None
    elif name.startswith("blocks."):
        whole = name.removesuffix(".reduce").removesuffix(".expand")
        layer = int(name.split(".")[1])
        rank = config.layer(layer).mlp.rank if whole != name else None
        std = 0.0 if whole.endswith("attention.gate") else init.std
        if whole.endswith(_OUTPUTS):
            std /= math.sqrt(2 * max(1, stack_size(config))) if init.damped else 1
            std = 0.0 if init.zero_out and not name.endswith(".reduce") else std
    else:
        std = init.std
    return std if rank is None else math.sqrt(std / math.sqrt(rank))


@torch.no_grad()
def initialise_fan_in(
    model: nn.Module, config: LinearConfig | MlpConfig | LstmConfig, seed: int
) -> None:
    """Fill every weight of a baseline.

    Embeddings are normal, matrices scaled by their number of inputs, biases zero.

    Values are drawn as `initialise` draws them; a head that is the embedding is scaled as one.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    for name, layer in layers_of(model):
        if name == "embedding.tokens":
            layer.reset(config.init.embedding, generator)
        else:
            layer.reset(config.init.gain / math.sqrt(layer.in_features), generator)
    for parameter in (
        parameter for name, parameter in model.named_parameters() if name == "embedding.padding"
    ):
        parameter.copy_(normal(parameter, config.init.embedding, generator))
