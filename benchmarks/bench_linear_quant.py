"""Time of one linear layer, dense and packed, at decode and prefill sizes.

    python benchmarks/bench_linear_quant.py [--device cpu] [--repeats 9]

Every kernel that can run here is timed, also those that flyweight does not choose: that is what the
choice rests on. The error is the largest difference to the float32 product with the same stored
weight, relative to its largest value.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import torch
from rows import Rows
from torch import Tensor

from flyweight.config.schema import NF4, Int8
from flyweight.model.linear import Linear
from flyweight.model.linear_quant import Int8Linear, NF4Linear, _nf4_multiply, _nf4_refusal
from flyweight.model.packed import Packed

SHAPES = ((128, 128), (512, 128), (128, 512), (512, 512), (1024, 1024), (4096, 1024))
BATCHES = (1, 16, 256)

Product = Callable[[Tensor], Tensor]


def products(weight: Tensor, dtype: torch.dtype) -> Iterator[tuple[str, str, int, Tensor, Product]]:
    """Yield (layer, kernel, stored bytes, float32 weight that it stands for, product) of all that can run."""
    dense = Linear.from_dense(weight.to(dtype), None)
    yield "dense", "torch linear", dense.stored_bytes(), dense.dense().float(), dense
    layers: list[tuple[str, Packed]] = [
        ("int8", Int8Linear.from_dense(weight, None, Int8())),
        ("nf4", NF4Linear.from_dense(weight, None, NF4())),
    ]
    for name, layer in layers:
        stored, stands_for, chosen = layer.stored_bytes(), layer.dense(), layer.kernel(dtype)
        yield name, f"chosen: {chosen.name}", stored, stands_for, layer
        if chosen.multiply:
            yield name, "reference", stored, stands_for, layer.reference
        if isinstance(layer, NF4Linear) and not chosen.multiply and not _nf4_refusal(dtype):
            yield (
                name,
                "bitsandbytes.gemm_4bit",
                stored,
                stands_for,
                lambda x, layer=layer: _nf4_multiply(x, layer),
            )
        if isinstance(layer, Int8Linear) and not chosen.multiply and weight.device.type == "cpu":
            scales = layer.scales.to(dtype)
            yield (
                name,
                "torch._weight_int8pack_mm",
                stored,
                stands_for,
                lambda x, w=layer.codes, s=scales: _int8(x, w, s),
            )


def _int8(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    return torch.ops.aten._weight_int8pack_mm(x, codes, scales)


def timed(product: Product, x: Tensor, repeats: int, seconds: float) -> list[float]:
    """Return the milliseconds of up to `repeats` calls after a warm-up, of fewer if they take longer than `seconds`."""
    synchronise = torch.cuda.synchronize if x.is_cuda else lambda: None
    for _ in range(3):
        product(x)
    times: list[float] = []
    ends = time.perf_counter() + seconds
    while len(times) < repeats and (len(times) < 5 or time.perf_counter() < ends):
        synchronise()
        began = time.perf_counter()
        product(x)
        synchronise()
        times.append((time.perf_counter() - began) * 1e3)
    return times


def measure(rows: Rows, device: str, repeats: int, seconds: float) -> None:
    """Add the times, bytes and error of every dtype, shape, batch and kernel."""
    generator = torch.Generator().manual_seed(0)
    for out_features, in_features in SHAPES:
        weight = (torch.randn(out_features, in_features, generator=generator) * 0.02).to(device)
        for dtype in (torch.float32, torch.bfloat16):
            for layer, kernel, stored, stands_for, product in products(weight, dtype):
                who = f"{layer}, {kernel}"
                for batch in BATCHES:
                    setting = f"{out_features} x {in_features}, batch {batch}, {str(dtype)[6:]}"
                    x = torch.randn(batch, in_features, generator=generator).to(device, dtype)
                    exact = x.float() @ stands_for.T
                    error = (product(x).float() - exact).abs().max() / exact.abs().max()
                    for repeat, milliseconds in enumerate(timed(product, x, repeats, seconds)):
                        rows.add(who, setting, "time", repeat, milliseconds, "ms")
                    rows.add(who, setting, "weight", 0, stored, "bytes")
                    rows.add(who, setting, "largest relative error", 0, error.item(), "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="at most, per row")
    options = parser.parse_args()
    rows = Rows("linear_quant", torch.cuda.get_device_name() if options.device == "cuda" else None)
    with torch.inference_mode():
        measure(rows, options.device, options.repeats, options.seconds)
    print(rows.write())


if __name__ == "__main__":
    main()
