"""Runs of one stage on an existing model: distillation and quantization.

Part of `flyweight.api`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from flyweight.api import model_references
from flyweight.api.measurements import Model, data_for
from flyweight.api.runs import Run, plain_name, request_of, run
from flyweight.api.session import DEFAULT, Session, working
from flyweight.config import load, schema
from flyweight.config.words import corpus_fields, field_words
from flyweight.store.artifact import NAMED, Artifact
from flyweight.store.run_registry import knows_only


def run_stage(
    verb: str,
    stage: Mapping[str, Any],
    overrides: Sequence[str],
    name: str | None,
    report: Mapping[str, Any],
    session: Session,
) -> Run:
    """Run one stage as a recipe of its own; `overrides` are relative to the stage.

    Without a `name` the run is called after the verb, the kind if it has one, and the model. A
    number follows where another request has taken that name.
    """
    raw = {
        "name": name or verb,
        "seed": session.seed,
        "stages": {verb: {"stage": verb, **stage}},
        "report": dict(report),
    }
    raw = load.override(raw, [f"stages.{verb}.{word}" for word in overrides])
    checked = load.recipe(raw, verb)
    if name is None:
        checked = _with_a_name(checked, verb, session)
    return run(checked, session=session)


def _with_a_name(checked: schema.Recipe, verb: str, session: Session) -> schema.Recipe:
    """Return the recipe under the first of its names that no other request has taken."""
    stage = checked.stages[verb]
    kind = [stage.kind.kind] if isinstance(stage, schema.Quantize) else []
    (source,) = stage.dependencies().values()
    first = "-".join([verb, *kind, plain_name(Path(source).name)])
    candidates = (checked.model_copy(update={"name": name}) for name in _names(first))
    store = session.store
    return next(
        recipe for recipe in candidates if knows_only(store.root / recipe.name, request_of(recipe))
    )


def _names(first: str) -> Iterator[str]:
    """Yield `first`, then `first-2` and so on, without names that only artifacts may have."""
    names = (first if number == 1 else f"{first}-{number}" for number in count(1))
    return (name for name in names if not NAMED.fullmatch(name))


@working
def distill(
    teacher: Model,
    *overrides: str,
    data: str | Path | Mapping[str, Any] | None = None,
    model: str | Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    objective: Mapping[str, Any] | None = None,
    name: str | None = None,
    session: Session = DEFAULT,
) -> Run:
    """Distil a teacher into a smaller model and return the run; `run["distill"]` is the student.

    `data` is a corpus or the fields of one. `model`, `train` and `objective` are fields as in a
    recipe: `fw.distill("quickstart:teacher", data="python-stdlib", model={"dim": 64},
    train={"steps": 400})`. `overrides` are the command line's words (`train.steps=400`), and win.
    Unless `data` names others, the student takes the teacher's tokenizer, and its context where
    that is shorter than usual. `name` is the run's. Raises RequestError with every fault of the
    request.
    """
    artifact = model_references.find(teacher, session.store, watch=session.watch)
    given = field_words(data=corpus_fields(data), model=model, train=train, objective=objective)
    words = [*given, *overrides]
    default = {"data": _teachers_own(artifact, words)}
    stage = {"teacher": _reference(teacher, artifact), **default}
    return run_stage("distill", stage, words, name, {}, session)


@working
def quantize(
    model: Model,
    *overrides: str,
    kind: str = "int8",
    data: str | Path | None = None,
    name: str | None = None,
    session: Session = DEFAULT,
) -> Run:
    """Store a model's matrices in fewer bits, measure the cost, and return the run.

    `run["quantize"]` is the new model. `kind` is int8 or nf4. `overrides` are the command line's
    words (`embedding=nf4`), and win. `data` is the text to measure on, for a model that came
    without its corpus. Without either, likelihood is not measured. `name` is the run's. Raises
    RequestError with every fault of the request.
    """
    artifact = model_references.find(model, session.store, watch=session.watch)
    report: dict[str, Any] = {}
    if data is not None:
        report = {"data": data_for(artifact, str(data))}
    elif "corpus" not in artifact.facts:
        session.watch("unscored", {"model": _reference(model, artifact)})
        report = {"measure": ["bench", "audit"]}
    stage = {"input": _reference(model, artifact), "kind": kind}
    return run_stage("quantize", stage, overrides, name, report, session)


def _teachers_own(teacher: Artifact, words: Sequence[str]) -> dict[str, Any]:
    """Return the data fields that a student takes from its teacher where no word sets them.

    These are the tokenizer, and a context that is shorter than usual.
    """
    from flyweight.checkpoints import load_any as hub

    data: dict[str, Any] = {}
    tokenizer = teacher.path / "model" / "tokenizer.json"
    if tokenizer.is_file() and not any(word.startswith("data.tokenizer") for word in words):
        data["tokenizer"] = {"kind": "file", "path": str(tokenizer)}
    window = hub.window(hub.config(teacher.path / "model"))
    usual: int = schema.Data.model_fields["context"].default
    if window < usual and not any(word.startswith("data.context") for word in words):
        data["context"] = window
    return data


def _reference(model: Model, artifact: Artifact) -> str:
    """Return the word that names a model in a recipe: the given one, or the model's folder."""
    given = str(model)
    if not isinstance(model, Artifact) and load.is_external(given):
        return given
    return str(artifact.path.resolve())
