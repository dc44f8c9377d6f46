"""Fine-tune a model that is there: what `flyweight finetune` chooses and runs.

Part of `flyweight.api`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from flyweight.api import model_references
from flyweight.api.measurements import Model
from flyweight.api.one_stage import reference_to, run_stage
from flyweight.api.results import Run
from flyweight.api.session import DEFAULT, Session, uses_runs_root
from flyweight.config.adapters import NAMED, Method
from flyweight.config.finetuning import tuned_config
from flyweight.config.overrides import put
from flyweight.config.recipe_rules import LIMITS
from flyweight.config.schema import Architecture
from flyweight.config.words import corpus_fields, field_words
from flyweight.config.yaml import parse_yaml
from flyweight.core.files import user_path
from flyweight.core.machine import free_bytes
from flyweight.data.tasks import TASKS, holds_examples
from flyweight.errors import RequestError
from flyweight.planning.tuning import (
    TASK_CONTEXT,
    TEXT_CONTEXT,
    ChosenMethod,
    choose_method,
    default_training,
)

METHODS = ("lora", *NAMED, "ia3", "bottleneck", "prefix", "frozen", "full")
"""The names of the methods, as the command line takes them."""


@uses_runs_root
def finetune(
    model: Model,
    *overrides: str,
    data: str | Path | Mapping[str, object] | None = None,
    task: str | Path | Mapping[str, object] | None = None,
    method: str | Mapping[str, object] | None = None,
    train: Mapping[str, object] | None = None,
    tasks: Sequence[str] = (),
    task_path: str | Path | None = None,
    few_shot: int | None = None,
    limit: int | None = None,
    name: str | None = None,
    session: Session = DEFAULT,
) -> Run:
    """Train a model further on a text or a task; `run["finetune"]` is the tuned model.

    `data` is a text: a corpus, or the fields of one. A file of prompts and completions is a task.
    `task` is squad, dialogue, summarize, such a file, or the fields of one (`{"task": "squad",
    "context": 256}`). `method` is lora, rslora, dora, ia3, bottleneck, prefix, frozen or full, or
    its fields (`{"kind": "lora", "r": 16}`); without one it is chosen for the model, and told.
    `train` are fields as in a recipe. `overrides` are the command line's words
    (`train.epochs=2`), and win. The base and the tuned model are measured on the same held-out
    rows, and on `tasks` of lm-eval: `task_path` is a folder of one's own, `few_shot` the examples
    before each question, `limit` the questions of each task. `name` is the run's. Raises
    RequestError with every fault of the request.
    """
    from flyweight.checkpoints import load_any

    artifact = model_references.find(model, session.store, watch=session.watch)
    folder = artifact.path / "model"
    config = load_any.own_config(folder, "finetune")
    words = [*field_words(train=train), *overrides]
    read = _data(data, task, words)
    on_task = "task" in read
    longest = min(TASK_CONTEXT if on_task else TEXT_CONTEXT, load_any.window(config))
    device = session.runtime(session.seed).device
    chosen = _method(method, words) or choose_method(config, longest, free_bytes(device), device)
    tuned = _tuned(config, chosen.method, words)
    session.watch("chosen", {"lines": [chosen.reason]} if chosen.reason else {"lines": []})
    stage: dict[str, Any] = {
        "input": reference_to(model, artifact),
        "method": chosen.method,
        "data": {"context": min(longest, load_any.window(tuned)), **_rows(read), **read},
        "train": _training(default_training(_kind(chosen.method), config, on_task), words),
    }
    report = _report(tasks, task_path, few_shot, limit)
    return run_stage("finetune", stage, words, name, report, session)


def _report(
    tasks: Sequence[str], task_path: str | Path | None, few_shot: int | None, limit: int | None
) -> dict[str, object]:
    """Return the `report` of the run: the tasks of lm-eval, if any.

    Raises RequestError for what belongs to tasks where there are none.
    """
    rest = {
        "task_path": None if task_path is None else str(task_path),
        "few_shot": few_shot,
        "limit": limit,
    }
    given = {key: value for key, value in rest.items() if value is not None}
    if isinstance(tasks, str):
        raise RequestError(f"finetune: tasks are a list of names of lm-eval's, not {tasks!r}")
    if not tasks:
        if given:
            raise RequestError(
                "--task-path, --few-shot and --limit belong to --tasks, tasks of lm-eval"
            )
        return {}
    return {"lm_eval": {"tasks": list(tasks), **given}}


def _data(
    data: str | Path | Mapping[str, object] | None,
    task: str | Path | Mapping[str, object] | None,
    words: Sequence[str],
) -> dict[str, Any]:
    """Return the fields of `data`: those of a text or of a task.

    Raises RequestError where there is none, or both.
    """
    if data is not None and task is not None:
        raise RequestError("finetune: data is a text, task are examples; give one of them")
    if isinstance(task, str | Path):
        return {"task": str(task)}
    if task is not None:
        return dict(task)
    if (
        isinstance(data, str | Path)
        and str(data) not in TASKS
        and holds_examples(user_path(str(data)))
    ):
        return {"task": str(data)}
    if data is None:
        if any(word.startswith(("data.corpus=", "data.task=", "data.stream")) for word in words):
            return {}
        raise RequestError(
            "finetune needs something to learn: --data with a text or a file of prompts and "
            f"completions, or --task {'|'.join(TASKS)}"
        )
    return dict(corpus_fields(data) or {})


def _rows(read: Mapping[str, Any]) -> dict[str, str]:
    """Return how the rows of a task are filled: those of one's own are few, and stay apart.

    A step then learns from as many examples as it has rows.
    """
    return {} if read.get("task", TASKS[0]) in TASKS else {"packing": "padding"}


def _method(method: str | Mapping[str, object] | None, words: Sequence[str]) -> ChosenMethod | None:
    """Return the method that the user names, if one is named; raise RequestError for no method."""
    named = [word for word in words if word.startswith(("method=", "method.kind="))]
    if method is None and not named:
        fields = any(word.startswith("method.") for word in words)
        return ChosenMethod("lora", "") if fields else None
    value = method if method is not None else named[-1].partition("=")[2]
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = parse_yaml(value, "finetune: method")
    kind = value.get("kind") if isinstance(value, Mapping) else value
    try:
        TypeAdapter(Method).validate_python(kind)
    except ValidationError as error:
        raise RequestError(
            f"finetune: no method is called {kind!r}; choose {', '.join(METHODS)}"
        ) from error
    return ChosenMethod(value, "")


def _tuned(
    config: Architecture, method: str | Mapping[str, object], words: Sequence[str]
) -> Architecture:
    """Return the config after the fine-tuning, which may leave a text fewer positions.

    What is wrong with the method is told with all other faults of the request, later.
    """
    raw: dict[str, Any] = {"method": method if isinstance(method, str) else dict(method)}
    for word in words:
        path, _, text = word.partition("=")
        if path.startswith("method."):
            put(raw, path.split("."), parse_yaml(text, path), path)
    try:
        read: Method = TypeAdapter(Method).validate_python(raw["method"])
    except ValidationError:
        return config
    return tuned_config(config, read)


def _kind(method: str | Mapping[str, object]) -> str:
    """Return the kind that a method's name or fields stand for."""
    kind = method if isinstance(method, str) else str(method["kind"])
    return str(NAMED.get(kind, {}).get("kind", kind))


def _training(default: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Return the default training without what the user names: a limit, or another optimizer.

    The fields of one optimizer are unknown to another.
    """
    own = {name: value for name, _, value in (word.partition("=") for word in words)}
    left = dict(default)
    if own.keys() & {f"train.{limit}" for limit in LIMITS}:
        left = {name: value for name, value in left.items() if name not in LIMITS}
    optimizer = own.get("train.optimizer.kind", own.get("train.optimizer", "adamw"))
    if optimizer != left["optimizer"]["kind"]:
        del left["optimizer"]
    return left
