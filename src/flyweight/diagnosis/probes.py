"""Try torch and its companions: time products, and find the kernels that run here and are right.

Each kernel computes something small, which is compared with the same in plain float64 or float32
torch.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from flyweight.config.units import format_size
from flyweight.core.runtime import Precision, Runtime
from flyweight.diagnosis.finding import Line, Verdict
from flyweight.model.linear_quant import Int8Linear, NF4Linear
from flyweight.model.packed import Packed
from flyweight.model.precision import DTYPES

TRIAL_SECONDS = 0.08
SLOW_GFLOPS = 5.0
SLOWER = 1.5
"""A packed layer that takes more than so many times a dense layer's time is called slow."""


def devices() -> Iterator[Line]:
    """Yield the devices of this machine: the processor's instructions, CUDA devices, MPS."""
    group = "devices"
    capability = torch.backends.cpu.get_cpu_capability()
    verdict: Verdict = "ok"
    remedy = ""
    if capability in ("DEFAULT", "NO AVX"):
        verdict = "slow"
        remedy = "a processor with AVX2 computes several times faster"
    yield Line(
        group=group,
        name="cpu",
        verdict=verdict,
        found=f"torch uses {capability}",
        remedy=remedy,
        values={"capability": capability},
    )
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield _cuda(index)
    elif Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi"):
        problem = "torch cannot reach it"
        if torch.version.cuda is None:
            problem = "this torch was built without CUDA"
        remedy = (
            "install a torch with CUDA (pytorch.org, get started), and check the driver "
            "with nvidia-smi"
        )
        yield Line(group, "cuda", "broken", f"there is an NVIDIA device, but {problem}", remedy)
    else:
        yield Line(group, "cuda", "missing", "no NVIDIA device; everything works without, slower")
    if torch.backends.mps.is_available():
        yield Line(group, "mps", "ok", "Apple's GPU")


def _cuda(index: int) -> Line:
    free, total = torch.cuda.mem_get_info(index)
    about = torch.cuda.get_device_properties(index)
    return Line(
        group="devices",
        name=f"cuda:{index}",
        verdict="ok",
        found=f"{about.name}, capability {about.major}.{about.minor}, {format_size(free)} "
        f"of {format_size(total)} free",
        values={
            "name": about.name,
            "capability": [about.major, about.minor],
            "free": free,
            "total": total,
        },
    )


def products(runtime: Runtime) -> Iterator[Line]:
    """Yield the speed of matrix products in each float type, and the type that training takes.

    On a CPU, also yield the speed of all threads against that of one.
    """
    group, device, fp32 = "products", runtime.device, 0.0
    size = 512 if device == "cpu" else 4096
    for name, dtype in DTYPES.items():
        try:
            error = _product_error(device, dtype)
            speed = _gflops(size, device, dtype)
        except RuntimeError as refused:
            yield Line(
                group=group,
                name=f"{device} {name}",
                verdict="broken",
                found=_first_line(refused),
                remedy="leave train.precision: auto",
                needed=name == "fp32",
            )
            continue
        if name == "fp32":
            fp32 = speed
        yield _product(f"{device} {name}", name, speed, fp32, error)
    yield _training(runtime)
    if device == "cpu" and runtime.threads > 1:
        yield _threads(runtime, size, fp32)


def _threads(runtime: Runtime, size: int, speed: float) -> Line:
    """Return the `speed` of all threads, in GFLOP/s, against that of one."""
    torch.set_num_threads(1)
    try:
        alone = _gflops(size, runtime.device, torch.float32)
    finally:
        runtime.apply()
    gain = speed / alone
    verdict: Verdict = "ok"
    remedy = ""
    if gain < 1.2:
        verdict = "slow"
        remedy = "other processes use the cores, or they are two halves of one: say --threads 1"
    return Line(
        group="products",
        name=f"{runtime.threads} threads",
        verdict=verdict,
        found=f"{gain:.2f} times the speed of one thread ({alone:.0f} GFLOP/s)",
        remedy=remedy,
        values={"gain": gain},
    )


