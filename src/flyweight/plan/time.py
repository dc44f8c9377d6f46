"""How long training will take on this machine: its FLOPs over a rate that is measured here, in a fraction of a second."""

from __future__ import annotations

import time
from functools import cache

MEASURE_SECONDS = {"evaluate": 5.0, "bench": 8.0, "audit": 2.0}
"""What a measurement of one small model takes: most of it is starting a process (bench) and reading the test text."""

EFFICIENCY = 0.55
"""Share of a large product's rate that a whole training step keeps, measured on small decoders (docs/log.md)."""


@cache
def product_rate(width: int, device: str = "cpu", precision: str = "fp32") -> float:
    """Return the FLOPs per second of a (1024 x width) by (width x 4 width) product, the best of a few short tries."""
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    a, b = torch.randn(1024, width, device=device, dtype=dtype), torch.randn(width, 4 * width, device=device, dtype=dtype)

    def once(repeats: int) -> float:
        began = time.perf_counter()
        for _ in range(repeats):
            torch.mm(a, b)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / repeats

    once(2)
    repeats = max(1, int(0.03 / max(once(1), 1e-6)))
    return 2 * 1024 * width * 4 * width / min(once(repeats) for _ in range(3))


def seconds(flops: float, width: int, device: str = "cpu", precision: str = "fp32") -> float:
    """Return an estimate of the seconds that `flops` of training take at a model's width."""
    return flops / (EFFICIENCY * product_rate(width, device, precision))
