"""Malformed input by the thousand: every command ends with status 1 or 2 and a message.

No traceback, hang or stray write.

    python benchmarks/fuzz.py [--inputs 10000] [--seed 0]                                            results/fuzz.csv

Inputs are drawn from valid ones (`malformed.py`) in turn for every kind: YAML bytes, recipes,
studies, overrides, those of `train`, model configs, every verb's own options, MODEL references,
texts in every encoding, tokenizers, the files of an artifact and of a checkpoint, with and without
a manifest that agrees, Hugging Face folders, chat templates, and links, loops, pipes and folders in
the place of anything in the runs root. Each runs in this process under an alarm. What turns out
valid does not count; another is drawn. Python's audit hooks see every file that is opened for
writing, made, renamed or removed outside the runs root and the system's folder for temporary files.
In the working folder lie modules that have the names of Python's own and of installed ones: none
may ever run, here or in a process that a command starts.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from corrupt import TEACHER, interrupted
from corrupt_hub import OPTIONAL, write_models
from malformed import (
    BOMB,
    LEAVES,
    encoded,
    forge,
    json_or_bytes,
    mutated,
    reference,
    rows,
    template,
    twisted,
    yaml_text,
)
from rows import Rows
from sandbox import Answer, alone, call, recipe, write_recipe, writing

from flyweight.cli.app import app
from flyweight.core.files import write_sealed

SECONDS = 30
"""No malformed input may take longer: what is refused is refused at once."""
LINES = 60
"""The most lines of a message: one per fault of a recipe is fine, a dump is not."""


FITS = "budget.flops: 1, but training takes"
"""What a recipe that is valid after all breaks: its budget."""


def options_of(verb: str) -> list[str]:
    """Return the options of a verb, but for those that name where to write."""
    command: Any = typer.main.get_command(app)
    found = [
        option
        for parameter in command.commands[verb].params
        for option in parameter.opts
        if option.startswith("--")
    ]
    return [option for option in found if option not in ("--out", "--runs", "--help")]


LINKED = (
    "summary.json",
    "report.html",
    "recipe.yaml",
    "other-runs.json",
    "table.csv",
    "student",
    "int8",
)
"""What a finished recipe's folder holds, over which a link may lie."""


SHADOWS = (
    "random.py",
    "json.py",
    "sitecustomize.py",
    "usercustomize.py",
    "torch/__init__.py",
    "flyweight/__init__.py",
)
"""Modules in the working folder that would run in place of others, were it searched for modules."""
SHADOW = """import pathlib
pathlib.Path({marker!r}).write_text(__file__)
raise ImportError("a module of the working folder ran")
"""


def _link_to_folder(place: Path, victim: Path) -> None:
    place.symlink_to(victim)


def _link_to_file(place: Path, victim: Path) -> None:
    place.symlink_to(victim / "precious")


def _link_to_nothing(place: Path, victim: Path) -> None:
    place.symlink_to(victim / "nothing")


def _link_to_itself(place: Path, victim: Path) -> None:
    place.symlink_to(place)


def _hard_link(place: Path, victim: Path) -> None:
    place.hardlink_to(victim / "precious")


def _pipe(place: Path, victim: Path) -> None:
    os.mkfifo(place)


def _folder(place: Path, victim: Path) -> None:
    place.mkdir()
    (place / "link").symlink_to(victim)


def _file(place: Path, victim: Path) -> None:
    place.write_text("no folder")


INSTEAD = (
    _link_to_folder,
    _link_to_file,
    _link_to_nothing,
    _link_to_itself,
    _hard_link,
    _pipe,
    _folder,
    _file,
)
"""What may lie in the place of a file or folder of the runs root."""


def _follows(event: str, arguments: tuple[Any, ...]) -> bool:
    """Return whether a file operation acts on what a link leads to, and not on the link itself."""
    if event == "open":
        return not arguments[2] & (os.O_NOFOLLOW | os.O_EXCL)
    return event in ("os.truncate", "shutil.copyfile")


