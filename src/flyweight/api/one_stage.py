"""Runs of one stage on an existing model: distillation, quantization and merging.

Part of `flyweight.api`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from flyweight.api import model_references
from flyweight.api.measurements import Model, data_for
from flyweight.api.runs import Run, plain_name, request_of, run
from flyweight.api.session import DEFAULT, Session, uses_runs_root
from flyweight.config import load, schema
from flyweight.config.linear_kinds import REGISTRY
from flyweight.config.pruning import CALIBRATED
from flyweight.config.words import check_words, corpus_fields, field_words
from flyweight.errors import RequestError
from flyweight.store.artifact import NAMED, Artifact
from flyweight.store.run_registry import knows_only


def run_stage(
    verb: str,
    stage: Mapping[str, object],
    overrides: Sequence[str],
    name: str | None,
    report: Mapping[str, object],
    session: Session,
) -> Run:
    """Run one stage as a recipe of its own.

    `overrides` are relative to the stage, but for those of the recipe's budget and its trackers.
    Without a `name` the run is called after the verb, the kind if it has one, and the model. A
    number follows where another request has taken that name.
    """
    check_words(overrides)
    raw = {
        "name": name or verb,
        "seed": session.seed,
        "stages": {verb: {"stage": verb, **stage}},
        "report": dict(report),
    }
    raw = load.override(raw, [_placed(word, verb) for word in overrides])
    checked = load.recipe(raw, verb)
    if name is None:
        checked = _with_a_name(checked, verb, session)
    return run(checked, session=session)


def _placed(word: str, verb: str) -> str:
    """Return a word with the path of its field in the recipe."""
    return word if word.startswith(("budget.", "trackers=")) else f"stages.{verb}.{word}"


def _with_a_name(checked: schema.Recipe, verb: str, session: Session) -> schema.Recipe:
    """Return the recipe under the first of its names that no other request has taken."""
    stage = checked.stages[verb]
    kind = list[str]()
    if isinstance(stage, schema.Quantize):
        kind = [stage.kind.kind] + (["gptq"] if stage.rounding == "gptq" else [])
    elif isinstance(stage, schema.Prune):
        kind = [stage.method]
    elif isinstance(stage, schema.Finetune):
        kind = [stage.method.kind]
    *_, source = stage.dependencies().values()
    return _under_a_free_name(
        checked, "-".join([verb, *kind, plain_name(Path(source).name)]), session
    )


def _under_a_free_name(checked: schema.Recipe, first: str, session: Session) -> schema.Recipe:
    """Return the recipe as `first` or, where another request has that name, with a number."""

    def named(name: str) -> schema.Recipe:
        return checked.model_copy(update={"name": name})

    return named(free_name(first, session, lambda name: request_of(named(name))))


def free_name(first: str, session: Session, request: Callable[[str], str]) -> str:
    """Return `first` or, where another request has that name, the same with a number.

    `request` returns the digest of the request under a name.
    """
    root = session.store.root
    return next(name for name in _names(first) if knows_only(root / name, request(name)))


def _names(first: str) -> Iterator[str]:
    """Yield `first`, then `first-2` and so on, without names that only artifacts may have."""
    names = (first if number == 1 else f"{first}-{number}" for number in count(1))
    return (name for name in names if not NAMED.fullmatch(name))


@uses_runs_root
def distill(
    teacher: Model,
    *overrides: str,
    input: Model | None = None,
    data: str | Path | Mapping[str, object] | None = None,
    model: str | Mapping[str, object] | None = None,
    train: Mapping[str, object] | None = None,
    objective: Mapping[str, object] | None = None,
    name: str | None = None,
    session: Session = DEFAULT,
) -> Run:
    """Distil a teacher into a smaller model and return the run; `run["distill"]` is the student.

    `data` is a corpus or the fields of one. `model`, `train` and `objective` are fields as in a
    recipe: `fw.distill("quickstart:teacher", data="python-stdlib", model={"dim": 64},
    train={"steps": 400})`. `input` is an existing student, in the place of `model`: its weights are
    trained further. `overrides` are the command line's words (`train.steps=400`), and win.
    Unless `data` names others, the student takes the teacher's tokenizer, and its context where
    that is shorter than usual. `name` is the run's. Raises RequestError with every fault of the
    request.
    """
    artifact = model_references.find(teacher, session.store, watch=session.watch)
    words_of_arguments = field_words(
        data=corpus_fields(data), model=model, train=train, objective=objective
    )
    words = [*words_of_arguments, *overrides]
    default = {"data": _teachers_own(artifact, words)}
    stage = {"teacher": reference_to(teacher, artifact), **default}
    if input is not None:
        student = model_references.find(input, session.store, watch=session.watch)
        stage["input"] = reference_to(input, student)
    return run_stage("distill", stage, words, name, {}, session)


@uses_runs_root
def quantize(
    model: Model,
    *overrides: str,
    kind: str = "int8",
    group: int | None = None,
    rounding: str = "nearest",
    clip: float | None = None,
    data: str | Path | None = None,
    name: str | None = None,
    session: Session = DEFAULT,
) -> Run:
    """Store a model's matrices in fewer bits, measure the cost, and return the run.

    `run["quantize"]` is the new model. `kind` is int8, int8_dynamic, int4, int3, nf4 or one that a
    package registered; `group` is how many columns share a scale, of a kind that has groups.
    `rounding` is nearest or gptq, `clip` how many standard deviations a value may be from zero.
    `overrides` are the command line's words (`embedding=int4`), and win. `data` is the text to
    measure on, for a model that came without its corpus, and GPTQ reads its training split. Without
    either, likelihood is not measured. `name` is the run's. Raises RequestError with every fault of
    the request.
    """
    artifact = model_references.find(model, session.store, watch=session.watch)
    stage: dict[str, object] = {"input": reference_to(model, artifact)}
    stage["kind"] = kind if group is None else _grouped(kind, group)
    if rounding != "nearest":
        stage["rounding"] = rounding
    if clip is not None:
        stage["clip"] = clip
    calibrates = rounding == "gptq" or "rounding=gptq" in overrides
    if calibrates and data is not None:
        stage["calibration"] = {"data": data_for(artifact, str(data))}
    report = _measured(model, artifact, data, session)
    return run_stage("quantize", stage, overrides, name, report, session)


def _grouped(kind: str, group: int) -> dict[str, object]:
    """Return a kind with so many columns a scale; raise RequestError for one without groups."""
    known = REGISTRY.get(kind)
    if known is not None and "group" not in known.model_fields:
        having = [name for name, other in REGISTRY.items() if "group" in other.model_fields]
        raise RequestError(
            f"group: kind {kind} has no groups of columns; {' and '.join(having)} have"
        )
    return {"kind": kind, "group": group}


@uses_runs_root
def prune(
    model: Model,
    *overrides: str,
    method: str = "magnitude",
    sparsity: float | Mapping[str, object] | None = None,
    of: str = "weights",
    pattern: str | None = None,
    scope: str = "layer",
    data: str | Path | None = None,
    name: str | None = None,
    session: Session = DEFAULT,
) -> Run:
    """Set a model's least important weights to zero, measure the cost, and return the run.

    `run["prune"]` is the new model. Masks keep its zeros through any further training, and its file
    is not smaller. `method` is magnitude, wanda, sparsegpt or random. `sparsity` is the share that
    becomes zero, or the fields of a sweep. `pattern="2:4"` keeps two of every four weights in a
    row. `of="adapters"` prunes the A and B of LoRA. `scope="global"` compares all weights with each
    other. `overrides` are the command line's words, and win. `data` is the text to measure on, as
    in `quantize`, and to calibrate on. `name` is the run's. Raises RequestError with every fault of
    the request.
    """
    artifact = model_references.find(model, session.store, watch=session.watch)
    stage: dict[str, Any] = {"input": reference_to(model, artifact), "method": method, "of": of}
    given = {"sparsity": sparsity, "pattern": pattern}
    stage |= {field: value for field, value in given.items() if value is not None}
    if scope != "layer":
        stage["scope"] = scope
    reads = method in CALIBRATED or isinstance(sparsity, Mapping) or "vocabulary=used" in overrides
    if data is not None and reads:
        stage["calibration"] = {"data": data_for(artifact, str(data))}
    report = _measured(model, artifact, data, session)
    return run_stage("prune", stage, overrides, name, report, session)


@uses_runs_root
def pack(
    model: Model,
    *overrides: str,
    keep: bool = False,
    data: str | Path | None = None,
    name: str | None = None,
    session: Session = DEFAULT,
) -> Run:
    """Store a pruned model without its zeros, measure it, and return the run.

    `run["pack"]` is the new model, which computes the same and cannot be trained further. `keep`
    packs a model that gets larger so. `overrides` are the command line's words, and win. `data` is
    the text to measure on, as in `quantize`. `name` is the run's. Raises RequestError for a model
    without masks, one that would not get smaller, and with every fault of the request.
    """
    artifact = model_references.find(model, session.store, watch=session.watch)
    stage = {"input": reference_to(model, artifact), "keep": keep}
    report = _measured(model, artifact, data, session)
    return run_stage("pack", stage, overrides, name, report, session)


@uses_runs_root
def merge(
    model: Model,
    *overrides: str,
    unpack: bool = False,
    data: str | Path | None = None,
    name: str | None = None,
    session: Session = DEFAULT,
) -> Run:
    """Make a model's adapters part of its matrices, measure it, and return the run.

    `run["merge"]` is the new model, which computes the same to rounding. `unpack` makes every
    matrix dense, which a base in fewer bits needs. `overrides` are the command line's words, and
    win. `data` is the text to measure on, as in `quantize`. `name` is the run's. Raises
    RequestError for adapters that become part of no matrix, and with every fault of the request.
    """
    artifact = model_references.find(model, session.store, watch=session.watch)
    stage = {"input": reference_to(model, artifact), "unpack": unpack}
    report = _measured(model, artifact, data, session)
    return run_stage("merge", stage, overrides, name, report, session)


def _measured(
    model: Model, artifact: Artifact, data: str | Path | None, session: Session
) -> dict[str, object]:
    """Return the `report` of a run that changes a model: on which text it is measured, if any."""
    if data is not None:
        return {"data": data_for(artifact, str(data))}
    if "corpus" in artifact.facts:
        return {}
    session.watch("unscored", {"model": reference_to(model, artifact)})
    return {"measure": ["bench", "audit"]}


def _teachers_own(teacher: Artifact, words: Sequence[str]) -> dict[str, object]:
    """Return the data fields that a student takes from its teacher where no word sets them.

    These are the tokenizer, unless the two have their own, and a context that is shorter than
    usual.
    """
    from flyweight.checkpoints import load_any as hub

    data: dict[str, Any] = {}
    tokenizer = teacher.path / "model" / "tokenizer.json"
    named = any(word.startswith(("data.tokenizer", "across=")) for word in words)
    if tokenizer.is_file() and not named:
        data["tokenizer"] = {"kind": "file", "path": str(tokenizer)}
    window = hub.window(hub.config(teacher.path / "model"))
    usual: int = schema.Data.model_fields["context"].default
    if window < usual and not any(word.startswith("data.context") for word in words):
        data["context"] = window
    return data


def reference_to(model: Model, artifact: Artifact) -> str:
    """Return the word that names a model in a recipe: the given one, or the model's folder."""
    text = str(model)
    if not isinstance(model, Artifact) and load.is_external(text):
        return text
    return str(artifact.path.resolve())
