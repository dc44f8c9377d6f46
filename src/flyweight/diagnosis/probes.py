"""Trials of torch and its companions: how fast products are, and which kernels really run here and are right.

Each kernel computes something small that is compared with the same in plain float64 or float32
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
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flyweight.config.units import format_size
from flyweight.core.runtime import Runtime
from flyweight.diagnosis.examine import Line, Verdict
from flyweight.model.linear_quant import Int8Linear, NF4Linear
from flyweight.model.packed import Packed

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TRIAL_SECONDS = 0.08
SLOW_GFLOPS = 5.0
SLOWER = 1.5
"""How many times a dense layer's time is called slow."""


def devices() -> Iterator[Line]:
    """Yield what computes here: the processor's instructions, CUDA devices, MPS."""
    group = "devices"
    capability = torch.backends.cpu.get_cpu_capability()
    verdict: Verdict = "slow" if capability in ("DEFAULT", "NO AVX") else "ok"
    remedy = "a processor with AVX2 computes several times faster" if verdict == "slow" else ""
    yield Line(
        group, "cpu", verdict, f"torch uses {capability}", remedy, values={"capability": capability}
    )
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            about = torch.cuda.get_device_properties(index)
            found = (
                f"{about.name}, capability {about.major}.{about.minor}, {format_size(free)} "
                f"of {format_size(total)} free"
            )
            values = {
                "name": about.name,
                "capability": [about.major, about.minor],
                "free": free,
                "total": total,
            }
            yield Line(group, f"cuda:{index}", "ok", found, values=values)
    elif Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi"):
        how = (
            "this torch was built without CUDA"
            if torch.version.cuda is None
            else "torch cannot reach it"
        )
        remedy = (
            "install a torch with CUDA (pytorch.org, get started), and check the driver "
            "with nvidia-smi"
        )
        yield Line(group, "cuda", "broken", f"there is an NVIDIA device, but {how}", remedy)
    else:
        yield Line(group, "cuda", "missing", "no NVIDIA device; everything works without, slower")
    if torch.backends.mps.is_available():
        yield Line(group, "mps", "ok", "Apple's GPU")


def products(runtime: Runtime) -> Iterator[Line]:
    """Yield how fast matrices are multiplied in each float type, what training takes, and all threads against one."""
    group, device, fp32 = "products", runtime.device, 0.0
    size = 512 if device == "cpu" else 4096
    for name, dtype in DTYPES.items():
        try:
            error = _product_error(device, dtype)
            speed = _gflops(size, device, dtype)
        except RuntimeError as refused:
            yield Line(
                group,
                f"{device} {name}",
                "broken",
                _first_line(refused),
                "leave train.precision: auto",
                name == "fp32",
            )
            continue
        fp32 = speed if name == "fp32" else fp32
        yield _product(f"{device} {name}", name, speed, fp32, error)
    yield _training(runtime)
    if device == "cpu" and runtime.threads > 1:
        torch.set_num_threads(1)
        try:
            alone = _gflops(size, device, torch.float32)
        finally:
            runtime.apply()
        gain = fp32 / alone
        slow = gain < 1.2
        remedy = (
            "other processes use the cores, or they are two halves of one: say --threads 1"
            if slow
            else ""
        )
        found = f"{gain:.2f} times the speed of one thread ({alone:.0f} GFLOP/s)"
        yield Line(
            group,
            f"{runtime.threads} threads",
            "slow" if slow else "ok",
            found,
            remedy,
            values={"gain": gain},
        )


def _training(runtime: Runtime) -> Line:
    """Return which float type `train.precision: auto` takes.

    On a CPU with the measurement that decides it.
    """
    group, name = "products", "training"
    if runtime.device != "cpu":
        chosen = runtime.precision("auto", 0)
        return Line(
            group,
            name,
            "ok",
            f"train.precision: auto takes {chosen} on {runtime.device}",
            values={"chosen": chosen},
        )
    measured = runtime.bfloat16()
    values = {"bf16_speedup": {str(width): speedup for width, speedup in measured.by_width}}
    return Line(group, name, "ok", measured.words(), values=values)