def _beside(path: str) -> str:
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


class TooLong(Exception):
    """The alarm rang."""


@dataclass
class Fuzzer:
    """A finished toy run, the folders that inputs are written to, and what every kind of input ended with."""

    base: Path
    draw: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    valid: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0
    strays: list[str] = field(default_factory=list)
    armed: bool = False
    said: str = ""

    def __post_init__(self) -> None:
        self.inputs, self.runs, self.elsewhere = (
            self.base / "inputs",
            self.base / "runs",
            self.base / "elsewhere",
        )
        self.recipe = write_recipe(self.inputs)
        self.text = self.inputs / "story.txt"
        self.elsewhere.mkdir()
        self.marker = self.base / "EXECUTED"
        self.scratch = self.base / "scratch"
        self.scratch.mkdir()
        tempfile.tempdir = str(self.scratch)  # temporary files may be written as well
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(
            self.scratch / "inductor"
        )  # torch remembers it from before
        answer = call("run", self.recipe, "--threads", 1, "--runs", self.runs)
        assert answer.status == 0, answer
        shutil.copytree(self.runs, self.base / "kept", symlinks=True)
        self.raw = recipe(self.text)
        self.raw["train"]["steps"] = (
            1  # nothing may really train: a recipe that turns out valid breaks its budget
        )
        self.raw["budget"] = {"flops": 1}
        self.raw["report"] = {"measure": [], "prompts": []}
        self.model = (self.runs / "toy" / "int8").resolve()
        self.hub = write_models(self.inputs / "hub")
        shutil.copytree(self.inputs / "hub", self.base / "hub", symlinks=True)
        interrupted(self)
        (self.state,) = {path for path in self.runs.glob("*.partial") if path.name == self.order[0]}
        shutil.copytree(self.state, self.base / "half")
        shutil.rmtree(self.runs)
        shutil.copytree(self.base / "kept", self.runs, symlinks=True)
        self.options = {name: options_of(name) for name in OPTIONED}
        for name in SHADOWS:
            path = self.elsewhere / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(SHADOW.format(marker=str(self.marker)))
        os.chdir(self.elsewhere)
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.armed:
            for path in writing(event, arguments):
                real = os.path.realpath(path) if _follows(event, arguments) else _beside(path)
                own_mark = (
                    real == f"/proc/{os.getpid()}/clear_refs"
                )  # lowers the mark of its memory
                inside = real.startswith((str(self.runs), str(self.scratch), "/dev/null"))
                if not (inside or own_mark):
                    self.strays.append(f"{event} {real}")

    # --- the kinds of input: each writes what it needs and returns the command's words ---

    def _file(self, name: str, raw: bytes) -> Path:
        path = self.inputs / name
        path.write_bytes(raw)
        return path

    def _restored(self) -> Path:
        """Return the int8 artifact, its files whole again."""
        shutil.rmtree(self.model)
        shutil.copytree(self.base / "kept" / self.model.name, self.model)
        return self.model

    def _read(self) -> tuple[Any, ...]:
        return self.draw.choice(
            [
                ("eval", self.model),
                ("generate", self.model, "Ann ", "--max-new-tokens", 1),
                ("plan", self.model),
                ("quantize", self.model),
            ]
        )

    def yaml_bytes(self) -> tuple[Any, ...]:
        """Break a recipe's bytes."""
        raw = yaml_text(self.raw)
        raw = BOMB.encode() + raw if self.draw.random() < 0.03 else mutated(raw, self.draw)
        return self.draw.choice(("run", "plan")), self._file("broken.yaml", raw)

    def recipes(self) -> tuple[Any, ...]:
        """Put a wrong value, name or structure into a recipe."""
        raw = yaml_text(twisted(self.raw, self.draw, self.draw.randint(1, 3)))
        return self.draw.choice(("run", "run", "plan")), self._file("twisted.yaml", raw)

    def studies(self) -> tuple[Any, ...]:
        """Put a wrong value, name or structure into a study, or break its bytes."""
        study = self._study()
        broken = self.draw.random() < 0.3
        raw = (
            mutated(yaml_text(study), self.draw)
            if broken
            else yaml_text(twisted(study, self.draw, self.draw.randint(1, 3)))
        )
        return self.draw.choice(("study", "plan")), self._file("study.yaml", raw)

    def _study(self) -> dict[str, Any]:
        """Return a study that is valid, and trains for a moment."""
        small = {"dim": 16, "layers": 1, "attention": {"heads": 2}}
        return {
            "name": "tiny-study",
            "data": {"text": {"corpus": str(self.text), "context": 16}},
            "models": {
                "small": {"config": small, "grid": {"position": ["learned", "rope"]}},
                "linear": {"config": "tradeoffs/linear", "fields": {"dim": 8}},
            },
            "budgets": {"brief": {"steps": 1}},
            "train": {"batch": 2, "validations": 1},
            "protocol": "fixed",
            "protocols": {"fixed": {"lr": 1e-3}, "tuned": {"lr": [1e-3, 1e-2]}},
            "seeds": [0],
            "metrics": ["nll"],
            "findings": [
                {"claim": "small wins", "below": {"model": "small"}, "above": {"model": "linear"}}
            ],
        }

    def overrides(self) -> tuple[Any, ...]:
        """Name a field that is none, or give it a value that is none."""
        fields = [
            "stages.teacher.train.steps",
            "data.context",
            "budget.time",
            "model.mlp",
            "name",
            "report.compare",
            "seed",
        ]
        fields += [
            "stages.int8.kind",
            "train.optimizer.lr",
            "stages.student.teacher",
            "data.corpus",
            "data.tokenizer",
            "train",
        ]
        name = self.draw.choice(fields)
        if self.draw.random() < 0.4:
            name = (
                mutated(name.encode(), self.draw)
                .decode("utf-8", "surrogateescape")
                .replace("\0", "")
            )
        word = f"{name}{self.draw.choice(('=', '=', '=', '', ':', '=='))}{self.draw.choice(LEAVES)}".replace(
            "\0", ""
        )
        return "run", self._file("valid.yaml", yaml_text(self.raw)), word

    def trainings(self) -> tuple[Any, ...]:
        """Give a field of `train`'s recipe, from which a model is suggested before anything runs, a value that is none."""
        fields = [
            "budget",
            "budget.time",
            "data",
            "data.corpus",
            "data.tokenizer",
            "data.tokenizer.vocab",
            "data.context",
        ]
        fields += [
            "model",
            "model.kind",
            "model.dim",
            "model.mlp",
            "model.dropout",
            "stages",
            "stages.model",
            "train",
            "name",
        ]
        leaf = self.draw.choice(
            (*LEAVES, "{kind: bpe, vocab: 2k}", "{kind: linear}", "abc", "gpt2", 10)
        )
        word = f"{self.draw.choice(fields)}={leaf}".replace("\0", "")
        return (
            "train",
            self.text,
            "train.steps=1",
            "train.batch=2",
            "report.measure=[]",
            "budget.flops=1",
            word,
        )

    def configs(self) -> tuple[Any, ...]:
        """Twist a model config."""
        config = {
            "vocab_size": 300,
            "context": 64,
            "dim": 32,
            "layers": 2,
            "attention": {"heads": 4},
            "position": "rope",
        }
        config |= {
            "mlp": {"kind": "swiglu", "hidden": 64},
            "norm": "rmsnorm",
            "linears": {"blocks.*": "int8"},
        }
        raw = yaml_text(twisted(config, self.draw, self.draw.randint(1, 3)))
        raw = mutated(raw, self.draw) if self.draw.random() < 0.2 else raw
        return (
            self.draw.choice(("plan", "eval", "generate")),
            self._file("config.yaml", raw),
            *self._words(),
        )

    def _words(self) -> tuple[Any, ...]:
        return ("x",) if self.draw.random() < 0.1 else ()

    def command_lines(self) -> tuple[Any, ...]:
        """Give a verb options that are wrong."""
        verb = self.draw.choice(list(OPTIONED))
        words = OPTIONED[verb](self)
        for _ in range(self.draw.randint(1, 2)):
            words += [
                self.draw.choice(self.options[verb]),
                str(self.draw.choice(LEAVES)).replace("\0", ""),
            ]
        return verb, *words

    def references(self) -> tuple[Any, ...]:
        """Name a model that is none."""
        known = ["toy:student", "toy:int8", self.model.name, "gpt2", "qwen3-0.6b", str(self.model)]
        verb = self.draw.choice(
            (
                "eval",
                "generate",
                "quantize",
                "audit",
                "plan",
                "compare",
                "bench",
                "report",
                "distill",
            )
        )
        while (word := reference(self.draw, known)) in known:  # that would be a model
            pass
        more = ("Ann ",) if verb == "generate" else (word + "x",) if verb == "compare" else ()
        return verb, "--", word, *more

    def texts(self) -> tuple[Any, ...]:
        """Give a text that is none."""
        path = self._file(
            self.draw.choice(("text.txt", "text.jsonl", "te[x]t.md")),
            encoded(self.text.read_text()[:3000], self.draw),
        )
        return "floors", path

    def files(self) -> tuple[Any, ...]:
        """Give a file of rows, a page or a packed text that is damaged or has no text."""
        name, raw = rows(self.text.read_text()[:3000], self.draw)
        return "floors", self._file(name, raw)

    def tokenizers(self) -> tuple[Any, ...]:
        """Break a tokenizer.json that a recipe names."""
        raw = (self.base / "kept" / self.model.name / "model" / "tokenizer.json").read_bytes()
        path = self._file("tokenizer.json", json_or_bytes(raw, self.draw))
        data = {
            "corpus": str(self.text),
            "context": 32,
            "tokenizer": {"kind": "file", "path": str(path)},
        }
        floors = {"name": "floors", "stages": {"floors": {"stage": "floors", "data": data}}}
        return "run", self._file("floors.yaml", yaml_text(floors))

    def artifacts(self) -> tuple[Any, ...]:
        """Break a file of an artifact, its manifest agreeing with the damage."""
        folder = self._restored()
        name = self.draw.choice(
            ("model/config.json", "model/tokenizer.json", "model/model.safetensors")
        )
        raw = (folder / name).read_bytes()
        head = 8 + int.from_bytes(raw[:8], "little")
        broken = (
            json_or_bytes(raw, self.draw)
            if name.endswith(".json")
            else mutated(raw[:head], self.draw) + raw[head:]
        )
        forge(folder, name, broken)
        return self._read()

    def manifests(self) -> tuple[Any, ...]:
        """Break a manifest."""
        folder = self._restored()
        raw = json_or_bytes((folder / "manifest.json").read_bytes(), self.draw)
        (folder / "manifest.json").write_bytes(raw)
        return self._read()

    def summaries(self) -> tuple[Any, ...]:
        """Break the summary that RECIPE:STAGE is looked up in."""
        raw = (self.base / "kept" / "toy" / "summary.json").read_bytes()
        (self.runs / "toy" / "summary.json").write_bytes(json_or_bytes(raw, self.draw))
        return self.draw.choice(
            [("eval", "toy:int8"), ("report", "toy"), ("generate", "toy:student", "Ann ")]
        )

    def checkpoints(self) -> tuple[Any, ...]:
        """Break a file of a Hugging Face folder: one that becomes ours, or one behind an adapter."""
        name = self.draw.choice(("llama", "neox"))
        shutil.rmtree(self.hub[name])
        shutil.copytree(self.base / "hub" / name, self.hub[name])
        path = self.draw.choice(
            [path for path in self.hub[name].iterdir() if path.name not in OPTIONAL]
        )
        raw = path.read_bytes()
        head = 8 + int.from_bytes(raw[:8], "little")
        whole = path.suffix == ".json"
        path.write_bytes(
            json_or_bytes(raw, self.draw) if whole else mutated(raw[:head], self.draw) + raw[head:]
        )
        verbs = [
            ("eval", self.hub[name], "--data", self.text),
            ("generate", self.hub[name], "Ann ", "--max-new-tokens", 1),
        ]
        return self.draw.choice([*verbs, ("import", self.hub[name]), ("plan", self.hub[name])])

    def templates(self) -> tuple[Any, ...]:
        """Give a Hugging Face folder a chat template that never ends or is none."""
        folder = self.hub["llama"]
        shutil.rmtree(folder)
        shutil.copytree(self.base / "hub" / "llama", folder)
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"chat_template": template(self.draw)})
        )
        self.said = "Hello.\n"
        return "chat", folder, "--max-new-tokens", 1

    def links(self) -> tuple[Any, ...]:
        """Put a link, a loop, a pipe, a folder or a file in the place of anything in the runs root."""
        self._restored()
        target = self.inputs / "victim"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        (target / "precious").write_text("precious")
        kept = self.base / "kept"
        names = [path.name for path in kept.iterdir()]
        inside = [path.relative_to(kept).as_posix() for path in sorted(kept.rglob("*"))]
        partial = [f"{each}.partial" for each in names]
        name = self.draw.choice(
            self.draw.choice((names, partial, inside, [f"toy/{each}" for each in LINKED]))
        )
        place = self.runs / name
        if name.endswith(".partial"):  # so that it has to be made
            shutil.rmtree(self.runs / name.removesuffix(".partial"), ignore_errors=True)
        if place.is_symlink() or place.is_file():
            place.unlink()
        shutil.rmtree(place, ignore_errors=True)
        self.draw.choice(INSTEAD)(place, target)
        run = ("run", self.recipe, "--threads", 1)
        verbs = [
            run,
            ("report", "toy"),
            ("gc", "--yes"),
            ("eval", "toy:int8"),
            ("ls",),
            ("plan", self.recipe),
        ]
        verbs += [
            ("generate", "toy:teacher", "Ann ", "--max-new-tokens", 1),
            ("import", self.hub["llama"]),
        ]
        return self.draw.choice([run, *verbs])

    def resume_points(self) -> tuple[Any, ...]:
        """Break the checkpoint or the log of a half-made artifact, the checkpoint's seal agreeing or not."""
        shutil.rmtree(self.state, ignore_errors=True)
        shutil.copytree(self.base / "half", self.state)
        path = self.state / "state" / "current.json"
        kind = self.draw.randrange(3)
        if kind == 0:
            path.write_bytes(json_or_bytes(path.read_bytes(), self.draw))
        elif kind == 1:
            content = json.loads(path.read_text())
            content.pop("digest")
            twist = twisted(content, self.draw, self.draw.randint(1, 3))
            with contextlib.suppress(
                ValueError, TypeError
            ):  # what JSON cannot hold is not sealed either
                write_sealed(path, twist)
        else:
            log = self.state / "events.jsonl"
            log.write_bytes(
                mutated(
                    log.read_bytes()[: json.loads(path.read_text())["progress"]["events"]],
                    self.draw,
                )
            )
        return "run", self.recipe, *TEACHER

    def event_lines(self) -> tuple[Any, ...]:
        """Break the JSON lines of a training's log."""
        folder = (self.runs / "toy" / "student").resolve()
        name = "events.jsonl"
        lines = (self.base / "kept" / folder.name / name).read_bytes().splitlines()
        at = self.draw.randrange(len(lines))
        lines[at] = json_or_bytes(lines[at], self.draw)
        forge(folder, name, b"\n".join(lines))
        return "run", self.recipe, "--threads", 1

    KINDS = (
        *(
            "yaml_bytes",
            "recipes",
            "overrides",
            "trainings",
            "configs",
            "command_lines",
            "references",
            "texts",
            "files",
            "tokenizers",
            "artifacts",
        ),
        *("studies", "manifests", "summaries", "event_lines", "checkpoints", "resume_points"),
        *("templates", "links"),
    )

    # --- one input, judged ---

    def once(self, kind: str) -> bool:
        """Draw and run one input; return whether it was malformed."""
        before = self.draw.getstate()
        words = getattr(self, kind)()
        began, self.strays = time.monotonic(), []
        answer = self._limited(words)
        took = time.monotonic() - began
        self.slowest = max(self.slowest, took)
        if took > 5:
            print(
                f"{took:.0f} s: {kind} {[str(word)[:100] for word in words]} {answer.err[:200]}",
                file=sys.stderr,
            )
        self._tidy(kind)
        fault = self._fault(answer) or self._harm(kind)
        trains = (
            isinstance(answer.crash, TooLong) and ": pretrain" in answer.err
        )  # it was valid after all
        planned = fault is None and FITS in answer.out + answer.err
        if trains or planned or (fault is None and answer.status == 0):
            self.valid[kind] += 1
            return False
        self.counts[kind] += 1
        self.statuses[answer.status] += 1
        if fault is not None:
            self.faults.append(f"{kind} {[str(word)[:200] for word in words]}: {fault}")
            kept = self.base / f"fault-{len(self.faults)}"
            kept.mkdir()
            (kept / "state.json").write_text(
                json.dumps([str(before)[:100], [str(word) for word in words], fault])
            )
            shutil.copytree(self.inputs, kept / "inputs", symlinks=True)
        return True

    def _limited(self, words: tuple[Any, ...], seconds: int = SECONDS) -> Answer:
        def ring(*_: Any) -> None:
            raise TooLong(f"more than {seconds} s")

        signal.signal(signal.SIGALRM, ring)
        signal.alarm(seconds)
        self.armed = True
        stdin, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(self.said.encode()))
        try:
            verb, *rest = words
            return call(verb, "--runs", self.runs, *rest)
        finally:
            self.armed, sys.stdin, self.said = False, stdin, ""
            signal.alarm(0)

    def _fault(self, answer: Answer) -> str | None:
        said = answer.err.strip()
        if answer.crash is not None:
            frames = traceback.extract_tb(answer.crash.__traceback__)[-4:]
            return (
                f"traceback: {answer.crash!r}"[:500]
                + f" in {[f'{frame.filename[-40:]}:{frame.lineno}' for frame in frames]}"
            )
        if self.strays:
            return f"wrote outside the runs root: {self.strays[:3]}"
        if self.marker.exists():
            return f"a module of the working folder ran: {self.marker.read_text()}"
        if strange := self._strange():
            return f"wrote into the working folder: {[path.name for path in strange]}"
        if answer.status == 0:
            return None
        if answer.status not in (1, 2):
            return f"status {answer.status}"
        if "Traceback" in said or (not said and not answer.out.strip()):
            return f"no message, or a traceback: {said[-300:]!r}"
        if len(said.splitlines()) > LINES or len(said) > 20_000:
            return (
                f"a message of {len(said.splitlines())} lines and {len(said)} letters: "
                f"{said[:200]!r}"
            )
        return None

    def _harm(self, kind: str) -> str | None:
        victim = self.inputs / "victim"
        if kind == "links" and [path.read_text() for path in victim.iterdir()] != ["precious"]:
            return f"what a link in the runs root led to was changed: {sorted(victim.iterdir())}"
        return None

    def _strange(self) -> list[Path]:
        """Return what lies in the working folder and was not put there."""
        own = {self.elsewhere / name for name in SHADOWS}
        return [
            path
            for path in sorted(self.elsewhere.rglob("*"))
            if path not in own | {path.parent for path in own}
        ]

    def children(self) -> None:
        """Run what starts processes of its own: none may run a module of the working folder."""
        self.said = "Hello.\n"
        for words in (
            ("bench", self.model, "--repeats", 1),
            ("chat", self.base / "hub" / "llama", "--max-new-tokens", 1),
        ):
            answer = self._limited(words, 10 * SECONDS)  # a bench takes its time
            if fault := self._fault(answer) or (
                f"status {answer.status}: {answer.err}" if answer.status else None
            ):
                self.faults.append(f"children {[str(word) for word in words]}: {fault}")
            self.said = "Hello.\n"
        self.said = ""

    def _tidy(self, kind: str) -> None:
        for path in self._strange():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if kind in (
            "summaries",
            "event_lines",
            "artifacts",
            "manifests",
            "checkpoints",
            "resume_points",
            "links",
        ):
            shutil.rmtree(self.runs)
            shutil.copytree(self.base / "kept", self.runs, symlinks=True)


