"""GPTQ: round a layer's columns one by one, and let later columns make up for the errors.

Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers". The columns keep their order, since the scales of groups belong to neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flyweight.errors import FlyweightError
from flyweight.model.rounded import Rounded

AT_ONCE = 128
"""Columns after which the rest of a matrix is corrected, where scales do not ask for fewer."""


@dataclass(frozen=True)
class RoundingError:
    """How far a rounded layer's output is from the float one's, as a share of its length.

    It is the root of the summed squares on the calibration text, by nearest rounding and by GPTQ.
    """

    nearest: float
    gptq: float


@torch.no_grad()
def round_by_inputs(
    layer: Rounded,
    weight: Tensor,
    gram: Tensor,
    damping: float,
    clip: float | None = None,
    kept: Tensor | None = None,
) -> RoundingError:
    """Pack a weight (out, in) so that the layer's output on its inputs changes least.

    `gram` (in, in) is the mean of x x^T. `damping` is added to its diagonal, as a share of the
    diagonal's mean. `clip` cuts off values beyond so many standard deviations of their row, before
    scales are chosen. What `kept` (out, in) leaves out was pruned and stays zero. Where GPTQ is not
    better than nearest rounding, the layer is rounded to nearest. Raises FlyweightError as `pack`
    does, and where the inputs are not finite.
    """
    weight = layer.checked(weight)
    gram = gram.to(weight.device, torch.float32)
    if not torch.isfinite(gram).all():
        raise FlyweightError(
            "its inputs on the calibration text are not finite; train the model again"
        )
    within = clipped(weight, clip)
    layer.pack(within)
    nearest = output_error(weight, layer.dense().float(), gram)
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    layer.fit(within)
    codes = _codes(layer, weight, corrections(gram, damping), kept)
    layer.store(codes, 0, layer.out_features)
    gptq = output_error(weight, layer.dense().float(), gram)
    if gptq > nearest:
        layer.load_state_dict(state)
        gptq = nearest
    return RoundingError(nearest, gptq)


def clipped(weight: Tensor, clip: float | None) -> Tensor:
    """Return a weight (out, in) with values cut off at `clip` standard deviations of their row."""
    if clip is None:
        return weight
    limit = clip * weight.float().std(1, keepdim=True, correction=0).to(weight.dtype)  # (out, 1)
    return weight.clamp(-limit, limit)


def output_error(weight: Tensor, rounded: Tensor, gram: Tensor) -> float:
    """Return the root of tr(D G D^T) / tr(W G W^T), where D is the difference (out, in)."""
    difference = rounded - weight
    changed = (difference @ gram * difference).sum(dtype=torch.float64)
    whole = (weight @ gram * weight).sum(dtype=torch.float64)
    return float((changed.clamp(min=0) / whole.clamp(min=1e-30)).sqrt())


def corrections(gram: Tensor, damping: float) -> Tensor:
    """Return the upper Cholesky factor of the damped gram's inverse: (in, in) float32.

    Inputs that are always zero count as independent ones. The inverse is computed in float64.
    """
    device = gram.device
    damped = gram.to("cpu" if device.type == "mps" else device).double()
    unread = damped.diagonal() == 0
    damped.diagonal()[unread] = 1
    damped.diagonal().add_(damping * damped.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True).float().to(device)


def _codes(layer: Rounded, weight: Tensor, corrections: Tensor, kept: Tensor | None) -> Tensor:
    """Return the codes (out, in) of a weight, each column rounded with its errors passed on."""
    columns = weight.T.contiguous()  # (in, out), so that a column lies together
    steps = layer.steps(0, layer.out_features).T.expand_as(columns)  # (in, out)
    width = layer.columns_at_once or AT_ONCE
    codes: list[Tensor] = []
    for start in range(0, layer.in_features, width):
        stop = min(start + width, layer.in_features)
        refitted = None
        if layer.columns_at_once:
            refitted = layer.refit(columns[start:stop].T, start)  # (out,)
        errors = torch.empty_like(columns[start:stop])  # (n, out)
        for at in range(start, stop):
            step = steps[at] if refitted is None else refitted
            units = columns[at] / torch.where(step != 0, step, 1)
            code = layer.nearest(units if kept is None else units.masked_fill(~kept[:, at], 0))
            codes.append(code)
            error = (columns[at] - layer.units(code) * step) / corrections[at, at]  # (out,)
            errors[at - start] = error
            later = slice(at + 1, stop)
            columns[later] -= corrections[at, later, None] * error
        columns[stop:] -= corrections[start:stop, stop:].T @ errors
    return torch.stack(codes, 1)
