"""Where a run computes and how exactly: device, threads, seed, precision.

A runtime is passed along and never global.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from flyweight.core import bfloat16
from flyweight.core.events import Watcher, ignore
from flyweight.core.machine import usable_cores
from flyweight.errors import RequestError

Precision = Literal["fp32", "bf16", "fp16"]
MOST_THREADS = 1024
"""More than any machine's cores; far larger numbers would end in an error of the system."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def native_bf16() -> bool:
    """Return whether this processor multiplies bfloat16 matrices in hardware.

    That takes AVX512-BF16, AMX or ARM's BF16 extension. Without one torch emulates bfloat16 several
    times slower than float32. With one training may still be slower: `core.bfloat16` measures
    whether it pays.
    """
    import torch

    cpu = cast(Any, torch.cpu)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported"):
        probe = getattr(cpu, name, None)
        if probe is not None and probe():
            return True
    return False


def keep_freed_memory() -> None:
    """Let glibc's allocator keep freed memory instead of giving it back to the system.

    A training step frees and takes the same tens of megabytes again and again. By default they come
    as fresh pages, which the kernel clears and maps each time: 10 to 25 % of a step on a CPU
    (ADR 8). The peak is the same. Does nothing without glibc.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(_M_MMAP_THRESHOLD, 2**25)  # the largest there is
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@dataclass(frozen=True)
class Runtime:
    """The device, its thread count and the seed of one run.

    `root` is the runs root, which keeps the facts measured once on a machine. `watch` hears of a
    new measurement.
    """

    device: str
    threads: int
    seed: int = 0
    root: Path | None = field(default=None, compare=False)
    watch: Watcher = field(default=ignore, compare=False, repr=False)

    @classmethod
    def detect(
        cls,
        device: str | None = None,
        threads: int | None = None,
        seed: int = 0,
        root: Path | None = None,
        watch: Watcher = ignore,
    ) -> Runtime:
        """Return a runtime on the best device of this machine, or on the one asked for.

        Raises RequestError for a device that this machine lacks, or a wrong thread count.
        """
        import torch

        present = ["cpu"]
        if torch.backends.mps.is_available():
            present.insert(0, "mps")
        if torch.cuda.is_available():
            present.insert(0, "cuda")
        chosen = present[0] if device is None else device
        kind, colon, index = chosen.partition(":")
        counted = torch.cuda.device_count() if kind == "cuda" else 1
        if kind not in present or (colon and index not in map(str, range(counted))):
            raise RequestError(
                f"--device {chosen}: this machine has {', '.join(present)}; `flyweight doctor` "
                f"describes them"
            )
        cores = usable_cores()
        if threads is not None and not 1 <= threads <= MOST_THREADS:
            raise RequestError(
                f"--threads {threads}: at least 1 is needed, and {MOST_THREADS} is the most; "
                f"this machine has {cores}"
            )
        return cls(device=chosen, threads=threads or cores, seed=seed, root=root, watch=watch)

    def apply(self) -> None:
        """Set this process's thread count and let it keep freed memory."""
        import torch

        torch.set_num_threads(self.threads)
        keep_freed_memory()

    def precision(self, asked: str, width: int) -> Precision:
        """Return the precision asked for; for `auto`, the fastest for a model of this width here.

        `auto` takes bfloat16 on a CPU where it was measured to pay, and on CUDA from compute
        capability 8 on. Older CUDA devices get float16 with a gradient scaler, everything else
        float32. Raises RequestError for fp16 on a CPU.
        """
        import torch

        if asked != "auto":
            if asked == "fp16" and self.device == "cpu":
                raise RequestError("train.precision: fp16 needs a GPU; on a CPU use fp32 or bf16")
            return cast(Precision, asked)
        if self.device.startswith("cuda"):
            return "bf16" if torch.cuda.get_device_capability(self.device)[0] >= 8 else "fp16"
        if self.device == "cpu" and self.bfloat16().pays(width):
            return "bf16"
        return "fp32"

    def bfloat16(self) -> bfloat16.Speedups:
        """Return the speedups of bfloat16 on this processor; `precision` and doctor use them."""
        return bfloat16.speedups(self.threads, self.root, self.watch)