OPTIONED: dict[str, Callable[[Fuzzer], list[str]]] = {
    **{
        verb: lambda fuzzer: [str(fuzzer.model)]
        for verb in ("eval", "quantize", "plan", "audit", "report")
    },
    "generate": lambda fuzzer: [str(fuzzer.model), "Ann ", "--max-new-tokens", "1"],
    "compare": lambda fuzzer: ["toy:student", "toy:int8"],
    "floors": lambda fuzzer: [str(fuzzer.text)],
    "bench": lambda fuzzer: [
        str(fuzzer.model),
        "--repeats",
        "0",
    ],  # one that is valid would take seconds
    "run": lambda fuzzer: [str(fuzzer.recipe), "budget.flops=1"],
    "train": lambda fuzzer: [str(fuzzer.text), "budget.flops=1"],
    "study": lambda fuzzer: ["tradeoffs-quick", "seeds=[]"],
    "distill": lambda fuzzer: [
        "toy:teacher",
        f"data.corpus={fuzzer.text}",
        "model.dim=16",
        "train.steps=0",
    ],
    "export": lambda fuzzer: [str(fuzzer.model), "--out", str(fuzzer.runs / "out")],
    "import": lambda fuzzer: [str(fuzzer.hub["llama"])],
    "ls": lambda fuzzer: [],
    "doctor": lambda fuzzer: [],
}
"""What a verb is given besides the wrong option: words that are right, and cheap where the option turns out right as well."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=list(Fuzzer.KINDS))
    options = parser.parse_args()
    base, began = Path(tempfile.mkdtemp(prefix="flyweight-fuzz-")), time.monotonic()
    alone(base / "warm")
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    rows, fuzzer = Rows("fuzz"), Fuzzer(base, random.Random(options.seed))
    for number in range(options.inputs):
        while not fuzzer.once(options.kinds[number % len(options.kinds)]):
            pass
        if (number + 1) % 500 == 0:
            print(
                f"{number + 1} inputs, {len(fuzzer.faults)} faults, "
                f"{time.monotonic() - began:.0f} s",
                file=sys.stderr,
            )
    fuzzer.children()
    for kind in options.kinds:
        rows.add("command line", kind, "malformed", 0, fuzzer.counts[kind], "inputs")
        rows.add("command line", kind, "valid_drawn_again", 0, fuzzer.valid[kind], "inputs")
    for status, count in sorted(fuzzer.statuses.items()):
        rows.add("command line", f"status {status}", "malformed", 0, count, "inputs")
    refused = options.inputs - len(fuzzer.faults)
    rows.add("command line", "all", "refused_with_a_message", 0, refused, "inputs")
    rows.add("command line", "all", "slowest", 0, fuzzer.slowest, "s")
    rows.add("command line", "all", "wall", 0, time.monotonic() - began, "s")
    print(rows.write())
    print("\n".join(fuzzer.faults[:60]))
    print(
        f"{refused} of {options.inputs} malformed inputs refused with a message; the slowest "
        f"took {fuzzer.slowest:.1f} s"
    )
    os.chdir("/")
    if fuzzer.faults:
        raise SystemExit(f"kept in {base}")
    shutil.rmtree(base)


if __name__ == "__main__":
    main()
