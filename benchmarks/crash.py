"""Kill a recipe with SIGKILL and repeat its command until it is done: nothing may be lost, done twice, or differ.

    python benchmarks/crash.py [--kills 100] [--round 10] [--seed 0]                 a small recipe: results/crash.csv
    python benchmarks/crash.py --recipe finetune                 a small fine-tuning: results/crash-finetune.csv
    python benchmarks/crash.py --recipe quickstart --kills 20 --round 20 [path=value ...]      results/crash-quickstart.csv

The recipe runs undisturbed once. Then, in rounds that each begin in an empty runs root, it is
killed until it is done: half of the kills at random in time, half right before a file operation
drawn from all those that the undisturbed run made (a rename that publishes, a checkpoint's pointer,
the removal of a resume point). After every kill no published artifact may be damaged or have been
made anew, no checkpoint may have been lost, and `gc` may take neither for garbage. At the end of a
round every file of every artifact must equal the undisturbed one's, but for what tells the time,
and nothing half-written may be left.

Then `gc` is killed in a root with a recipe that was given up, half-made artifacts and a kept
recipe: whatever is left must be whole, the kept recipe untouched, and the next `gc` must end where
an undisturbed one does.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rows import Rows
from sandbox import Attempt, alone, files, results, write_finetune_recipe, write_recipe

from flyweight.errors import FlyweightError
from flyweight.store import gc
from flyweight.store.artifact import Artifact, Store


@dataclass
class Watched:
    """What a runs root has been seen to hold: an artifact's making, and how far each half-made one had come."""

    runs: Path
    made: dict[str, tuple[int, int]] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def look(self, when: str) -> None:
        """Note every published artifact and checkpoint.

        A fault is one that is damaged, made again or lost.
        """
        for path in sorted(self.runs.glob("*-????????")):
            try:
                Artifact.open(path)
            except FlyweightError as error:
                self.faults.append(f"{when}: published and damaged: {error}")
                continue
            stat = (path / "manifest.json").stat()
            now = (stat.st_ino, stat.st_mtime_ns)
            if self.made.setdefault(path.name, now) != now:
                self.faults.append(f"{when}: {path.name} was made twice")
        for name, step in list(self.steps.items()):
            found = self._step(self.runs / f"{name}.partial")
            if not (self.runs / name).is_dir() and (found is None or found < step):
                self.faults.append(
                    f"{when}: {name} had come to step {step}, and its checkpoint is gone ({found})"
                )
                del self.steps[name]
        for path in self.runs.glob("*.partial"):
            if (step := self._step(path)) is not None:
                self.steps[path.name.removesuffix(".partial")] = step

    def kept(self, when: str) -> None:
        """Note a fault for everything that has been made so far and that `gc` would take for garbage."""
        for item in gc.find(Store(self.runs)).items:
            if item.kind == "artifact" or (
                item.kind == "half-made" and self._step(item.path) is not None
            ):
                self.faults.append(
                    f"{when}: gc would remove {item.path.name}, which the unfinished run has made"
                )

    @staticmethod
    def _step(partial: Path) -> int | None:
        pointer = partial / "state" / "current.json"
        return json.loads(pointer.read_text())["progress"]["step"] if pointer.exists() else None

    def at_work(self) -> str:
        """Return what was being made."""
        return next(
            (path.name.split("-")[0] for path in self.runs.glob("*.partial")), "between artifacts"
        )


