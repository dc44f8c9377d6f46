"""How a model is fine-tuned where the user does not say: the method, and how it trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flyweight.config.model_rules import packed_kinds
from flyweight.config.schema import Architecture, ModelConfig, Train
from flyweight.config.units import format_count, format_size
from flyweight.planning import memory
from flyweight.spec import flops

WHOLE = 20_000_000
"""Parameters up to which all of a model is trained.

Weights, gradients and AdamW's two states of so many take 320 MB.
"""

RATES: Mapping[str, tuple[float, float]] = {
    "lora": (5e-3, 1e-3),
    "ia3": (5e-2, 5e-3),
    "bottleneck": (5e-3, 1e-3),
    "prefix": (5e-2, 5e-3),
    "frozen": (3e-3, 1e-3),
    "full": (1e-3, 5e-5),
}
"""Learning rates of AdamW by the kind of the method, of models up to WHOLE and of larger ones.

What is added takes larger steps. Those of small models are half of what was best after 50 steps on
two models of 64 and 128 channels (docs/log.md), as most trainings are longer; those of larger ones
are usual and not measured here.
"""

TEXT_CONTEXT, TASK_CONTEXT = 256, 512
"""The most tokens of a row, in a text and in a task, where the model reads so many."""


@dataclass(frozen=True)
class ChosenMethod:
    """A method as a recipe writes it, and why it was chosen, in a sentence."""

    method: str | Mapping[str, Any]
    reason: str


def choose_method(
    config: Architecture, context: int = TASK_CONTEXT, free: int | None = None, device: str = "cpu"
) -> ChosenMethod:
    """Return the method for a model: all of a small one, a LoRA on a packed or a large one.

    A model that has adapters goes on with the last one. Where training all of a model on rows of
    `context` tokens takes more than the `free` bytes of the device, it gets a LoRA.
    """
    if not isinstance(config, ModelConfig):
        return ChosenMethod("full", f"method full: a model of kind {config.kind} takes no adapters")
    if config.adapters:
        last = config.adapters[-1]
        reason = f"method {last.kind}: the model has this adapter, and it is trained further"
        return ChosenMethod(last.model_dump(mode="json"), reason)
    if kinds := packed_kinds(config):
        return ChosenMethod(
            "lora",
            f"method lora: matrices are stored as {' and '.join(kinds)}, so only what is added "
            f"can be trained",
        )
    count = flops.parameters(config).unique
    needed = _whole_bytes(config, context, device)
    if free is not None and needed > free:
        return ChosenMethod(
            "lora",
            f"method lora: training all {format_count(count)} parameters takes about "
            f"{format_size(needed)} of memory, and {format_size(free)} are free here",
        )
    if count > WHOLE:
        return ChosenMethod(
            "lora",
            f"method lora: of {format_count(count)} parameters a small part is enough to train, "
            f"which takes far less memory; --method full trains them all",
        )
    return ChosenMethod(
        "full",
        f"method full: the model has {format_count(count)} parameters, so few that all of them "
        f"can be trained",
    )


def _whole_bytes(config: ModelConfig, context: int, device: str) -> int:
    """Return the planned memory of training all of a model by the default training."""
    train = Train.model_validate(default_training("full", config, task=True))
    return memory.training(config.resolved(), train, context, device=device).total


def default_training(kind: str, config: Architecture, task: bool) -> dict[str, Any]:
    """Return the fields of `train` for a kind of method: three epochs of a task, one of a text.

    Ten minutes end it earlier.
    """
    small, large = RATES[kind]
    rate = large if flops.parameters(config).unique > WHOLE else small
    return {
        "epochs": 3 if task else 1,
        "time": "10min",
        "batch": 8,
        "optimizer": {"kind": "adamw", "lr": rate, "beta2": 0.999, "weight_decay": 0.01},
        "schedule": {"warmup": 0.06},
        "validation_tokens": 16_384,
    }
