"""The process that `bench` starts by `core.process`: a request in, an answer out, both JSON."""

from __future__ import annotations

import gc
import importlib
import json
import math
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flyweight.checkpoints import load_any
from flyweight.checkpoints.load_any import AnyModel
from flyweight.config import schema
from flyweight.core.machine import high_water_bytes, reset_high_water, resident_bytes
from flyweight.errors import FlyweightError
from flyweight.evaluation.bench import Measured, Request
from flyweight.evaluation.speed_choices import attention_seen, choices
from flyweight.model import folder
from flyweight.model.build import build
from flyweight.model.linear_layer import layers_of
from flyweight.model.precision import DTYPES

# A sample shorter than this is mostly the clock and the scheduler: fast passes are repeated and
# averaged.
LEAST_SECONDS = 0.02
MOST_PASSES = 50
LEAST_RUNS, MOST_RUNS = 5, 15
ENOUGH_SECONDS = 2.0
"""Seconds of timed runs after which LEAST_RUNS of them are enough.

Of fifteen runs, the 95 % interval of the median leaves out three slow ones; of five, none.
"""


class MemoryProbe:
    """The most memory held since `start`, less the memory held at `start`.

    CUDA knows its own peak; MPS is read between passes. On a CPU, the process' resident memory has
    a high-water mark, which Linux can reset. Other systems cannot reset it; there, the memory that
    imports needed hides smaller peaks.
    """

    method: Literal["cuda", "mps", "resident", "maxrss"]

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.baseline = 0
        self.highest = 0
        self.method = "maxrss"
        if device.type == "cuda":
            self.method = "cuda"
        elif device.type == "mps":
            self.method = "mps"

    def start(self) -> None:
        """Take the baseline."""
        gc.collect()
        if self.method == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.baseline = torch.cuda.memory_allocated(self.device)
        elif self.method == "mps":
            self.baseline = torch.mps.driver_allocated_memory()
        else:
            if reset_high_water():
                self.method = "resident"
            self.baseline = resident_bytes() if self.method == "resident" else _maxrss()

    def forget(self) -> None:
        """Forget the highest so far; the baseline stays."""
        gc.collect()
        if self.method == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif self.method == "resident":
            reset_high_water()

    def look(self) -> None:
        """Note what is held now, on devices without a peak of their own."""
        if self.method == "mps":
            self.highest = max(self.highest, torch.mps.driver_allocated_memory())

    def peak(self) -> int:
        """Return the peak over the baseline in bytes."""
        if self.method == "cuda":
            self.highest = torch.cuda.max_memory_allocated(self.device)
        elif self.method == "resident":
            self.highest = high_water_bytes()
        elif self.method == "maxrss":
            self.highest = _maxrss()
        return max(0, self.highest - self.baseline)


def _maxrss() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds(run: Callable[[], object], device: torch.device, passes: int = 1) -> float:
    """Return the seconds that one pass of `run` takes, the device idle before and after."""
    synchronise(device)
    began = time.perf_counter()
    for _ in range(passes):
        run()
    synchronise(device)
    return (time.perf_counter() - began) / passes


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters and buffers; a shared one counts once."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def kernels(model: nn.Module, dtype: torch.dtype) -> dict[str, int]:
    """Return how many linear layers there are of every kind.

    Packed kinds with the kernel that multiplies inputs of `dtype`.
    """
    methods = Counter(layer.method(dtype) for _, layer in layers_of(model))
    return dict(sorted(methods.items()))


class Passes:
    """The three things that are timed, on fixed random tokens."""

    def __init__(self, model: AnyModel, request: Request, device: torch.device) -> None:
        self.model, self.request = model, request
        assert model.config.vocab_size
        generator = torch.Generator().manual_seed(0)
        window = load_any.window(model.config)
        shape = (request.batch, max(window, request.prompt))
        tokens = torch.randint(model.config.vocab_size, shape, generator=generator)  # (B, T)
        tokens = tokens.to(device)
        self.window, self.prompt = tokens[:, :window], tokens[:, : request.prompt]

    def forward(self) -> Tensor:
        """Compute all logits of a full window, (B, context, V)."""
        return self.model(self.window)

    def prefill(self) -> tuple[Tensor, object]:
        """Read the prompts into an empty cache.

        Return the first new tokens (B, 1) and the cache.
        """
        cache: Any = self.model.new_cache(
            self.request.batch,
            self.request.prompt + max(self.request.new_tokens, self.request.generate_tokens),
        )
        hidden = self.model.hidden(self.prompt, cache)  # (B, T, dim)
        return self.model.logits(hidden[:, -1:]).argmax(-1), cache

    def answer(self) -> Tensor:
        """Read the prompts and return the last of `generate_tokens` greedy tokens (B, 1)."""
        token, cache = self.prefill()
        for _ in range(self.request.generate_tokens - 1):
            token = self.model(token, cache).argmax(-1)
        return token

    def decode(self, device: torch.device) -> float:
        """Return the seconds of `new_tokens` greedy steps after a prefill that is not counted."""
        token, cache = self.prefill()

        def steps() -> None:
            following = token
            for _ in range(self.request.new_tokens):
                following = self.model(following, cache).argmax(-1)  # (B, 1)

        return seconds(steps, device)