def _product(name: str, kind: str, speed: float, fp32: float, error: float) -> Line:
    """Return how fast products alone are.

    Whether training gains from a type is `_training`'s to say.
    """
    values = {"gflops": speed, "error": error}
    found = f"{speed:,.0f} GFLOP/s" + (
        "" if kind == "fp32" else f", {_times(speed / fp32)} times float32's"
    )
    group = "products"
    if error > 8 * torch.finfo(DTYPES[kind]).eps:
        remedy = "another torch build may be right"
        return Line(
            group, name, "broken", f"{found}; wrong by {error:.1g}", remedy, kind == "fp32", values
        )
    if kind == "fp32":
        slow = speed < SLOW_GFLOPS
        return Line(
            group,
            name,
            "slow" if slow else "ok",
            found,
            "take a smaller model" if slow else "",
            values=values,
        )
    return Line(group, name, "ok" if speed >= fp32 else "slow", found, values=values)


def _product_error(device: str, dtype: torch.dtype) -> float:
    a, b = _wave(48, 64).to(dtype), _wave(64, 40).to(dtype)
    expected = a.double() @ b.double()
    found = (a.to(device) @ b.to(device)).double().cpu()
    return float((found - expected).abs().max() / expected.abs().max())


def _gflops(size: int, device: str, dtype: torch.dtype) -> float:
    a, b = (
        torch.randn(size, size, generator=torch.Generator().manual_seed(seed)).to(device, dtype)
        for seed in (0, 1)
    )
    return 2 * size**3 / _seconds(lambda: a @ b, device) / 1e9


def kernels(runtime: Runtime) -> Iterator[Line]:
    """Yield which kernels run here and are right: packed layers as they are used, attention, what torch.compile needs."""
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
    """Return a small packed layer, one input row, and what their product is in float64."""
    layer = layer_type.from_dense(_wave(256, 512), None).to(device).to(dtype)
    x = _wave(1, 512).to(device, dtype)
    with torch.no_grad():
        weight = layer_type.from_dense(_wave(256, 512), None).dense()
    return layer, x, x.cpu().double() @ weight.double().T


def _packed(name: str, layer_type: type[Packed], dtype: torch.dtype, device: str) -> Line:
    """Return how a packed layer is multiplied here as models use it, and how that compares with a dense one."""
    layer, x, expected = _layer(layer_type, dtype, device)
    kernel = layer.kernel(dtype)
    dense = layer.dense().to(dtype)
    with torch.no_grad():
        error = _error(layer(x), expected)
        took, plain = (
            _seconds(lambda: layer(x), device),
            _seconds(lambda: F.linear(x, dense), device),
        )
    found = (
        f"{kernel.name}, {_times(took / plain)} times a dense layer's time for one row; "
        f"{kernel.reason}"
    )
    values = {"kernel": kernel.name, "error": error, "seconds": took, "dense_seconds": plain}
    if error > 8 * torch.finfo(dtype).eps:
        return Line(
            "kernels",
            name,
            "broken",
            f"{found}; wrong by {error:.1g}",
            "another torch build may be right",
            True,
            values,
        )
    slow = took > SLOWER * plain
    remedy = "such layers save bytes here, not time" if slow else ""
    return Line("kernels", name, "slow" if slow else "ok", found, remedy, values=values)


def _trial(
    name: str, kernel: str, layer_type: type[Packed], dtype: torch.dtype, device: str
) -> Line:
    """Return whether a packed layer's faster kernel runs on this device at all, and how it stands to the plain reference."""
    multiply = next(iter(layer_type.fast.values())).kernel.multiply
    assert multiply
    layer, x, expected = _layer(layer_type, dtype, device)
    try:
        with torch.no_grad():
            error = _error(multiply(x, layer), expected)
            took, plain = (
                _seconds(lambda: multiply(x, layer), device),
                _seconds(lambda: layer.reference(x), device),
            )
    except (RuntimeError, NotImplementedError, AttributeError) as refused:
        found = f"{kernel} does not run on {device}: {_first_line(refused)}"
        return Line("kernels", name, "missing", found, "nothing: layers use the plain reference")
    times = took / plain
    found = f"{kernel} runs, {_times(times)} times the plain reference's time for one row"
    values = {"error": error, "seconds": took, "reference_seconds": plain}
    if error > 8 * torch.finfo(dtype).eps:
        return Line(
            "kernels",
            name,
            "broken",
            f"{found}; wrong by {error:.1g}",
            "nothing: it is not used",
            values=values,
        )
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
                took = _seconds(
                    lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True), device
                )
        except RuntimeError as refused:
            yield Line(
                "kernels",
                f"attention {name}",
                "missing",
                f"does not run on {device}: {_first_line(refused)}",
            )
            continue
        plain = plain or took
        found = f"runs, {took * 1e3:.2g} ms" + (
            "" if name == "math" else f", {_times(took / plain)} times the plain one's"
        )
        values = {"seconds": took, "error": error}
        wrong = error > 8 * torch.finfo(dtype).eps
        verdict: Verdict = "broken" if wrong else "ok" if took < 1.2 * plain else "slow"
        yield Line(
            "kernels",
            f"attention {name}",
            verdict,
            found + f"; wrong by {error:.1g}" * wrong,
            "",
            True,
            values,
        )