@dataclass
class Harness:
    """One recipe, its undisturbed results, and the rounds of kills."""

    words: list[str]
    base: Path
    rows: Rows
    name: str
    draw: random.Random
    kills: int = 0
    at: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    compared: int = 0
    rounds: int = 0
    collections: int = 0

    def undisturbed(self) -> None:
        """Run once without a kill; note its results, its time and its file operations."""
        calm, heard, began = self.base / "calm", self.base / "operations", time.monotonic()
        if Attempt(self.words, calm, self.log, heard=heard).wait():
            raise SystemExit(f"the undisturbed run failed: {self.log.read_text()[-2000:]}")
        self.whole, self.expected = time.monotonic() - began, results(calm)
        self.operations = list(dict.fromkeys(heard.read_text().splitlines()))
        print(
            f"undisturbed: {self.whole:.1f} s, {len(self.operations)} file operations",
            file=sys.stderr,
        )

    @property
    def log(self) -> Path:
        """Return where all attempts print."""
        return self.base / "log"

    def round(self, kills: int, named: list[str]) -> None:
        """Kill and repeat in an empty runs root until the recipe is done, then compare."""
        self.rounds += 1
        runs = self.base / f"harmed-{self.rounds}"
        watched = Watched(runs)
        left: list[str | None] = sorted(named, key=self.operations.index)
        for _ in range(kills - len(named)):  # times in between
            left.insert(self.draw.randrange(len(left) + 1), None)
        for where in left:
            attempt = Attempt(self.words, runs, self.log, die_at=where)
            wait = None if where else self.draw.uniform(0, 2 * self.whole / kills)
            status = attempt.wait(wait)
            if status is None:
                attempt.kill()
            elif status == 0:
                break  # done before its instant came
            elif status > 0:
                raise SystemExit(f"an attempt failed by itself: {self.log.read_text()[-2000:]}")
            self.kills += 1
            self.at[watched.at_work()] += 1
            self.rows.add(self.name, where or "at random", "kill", self.kills, wait or 0.0, "s")
            when = f"round {self.rounds}, kill {self.kills} ({where or f'after {wait:.2f} s'})"
            watched.look(when)
            watched.kept(when)
        if Attempt(self.words, runs, self.log).wait():
            raise SystemExit(f"the last attempt failed: {self.log.read_text()[-2000:]}")
        watched.look(f"end of round {self.rounds}")
        found = results(runs)
        self.compared += len(found)
        differing = sorted(
            key
            for key in self.expected.keys() | found.keys()
            if self.expected.get(key) != found.get(key)
        )
        halves = [str(path) for path in files(runs) if ".partial" in str(path.relative_to(runs))]
        self.faults += watched.faults
        self.faults += [f"round {self.rounds}: {name} differs" for name in differing]
        self.faults += [f"round {self.rounds}: half-written {name}" for name in halves]
        if not watched.faults and not differing and not halves:
            shutil.rmtree(runs)

    def collecting(self, kills: int) -> None:
        """Kill `gc` before file operations and at random, and let another one finish: the end is that of an undisturbed one."""
        full, calm, heard = self.base / "full", self.base / "collected", self.base / "gc-operations"
        shutil.copytree(self.base / "calm", full, symlinks=True)
        kept = {path.name for path in full.glob("*-????????")}
        if Attempt([*self.words, "name=spare", "train.steps=6"], full, self.log).wait():
            raise SystemExit(f"the spare recipe failed: {self.log.read_text()[-2000:]}")
        shutil.rmtree(full / "spare")
        trained = next(
            path
            for kind in ("distill", "finetune")
            for path in full.glob(f"{kind}-*")
            if path.name not in kept
        )
        kind = trained.name.split("-")[0]
        shutil.copytree(trained, full / f"{kind}-00000000.partial")
        shutil.copytree(full, calm, symlinks=True)
        began = time.monotonic()
        if Attempt(["gc", "--yes"], calm, self.log, heard=heard).wait():
            raise SystemExit(f"gc failed: {self.log.read_text()[-2000:]}")
        whole, expected = time.monotonic() - began, results(calm)
        if {path.name for path in calm.glob("*-????????*")} != kept:
            self.faults.append("gc: what it leaves is not what the kept recipe refers to")
        operations = list(dict.fromkeys(heard.read_text().splitlines()))
        left = [*self.draw.sample(operations, min(kills // 2, len(operations))), *[None] * kills][
            :kills
        ]
        for number, where in enumerate(left, 1):
            harmed, watched = (
                self.base / f"collected-{number}",
                Watched(self.base / f"collected-{number}"),
            )
            shutil.copytree(full, harmed, symlinks=True)
            attempt = Attempt(["gc", "--yes"], harmed, self.log, die_at=where)
            if attempt.wait(None if where else self.draw.uniform(0, whole)) is None:
                attempt.kill()
            self.rows.add(self.name, where or "at random", "kill of gc", number, 0.0, "s")
            watched.look(f"gc, kill {number} ({where or 'at random'})")
            if Attempt(["gc", "--yes"], harmed, self.log).wait() or results(harmed) != expected:
                watched.faults.append(
                    f"gc, kill {number} ({where or 'at random'}): the next one ends differently"
                )
            self.faults += watched.faults
            if not watched.faults:
                shutil.rmtree(harmed)
        self.collections = len(left)

    def deck(self) -> list[str]:
        """Return the file operations in the order in which they are tried: renames, which publish, before all others."""
        mixed = self.draw.sample(self.operations, len(self.operations))
        return sorted(mixed, key=lambda name: not name.startswith("os.rename"))


WRITTEN: dict[str | None, Callable[[Path], Path]] = {
    None: write_recipe,
    "finetune": write_finetune_recipe,
}
"""Recipes that the harness writes itself, small and run by one thread."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--recipe",
        help="finetune (a small one), a shipped recipe or a file, instead of the small one",
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument(
        "--round", type=int, default=10, help="kills until a round is left to finish"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="work in this folder and keep it")
    parser.add_argument("words", nargs="*", metavar="path=value")
    options = parser.parse_args()
    base = options.keep or Path(tempfile.mkdtemp(prefix="flyweight-crash-"))
    base.mkdir(parents=True, exist_ok=True)
    alone(base / "warm")
    own = WRITTEN.get(options.recipe)
    recipe = options.recipe if own is None else str(own(base))
    name = Path(recipe).stem if options.recipe else "small"
    words = ["run", recipe, "budget.over=warn", *options.words, "--json"]
    words += [] if own is None else ["--threads", "1"]
    began, rows = time.monotonic(), Rows("crash")
    harness = Harness(words, base, rows, name, random.Random(options.seed))
    harness.undisturbed()
    deck: list[str] = []
    while harness.kills < options.kills:
        kills = min(options.round, options.kills - harness.kills)
        if len(deck) < kills // 2:
            deck += harness.deck()
        named, deck = deck[: kills // 2], deck[kills // 2 :]
        harness.round(kills, list(dict.fromkeys(named)))
    if own is not None:
        harness.collecting(max(2, options.kills // 4))
        rows.add(name, "gc", "kills", 0, harness.collections, "kills")
    for stage, count in sorted(harness.at.items()):
        rows.add(name, stage, "kills", 0, count, "kills")
    rows.add(name, "all", "kills", 0, harness.kills, "kills")
    rows.add(name, "all", "rounds", 0, harness.rounds, "rounds")
    rows.add(name, "all", "compared_files", 0, harness.compared, "files")
    rows.add(name, "all", "faults", 0, len(harness.faults), "faults")
    rows.add(name, "all", "wall", 0, time.monotonic() - began, "s")
    print(rows.write("crash" if not options.recipe else f"crash-{name}"))
    print("\n".join(harness.faults[:20]))
    print(
        f"{harness.kills} of {options.kills} kills and {harness.collections} of gc in "
        f"{harness.rounds} rounds,"
        f" {harness.compared} files compared, {len(harness.faults)} differ, are half-written, "
        f"lost or made twice"
    )
    if harness.faults:
        raise SystemExit(f"not the same; kept in {base}")
    if options.keep is None:
        shutil.rmtree(base)


if __name__ == "__main__":
    main()
