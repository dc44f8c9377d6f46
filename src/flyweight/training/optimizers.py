"""Optimizers by config: which parameters each one moves, and the learning rate over a run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn

from flyweight.config import schema
from flyweight.config.adapters import MUON_REFUSED
from flyweight.core.runtime import Precision
from flyweight.errors import RequestError
from flyweight.model.decoder import Decoder
from flyweight.model.masked import keep_masks
from flyweight.spec.adapters import adapter_tensors, decays
from flyweight.training.optimizer_states import (
    FIRST,
    StateFormat,
    States,
    generator_for,
    kept_as,
    parts,
    rounded_at_random,
)
from flyweight.training.sliced_adamw import SlicedAdamW, SlicedOptimizer


class MuonOptimizer(SlicedOptimizer, torch.optim.Muon):
    """`torch.optim.Muon` (Jordan et al. 2024), batched by shape and in the run's own precision.

    torch's own step always orthogonalises in bfloat16, which processors without bfloat16
    instructions emulate an order of magnitude slower than float32. The arithmetic is otherwise
    torch's, and a test holds it to that. `states` says how the momentum is stored, and `seed` is
    that of rounding it.
    """

    def __init__(
        self,
        params: Any,
        *,
        dtype: torch.dtype,
        states: States = "fp32",
        seed: int = 0,
        **options: Any,
    ) -> None:
        torch.optim.Muon.__init__(self, params, **options)
        self.dtype = dtype
        self.states: States = states
        self.seed = seed
        self._places = self.places()

    @torch.no_grad()
    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, closure: Callable[[], object] | None = None
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
            assert parameter.grad is not None
            kept = kept_as(self.states, parameter.numel())
            if kept != "fp32" or parameter.dtype == torch.bfloat16:
                updates.append(self._sliced_update(parameter, parameter.grad, FIRST[kept], group))
                continue
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            buffer = state["momentum_buffer"]
            gradient = parameter.grad
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
            if parameter.dtype == torch.bfloat16:
                self._move_bfloat16(parameter, direction, rate, group)
                continue
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(direction.to(parameter.dtype), alpha=-rate)

    def _sliced_update(
        self, parameter: Tensor, gradient: Tensor, stored: StateFormat, group: dict[str, Any]
    ) -> Tensor:
        """Return what is to be orthogonalised, in float32, from a momentum that is `stored`."""
        momentum = group["momentum"]
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state |= stored.new("momentum_buffer", parameter.numel(), parameter.device)
        state["step"] += 1
        place = self._places[parameter]
        generator = generator_for(self.seed, int(state["step"]), place, parameter.device)
        update = torch.empty_like(parameter, dtype=torch.float32)
        gradients, updates = gradient.reshape(-1), update.view(-1)
        for part in parts(parameter.numel()):
            slope = gradients[part].float()
            mean = stored.read(state, "momentum_buffer", part).lerp_(slope, 1 - momentum)
            updates[part] = slope.lerp(mean, momentum) if group["nesterov"] else mean
            stored.write(state, "momentum_buffer", part, mean, generator)
        return update

    def _move_bfloat16(
        self, parameter: Tensor, direction: Tensor, rate: float, group: dict[str, Any]
    ) -> None:
        """Move a matrix in bfloat16, rounded at random."""
        step = int(self.state[parameter]["step"])
        place = len(self._places) + self._places[parameter]  # other numbers than the momentum's
        generator = generator_for(self.seed, step, place, parameter.device)
        weights, directions = parameter.view(-1), direction.reshape(-1)
        for part in parts(parameter.numel()):
            weight = weights[part].float().mul_(1 - group["lr"] * group["weight_decay"])
            weight.add_(directions[part].float(), alpha=-rate)
            weights[part] = rounded_at_random(weight, generator)


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
    model: nn.Module,
    config: schema.AdamW | schema.Muon,
    precision: Precision,
    states: States = "fp32",
    seed: int = 0,
) -> Sequence[torch.optim.Optimizer]:
    """Return the optimizers that together move every trainable parameter of `model` exactly once.

    Decay acts on matrices only. With Muon, the matrices of the blocks are its own; embeddings,
    head, norms, gains and biases go to `config.rest`. `states` says how running means are stored,
    and `seed` is that of rounding them. Pruned weights are zero after every step. Raises
    RequestError for Muon where adapters train.
    """
    optimizers = _built(model, config, precision, states, seed)
    for optimizer in optimizers:
        keep_masks(model, optimizer)
    return optimizers


def _built(
    model: nn.Module,
    config: schema.AdamW | schema.Muon,
    precision: Precision,
    states: States,
    seed: int,
) -> Sequence[torch.optim.Optimizer]:
    """Return the optimizers themselves."""
    named = [
        (name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad
    ]
    if isinstance(config, schema.AdamW):
        return [_adamw(named, config, states, seed)]
    if isinstance(model, Decoder):
        _refuse_adapters(model.config, {name for name, _ in named})
    inner = [
        parameter for name, parameter in named if name.startswith("blocks.") and parameter.ndim == 2
    ]
    matrices = {id(parameter) for parameter in inner}
    rest = [(name, parameter) for name, parameter in named if id(parameter) not in matrices]
    if not inner:  # a model without blocks
        return [_adamw(rest, config.rest, states, seed)]
    muon = MuonOptimizer(
        inner,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        ns_steps=config.iterations,
        dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
        states=states,
        seed=seed,
    )
    return [muon, _adamw(rest, config.rest, states, seed)]


def _refuse_adapters(config: schema.ModelConfig, trained: Set[str]) -> None:
    """Raise RequestError where an adapter's tensor is among those that train."""
    for tensor in adapter_tensors(config):
        if tensor.name in trained:
            raise RequestError(MUON_REFUSED)


def _adamw(
    named: Sequence[tuple[str, Tensor]], config: schema.AdamW, states: States, seed: int
) -> torch.optim.Optimizer:
    decayed: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in named:
        (decayed if parameter.ndim >= 2 and decays(name) else others).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    betas = (config.beta1, config.beta2)
    short = any(parameter.dtype == torch.bfloat16 for _, parameter in named)
    if states == "fp32" and not short:
        return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=True)
    return SlicedAdamW(groups, lr=config.lr, betas=betas, eps=config.eps, states=states, seed=seed)


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
