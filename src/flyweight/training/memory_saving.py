"""What a training does to need less memory: see `flyweight.config.training.MemorySaving`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from flyweight.config.training import (
    FROZEN_IN_BFLOAT16,
    NO_BFLOAT16,
    NO_BLOCKS,
    MemorySaving,
)
from flyweight.errors import RequestError
from flyweight.model.build import Model
from flyweight.model.decoder import Decoder


def check_saving(model: Model, saving: MemorySaving, where: str) -> None:
    """Raise RequestError for what is asked of a baseline, or of a model that trains in part.

    `where` is the stage.
    """
    baseline = not isinstance(model, Decoder)
    if saving.recompute == "blocks" and baseline:
        raise RequestError(f"{where}.{NO_BLOCKS}")
    if saving.weights == "fp32":
        return
    if baseline:
        raise RequestError(f"{where}.{NO_BFLOAT16}")
    packed = any(True for _ in model.buffers())
    if packed or not all(parameter.requires_grad for parameter in model.parameters()):
        raise RequestError(f"{where}.{FROZEN_IN_BFLOAT16}")


def save_memory(model: Model, saving: MemorySaving, where: str) -> None:
    """Let a model in training save what it is asked to, before it has optimizers.

    Raises RequestError as `check_saving` does; `where` is the stage.
    """
    check_saving(model, saving, where)
    if isinstance(model, Decoder) and saving.recompute == "blocks":
        recompute_blocks(model)
    if isinstance(model, Decoder) and saving.weights == "bf16":
        hold_in_bfloat16(model)


def recompute_blocks(model: Decoder) -> None:
    """Let a decoder in training keep only what goes into each visit of a block.

    The backward pass computes the rest again, with the same dropout (Chen et al. 2016).
    """
    model.recompute = partial(checkpoint, use_reentrant=False, preserve_rng_state=True)


def hold_in_bfloat16(model: Decoder) -> None:
    """Hold a decoder's matrices in bfloat16, tensor by tensor, and its residual stream in float32.

    Norms, gains and biases stay as they are.
    """
    model.stream = torch.float32
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.data = parameter.data.to(torch.bfloat16)


def hold_in_float32(model: Decoder) -> None:
    """Hold every tensor of a decoder in float32 again, with the same values."""
    model.float()
    model.stream = None


class BackwardSteps:
    """Moves each tensor in the backward pass, when its gradient is whole, and drops the gradient.

    A tensor is moved after the last product that reads it, so that the update is the one that a
    step after the backward pass makes.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._norms: list[Tensor] = []
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(partial(self._move, optimizer))
            for optimizer in optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]

    def norm(self) -> float:
        """Return the norm of the gradient of the backward pass that has just ended."""
        norms, self._norms = self._norms, []
        return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0

    def end(self) -> None:
        """Leave the tensors to whoever trains them next."""
        for hook in self._hooks:
            hook.remove()

    def _move(self, optimizer: torch.optim.Optimizer, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._norms.append(torch.linalg.vector_norm(parameter.grad, dtype=torch.float32))
        optimizer.step()  # no other tensor has a gradient now
        parameter.grad = None