def _compiler(device: str) -> Line:
    """Return whether torch.compile has what it needs, without compiling anything."""
    name, group = "torch.compile", "kernels"
    try:
        import torch._dynamo.eval_frame as frame
    except ImportError as error:
        return Line(group, name, "broken", str(error), "install torch again")
    if not frame.is_dynamo_supported():
        return Line(
            group,
            name,
            "missing",
            "torch does not support this Python or system",
            "another Python version may do",
        )
    if device.startswith("cuda"):
        import importlib.util

        if importlib.util.find_spec("triton") is None:
            return Line(group, name, "missing", "triton is not installed", "pip install triton")
    compiler = next(
        (
            found
            for word in (os.environ.get("CXX"), "g++", "clang++")
            if word and (found := shutil.which(word))
        ),
        "",
    )
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    lacks = [
        what
        for what, there in (("a C++ compiler", compiler), ("Python.h", header.is_file()))
        if not there
    ]
    if lacks:
        remedy = (
            f"apt-get install g++ "
            f"python{sys.version_info.major}.{sys.version_info.minor}-dev, or their like"
        )
        return Line(group, name, "missing", f"no {' and no '.join(lacks)}", remedy)
    return Line(group, name, "ok", f"has what it needs ({compiler}); nothing was compiled")


def libraries(runtime: Runtime) -> Iterator[Line]:
    """Yield whether bitsandbytes and torchao, where they are installed, compute here what they should."""
    for name, trial in {"bitsandbytes": _bitsandbytes, "torchao": _torchao}.items():
        try:
            with _quiet():
                yield trial(runtime.device)
        except ImportError as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name == name
            found = "not installed" if missing else f"cannot be imported: {_first_line(error)}"
            verdict: Verdict = "missing" if missing else "broken"
            yield Line("kernels", name, verdict, found, "pip install 'flyweight[kernels]'")
        except (
            OSError,
            RuntimeError,
            AttributeError,
            NotImplementedError,
            AssertionError,
        ) as error:
            yield Line(
                "kernels", name, "broken", _first_line(error), "pip install -U 'flyweight[kernels]'"
            )


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
        expected, plain = dense(x), _seconds(lambda: dense(x), device)
        quantize_(dense, Int8WeightOnlyConfig())
        error, took = _error(dense(x), expected.double().cpu()), _seconds(lambda: dense(x), device)
    times = took / plain
    found = f"its int8 product runs, {_times(times)} times a dense layer's time for one row"
    values = {"error": error, "seconds": took, "dense_seconds": plain}
    if error > 0.02:  # int8 itself costs about 1 %
        return Line(
            "kernels",
            "torchao",
            "broken",
            f"{found}; wrong by {error:.1g}",
            "nothing: it is not used",
            values=values,
        )
    return Line("kernels", "torchao", "ok" if times < SLOWER else "slow", found, values=values)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep libraries from telling, at import, about parts of theirs that nobody asked for."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _seconds(work: Callable[[], Any], device: str) -> float:
    """Return the least time of one call, of as many as fit the time of a trial, at least two after one to warm up.

    The least, because other processes only ever add to it: this is what the machine can do.
    """
    synchronise = (
        getattr(torch, device.split(":")[0]).synchronize if device != "cpu" else lambda: None
    )
    took: list[float] = []
    end = time.perf_counter() + TRIAL_SECONDS
    work()
    while len(took) < 2 or (time.perf_counter() < end and len(took) < 200):
        synchronise()
        began = time.perf_counter()
        work()
        synchronise()
        took.append(time.perf_counter() - began)
    return min(took)


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found.detach().double().cpu() - expected).abs().max() / expected.abs().max())


def _wave(rows: int, columns: int, phase: float = 0.0) -> Tensor:
    """Return a matrix of ordinary numbers, the same everywhere."""
    return (
        (torch.arange(rows * columns, dtype=torch.float32) * 0.7 + phase).sin().view(rows, columns)
    )


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
