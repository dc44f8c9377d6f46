"""Damage every file of a finished run and of a half-made one in every way: each damage has to be found and named.

    python benchmarks/corrupt.py [--every 1] [--seed 0]                                              results/corruption.csv

A file is flipped (one bit at its start, middle and end), cut, emptied, deleted, lengthened and
swapped with another of its kind; a manifest is also edited and given a digest that fits; folders
are swapped, emptied, replaced and added to. After each damage every command that reads the file
runs in this process and must end with status 1 or 2 and a message that names the file or its
folder. A half-made artifact whose checkpoint cannot be used may also be started anew, if the
command says so and ends with the same bits. Hugging Face folders are damaged as well
(`corrupt_hub.py`): in the hub's cache a file is called by its checksum; elsewhere it has none, and
what can then not be found is counted apart. What nothing here can find is a forgery that is
consistent in itself, with new checksums for new content: manifests carry checksums, not signatures.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from corrupt_hub import beyond_any_check, write_models
from rows import Rows
from sandbox import Attempt, alone, call, files, results, write_recipe

from flyweight.core.files import digest, write_sealed
from flyweight.store.artifact import NAMED

Damage = Callable[[], None]


@dataclass(frozen=True)
class Case:
    """One damage to one thing: how to do it, the commands that must refuse, and the names one of which they must say."""

    kind: str
    what: str
    damage: Damage
    commands: tuple[tuple[Any, ...], ...]
    names: tuple[str, ...]
    heals: bool = False
    """The command may also do its work over again and say so, if its results then equal the undamaged ones."""
    unused: bool = False
    """Nothing refers to the file: the command has to end as if it were whole."""
    beside: str = ""
    """A folder that the damage touches and the command does not read."""
    unknowable: Callable[[], bool] | None = None
    """Says of the damaged file whether somebody could have meant it: without a checksum nothing can tell."""


def flipped(path: Path, place: float) -> Damage:
    def damage() -> None:
        raw = bytearray(path.read_bytes())
        raw[min(len(raw) - 1, int(len(raw) * place))] ^= 1
        path.write_bytes(raw)

    return damage


def swapped(one: Path, two: Path) -> Damage:
    def damage() -> None:
        aside = one.with_name(f"{one.name}.aside")
        one.rename(aside)
        two.rename(one)
        aside.rename(two)

    return damage


def file_damages(path: Path, others: list[Path]) -> Iterator[tuple[str, Damage]]:
    """Yield every damage to one file; `others` are files of the same kind."""
    raw = path.read_bytes()
    if raw:
        yield from (
            (f"flip {name}", flipped(path, at))
            for name, at in (("start", 0.0), ("middle", 0.5), ("end", 1.0))
        )
        yield "truncate", lambda: path.write_bytes(raw[: len(raw) // 2]) and None
        yield "cut the last byte", lambda: path.write_bytes(raw[:-1]) and None
        yield "empty", lambda: path.write_bytes(b"") and None
    yield "append", lambda: path.write_bytes(raw + b"\n") and None
    yield "delete", path.unlink
    if other := next((other for other in others if other.read_bytes() != raw), None):
        yield "swap", swapped(path, other)


def forged(path: Path, change: Callable[[dict[str, Any]], Any]) -> Damage:
    """Edit a manifest and give it the digest that then fits."""

    def damage() -> None:
        manifest = json.loads(path.read_text())
        change(manifest)
        write_sealed(path, {key: value for key, value in manifest.items() if key != "digest"})

    return damage


def manifest_damages(path: Path, other: Path) -> Iterator[tuple[str, Damage]]:
    """Yield edits of a manifest that keep its own digest right."""
    theirs = json.loads(other.read_text())
    first = next(iter(json.loads(path.read_text())["files"]))

    def renamed(manifest: dict[str, Any]) -> None:
        manifest["identity"]["seed"] += 1
        manifest["id"] = f"{manifest['identity']['stage']}-{digest(manifest['identity'])[:8]}"

    yield (
        "forge: another seed",
        forged(path, lambda m: m["identity"].update(seed=m["identity"]["seed"] + 1)),
    )
    yield "forge: another seed and its id", forged(path, renamed)
    yield "forge: another's id", forged(path, lambda m: m.update(id=theirs["id"]))
    yield "forge: another's identity", forged(path, lambda m: m.update(identity=theirs["identity"]))
    yield (
        "forge: a wrong checksum",
        forged(path, lambda m: m["files"][first].update(sha256="0" * 64)),
    )
    yield "forge: a wrong size", forged(path, lambda m: m["files"][first].update(bytes=1))
    yield "forge: a file left out", forged(path, lambda m: m["files"].pop(first))
    yield "forge: another's manifest", lambda: path.write_bytes(other.read_bytes()) and None


def folder_damages(path: Path, others: list[Path]) -> Iterator[tuple[str, Damage]]:
    """Yield damages to a whole artifact folder; `others` are artifacts of the same stage."""

    def emptied() -> None:
        shutil.rmtree(path)
        path.mkdir()

    def replaced() -> None:
        shutil.rmtree(path)
        path.write_text("not a folder")

    yield "folder emptied", emptied
    yield "folder replaced by a file", replaced
    yield "a file added", lambda: (path / "extra.json").write_text("{}") and None
    if others:
        yield "folders swapped", swapped(path, others[0])


@dataclass
class Harness:
    """The undamaged folders, where the damage is done, and what was found."""

    base: Path
    recipe: Path
    rows: Rows
    found: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    unknowable: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def runs(self) -> Path:
        """Return where the damage is done."""
        return self.base / "runs"

    def keep(self, name: str) -> None:
        """Remember the runs root as it is under a name."""
        shutil.copytree(self.runs, self.base / name, symlinks=True)
        self.expected = results(self.runs)

    def restore(self, name: str) -> None:
        """Bring the remembered runs root back."""
        shutil.rmtree(self.runs, ignore_errors=True)
        shutil.copytree(self.base / name, self.runs, symlinks=True)

    def try_out(self, case: Case, kept: str, expected: dict[str, Any]) -> None:
        """Do one damage, once for every command, and judge what the command makes of it."""
        for words in case.commands:
            self.restore(kept)
            case.damage()
            answer = call(*words, "--runs", self.runs)
            self.done[case.kind] += 1
            said = answer.err + answer.out
            named = any(name in said for name in case.names)
            if answer.crash is not None:
                verdict = f"traceback ({answer.crash!r})"
            elif answer.status in (1, 2):
                verdict = "" if named else f"not named: {said[:200]!r}"
            elif answer.status == 0 and (
                case.unused or (case.heals and (named or case.kind == "delete folder"))
            ):
                now = results(self.runs)
                read = {
                    key: value
                    for key, value in expected.items()
                    if not (case.beside and key.startswith(case.beside))
                }
                verdict = (
                    ""
                    if all(now.get(k) == v for k, v in read.items())
                    else "made again with another result"
                )
            elif answer.status == 0 and case.unknowable is not None and case.unknowable():
                self.unknowable[case.kind] += 1
                self.done[case.kind] -= 1
                continue
            else:
                verdict = f"used silently (status {answer.status})"
            if verdict:
                self.faults.append(f"{case.what}: {case.kind}: {words[0]}: {verdict}")
            else:
                self.found[case.kind] += 1


def readers(stage: str, name: str, recipe: Path) -> tuple[tuple[Any, ...], ...]:
    """Return the commands that read an artifact of a stage whose name in the recipe is `name`."""
    run = ("run", recipe, "--threads", 1)
    if stage == "corpus":
        return (run, ("eval", "toy:student", "--threads", 1))
    if stage == "evaluate":
        return (
            (run, ("compare", "toy:student", "toy:int8", "--threads", 1))
            if name in ("student", "int8")
            else (run,)
        )
    if stage not in ("pretrain", "distill", "quantize"):
        return (run,)
    model = f"toy:{name}"
    verbs = (
        run,
        ("eval", model, "--threads", 1),
        ("generate", model, "Ann ", "--max-new-tokens", 2, "--threads", 1),
    )
    return (
        verbs
        if stage == "quantize"
        else (*verbs, ("quantize", model, "--kind", "nf4", "--threads", 1))
    )


def finished(harness: Harness) -> Iterator[Case]:
    """Yield every damage to a finished run."""
    runs, recipe = harness.runs, harness.recipe
    stages = {
        made["id"]: made["name"]
        for made in json.loads((runs / "toy" / "summary.json").read_text())["stages"]
    }
    folders = sorted(path for path in runs.iterdir() if NAMED.fullmatch(path.name))
    parents = {
        path.name: json.loads((path / "manifest.json").read_text())["identity"]["parents"]
        for path in folders
    }
    for folder in folders:
        stage = folder.name.rpartition("-")[0]
        name = stages.get(folder.name) or stages.get(parents[folder.name].get("input", ""), "")
        commands = readers(stage, name, recipe)
        alike = [
            other for other in folders if other != folder and other.name.rpartition("-")[0] == stage
        ]
        rest = [*alike, *(other for other in folders if other not in (folder, *alike))]
        for path in sorted(path for path in files(folder)):
            inside = path.relative_to(folder)
            same = [other / inside for other in rest if (other / inside).is_file()]
            same += [
                other for other in files(folder) if other.suffix == path.suffix and other != path
            ]
            same += [other / path.name for other in rest if (other / path.name).is_file()]
            for kind, damage in file_damages(path, same):
                names = (str(inside), folder.name) if kind == "swap" else (str(path),)
                yield Case(kind, f"{folder.name}/{inside}", damage, commands, names)
        for kind, damage in manifest_damages(folder / "manifest.json", rest[0] / "manifest.json"):
            yield Case(kind, folder.name, damage, commands, (str(folder),))
        for kind, damage in folder_damages(folder, alike):
            yield Case(kind, folder.name, damage, commands, (str(folder), folder.name))
        made_again = tuple(words for words in commands if words[0] == "run")

        def deleted(folder: Path = folder) -> None:
            shutil.rmtree(folder)

        yield Case("delete folder", folder.name, deleted, made_again, (folder.name,), heals=True)
    summary = runs / "toy" / "summary.json"
    for kind, damage in file_damages(summary, []):
        commands = (
            ("eval", "toy:student", "--threads", 1),
            ("report", "toy"),
            ("compare", "toy:student", "toy:int8"),
        )
        yield Case(f"summary: {kind}", "toy/summary.json", damage, commands, (str(summary), "toy"))


def half_made(harness: Harness) -> Iterator[Case]:
    """Yield every damage to a half-made artifact with a checkpoint, beside one of another seed."""
    run = (("run", harness.recipe, *TEACHER),)
    current = json.loads((harness.runs / harness.order[0] / "state" / "current.json").read_text())
    used, logged = current["files"], current["progress"]["events"]
    one, two = sorted(
        harness.runs.glob("pretrain-*.partial"), key=lambda path: harness.order.index(path.name)
    )
    for path in [*sorted(files(one / "state")), one / "events.jsonl"]:
        inside = path.relative_to(one)
        other = next((file for file in files(two) if file.name == path.name), None)
        for kind, damage in file_damages(path, [other] if other else []):
            names = (str(path), str(path.parent), str(one / "events.jsonl"))
            heals, unused = (
                path.name == "current.json",
                path.parent.name.startswith("step-") and str(inside)[6:] not in used,
            )
            if (
                path.name == "events.jsonl" and kind != "swap"
            ):  # what was logged after the checkpoint is cut away in any case
                unused = _first_change(path, damage) >= logged
            kind = f"unfinished checkpoint: {kind}" if unused else f"checkpoint: {kind}"
            yield Case(kind, f"{one.name}/{inside}", damage, run, names, heals, unused, two.name)
    yield Case(
        "checkpoint: folders swapped",
        one.name,
        swapped(one / "state", two / "state"),
        run,
        (str(one / "state"),),
    )
    steps = [one / "state" / name for name in sorted({name.split("/")[0] for name in used})]
    if len(steps) > 1:
        yield Case(
            "checkpoint: steps swapped", one.name, swapped(*steps[:2]), run, (str(one / "state"),)
        )

    def deleted() -> None:
        shutil.rmtree(steps[-1])

    yield Case("checkpoint: delete folder", one.name, deleted, run, (str(one / "state"),))


def _first_change(path: Path, damage: Damage) -> int:
    """Return the first byte of a file that a damage changes."""
    before = path.read_bytes()
    damage()
    after = path.read_bytes() if path.exists() else b""
    path.write_bytes(before)
    return next(
        (at for at, (one, two) in enumerate(zip(before, after, strict=False)) if one != two),
        min(len(before), len(after)),
    )


TEACHER = (
    *("--without", "int8", "--without", "student", "report.measure=[]", "report.prompts=[]"),
    *("stages.teacher.train.steps=60", "--threads", 1),
)


def interrupted(harness: Harness) -> None:
    """Leave two half-made teachers of different seeds under the runs root, each killed after a few checkpoints."""
    harness.order: list[str] = []
    for seed in (0, 1):
        words = ["run", str(harness.recipe), f"seed={seed}", *map(str, TEACHER)]
        known = set(harness.runs.glob("*.partial"))
        attempt = Attempt(words, harness.runs, harness.base / "log")
        while attempt.wait(0.001) is None:
            fresh = [path for path in harness.runs.glob("pretrain-*.partial") if path not in known]
            pointer = fresh[0] / "state" / "current.json" if fresh else None
            if (
                pointer is not None
                and pointer.exists()
                and json.loads(pointer.read_text())["progress"]["step"] > 25
            ):
                attempt.kill()
                harness.order.append(fresh[0].name)
                break
        else:
            raise SystemExit(
                f"the run to interrupt ended by itself: "
                f"{(harness.base / 'log').read_text()[-2000:]}"
            )


def from_elsewhere(harness: Harness, folders: dict[str, Path]) -> Iterator[Case]:
    """Yield every damage to Hugging Face folders: with checksums in the hub's cache, without in any other folder."""
    text = ("--data", harness.recipe.parent / "story.txt", "--threads", 1)
    for name, folder in folders.items():
        inside = sorted(path for path in folder.iterdir() if path.is_file())
        for path in inside:
            others = [other for other in inside if other.suffix == path.suffix and other != path]
            for kind, damage in file_damages(path, others):
                known = name == "cached" and kind != "delete"
                unknowable = (
                    partial(beyond_any_check, path.read_bytes(), path)
                    if not known and kind != "swap"
                    else None
                )
                verb = (("eval", folder, *text),)
                names = (str(path), str(folder))
                yield Case(
                    f"hub, {name}: {kind}",
                    f"{name}/{path.name}",
                    damage,
                    verb,
                    names,
                    unknowable=unknowable,
                )


