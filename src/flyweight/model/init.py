"""Random initial weights from one seed, without touching torch's global generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from flyweight.config.schema import LinearConfig, LstmConfig, MlpConfig, ModelConfig
from flyweight.model.attention import Attention
from flyweight.model.linear import AnyLinear, Int8Linear, Linear, NF4Linear
from flyweight.model.norm import LayerNorm, RMSNorm
from flyweight.model.position import LearnedPositions
from flyweight.model.residual import Alpha
from flyweight.model.thinking import MemoryRate
from flyweight.spec.visits import stack_size

_OUTPUTS = ("attention.out", "mlp.down")


@torch.no_grad()
def initialise(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Fill every weight of a decoder: normal matrices, damped or zero output projections, zero biases and bigram table.

    The two factors of a bottleneck are drawn so that their product has the std of the matrix that
    they stand for. Values are drawn on the CPU in module order, so that every device gets the same
    ones; on the meta device nothing happens.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    for name, module in model.named_modules():
        if isinstance(module, (Linear, Int8Linear, NF4Linear)):
            _fill(module, _std(config, name), generator)
        elif isinstance(module, LearnedPositions):
            module.weight.copy_(_normal(module.weight, config.init.std, generator))
        elif isinstance(module, (LayerNorm, RMSNorm)):
            module.weight.fill_(1.0)
            if isinstance(module, LayerNorm) and module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, Attention) and module.gain is not None:
            module.gain.fill_(1.0)
        elif isinstance(module, Alpha | MemoryRate) and module.weight is not None:
            module.weight.fill_(module.start)


def _std(config: ModelConfig, name: str) -> float:
    """Return the std of one matrix of a decoder."""
    init, rank = config.init, None
    if name.startswith("embedding."):
        std = 0.0 if name == "embedding.bigram" else init.embedding or init.std
        rank = config.embedding.rank if std else None
    elif name.startswith("blocks."):
        whole = name.removesuffix(".reduce").removesuffix(".expand")
        rank = config.mlp.rank if whole != name else None
        std = init.std
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
    """Fill every weight of a baseline: normal embeddings, matrices scaled by their number of inputs, zero biases.

    Values are drawn as `initialise` draws them; a head that is the embedding is scaled as one.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    for name, module in model.named_modules():
        if isinstance(module, (Linear, Int8Linear, NF4Linear)):
            table = name == "embedding.tokens"
            _fill(
                module,
                config.init.embedding
                if table
                else config.init.gain / math.sqrt(module.in_features),
                generator,
            )
    for parameter in (
        parameter for name, parameter in model.named_parameters() if name == "embedding.padding"
    ):
        parameter.copy_(_normal(parameter, config.init.embedding, generator))


def _normal(like: Tensor, std: float, generator: torch.Generator) -> Tensor:
    if like.is_meta or not std:
        return torch.zeros_like(like)
    return torch.empty(like.shape, device="cpu").normal_(0.0, std, generator=generator)


def _fill(layer: AnyLinear, std: float, generator: torch.Generator) -> None:
    if isinstance(layer, Linear):
        layer.weight.copy_(_normal(layer.weight, std, generator))
    elif not layer.codes.is_meta:
        layer.pack(
            _normal(
                torch.empty(layer.out_features, layer.in_features, device="cpu"), std, generator
            )
        )
    if layer.bias is not None:
        layer.bias.zero_()
