"""What a measurement of speed chooses, and what it sees of that: float type, kernels, engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch.profiler import ProfilerActivity, profile

from flyweight.config.speed import AttentionName, EngineName, PrecisionName
from flyweight.errors import FlyweightError, RequestError
from flyweight.model import kernels
from flyweight.model.attention import EAGER_MARK, attention_kernel
from flyweight.model.precision import autocast
from flyweight.model.step import MARK as STEP_MARK

NO_KERNEL = "none"
"""A model without attention."""

SEEN = {
    EAGER_MARK: "eager",
    STEP_MARK: "compiled",
    "aten::_scaled_dot_product_attention_math": "math",
    "aten::_scaled_dot_product_attention_math_for_mps": "math",
    "aten::_scaled_dot_product_flash_attention": "flash",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "flash",
    "aten::_scaled_dot_product_efficient_attention": "efficient",
    "aten::_scaled_dot_product_cudnn_attention": "cudnn",
}
"""What a profiler sees of each attention kernel."""


@contextmanager
def choices(
    device: torch.device,
    precision: PrecisionName,
    attention: AttentionName,
    engine: EngineName,
    marked: bool = False,
) -> Iterator[str]:
    """Compute without gradients as asked; yield the engine that is used, `eager` or `compiled`.

    Compiled products that are `marked` are seen by a profiler.

    Raises RequestError for an engine or an attention kernel that is not there.
    """
    with (
        torch.inference_mode(),
        autocast(device, precision),
        attention_kernel(attention),
        kernels.engine(engine, marked) as chosen,
    ):
        try:
            yield "eager" if chosen is None else "compiled"
        except RuntimeError as error:
            if attention == "auto" or "kernel" not in str(error).lower():
                raise
            raise RequestError(
                f"attention: {attention} does not run here ({error}); use auto, eager or math"
            ) from error


def kernels_of(names: Iterable[str]) -> str:
    """Return the attention kernels among names of operators; "none" where there are none."""
    return ", ".join(sorted({SEEN[name] for name in names if name in SEEN})) or NO_KERNEL


def check_attention(asked: AttentionName, seen: str) -> None:
    """Raise FlyweightError where the kernel that was seen is not the one that was asked for."""
    if asked in ("auto", seen):
        return
    if seen == NO_KERNEL:
        raise RequestError(f"attention: {asked} cannot be chosen; this model has no attention")
    raise FlyweightError(f"attention: {asked} was asked for, and the profiler saw {seen}")


def attention_seen(run: Callable[[], object], asked: AttentionName) -> str:
    """Return the attention kernel that a profiler sees while `run` runs.

    Raises FlyweightError where it is not the one asked for.
    """
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    seen = kernels_of(event.key for event in profiler.key_averages())
    check_attention(asked, seen)
    return seen
