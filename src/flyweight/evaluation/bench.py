"""Speed and memory of a model folder, measured in a fresh process that does nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flyweight.checkpoints import load_any
from flyweight.checkpoints.read import TRUST, trusted
from flyweight.config import linear_kinds, schema
from flyweight.config.speed import AttentionName, EngineName, PrecisionName
from flyweight.core import process
from flyweight.errors import FlyweightError, RequestError
from flyweight.records.bench import BenchResult, PassSeconds
from flyweight.records.metric import Metric

DEFAULT_TOKENS = 64
TIMEOUT = 900.0
WORKER = "flyweight.evaluation.bench_worker"


@dataclass(frozen=True)
class Request:
    """What the worker is asked to do: one JSON object on its standard input."""

    folder: str
    batch: int
    prompt: int
    new_tokens: int
    repeats: int | None
    device: str
    precision: PrecisionName
    threads: int | None
    attention: AttentionName = "auto"
    engine: EngineName = "auto"
    generate_tokens: int = 5


@dataclass(frozen=True)
class Measured:
    """What the worker answers: one JSON object on its standard output.

    The lists hold seconds, one per repeat: of a forward pass over (batch, context) with all logits,
    of reading the prompts into an empty cache, of `new_tokens` greedy steps after them, and of an
    answer of `generate_tokens`, its prompt included. `kernel` is the attention that a profiler saw.
    `peak_bytes` is the most that the process (CUDA: the device) held, from loading on, less what it
    held before; `memory` names the way in which it was read.
    """

    forward_s: list[float]
    prefill_s: list[float]
    decode_s: list[float]
    generate_s: list[float]
    context: int
    weight_bytes: int
    peak_bytes: int
    baseline_bytes: int
    memory: str
    kernels: dict[str, int]
    kernel: str
    engine: str
    threads: int
    torch: str


def bench(
    folder: str | Path,
    config: schema.Bench,
    device: str = "cpu",
    threads: int | None = None,
    timeout: float = TIMEOUT,
) -> BenchResult:
    """Measure the model in `folder` in a child process.

    Raises RequestError where the child refuses the request: a folder without a model, prompts
    longer than learned positions, or a kernel that the device has not. Raises FlyweightError with
    the child's last message where it failed, was killed, or took longer than `timeout` seconds.
    """
    check_precision(config.precision, device)
    prompt = config.prompt or half_of_context(folder)
    new = config.new_tokens or half_of_context(folder)
    asked = Request(
        folder=str(folder),
        batch=config.batch,
        prompt=prompt,
        new_tokens=new,
        repeats=config.repeats,
        device=device,
        precision=config.precision,
        threads=threads,
        attention=config.attention,
        engine=config.engine,
        generate_tokens=config.generate_tokens,
    )
    measured = Measured(**_ask(asked, timeout))
    # A rate's 95th percentile is that of its slow runs: the 5th of the rate itself.
    forward = [seconds * 1e3 for seconds in measured.forward_s]
    prefill = [config.batch * prompt / seconds for seconds in measured.prefill_s]
    decode = [config.batch * new / seconds for seconds in measured.decode_s]
    answers = measured.generate_s
    files = (file for file in Path(folder).rglob("*") if file.is_file())
    return BenchResult(
        forward_ms=median(forward, "ms", "lower"),
        prefill_tokens_per_s=median(prefill, "tokens/s", "higher"),
        decode_tokens_per_s=median(decode, "tokens/s", "higher"),
        generate_ms=median([seconds * 1e3 for seconds in answers], "ms", "lower"),
        samples_per_s=median([config.batch / seconds for seconds in answers], "1/s", "higher"),
        peak_bytes=Metric.exact(measured.peak_bytes, "bytes"),
        weight_bytes=Metric.exact(measured.weight_bytes, "bytes"),
        disk_bytes=Metric.exact(sum(file.stat().st_size for file in files), "bytes"),
        p95={
            "forward_ms": float(np.quantile(forward, 0.95)),
            "prefill_tokens_per_s": float(np.quantile(prefill, 0.05)),
            "decode_tokens_per_s": float(np.quantile(decode, 0.05)),
        },
        batch=config.batch,
        prompt=prompt,
        new_tokens=new,
        repeats=config.repeats,
        device=device,
        precision=config.precision,
        generate_tokens=config.generate_tokens,
        attention=config.attention,
        kernel=measured.kernel,
        engine=measured.engine,
        context=measured.context,
        memory=measured.memory,
        baseline_bytes=measured.baseline_bytes,
        kernels=measured.kernels,
        threads=measured.threads,
        torch=measured.torch,
        seconds=PassSeconds(
            forward=tuple(measured.forward_s),
            prefill=tuple(measured.prefill_s),
            decode=tuple(measured.decode_s),
            generate=tuple(measured.generate_s),
        ),
    )


def half_of_context(folder: str | Path) -> int:
    """Return 64 tokens, or half the context of a model folder where that is less."""
    window = load_any.window(load_any.config(Path(folder)))
    return min(DEFAULT_TOKENS, max(1, window // 2))


def check_precision(precision: str, device: str) -> None:
    """Raise RequestError for a float type in which the device does not multiply."""
    if precision == "fp16" and device == "cpu":
        raise RequestError("precision: fp16 needs a GPU; on a CPU use fp32 or bf16")


def _ask(request: Request, timeout: float) -> dict[str, Any]:
    """Run the worker on a request and return its answer."""
    return ask_worker(
        WORKER,
        asdict(request),
        what=f"bench of {request.folder}",
        advice="ask for fewer repeats, tokens or a smaller batch",
        timeout=timeout,
    )


def ask_worker(
    module: str, request: dict[str, Any], what: str, advice: str, timeout: float
) -> dict[str, Any]:
    """Run a module that measures, in a fresh process, and return its answer.

    Raises RequestError where the child refuses the request, and FlyweightError with its last
    message where it failed, was killed, or took longer than `timeout` seconds. `what` begins the
    messages, and `advice` ends that of a child that is too slow.
    """
    environment: dict[str, str] = {}
    if request["threads"] is not None:
        threads = str(request["threads"])
        environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    if trusted():
        environment[TRUST] = "1"
    try:
        asked = {**request, "modules": linear_kinds.registering_modules()}
        done = process.run(module, json.dumps(asked), timeout, environment)
    except TimeoutError as error:
        raise FlyweightError(f"{what}: no result after {timeout:g} s; {advice}") from error
    if done.returncode == 0:
        return json.loads(done.stdout)
    messages = done.stderr.strip().splitlines()
    last = messages[-1] if messages else "it said nothing"
    if done.returncode < 0:
        last = (
            f"killed by signal {-done.returncode}, as happens when memory runs out (try a "
            f"smaller batch); {last}"
        )
    kind = RequestError if done.returncode == RequestError.status else FlyweightError
    raise kind(f"{what}: {last}")


def median(samples: Sequence[float], unit: str, better: Literal["lower", "higher"]) -> Metric:
    """Return the median of independent samples with its distribution-free 95 % interval.

    The interval lies between the narrowest pair of order statistics that holds the median with at
    least 95 %. For up to five samples, it lies between the smallest and the largest, which hold it
    with 1 - 2^(1 - n).
    """
    ordered, n = sorted(samples), len(samples)
    rank = 0
    below = 1 / 2**n  # probability that at most `rank` of n samples fall under the median
    while 2 * (below + math.comb(n, rank + 1) / 2**n) <= 0.05 and rank + 1 < n - 2 - rank:
        rank += 1
        below += math.comb(n, rank) / 2**n
    return Metric(float(np.median(ordered)), unit, better, n, ordered[rank], ordered[n - 1 - rank])
