"""Which matrices get more bits: what rounding each of them costs, and how bytes are shared out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from flyweight.compression.calibration import calibrated_layers
from flyweight.compression.quantize import quantized
from flyweight.config.linear_kinds import Int3, Int4, Int8, LinearKind
from flyweight.config.schema import ModelConfig
from flyweight.model.decoder import Decoder
from flyweight.model.linear import from_dense
from flyweight.model.linear_layer import layers_of
from flyweight.spec import flops

KINDS: tuple[LinearKind, ...] = (Int3(), Int4(), Int8())
"""The kinds among which bytes are shared out, from few bits to many."""

ROWS = 64
"""Rows of the calibration text whose gradients are taken."""

GPTQ_LEAVES = 0.1
"""The share of nearest rounding's loss that GPTQ leaves (docs/compression.md has 0.06 to 0.11)."""


@dataclass(frozen=True)
class Cost:
    """What one matrix takes and costs in each of KINDS.

    `bytes` are those of its tensors, `nats` the loss per token.
    """

    bytes: tuple[int, ...]
    nats: tuple[float, ...]


def rounding_costs(model: Decoder, batches: Sequence[Tensor]) -> dict[str, Cost]:
    """Return about what each matrix of a dense model costs by its name, when it alone is rounded.

    `batches` are tokens (B, T). The loss rises by half the sum of F d^2, where d is the error of
    rounding to nearest and F the diagonal of the empirical Fisher information: the mean square of
    a weight's gradients, each of which is that of a row here. GPTQ leaves a part of it.
    """
    layers = dict(layers_of(model))
    weights = {name: layer.get_parameter("weight") for name, layer in layers.items()}
    fisher = _fisher(model, list(weights.values()), batches)
    by_gptq = set(calibrated_layers(model.config, list(layers)))
    found: dict[str, Cost] = {}
    for (name, weight), squares in zip(weights.items(), fisher, strict=True):
        out, in_ = weight.shape
        share = 0.5 * (GPTQ_LEAVES if name in by_gptq else 1.0)
        nats = []
        for kind in KINDS:
            error = from_dense(kind, weight.detach(), None).dense().float() - weight.detach()
            nats.append(share * float((squares * error.square()).sum(dtype=torch.float64)))
        found[name] = Cost(tuple(kind.stored_bytes(out, in_, 4) for kind in KINDS), tuple(nats))
    return found


def _fisher(model: Decoder, weights: Sequence[Tensor], batches: Sequence[Tensor]) -> list[Tensor]:
    """Return the mean square of each weight's gradients over tokens: (out, in) each."""
    model.eval()
    squares = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    rows = torch.cat([batch.cpu() for batch in batches])[:ROWS]  # (R, T)
    tokens = 0
    with torch.enable_grad():
        for row in rows.to(model.device):
            logits = model(row[None, :-1])[0].float()  # (T - 1, V)
            loss = F.cross_entropy(logits, row[1:].long(), reduction="sum")
            for square, slope in zip(squares, torch.autograd.grad(loss, weights), strict=True):
                square += slope.float().square()
            tokens += len(row) - 1
    return [square / tokens for square in squares]


def share_out(
    config: ModelConfig, costs: Mapping[str, Cost], limit: int
) -> dict[str, LinearKind] | None:
    """Return the kind of each matrix by its name, so that all take at most `limit` bytes.

    From the fewest bits on, the next step goes to the matrix that saves most loss a byte, while it
    fits. Return None where the fewest bits do not fit.
    """
    left = limit - flops.weight_bytes(quantized(config, KINDS[0], KINDS[0]))
    if left < 0:
        return None
    places = dict.fromkeys(costs, 0)

    def step(name: str) -> tuple[float, int]:
        """Return what the next kind saves a byte, and the bytes that it takes."""
        cost, at = costs[name], places[name]
        more = cost.bytes[at + 1] - cost.bytes[at]
        return (cost.nats[at] - cost.nats[at + 1]) / more, more

    while True:
        steps = {name: step(name) for name, at in places.items() if at + 1 < len(KINDS)}
        fitting = {name: saved for name, (saved, more) in steps.items() if more <= left}
        if not fitting:
            return {name: KINDS[at] for name, at in places.items()}
        best = max(fitting, key=lambda name: fitting[name])
        left -= steps[best][1]
        places[best] += 1
