"""Random initial weights from one seed, without touching torch's global generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from flyweight.config.schema import ModelConfig
from flyweight.model.attention import Attention
from flyweight.model.linear import AnyLinear, Int8Linear, Linear, NF4Linear
from flyweight.model.norm import LayerNorm, RMSNorm
from flyweight.model.position import LearnedPositions
from flyweight.model.residual import Alpha
from flyweight.model.schedule import stack_size
from flyweight.model.thinking import MemoryRate

_OUTPUTS = ("attention.out", "mlp.down", "mlp.down.expand")


@torch.no_grad()
def initialise(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Fill every weight of a decoder: normal matrices, damped or zero output projections, zero biases and bigram table.

    Values are drawn on the CPU in module order, so that every device gets the same ones; on the meta device nothing happens.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    init = config.init
    damped = 0.0 if init.zero_out else init.std / (math.sqrt(2 * max(1, stack_size(config))) if init.damped else 1)
    for name, module in model.named_modules():
        if isinstance(module, (Linear, Int8Linear, NF4Linear)):
            std = {"embedding.bigram": 0.0, "embedding.tokens": init.embedding or init.std}.get(name, init.std)
            _fill(module, damped if name.endswith(_OUTPUTS) else std, generator)
        elif isinstance(module, LearnedPositions):
            module.weight.copy_(_normal(module.weight, config.init.std, generator))
        elif isinstance(module, (LayerNorm, RMSNorm)):
            module.weight.fill_(1.0)
            if isinstance(module, LayerNorm) and module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, Attention) and module.gain is not None:
            module.gain.fill_(1.0)
        elif isinstance(module, Alpha) or (isinstance(module, MemoryRate) and module.weight is not None):
            module.weight.fill_(module.start)


def _normal(like: Tensor, std: float, generator: torch.Generator) -> Tensor:
    if like.is_meta or not std:
        return torch.zeros_like(like)
    return torch.empty(like.shape, device="cpu").normal_(0.0, std, generator=generator)


def _fill(layer: AnyLinear, std: float, generator: torch.Generator) -> None:
    if isinstance(layer, Linear):
        layer.weight.copy_(_normal(layer.weight, std, generator))
    elif not layer.codes.is_meta:
        layer.pack(_normal(torch.empty(layer.out_features, layer.in_features, device="cpu"), std, generator))
    if layer.bias is not None:
        layer.bias.zero_()