def exercise(request: Request, device: torch.device) -> None:
    """Load and run tiny models of the same kinds.

    Thread pools and libraries that load at first use are not the model's memory. They take some
    45 MB, many times the size of a small model.
    """
    config = load_any.config(Path(request.folder))
    own = isinstance(config, schema.ARCHITECTURES)
    kinds = {kind.kind: kind for kind in config.linears.values()} if own else {}
    sizes: dict[str, Any] = {"vocab_size": 64, "context": 32, "dim": 64}
    tiny: list[schema.Architecture] = [
        schema.ModelConfig(**sizes, layers=1, linears=linears)
        for linears in ({}, *({"blocks": kind} for kind in kinds.values()))
    ]
    if isinstance(config, schema.LinearConfig | schema.MlpConfig | schema.LstmConfig):
        sizes |= {"layers": 1} if isinstance(config, schema.LstmConfig) else {"history": 4}
        if hasattr(config, "hidden"):
            sizes["hidden"] = 64
        tiny.append(config.model_copy(update=sizes))
    for model_config in tiny:
        with tempfile.TemporaryDirectory() as place:
            folder.save(build(model_config), place)
            passes = Passes(
                folder.load(place, device).eval(),
                replace(request, batch=1, prompt=8, new_tokens=2),
                device,
            )
        seconds(passes.forward, device)
        passes.decode(device)


def _more(done: int, asked: int | None, spent: float) -> bool:
    """Return whether to time another run.

    Times as many as `asked` says; where that is None, five to fifteen, by the seconds `spent`.
    """
    if asked is not None:
        return done < asked
    return done < LEAST_RUNS or (done < MOST_RUNS and spent < ENOUGH_SECONDS)


def measure(request: Request) -> Measured:
    """Load the model and time it; everything before the load is the baseline."""
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    device = torch.device(request.device)
    memory = MemoryProbe(device)
    with choices(device, request.precision, request.attention, request.engine) as engine:
        exercise(request, device)
        memory.start()
        model = load_any.load(Path(request.folder), device).eval()
        passes = Passes(model, request, device)
        runs = _timed(passes, request, device, memory)
        peak = memory.peak()  # before the profiler, which holds memory of its own
        kernel = attention_seen(passes.answer, request.attention)
    return Measured(
        *runs,
        context=passes.window.shape[1],
        weight_bytes=weight_bytes(model),
        peak_bytes=peak,
        baseline_bytes=memory.baseline,
        memory=memory.method,
        kernels=kernels(
            model, DTYPES[request.precision] if request.precision != "fp32" else model.dtype
        ),
        kernel=kernel,
        engine=engine,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


def _timed(
    passes: Passes, request: Request, device: torch.device, memory: MemoryProbe
) -> list[list[float]]:
    """Return the seconds of every repeat: of forward, prefill, decode and answer."""
    runs: list[list[float]] = [[], [], [], []]
    # The first pass of each is the warm-up; the second decides how many passes make a sample
    # that is long enough for the clock.
    counts = []
    for run in (passes.forward, passes.prefill, passes.answer):
        seconds(run, device)
        counts.append(min(MOST_PASSES, math.ceil(LEAST_SECONDS / seconds(run, device))))
    passes.decode(device)
    memory.look()
    # Interleaved: a machine that slows down slows all of them.
    began = time.perf_counter()
    while _more(len(runs[0]), request.repeats, time.perf_counter() - began):
        runs[0].append(seconds(passes.forward, device, counts[0]))
        runs[1].append(seconds(passes.prefill, device, counts[1]))
        runs[2].append(passes.decode(device))
        runs[3].append(seconds(passes.answer, device, counts[2]))
        memory.look()
    return runs


def answer_one(measure_it: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """Answer the request on standard input: the whole work of a process that measures.

    Errors are the last line on standard error and the exit status, which is returned.
    """
    # Whatever a library prints must not end up in the answer.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        asked = json.load(sys.stdin)
        for module in asked.pop("modules", ()):
            importlib.import_module(module)
        measured = measure_it(asked)
    except FlyweightError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return error.status
    with answer:
        json.dump(measured, answer)
    return 0


def main() -> int:
    """Answer one request of `bench`."""
    return answer_one(lambda asked: asdict(measure(Request(**asked))))


if __name__ == "__main__":
    sys.exit(main())
