"""Swap a folder of the runs root for a link in the middle of a run: nothing outside the root may change.

    python benchmarks/swap.py [--operations 1000] [--seed 0]          a small recipe: results/swap.csv

Each command (run, import, report, gc) runs undisturbed once, and its file operations are noted.
Then it runs once for each of them that works in a folder of the root. Right before the operation that folder is moved away, and a
link to somebody's folder takes its name. That folder has a file of every name that a run writes.
Afterwards it must hold the same files with the same bytes, whether the run was refused or went on.
Only a new lock file may be there besides: the library that locks looks its folder up by name.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rows import Rows
from sandbox import Attempt, alone, files, write_recipe

PRECIOUS = "of somebody else\n"


@dataclass(frozen=True)
class Command:
    """A command, and the runs root that it begins with (None: an empty one)."""

    name: str
    words: tuple[str, ...]
    begins_with: Path | None = None


class Harness:
    """Commands on a small recipe, each with a swap before one of its file operations."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.log = base / "log"
        self.rows = Rows("swap")
        self.ends = Counter[str]()
        self.faults: list[str] = []
        self.locks = 0

    def commands(self) -> list[Command]:
        """Make what the commands need; return them."""
        alone(self.base / "warm")
        recipe = str(write_recipe(self.base))
        run = ("run", recipe, "budget.over=warn", "--json", "--threads", "1")
        ended, exported, spare = self.base / "ended", self.base / "hf", self.base / "spare"
        self._calm(run, ended)
        self._calm(("export", "toy:student", "--to", "hf", "--out", str(exported)), ended)
        shutil.copytree(ended, spare, symlinks=True)
        shutil.rmtree(spare / "toy")
        return [
            Command("run", run),
            Command("run again", (*run, "report.sample_tokens=4"), ended),
            Command("import", ("import", str(exported)), spare),
            Command("report", ("report", "toy"), ended),
            Command("gc", ("gc", "--yes"), spare),
        ]

    def _calm(self, words: tuple[str, ...], runs: Path, heard: Path | None = None) -> None:
        if Attempt(list(words), runs, self.log, heard=heard).wait():
            raise SystemExit(f"{words[0]} failed undisturbed: {self.log.read_text()[-2000:]}")

    def operations(self, command: Command) -> list[str]:
        """Return the file operations of an undisturbed command that work in a folder of the root."""
        heard = self.base / "operations"
        heard.unlink(missing_ok=True)
        self._calm(command.words, self._begin(command), heard)
        noted = dict.fromkeys(heard.read_text().splitlines())
        return [name for name in noted if "/" in name.split(" ", 1)[1].split(" -> ")[0]]

    def _begin(self, command: Command) -> Path:
        runs = self.base / "runs"
        shutil.rmtree(runs, ignore_errors=True)
        if command.begins_with is not None:
            shutil.copytree(command.begins_with, runs, symlinks=True)
        return runs

    def attempt(self, command: Command, operation: str) -> None:
        """Run once with a swap before an operation, and note what it changed outside."""
        runs, outside = self._begin(command), self.base / "outside"
        shutil.rmtree(outside, ignore_errors=True)
        for name in self.names:
            (outside / name).parent.mkdir(parents=True, exist_ok=True)
            (outside / name).write_text(PRECIOUS)

        def swap(paths: list[str]) -> None:
            first = os.path.relpath(paths[0], runs).split(os.sep)[0]
            os.rename(runs / first, self.base / "away")
            os.symlink(outside, runs / first)

        self.log.write_text("")
        status = Attempt(list(command.words), runs, self.log, die_at=operation, then=swap).wait()
        shutil.rmtree(self.base / "away", ignore_errors=True)
        after = {path.relative_to(outside): path.read_text() for path in files(outside)}
        locks = [name for name in after.keys() - self.names if name.suffix == ".lock"]
        self.locks += len(locks)
        changed = [
            f"{command.name}, {operation}: {name}"
            for name in sorted((self.names | after.keys()) - set(locks))
            if after.get(name) != PRECIOUS or name not in self.names
        ]
        end = "refused" if status else "done"
        if "Traceback" in self.log.read_text():
            print(self.log.read_text()[-3000:], file=sys.stderr)
            end = "failed otherwise"
        self.ends[end] += 1
        self.faults += changed
        self.rows.add(command.name, operation, end, 0, len(changed), "files changed")

    @cached_property
    def names(self) -> set[Path]:
        """The files that a run writes, relative to a folder of the runs root."""
        ended = self.base / "ended"
        names = {Path(*path.relative_to(ended).parts[1:]) for path in files(ended)} - {Path()}
        names |= {Path("state", "current.json")}
        names |= {
            Path("state", f"step-{step:08d}", f"{what}.safetensors")
            for step in range(1, 25)
            for what in ("model", "optimizer")
        }
        return names | {name.with_name(f"{name.name}.partial") for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--operations", type=int, default=1000, help="at most so many a command")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    base, draw = Path(tempfile.mkdtemp(prefix="flyweight-swap-")), random.Random(options.seed)
    harness = Harness(base)
    for command in harness.commands():
        operations = harness.operations(command)
        for operation in draw.sample(operations, min(options.operations, len(operations))):
            harness.attempt(command, operation)
    print(harness.rows.write("swap"))
    print("\n".join(harness.faults[:20]))
    ends = ", ".join(f"{count} {end}" for end, count in sorted(harness.ends.items()))
    print(
        f"{harness.ends.total()} swaps: {ends}; {len(harness.faults)} files outside the root changed, "
        f"{harness.locks} new lock files"
    )
    if harness.faults or harness.ends["failed otherwise"]:
        raise SystemExit(f"not as it should be; kept in {base}")
    shutil.rmtree(base)


if __name__ == "__main__":
    main()
