"""What this machine can do: a measurement of some seconds, each finding with a verdict and what to do about it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil

from flyweight.config.units import format_size
from flyweight.core import bfloat16, machine
from flyweight.core.events import Watcher, ignore
from flyweight.core.runtime import Runtime
from flyweight.data.document import HeldOut
from flyweight.data.sources import SOURCES
from flyweight.data.sources.local import VARIABLE, data_folder
from flyweight.errors import FlyweightError, RequestError

Verdict = Literal["ok", "missing", "slow", "broken"]

NO_SPACE, LITTLE_SPACE = 100_000_000, 2_000_000_000
LITTLE_MEMORY = 1_000_000_000
OWN_EXTRAS = ("test",)
"""Extras that only people who change flyweight want."""


@dataclass(frozen=True)
class Line:
    """One finding: what was measured, the verdict, and what to do (empty where nothing has to be).

    `needed` marks what no work is possible without; `values` are the numbers behind `found`.
    """

    group: str
    name: str
    verdict: Verdict
    found: str
    remedy: str = ""
    needed: bool = False
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Health:
    """All findings, and the environment as it is written beside every measurement."""

    lines: tuple[Line, ...]
    environment: dict[str, Any]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether everything that is needed works."""
        return not any(line.needed and line.verdict == "broken" for line in self.lines)

    def json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        rest = {
            "ok": self.ok,
            "seconds": self.seconds,
            "lines": [asdict(line) for line in self.lines],
        }
        return {**self.environment, **rest}


def examine(
    runtime: Runtime,
    runs: Path,
    data: Path | str | None,
    quick: bool = False,
    watch: Watcher = ignore,
) -> Health:
    """Measure this machine: `runs` is the runs root, `data` the folder of local copies.

    `quick` skips slow imports.
    """
    from flyweight.diagnosis import probes

    began = time.monotonic()
    watch("stage", {"name": "doctor", "stage": "measuring"})
    parts: dict[str, Callable[[], Iterator[Line]]] = {
        "processor and memory": lambda: _machine(runtime),
        "devices": probes.devices,
        "products": lambda: probes.products(runtime),
        "kernels": lambda: probes.kernels(runtime),
        "libraries' kernels": (lambda: iter(())) if quick else (lambda: probes.libraries(runtime)),
        "folders": lambda: _folders(runs),
        "corpora": lambda: _corpora(data),
        "libraries": _versions,
        "extras": _extras,
    }
    lines: list[Line] = []
    for done, (what, part) in enumerate(parts.items()):
        watch("scoring", {"what": what, "done": done / len(parts)})
        lines += part()
    environment = {
        **machine.describe(runtime.device, runtime.threads),
        "precision": {str(width): runtime.precision("auto", width) for width in bfloat16.WIDTHS},
        "runs": os.path.realpath(runs),
    }
    return Health(tuple(lines), environment, round(time.monotonic() - began, 2))


def _machine(runtime: Runtime) -> Iterator[Line]:
    group = "machine"
    cores, logical, physical = (
        machine.usable_cores(),
        psutil.cpu_count() or 1,
        psutil.cpu_count(logical=False),
    )
    quota = _quota()
    values = {"usable": cores, "logical": logical, "physical": physical, "quota": quota}
    what = f"{machine.processor()}, {cores} of {logical} logical cores usable" + (
        f", {physical} physical" if physical else ""
    )
    if quota is not None and quota < cores - 0.5:
        remedy = f"say --threads {max(1, int(quota))}: more threads wait for each other"
        yield Line(
            group,
            "processor",
            "slow",
            f"{what}; a quota allows {quota:.1f} of them",
            remedy,
            values=values,
        )
    else:
        yield Line(group, "processor", "ok", what, values=values)
    load, busy = machine.load(), machine.busy()
    remedy = (
        "measure on an idle machine: timings, also those below, are worse than it can do"
        if busy
        else ""
    )
    found = f"{load:.1f} processes ran in the last minute"
    yield Line(group, "load", "slow" if busy else "ok", found, remedy, values={"load": load})
    memory = psutil.virtual_memory()
    found = f"{format_size(memory.available)} of {format_size(memory.total)} free"
    low = memory.available < LITTLE_MEMORY
    remedy = "close other programs, or give recipes a budget.memory" if low else ""
    values = {"free": memory.available, "total": memory.total}
    yield Line(group, "memory", "slow" if low else "ok", found, remedy, values=values)
    settings = {
        name: os.environ[name]
        for name in (
            "OMP_NUM_THREADS",
            "MKL_NUM_THREADS",
            "OMP_WAIT_POLICY",
            "GOMP_SPINCOUNT",
            "KMP_BLOCKTIME",
        )
        if name in os.environ
    }
    shown = ", ".join(f"{name}={value}" for name, value in settings.items()) or "no OpenMP settings"
    values = {"threads": runtime.threads, **settings}
    yield Line(group, "threads", "ok", f"{runtime.threads} (--threads); {shown}", values=values)


