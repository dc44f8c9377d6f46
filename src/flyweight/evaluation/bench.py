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
from flyweight.config import linear_kinds, schema
from flyweight.core import process
from flyweight.errors import FlyweightError, RequestError
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
    precision: str
    threads: int | None


@dataclass(frozen=True)
class Measured:
    """What the worker answers: one JSON object on its standard output.

    The lists hold seconds, one per repeat: of a forward pass over (batch, context) with all logits,
    of reading the prompts into an empty cache, and of `new_tokens` greedy steps after them.
    `peak_bytes` is the most that the process (CUDA: the device) held, from loading on, less what it
    held before; `memory` names the way in which it was read.
    """

    forward_s: list[float]
    prefill_s: list[float]
    decode_s: list[float]
    context: int
    weight_bytes: int
    peak_bytes: int
    baseline_bytes: int
    memory: str
    kernels: dict[str, int]
    threads: int
    torch: str


@dataclass(frozen=True)
class BenchResult:
    """Medians over the repeats with 95 % intervals, bytes, and how everything was measured.

    The intervals are order statistics.
    `weight_bytes` are those of parameters and buffers in memory, shared ones once; `disk_bytes`
    those of the model folder's files; `kernels` counts the linear layers by kind and kernel.
    """

    forward_ms: Metric
    prefill_tokens_per_s: Metric
    decode_tokens_per_s: Metric
    peak_bytes: Metric
    weight_bytes: Metric
    disk_bytes: Metric
    p95: dict[str, float]
    request: Request
    measured: Measured

    def metrics(self) -> dict[str, Metric]:
        """Return the figures by name, with their intervals."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Metric)}

    def json(self) -> dict[str, Any]:
        """Return the figures as plain numbers under their names.

        Intervals, 95th percentiles and raw seconds follow under keys of their own.
        """
        metrics = self.metrics()
        asked = {
            key: value
            for key, value in asdict(self.request).items()
            if key not in ("folder", "threads")
        }
        facts = {
            key: getattr(self.measured, key)
            for key in ("context", "memory", "baseline_bytes", "kernels", "threads", "torch")
        }
        return {
            **{name: metric.value for name, metric in metrics.items()},
            "metrics": {name: metric.json() for name, metric in metrics.items()},
            "p95": self.p95,
            **asked,
            **facts,
            "seconds": {
                name: getattr(self.measured, f"{name}_s")
                for name in ("forward", "prefill", "decode")
            },
        }


def bench(
    folder: str | Path,
    config: schema.Bench,
    device: str = "cpu",
    precision: str = "fp32",
    threads: int | None = None,
    timeout: float = TIMEOUT,
) -> BenchResult:
    """Measure the model in `folder` in a child process.

    Raises RequestError where the child refuses the request: a folder without a model, or prompts
    longer than learned positions. Raises FlyweightError with the child's last message where it
    failed, was killed, or took longer than `timeout` seconds.
    """
    prompt, new = config.prompt, config.new_tokens
    if prompt is None or new is None:
        half = min(DEFAULT_TOKENS, max(1, load_any.window(load_any.config(Path(folder))) // 2))
        prompt, new = prompt or half, new or half
    asked = Request(
        str(folder), config.batch, prompt, new, config.repeats, device, precision, threads
    )
    measured = Measured(**_ask(asked, timeout))
    # A rate's 95th percentile is that of its slow runs: the 5th of the rate itself.
    forward = [seconds * 1e3 for seconds in measured.forward_s]
    prefill = [config.batch * prompt / seconds for seconds in measured.prefill_s]
    decode = [config.batch * new / seconds for seconds in measured.decode_s]
    return BenchResult(
        median(forward, "ms", "lower"),
        median(prefill, "tokens/s", "higher"),
        median(decode, "tokens/s", "higher"),
        Metric.exact(measured.peak_bytes, "bytes"),
        Metric.exact(measured.weight_bytes, "bytes"),
        Metric.exact(
            sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()), "bytes"
        ),
        {
            "forward_ms": float(np.quantile(forward, 0.95)),
            "prefill_tokens_per_s": float(np.quantile(prefill, 0.05)),
            "decode_tokens_per_s": float(np.quantile(decode, 0.05)),
        },
        asked,
        measured,
    )


def _ask(request: Request, timeout: float) -> dict[str, Any]:
    """Run the worker on a request and return its answer."""
    environment: dict[str, str] = {}
    if request.threads is not None:
        environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(request.threads))
    try:
        asked = {**asdict(request), "modules": linear_kinds.registering_modules()}
        done = process.run(WORKER, json.dumps(asked), timeout, environment)
    except TimeoutError as error:
        raise FlyweightError(
            f"bench of {request.folder}: no result after {timeout:g} s; ask for fewer repeats, "
            "tokens or a smaller batch"
        ) from error
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
    raise kind(f"bench of {request.folder}: {last}")


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
