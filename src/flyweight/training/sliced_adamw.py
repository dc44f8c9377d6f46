"""AdamW whose states and weights may be stored in fewer bits than float32."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flyweight.training.optimizer_states import (
    FIRST,
    SECOND,
    States,
    generator_for,
    kept_as,
    parts,
    rounded_at_random,
)


class SlicedOptimizer(torch.optim.Optimizer):
    """An optimizer whose states keep their dtypes through a checkpoint.

    torch's own would cast them to their parameter's dtype.
    """

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take up states and options as they were saved; counts of steps stay on the CPU."""
        places = [parameter for group in self.param_groups for parameter in group["params"]]
        states: defaultdict[Tensor, dict[str, Tensor]] = defaultdict(dict)
        for place, saved in state_dict["state"].items():
            parameter = places[int(place)]
            states[parameter] = {
                name: each if name == "step" else each.to(parameter.device)
                for name, each in saved.items()
            }
        self.state = states  # pyright: ignore[reportIncompatibleUnannotatedOverride]
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({name: value for name, value in saved.items() if name != "params"})

    def places(self) -> dict[Tensor, int]:
        """Return the number of each parameter, by which its random numbers are drawn."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        return {parameter: place for place, parameter in enumerate(parameters)}


class SlicedAdamW(SlicedOptimizer):
    """`torch.optim.AdamW` (Loshchilov and Hutter 2019), a slice of a tensor at a time.

    `states` says how both moments are stored; no float32 copy of a whole one ever exists, nor of a
    weight in bfloat16, whose update is rounded at random. `seed` is that of rounding.
    """

    def __init__(
        self,
        params: Any,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        states: States,
        seed: int = 0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self.states: States = states
        self.seed = seed
        self._places = self.places()

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        count = parameter.numel()
        kept = kept_as(self.states, count)
        first, second = FIRST[kept], SECOND[kept]
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state |= first.new("exp_avg", count, parameter.device)
            state |= second.new("exp_avg_sq", count, parameter.device)
        state["step"] += 1
        step = int(state["step"])
        generator = generator_for(self.seed, step, self._places[parameter], parameter.device)
        beta1, beta2 = group["betas"]
        rate = group["lr"] / (1 - beta1**step)
        root = math.sqrt(1 - beta2**step)
        weights, gradients = parameter.view(-1), gradient.reshape(-1)
        for part in parts(count):
            slope = gradients[part].float()
            mean = first.read(state, "exp_avg", part).lerp_(slope, 1 - beta1)
            square = second.read(state, "exp_avg_sq", part).mul_(beta2)
            square.addcmul_(slope, slope, value=1 - beta2)
            weight = weights[part].float()  # float32 weights are moved in place
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.addcdiv_(mean, square.sqrt().div_(root).add_(group["eps"]), value=-rate)
            first.write(state, "exp_avg", part, mean, generator)
            second.write(state, "exp_avg_sq", part, square, generator)
            if parameter.dtype == torch.bfloat16:
                weights[part] = rounded_at_random(weight, generator)