def _training(runtime: Runtime) -> Line:
    """Return the float type that `train.precision: auto` takes.

    On a CPU, return it with the measurement that decides it.
    """
    group, name = "products", "training"
    if runtime.device != "cpu":
        precision = runtime.precision("auto", 0)
        found = f"train.precision: auto takes {precision} on {runtime.device}"
        return Line(group, name, "ok", found, values={"chosen": precision})
    speedups = runtime.bfloat16()
    values = {"bf16_speedup": {str(width): speedup for width, speedup in speedups.by_width}}
    return Line(group, name, "ok", speedups.words(), values=values)


def _product(name: str, kind: Precision, speed: float, fp32: float, error: float) -> Line:
    """Return the speed of products alone; `_training` says whether training gains from a type."""
    group = "products"
    values = {"gflops": speed, "error": error}
    found = f"{speed:,.0f} GFLOP/s"
    if kind != "fp32":
        found += f", {_times(speed / fp32)} times float32's"
    if error > 8 * torch.finfo(DTYPES[kind]).eps:
        return Line(
            group=group,
            name=name,
            verdict="broken",
            found=f"{found}; wrong by {error:.1g}",
            remedy="another torch build may be right",
            needed=kind == "fp32",
            values=values,
        )
    if kind != "fp32":
        return Line(group, name, "ok" if speed >= fp32 else "slow", found, values=values)
    if speed < SLOW_GFLOPS:
        return Line(group, name, "slow", found, "take a smaller model", values=values)
    return Line(group, name, "ok", found, values=values)


def _product_error(device: str, dtype: torch.dtype) -> float:
    a, b = _wave(48, 64).to(dtype), _wave(64, 40).to(dtype)
    expected = a.double() @ b.double()
    product = (a.to(device) @ b.to(device)).double().cpu()
    return float((product - expected).abs().max() / expected.abs().max())


def _gflops(size: int, device: str, dtype: torch.dtype) -> float:
    a, b = (
        torch.randn(size, size, generator=torch.Generator().manual_seed(seed)).to(device, dtype)
        for seed in (0, 1)
    )
    return 2 * size**3 / _seconds(lambda: a @ b, device) / 1e9


def kernels(runtime: Runtime) -> Iterator[Line]:
    """Yield which kernels run here and are right.

    These are those of packed layers and of attention, and the needs of torch.compile.
    """
    for kind, layer_type in (("int8", Int8Linear), ("nf4", NF4Linear)):
        for name in ("fp32", "bf16"):
            yield _packed(f"{kind} {name}", layer_type, DTYPES[name], runtime.device)
    yield _trial(
        "torch int8", "torch._weight_int8pack_mm", Int8Linear, torch.bfloat16, runtime.device
    )
    yield from _attention(runtime.device)
    yield _compiler(runtime.device)


def _layer(
    layer_type: type[Packed], dtype: torch.dtype, device: str
) -> tuple[Packed, Tensor, Tensor]:
    """Return a small packed layer, one input row (1, 512), and their product in float64."""
    layer = layer_type.from_dense(_wave(256, 512), None).to(device).to(dtype)
    x = _wave(1, 512).to(device, dtype)
    with torch.no_grad():
        weight = layer_type.from_dense(_wave(256, 512), None).dense()
    return layer, x, x.cpu().double() @ weight.double().T


def _packed(name: str, layer_type: type[Packed], dtype: torch.dtype, device: str) -> Line:
    """Return the kernel that models use here for a packed layer, and its time against dense."""
    layer, x, expected = _layer(layer_type, dtype, device)
    kernel = layer.kernel(dtype)
    dense = layer.dense().to(dtype)
    with torch.no_grad():
        error = _error(layer(x), expected)
        seconds = _seconds(lambda: layer(x), device)
        plain = _seconds(lambda: F.linear(x, dense), device)
    found = (
        f"{kernel.name}, {_times(seconds / plain)} times a dense layer's time for one row; "
        f"{kernel.reason}"
    )
    values = {"kernel": kernel.name, "error": error, "seconds": seconds, "dense_seconds": plain}
    if error > 8 * torch.finfo(dtype).eps:
        return Line(
            group="kernels",
            name=name,
            verdict="broken",
            found=f"{found}; wrong by {error:.1g}",
            remedy="another torch build may be right",
            needed=True,
            values=values,
        )
    if seconds > SLOWER * plain:
        remedy = "such layers save bytes here, not time"
        return Line("kernels", name, "slow", found, remedy, values=values)
    return Line("kernels", name, "ok", found, values=values)