def sweep(harness: Harness, kept: str, cases: list[Case], every: int, draw: random.Random) -> None:
    """Try one of `every` cases, drawn."""
    chosen = cases if every == 1 else draw.sample(cases, max(1, len(cases) // every))
    expected = harness.expected
    for number, case in enumerate(chosen, 1):
        harness.try_out(case, kept, expected)
        if number % 100 == 0:
            print(
                f"{kept}: {number} of {len(chosen)} damages, {len(harness.faults)} faults",
                file=sys.stderr,
                flush=True,
            )


def run(base: Path, every: int, seed: int) -> Harness:
    """Make the runs to be damaged, damage them, and return what was found."""
    harness = Harness(base, write_recipe(base), Rows("corruption"))
    draw = random.Random(seed)
    interrupted(harness)
    harness.keep("half")
    cases = list(half_made(harness))
    whole = call("run", harness.recipe, *TEACHER, "--runs", harness.runs)
    assert whole.status == 0, whole
    harness.expected = results(harness.runs)
    sweep(harness, "half", cases, every, draw)
    shutil.rmtree(harness.runs)
    answer = call("run", harness.recipe, "--threads", 1, "--runs", harness.runs)
    assert answer.status == 0, answer
    harness.keep("whole")
    sweep(harness, "whole", list(finished(harness)), every, draw)
    shutil.rmtree(harness.runs)
    folders = write_models(harness.runs / "hub")
    for folder in folders.values():
        answer = call(
            "eval", folder, "--data", base / "story.txt", "--threads", 1, "--runs", base / "warm"
        )
        assert answer.status == 0, answer
    harness.keep("elsewhere")
    sweep(harness, "elsewhere", list(from_elsewhere(harness, folders)), every, draw)
    return harness


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--every", type=int, default=1, help="try one of so many damages")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    base, began = Path(tempfile.mkdtemp(prefix="flyweight-corrupt-")), time.monotonic()
    alone(base / "warm")
    harness = run(base, options.every, options.seed)
    for kind, count in sorted(harness.done.items()):
        harness.rows.add("small", kind, "damages", 0, count, "commands")
        harness.rows.add("small", kind, "found_and_named", 0, harness.found[kind], "commands")
    for kind, count in sorted(harness.unknowable.items()):
        harness.rows.add("small", kind, "without_a_checksum_unknowable", 0, count, "commands")
    done, found = sum(harness.done.values()), sum(harness.found.values())
    harness.rows.add("small", "all", "damages", 0, done, "commands")
    harness.rows.add("small", "all", "found_and_named", 0, found, "commands")
    harness.rows.add("small", "all", "wall", 0, time.monotonic() - began, "s")
    print(harness.rows.write())
    print("\n".join(harness.faults[:40]))
    print(f"{found} of {done} commands on damaged files found the damage and named it")
    print(
        f"{sum(harness.unknowable.values())} more read what nothing without a checksum can tell "
        f"from a model that was meant"
    )
    if harness.faults:
        raise SystemExit(1)
    shutil.rmtree(base)


if __name__ == "__main__":
    main()