def _quota() -> float | None:
    """Return the cores that a control group allows, or None where it sets no limit."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) / int(period)


def _folders(runs: Path) -> Iterator[Line]:
    yield from _writable("runs root", runs, needed=True)
    yield from _writable("temporary", Path(tempfile.gettempdir()), needed=False)


def _writable(name: str, folder: Path, needed: bool) -> Iterator[Line]:
    """Try what publishing an artifact does: write, rename, link, in the folder or in the one where it will be made."""
    group, there = "folders", folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    where = f"{folder.absolute()}" + ("" if there == folder.absolute() else " (will be made)")
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=there) as trial:
            first, second = Path(trial) / "a", Path(trial) / "b"
            first.write_bytes(b"flyweight")
            os.replace(first, second)
            os.symlink("b", first)
            if first.read_bytes() != b"flyweight":
                raise OSError("what was written is not what is read")
    except OSError as error:
        remedy = (
            "name another folder with --runs, or change its permissions"
            if needed
            else "set TMPDIR to another folder"
        )
        yield Line(group, name, "broken", f"{where} cannot be written: {error}", remedy, needed)
        return
    free = shutil.disk_usage(there).free
    verdict: Verdict = "broken" if free < NO_SPACE else "missing" if free < LITTLE_SPACE else "ok"
    remedy = (
        "" if verdict == "ok" else "make room (`flyweight gc` for runs), or name another folder"
    )
    yield Line(
        group,
        name,
        verdict,
        f"{where}, writable, {format_size(free)} free",
        remedy,
        needed,
        {"free": free},
    )


def _corpora(data: Path | str | None) -> Iterator[Line]:
    group, folder = "corpora", None
    try:
        folder = data_folder(data)
    except RequestError as error:
        yield Line(group, "data folder", "broken", str(error), "name another one with --data-dir")
    else:
        remedy = f"--data-dir DIR or {VARIABLE}: local copies of well-known corpora lie there"
        known = Line(group, "data folder", "ok", str(folder.absolute())) if folder else None
        yield known or Line(group, "data folder", "missing", "none is named", remedy)
    hub = _installed("datasets")
    for name, source in SOURCES.items():
        try:
            about = source(folder, HeldOut()).about
        except FlyweightError as error:
            yield Line(
                group, name, "broken", str(error), "copy the missing file, or remove the folder"
            )
            continue
        if not about.origin.startswith("hf:"):
            yield Line(group, name, "ok", about.origin)
        elif hub:
            yield Line(group, name, "missing", "not here; its first use takes it from the hub")
        else:
            remedy = (
                f"put it into DIR/{name} of --data-dir, or pip install 'flyweight[hub]' and "
                f"use the network"
            )
            yield Line(group, name, "missing", "not here", remedy)


def _versions() -> Iterator[Line]:
    group, wanted = (
        "libraries",
        [requirement for requirement, extra in _requirements() if extra is None],
    )
    problems = {
        requirement: problem for requirement in wanted if (problem := _problem(requirement))
    }
    fine = {"python": platform.python_version()}
    fine |= {
        name: _version(name)
        for requirement in wanted
        if requirement not in problems and (name := _name(requirement))
    }
    yield Line(
        group,
        "versions",
        "ok",
        ", ".join(f"{name} {version}" for name, version in fine.items()),
        values=fine,
    )
    for requirement, problem in problems.items():
        yield Line(
            group,
            _name(requirement),
            "broken",
            problem,
            f"pip install '{requirement}'",
            needed=True,
        )


def _extras() -> Iterator[Line]:
    extras: dict[str, list[str]] = {}
    for requirement, extra in _requirements():
        if extra is not None and extra not in OWN_EXTRAS:
            extras.setdefault(extra, []).append(requirement)
    for extra, wanted in extras.items():
        problems = [problem for requirement in wanted if (problem := _problem(requirement))]
        names = ", ".join(
            f"{_name(requirement)} {_version(_name(requirement)) or ''}".strip()
            for requirement in wanted
        )
        remedy = f"pip install 'flyweight[{extra}]'" if problems else ""
        yield Line(
            "extras", extra, "missing" if problems else "ok", "; ".join(problems) or names, remedy
        )


def _requirements() -> Iterator[tuple[str, str | None]]:
    """Yield what flyweight asks for, with the extra that it belongs to."""
    for line in metadata.requires("flyweight") or ():
        requirement, _, marker = line.partition(";")
        extra = re.search(r"""extra == ["']([^"']+)""", marker)
        yield requirement.strip(), extra and extra[1]


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return found[0]


def _problem(requirement: str) -> str:
    """Return what is wrong with a library, or nothing: it is not there, or older than the least version asked for."""
    name, version = _name(requirement), _version(_name(requirement))
    if version is None:
        return f"{name} is not installed"
    least = re.search(r">=\s*([0-9.]+)", requirement)
    if least and _numbers(version) < _numbers(least[1]):
        return f"{name} {version} is older than {least[1]}"
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"[0-9.]*[0-9]", version)
    return tuple(map(int, release[0].split("."))) if release else ()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _installed(name: str) -> bool:
    return _version(name) is not None