def _trial(
    name: str, kernel: str, layer_type: type[Packed], dtype: torch.dtype, device: str
) -> Line:
    """Return whether a packed layer's fast kernel runs here, and its time against the reference."""
    multiply = next(iter(layer_type.fast.values())).kernel.multiply
    assert multiply
    layer, x, expected = _layer(layer_type, dtype, device)
    try:
        with torch.no_grad():
            error = _error(multiply(x, layer), expected)
            seconds = _seconds(lambda: multiply(x, layer), device)
            plain = _seconds(lambda: layer.reference(x), device)
    except (RuntimeError, NotImplementedError, AttributeError) as refused:
        found = f"{kernel} does not run on {device}: {_first_line(refused)}"
        return Line("kernels", name, "missing", found, "nothing: layers use the plain reference")
    times = seconds / plain
    found = f"{kernel} runs, {_times(times)} times the plain reference's time for one row"
    values = {"error": error, "seconds": seconds, "reference_seconds": plain}
    if error > 8 * torch.finfo(dtype).eps:
        found += f"; wrong by {error:.1g}"
        return Line("kernels", name, "broken", found, "nothing: it is not used", values=values)
    return Line("kernels", name, "ok" if times < 1 else "slow", found, values=values)


def _attention(device: str) -> Iterator[Line]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    dtype = torch.float32 if device == "cpu" else torch.float16
    q, k, v = (
        _wave(2 * 4 * 256, 32, seed).view(2, 4, 256, 32).to(dtype) for seed in (0.0, 1.0, 2.0)
    )
    scores = (q.double() @ k.double().transpose(-1, -2)) / 32**0.5
    expected = (
        scores.masked_fill(~torch.ones(256, 256).tril().bool(), -torch.inf).softmax(-1) @ v.double()
    )
    q, k, v = q.to(device), k.to(device), v.to(device)
    backends = {"math": SDPBackend.MATH, "flash": SDPBackend.FLASH_ATTENTION}
    if device.startswith("cuda"):
        backends |= {
            "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
            "cudnn": SDPBackend.CUDNN_ATTENTION,
        }
    plain = 0.0
    for name, backend in backends.items():
        try:
            with sdpa_kernel(backend), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                error = _error(F.scaled_dot_product_attention(q, k, v, is_causal=True), expected)
                seconds = _seconds(
                    lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True), device
                )
        except RuntimeError as refused:
            found = f"does not run on {device}: {_first_line(refused)}"
            yield Line("kernels", f"attention {name}", "missing", found)
            continue
        plain = plain or seconds
        found = f"runs, {seconds * 1e3:.2g} ms"
        if name != "math":
            found += f", {_times(seconds / plain)} times the plain one's"
        verdict: Verdict = "ok" if seconds < 1.2 * plain else "slow"
        if error > 8 * torch.finfo(dtype).eps:
            verdict = "broken"
            found += f"; wrong by {error:.1g}"
        yield Line(
            group="kernels",
            name=f"attention {name}",
            verdict=verdict,
            found=found,
            needed=True,
            values={"seconds": seconds, "error": error},
        )


