"""Long-form CSV that every benchmark shares: what was measured, on what, with which versions, when."""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from flyweight.core.machine import processor, usable_cores

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(os.environ.get("RESULTS") or ROOT / "results")
COLUMNS = (
    "benchmark",
    "contestant",
    "setting",
    "metric",
    "repeat",
    "value",
    "unit",
    "machine",
    "cores",
    "torch",
    "flyweight",
    "time",
)


class Interval(Protocol):
    """A number with a confidence interval."""

    @property
    def value(self) -> float:
        """The number."""
        ...

    @property
    def low(self) -> float:
        """The lower end."""
        ...

    @property
    def high(self) -> float:
        """The upper end."""
        ...


class Rows:
    """Collects rows and writes them to `<benchmark>.csv` under RESULTS (else `results/`), replacing the last run's."""

    def __init__(self, benchmark: str, machine: str | None = None) -> None:
        self.benchmark, self.found = benchmark, []
        self.machine = machine or processor()

    def add(
        self, contestant: str, setting: str, metric: str, repeat: int, value: float, unit: str
    ) -> None:
        """Add one measured value."""
        versions = (metadata.version("torch"), metadata.version("flyweight"))
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        row = (
            self.benchmark,
            contestant,
            setting,
            metric,
            repeat,
            value,
            unit,
            self.machine,
            usable_cores(),
            *versions,
            stamp,
        )
        self.found.append(dict(zip(COLUMNS, row, strict=True)))
        print(
            f"{contestant:>22} {setting:<28} {metric} = {value:,.4g} {unit}",
            file=sys.stderr,
            flush=True,
        )

    def add_interval(
        self, contestant: str, setting: str, metric: str, found: Interval, unit: str
    ) -> None:
        """Add a value and the ends of its 95 % interval."""
        ends = (("", found.value), (" low", found.low), (" high", found.high))
        for end, value in ends:
            self.add(contestant, setting, f"{metric}{end}", 0, value, unit)

    def read(self) -> None:
        """Take up the rows that the last run wrote, to which this one adds."""
        path = RESULTS / f"{self.benchmark}.csv"
        if path.is_file():
            with open(path, newline="", encoding="utf-8") as file:
                self.found.extend(csv.DictReader(file))

    def write(self, name: str | None = None) -> Path:
        """Write the CSV and return its path."""
        path = RESULTS / f"{name or self.benchmark}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.found)
        return path


def worker(script: str, job: Mapping[str, Any], timeout: float = 1800) -> dict[str, Any]:
    """Run one measurement in a fresh process: `script` reads the job as JSON from its first argument and prints JSON."""
    command = [sys.executable, script, "--worker", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise SystemExit(f"{script} failed for {job}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def spread(values: Iterable[float]) -> str:
    """Return `median (low ... high)`."""
    values = sorted(values)
    return f"{statistics.median(values):,.3g} ({values[0]:,.3g} ... {values[-1]:,.3g})"
