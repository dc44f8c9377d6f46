"""Optimizers by config: which parameters each one moves, and the learning rate over a run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flyweight.config import schema
from flyweight.core.runtime import Precision


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` (Jordan et al. 2024), batched by shape and in the run's own precision.

    torch's own step always orthogonalises in bfloat16, which processors without bfloat16
    instructions emulate an order of magnitude slower than float32. The arithmetic is otherwise
    torch's, and a test holds it to that.
    """

    def __init__(self, params: Any, *, dtype: torch.dtype, **options: Any) -> None:
        super().__init__(params, **options)
        self.dtype = dtype

    @torch.no_grad()
    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, closure: Callable[[], Any] | None = None
    ) -> None:
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: defaultdict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape].append(parameter)
            for shape, parameters in shapes.items():
                self._update_group(shape, parameters, group)

    def _update_group(
        self, shape: torch.Size, parameters: list[Tensor], group: dict[str, Any]
    ) -> None:
        momentum = group["momentum"]
        updates = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            buffer = state["momentum_buffer"]
            gradient = parameter.grad
            assert gradient is not None
            buffer.lerp_(gradient, 1 - momentum)
            updates.append(gradient.lerp(buffer, momentum) if group["nesterov"] else buffer.clone())
        directions = newton_schulz(
            torch.stack(updates),
            group["ns_coefficients"],
            group["ns_steps"],
            group["eps"],
            self.dtype,
        )
        rate = group["lr"] * math.sqrt(max(1, shape[0] / shape[1]))
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(direction.to(parameter.dtype), alpha=-rate)


def newton_schulz(
    matrices: Tensor,
    coefficients: tuple[float, float, float],
    iterations: int,
    eps: float,
    dtype: torch.dtype,
) -> Tensor:
    """Return the quintic Newton-Schulz approximation of each matrix's U V^T.

    `matrices` is (N, rows, columns).
    """
    a, b, c = coefficients
    x = matrices.to(dtype)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def build_optimizers(
    model: nn.Module, config: schema.AdamW | schema.Muon, precision: Precision
) -> Sequence[torch.optim.Optimizer]:
    """Return the optimizers that together move every trainable parameter of `model` exactly once.

    Decay acts on matrices only. With Muon, the matrices of the blocks are its own; embeddings,
    head, norms, gains and biases go to `config.rest`.
    """
    named = [
        (name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad
    ]
    if isinstance(config, schema.AdamW):
        return [_adamw([parameter for _, parameter in named], config)]
    inner = [
        parameter for name, parameter in named if name.startswith("blocks.") and parameter.ndim == 2
    ]
    taken = {id(parameter) for parameter in inner}
    rest = [parameter for _, parameter in named if id(parameter) not in taken]
    if not inner:  # a model without blocks
        return [_adamw(rest, config.rest)]
    muon = Muon(
        inner,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        ns_steps=config.iterations,
        dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
    )
    return [muon, _adamw(rest, config.rest)]


def _adamw(parameters: Sequence[Tensor], config: schema.AdamW) -> torch.optim.AdamW:
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
    )


def rate_factor(schedule: schema.Schedule, fraction: float) -> float:
    """Return what the learning rate is multiplied by at this fraction of the limit."""
    if fraction < schedule.warmup:
        return fraction / schedule.warmup
    start = max(schedule.tail_from or 0.0, schedule.warmup)
    if schedule.tail == "none" or fraction <= start:
        return 1.0
    tail_fraction = 1.0
    if start < 1:
        tail_fraction = min(1.0, (fraction - start) / (1 - start))
    fall = 1 - tail_fraction
    if schedule.tail == "cosine":
        fall = 0.5 * (1 + math.cos(math.pi * tail_fraction))
    return schedule.final + (1 - schedule.final) * fall


def set_rates(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Set every group's learning rate to its base rate times `factor`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("base_lr", group["lr"]) * factor