def _compiler(device: str) -> Line:
    """Return whether torch.compile has what it needs, without compiling anything."""
    name, group = "torch.compile", "kernels"
    try:
        import torch._dynamo.eval_frame as frame
    except ImportError as error:
        return Line(group, name, "broken", str(error), "install torch again")
    if not frame.is_dynamo_supported():
        found = "torch does not support this Python or system"
        return Line(group, name, "missing", found, "another Python version may do")
    if device.startswith("cuda"):
        import importlib.util

        if importlib.util.find_spec("triton") is None:
            return Line(group, name, "missing", "triton is not installed", "pip install triton")
    words = [word for word in (os.environ.get("CXX"), "g++", "clang++") if word]
    compiler = next(filter(None, map(shutil.which, words)), None)
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    missing = []
    if compiler is None:
        missing.append("a C++ compiler")
    if not header.is_file():
        missing.append("Python.h")
    if missing:
        python = f"python{sys.version_info.major}.{sys.version_info.minor}-dev"
        remedy = f"apt-get install g++ {python}, or their like"
        return Line(group, name, "missing", f"no {' and no '.join(missing)}", remedy)
    return Line(group, name, "ok", f"has what it needs ({compiler}); nothing was compiled")


def libraries(runtime: Runtime) -> Iterator[Line]:
    """Yield whether bitsandbytes and torchao are installed and compute right results here."""
    for name, trial in {"bitsandbytes": _bitsandbytes, "torchao": _torchao}.items():
        try:
            with _quiet():
                yield trial(runtime.device)
        except ImportError as error:
            verdict: Verdict = "broken"
            found = f"cannot be imported: {_first_line(error)}"
            if isinstance(error, ModuleNotFoundError) and error.name == name:
                verdict = "missing"
                found = "not installed"
            yield Line("kernels", name, verdict, found, "pip install 'flyweight[kernels]'")
        except (
            OSError,
            RuntimeError,
            AttributeError,
            NotImplementedError,
            AssertionError,
        ) as error:
            remedy = "pip install -U 'flyweight[kernels]'"
            yield Line("kernels", name, "broken", _first_line(error), remedy)


def _bitsandbytes(device: str) -> Line:
    import bitsandbytes  # noqa: F401 - registers the operator that the trial calls

    return _trial("bitsandbytes", "its NF4 product (gemm_4bit)", NF4Linear, torch.float32, device)


def _torchao(device: str) -> Line:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    layer = torch.nn.Linear(512, 256, bias=False).to(device)
    dense = torch.nn.Sequential(layer)
    with torch.no_grad():
        layer.weight.copy_(_wave(256, 512))
        x = _wave(1, 512).to(device)
        expected = dense(x)
        plain = _seconds(lambda: dense(x), device)
        quantize_(dense, Int8WeightOnlyConfig())
        error = _error(dense(x), expected.double().cpu())
        seconds = _seconds(lambda: dense(x), device)
    times = seconds / plain
    found = f"its int8 product runs, {_times(times)} times a dense layer's time for one row"
    values = {"error": error, "seconds": seconds, "dense_seconds": plain}
    if error > 0.02:  # int8 itself costs about 1 %
        found += f"; wrong by {error:.1g}"
        return Line("kernels", "torchao", "broken", found, "nothing: it is not used", values=values)
    return Line("kernels", "torchao", "ok" if times < SLOWER else "slow", found, values=values)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence libraries that warn at import about parts that nobody asked for."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _seconds(work: Callable[[], object], device: str) -> float:
    """Return the least time of one call, in seconds, over as many calls as fit a trial.

    These are at least two, after one to warm up. The least counts because other processes only add
    to a time.
    """

    def synchronise() -> None:
        if device != "cpu":
            getattr(torch, device.split(":")[0]).synchronize()

    seconds: list[float] = []
    end = time.perf_counter() + TRIAL_SECONDS
    work()
    while len(seconds) < 2 or (time.perf_counter() < end and len(seconds) < 200):
        synchronise()
        began = time.perf_counter()
        work()
        synchronise()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _error(result: Tensor, expected: Tensor) -> float:
    return float((result.detach().double().cpu() - expected).abs().max() / expected.abs().max())


def _wave(rows: int, columns: int, phase: float = 0.0) -> Tensor:
    """Return a matrix (rows, columns) of ordinary numbers, the same everywhere."""
    numbers = torch.arange(rows * columns, dtype=torch.float32)
    return (numbers * 0.7 + phase).sin().view(rows, columns)


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
