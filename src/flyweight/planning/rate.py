"""Measure how fast this machine trains and packs, once, and keep it in the runs root.

A share of `budget.time` is part of a training's identity. Because rates are kept, the same command
finds the same shares.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError

from flyweight.config import schema
from flyweight.config.units import format_flops
from flyweight.core import allocator
from flyweight.core.events import Watcher, ignore
from flyweight.core.files import refuse_link, remove, write_json
from flyweight.core.machine import busy, processor
from flyweight.core.runtime import Precision, Runtime
from flyweight.errors import RequestError
from flyweight.store.artifact import PARTIAL, Store

FILE = "rates.json"
"""Where rates are kept, in the runs root."""

WIDTHS = {"cpu": (64, 256), "cuda": (256, 768), "mps": (128, 512)}
"""Widths of the two models whose training is timed.

Other widths lie on the line through both, in logarithms.
"""

WIDTH = 128
"""The width whose rate is shown, and whose best precision is measured."""

MEASURE_SECONDS = 0.4
"""For how long each of the two models is trained; the fastest step counts."""

FARTHEST = 1.3
"""How far the line goes beyond the two widths, in units of their distance."""

REFERENCE_PACKING = 1.2e6
"""Bytes per second of `packing` on the machine of the constants in `flyweight.planning.time`."""

TIMED_TRAINING = schema.Train(batch=4)
TIMED_CONTEXT, TIMED_VOCABULARY, TIMED_LAYERS = 128, 1024, 2
"""The training whose steps are timed."""


class Rates(BaseModel):
    """The speed of one machine with one device, thread count and precision.

    `training` has FLOPs per second of whole training steps by width, `packing` bytes of text per
    second. `busy`: other work ran when they were measured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    training: Annotated[dict[int, PositiveFloat], Field(min_length=1)]
    packing: PositiveFloat
    created: str = ""
    busy: bool = False

    @property
    def slowness(self) -> float:
        """The factor on times other than training and packing: 1 is two idle server cores."""
        return max(1.0, REFERENCE_PACKING / self.packing)

    def at(self, width: int) -> float:
        """Return the training FLOPs per second of a model of this width."""
        return interpolated(self.training, width)


def interpolated(rates: Mapping[int, float], width: int) -> float:
    """Return the rate at a width, on the line through two widths in logarithms."""
    (low, slow), (high, fast) = min(rates.items()), max(rates.items())
    if high == low:
        return slow
    place = math.log(width / low) / math.log(high / low)
    return slow * (fast / slow) ** min(FARTHEST, max(1 - FARTHEST, place))


def timed_model(width: int) -> schema.ModelConfig:
    """Return the resolved model of a width whose training steps are timed."""
    model = schema.ModelConfig(dim=width, layers=TIMED_LAYERS)
    return model.resolved(TIMED_VOCABULARY, TIMED_CONTEXT)


@dataclass(frozen=True)
class Kept:
    """Rates and the file that keeps them; `fresh`: they were measured just now."""

    rates: Rates
    file: Path
    key: str
    fresh: bool

    def line(self) -> str:
        """Return a line with the rate, the file that keeps it and how to measure again."""
        rate = format_flops(self.rates.at(WIDTH))
        when = "measured now"
        if not self.fresh:
            when = f"measured {self.rates.created[:16].replace('T', ' ')} UTC"
        other = ", while other work ran" if self.rates.busy else ""
        return (
            f"{rate}/s of training at width {WIDTH} ({when}{other}; delete {self.file} to "
            "measure again)"
        )


def key(runtime: Runtime, precision: Precision) -> str:
    """Return the key of rates in the file: processor or device, threads and precision."""
    kind = runtime.device.split(":")[0]
    name = processor() if kind == "cpu" else runtime.device
    threads = f"{runtime.threads} thread{'s' * (runtime.threads != 1)}"
    return f"{name}, {threads}, {precision}"


def kept(store: Store, runtime: Runtime, precision: Precision, watch: Watcher = ignore) -> Kept:
    """Return this machine's rates, measured now where the runs root has none.

    Raises RequestError for a file that is damaged.
    """
    file, name = store.root / FILE, key(runtime, precision)
    known = _read(file)
    if name in known:
        return Kept(known[name], file, name, fresh=False)
    store.prepare()
    with store.locked(FILE, watch, "another process is measuring this machine"):
        known = _read(file)
        fresh = name not in known
        if fresh:
            for half in store.root.glob(f".{FILE}.*{PARTIAL}"):  # of a process that was killed
                remove(half)
            watch("measuring", {"what": name})
            known = {**known, name: measured(runtime, precision)}
            allocator.give_back_now()  # what was measured is no part of the run's memory
            write_json(file, {key: rates.model_dump(mode="json") for key, rates in known.items()})
    return Kept(known[name], file, name, fresh)


def _read(file: Path) -> dict[str, Rates]:
    refuse_link(file)
    if not file.is_file():
        return {}
    try:
        raw: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return {name: Rates.model_validate(rates) for name, rates in raw.items()}
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise RequestError(
            f"{file} does not hold rates of this machine ({where}); delete it to measure again"
        ) from error
    except (ValueError, AttributeError) as error:
        raise RequestError(
            f"{file} does not hold rates of this machine ({error}); delete it to measure again"
        ) from error


def measured(runtime: Runtime, precision: Precision) -> Rates:
    """Return the rates of this machine as busy as it is now; takes a few seconds."""
    kind, disturbed = runtime.device.split(":")[0], busy()
    return Rates(
        training={
            width: _training(width, runtime, precision) for width in WIDTHS.get(kind, WIDTHS["cpu"])
        },
        packing=_packing(),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        busy=disturbed,
    )


def _training(width: int, runtime: Runtime, precision: Precision) -> float:
    """Return the FLOPs per second of real steps of a small decoder, forward to optimizer."""
    import torch

    from flyweight.data.batch import Batch
    from flyweight.model.build import build
    from flyweight.model.precision import autocast
    from flyweight.training.objectives import NextTokenObjective
    from flyweight.training.optimizers import build_optimizers
    from flyweight.training.step_cost import StepCost

    train = TIMED_TRAINING
    model_config = timed_model(width)
    model = build(model_config, seed=0).to(runtime.device)
    optimizers = build_optimizers(model, train.optimizer, precision)
    objective = NextTokenObjective(schema.NextToken())
    tokens = torch.randint(TIMED_VOCABULARY, (train.batch, TIMED_CONTEXT + 1)).to(runtime.device)
    batch = Batch.from_tensors(tokens[:, :-1], tokens[:, 1:])

    def step() -> float:
        began = time.perf_counter()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        with autocast(runtime.device, precision):
            summed = objective(model, batch)
        (summed.loss / summed.targets).backward()
        for optimizer in optimizers:
            optimizer.step()
        if runtime.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - began

    step()
    end, seconds = time.perf_counter() + MEASURE_SECONDS, [step(), step()]
    while time.perf_counter() < end:
        seconds.append(step())
    return StepCost.of(model_config, train, TIMED_CONTEXT).mean / min(seconds)


def _packing() -> float:
    """Return the bytes per second of reading, tokenizing and packing a file of Python's library."""
    from flyweight.data.pack import pack, source_fingerprint

    text = Path(argparse.__file__)
    data = schema.Data(corpus=str(text), tokenizer=schema.BpeTokenizer(vocab=512), context=1)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        source_fingerprint(data)
        pack(data, None, Path(folder) / "corpus")
        seconds = time.perf_counter() - began
    return text.stat().st_size / seconds
