"""Measure what this machine can do, in some seconds.

Each finding has a verdict and, where something is wrong, a remedy.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from flyweight.config.units import format_size
from flyweight.core import bfloat16, machine
from flyweight.core.events import Watcher, ignore
from flyweight.core.runtime import Runtime
from flyweight.data.document import HeldOut
from flyweight.data.sources import SOURCES
from flyweight.data.sources.local import VARIABLE, data_folder
from flyweight.diagnosis.finding import Line, Verdict
from flyweight.errors import FlyweightError, RequestError

NO_SPACE, LITTLE_SPACE = 100_000_000, 2_000_000_000
LITTLE_MEMORY = 1_000_000_000
OWN_EXTRAS = ("test",)
"""Extras that only people who change flyweight want."""

OPENMP = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "KMP_BLOCKTIME",
)
"""Variables that change how the threads of a product work."""


@dataclass(frozen=True)
class Health:
    """All findings, and the environment that is written beside every measurement."""

    lines: tuple[Line, ...]
    environment: dict[str, Any]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether everything needed works."""
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
    """Measure this machine.

    `runs` is the runs root, `data` the folder of local copies of corpora. `quick` skips slow
    imports.
    """
    from flyweight.diagnosis import probes

    began = time.monotonic()
    watch("stage", {"name": "doctor", "stage": "measuring"})
    parts: dict[str, Callable[[], Iterator[Line]]] = {
        "processor and memory": lambda: _machine(runtime),
        "devices": probes.devices,
        "products": lambda: probes.products(runtime),
        "kernels": lambda: probes.kernels(runtime),
        "libraries' kernels": lambda: probes.libraries(runtime),
        "folders": lambda: _folders(runs),
        "corpora": lambda: _corpora(data),
        "libraries": _versions,
        "extras": _extras,
    }
    if quick:
        del parts["libraries' kernels"]
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
    yield _processor()
    yield _load()
    yield _memory()
    settings = {name: os.environ[name] for name in OPENMP if name in os.environ}
    shown = ", ".join(f"{name}={value}" for name, value in settings.items()) or "no OpenMP settings"
    yield Line(
        group="machine",
        name="threads",
        verdict="ok",
        found=f"{runtime.threads} (--threads); {shown}",
        values={"threads": runtime.threads, **settings},
    )


def _processor() -> Line:
    cores = machine.usable_cores()
    logical = psutil.cpu_count() or 1
    physical = psutil.cpu_count(logical=False)
    quota = _quota()
    values = {"usable": cores, "logical": logical, "physical": physical, "quota": quota}
    found = f"{machine.processor()}, {cores} of {logical} logical cores usable"
    if physical:
        found += f", {physical} physical"
    if quota is None or quota >= cores - 0.5:
        return Line("machine", "processor", "ok", found, values=values)
    return Line(
        group="machine",
        name="processor",
        verdict="slow",
        found=f"{found}; a quota allows {quota:.1f} of them",
        remedy=f"say --threads {max(1, int(quota))}: more threads wait for each other",
        values=values,
    )


def _load() -> Line:
    load = machine.load()
    verdict, remedy = "ok", ""
    if machine.busy():
        verdict = "slow"
        remedy = "measure on an idle machine: timings, also those below, are worse than it can do"
    found = f"{load:.1f} processes ran in the last minute"
    return Line("machine", "load", verdict, found, remedy, values={"load": load})


def _memory() -> Line:
    memory = psutil.virtual_memory()
    verdict, remedy = "ok", ""
    if memory.available < LITTLE_MEMORY:
        verdict = "slow"
        remedy = "close other programs, or give recipes a budget.memory"
    found = f"{format_size(memory.available)} of {format_size(memory.total)} free"
    values = {"free": memory.available, "total": memory.total}
    return Line("machine", "memory", verdict, found, remedy, values=values)


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
    """Try to write, rename and link in a folder, as an artifact needs.

    For a folder that does not exist yet, try in the one where it will be made.
    """
    group = "folders"
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    where = str(folder.absolute())
    if existing != folder.absolute():
        where += " (will be made)"
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=existing) as trial:
            first, second = Path(trial) / "a", Path(trial) / "b"
            first.write_bytes(b"flyweight")
            os.replace(first, second)
            os.symlink("b", first)
            if first.read_bytes() != b"flyweight":
                raise OSError("a file reads back other than it was written")
    except OSError as error:
        remedy = "set TMPDIR to another folder"
        if needed:
            remedy = "name another folder with --runs, or change its permissions"
        yield Line(group, name, "broken", f"{where} cannot be written: {error}", remedy, needed)
        return
    free = shutil.disk_usage(existing).free
    verdict: Verdict = "ok"
    remedy = "make room (`flyweight gc` for runs), or name another folder"
    if free < NO_SPACE:
        verdict = "broken"
    elif free < LITTLE_SPACE:
        verdict = "missing"
    else:
        remedy = ""
    yield Line(
        group=group,
        name=name,
        verdict=verdict,
        found=f"{where}, writable, {format_size(free)} free",
        remedy=remedy,
        needed=needed,
        values={"free": free},
    )


def _corpora(data: Path | str | None) -> Iterator[Line]:
    group, folder = "corpora", None
    try:
        folder = data_folder(data)
    except RequestError as error:
        yield Line(group, "data folder", "broken", str(error), "name another one with --data-dir")
    else:
        if folder:
            yield Line(group, "data folder", "ok", str(folder.absolute()))
        else:
            remedy = f"--data-dir DIR or {VARIABLE}: local copies of well-known corpora lie there"
            yield Line(group, "data folder", "missing", "none is named", remedy)
    hub = _installed("datasets")
    for name, source in SOURCES.items():
        try:
            about = source(folder, HeldOut()).about
        except FlyweightError as error:
            remedy = "copy the missing file, or remove the folder"
            yield Line(group, name, "broken", str(error), remedy)
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
    group = "libraries"
    wanted = [requirement for requirement, extra in _requirements() if extra is None]
    problems = {
        requirement: problem for requirement in wanted if (problem := _problem(requirement))
    }
    versions = {"python": platform.python_version()}
    versions |= {
        name: _version(name)
        for requirement in wanted
        if requirement not in problems and (name := _name(requirement))
    }
    yield Line(
        group=group,
        name="versions",
        verdict="ok",
        found=", ".join(f"{name} {version}" for name, version in versions.items()),
        values=versions,
    )
    for requirement, problem in problems.items():
        remedy = f"pip install '{requirement}'"
        yield Line(group, _name(requirement), "broken", problem, remedy, needed=True)


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
        if problems:
            remedy = f"pip install 'flyweight[{extra}]'"
            yield Line("extras", extra, "missing", "; ".join(problems), remedy)
        else:
            yield Line("extras", extra, "ok", names)


def _requirements() -> Iterator[tuple[str, str | None]]:
    """Yield every requirement of flyweight with its extra; None for one that is always needed."""
    for line in metadata.requires("flyweight") or ():
        requirement, _, marker = line.partition(";")
        extra = re.search(r"""extra == ["']([^"']+)""", marker)
        yield requirement.strip(), extra and extra[1]


def _name(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name
    return name[0]


def _problem(requirement: str) -> str:
    """Return what is wrong with a library: it is missing or too old; empty where it is fine."""
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
