"""Run lm-eval's tasks on any model here, through transformers' interface of the model."""

from __future__ import annotations

import importlib.metadata
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

from flyweight.checkpoints import load_any
from flyweight.checkpoints.foreign_model import Foreign, ForeignConfig
from flyweight.checkpoints.task_files import task_files
from flyweight.config.decoder import ModelConfig
from flyweight.core.files import digest, user_path
from flyweight.errors import FlyweightError, RequestError
from flyweight.model.decoder import Decoder
from flyweight.spec.chunks import WINDOW


@dataclass(frozen=True)
class RawMetric:
    """What lm-eval says of a metric, and each question's part of it.

    A part is a number or a pair (sum, weight); without parts there are none for some question.
    """

    name: str
    value: float | None
    stderr: float | None
    n: int | None
    better: Literal["lower", "higher"] | None
    parts: tuple[object, ...] = ()


@dataclass(frozen=True)
class RawTask:
    """What lm-eval says of a task or a group.

    `questions` are digests of the questions in their order, `members` the names of a group's tasks.
    """

    name: str
    version: str
    few_shot: int | None
    questions: tuple[str, ...]
    metrics: dict[str, RawMetric]
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskRequest:
    """What is asked of lm-eval: tasks or groups, a folder of one's own, examples, questions."""

    tasks: tuple[str, ...]
    task_path: Path | None = None
    few_shot: int | None = None
    limit: int | None = None
    batch: int = 8
    seed: int = 0

    @classmethod
    def of(
        cls,
        tasks: Sequence[str],
        task_path: str | Path | None = None,
        few_shot: int | None = None,
        limit: int | None = None,
        batch: int = 8,
        seed: int = 0,
    ) -> TaskRequest:
        """Return a request; `~` in the folder's path stands for a home folder."""
        folder = None if task_path is None else user_path(str(task_path))
        return cls(tuple(tasks), folder, few_shot, limit, batch, seed)


# --- models ---


def transformers_model(folder: Path, device: str) -> Any:
    """Return the model in an artifact's `model/` folder as a transformers model."""
    model = load_any.load(folder, device)
    if isinstance(model, Foreign):
        return model.model
    if not isinstance(model, Decoder):
        raise RequestError(
            f"--tasks: lm-eval reads decoders; {folder} is a baseline (kind: {model.config.kind})"
        )
    import torch

    from flyweight.checkpoints.auto import FlyweightForCausalLM
    from flyweight.checkpoints.auto_config import FlyweightConfig

    with torch.device("meta"):
        wrapped = FlyweightForCausalLM(FlyweightConfig.of(model.config, dtype=model.dtype))
    wrapped.decoder.load_state_dict(model.state_dict(), assign=True)
    # Packed layers have no tensor of the float type that they unpack into.
    wrapped.decoder.to(model.dtype)
    return wrapped.eval()


def transformers_tokenizer(folder: Path, context: int | None) -> Any:
    """Return the tokenizer in an artifact's `model/` folder as a transformers tokenizer.

    Compares the two. Raises RequestError for one with regular expressions that may never end:
    nothing would stop them in lm-eval.
    """
    from transformers import PreTrainedTokenizerFast

    from flyweight.checkpoints import tokenizer_files
    from flyweight.data import patterns, special
    from flyweight.data.tokenizer import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise RequestError(f"{folder} has no tokenizer.json: it cannot read text")
    ours = Tokenizer.load(file)
    if patterns.foreign(ours.text):
        raise RequestError(
            f"--tasks: the tokenizer in {folder} splits text by a regular expression that may take "
            "for ever, and nothing would stop it in lm-eval; measure this model with --data"
        )
    words = {**ours.words, "pad": ours.words["pad"] or ours.words["eos"]}
    fields = special.config(words, ours.adds, context or 2**31)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(file), **fields)
    tokenizer_files.compare(ours, theirs, folder, named=())  # their names are given here
    return theirs


def ending_tokenizer(folder: Path, context: int | None) -> Any:
    """Return the tokenizer of a folder as a transformers tokenizer that can end a text.

    Raises RequestError for one without an end-of-text token.
    """
    tokenizer = transformers_tokenizer(folder, context)
    if not tokenizer.eos_token:
        raise RequestError(
            f"--tasks: the tokenizer in {folder} has no end-of-text token, which lm-eval starts "
            "texts with; tokenizers that flyweight trains have one"
        )
    return tokenizer


def check_model(folder: Path) -> None:
    """Raise RequestError where lm-eval cannot ask the model in a folder; no weights are read."""
    config = load_any.config(folder)
    if not isinstance(config, ModelConfig | ForeignConfig) or _mixes(config):
        raise RequestError(f"--tasks: lm-eval reads decoders; {folder} is none")
    ending_tokenizer(folder, config.context)


def _mixes(config: ModelConfig | ForeignConfig) -> bool:
    return isinstance(config, ModelConfig) and config.mixture is not None


# --- tasks ---


def version() -> str:
    """Return the version of lm-eval; raise RequestError where it is not installed."""
    try:
        return importlib.metadata.version("lm-eval")
    except importlib.metadata.PackageNotFoundError as error:
        raise RequestError(
            "--tasks needs the lm-eval harness: pip install 'flyweight[tasks]'"
        ) from error


def fingerprint(task_path: str | Path | None) -> str:
    """Return the checksum of lm-eval's version and of one's own task files and their data.

    Raises RequestError where the folder does not exist or lm-eval is not installed.
    """
    folder = None if task_path is None else user_path(str(task_path))
    if folder is not None and not folder.is_dir():
        raise RequestError(f"--task-path {folder}: the folder does not exist")
    return digest([version(), [] if folder is None else task_files(folder)])


@lru_cache(maxsize=4)
def _manager(tasks: tuple[str, ...], folder: Path | None, files: str) -> Any:
    """Return lm-eval's index of tasks; `files` is the fingerprint of the folder.

    lm-eval takes seconds to read all of its own files, which tasks of one's own do without.
    Raises RequestError for tasks that it does not know.
    """
    del files
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise RequestError(
            "--tasks needs the lm-eval harness: pip install 'flyweight[tasks]'"
        ) from error
    if folder is not None:
        own = TaskManager(include_path=str(folder), include_defaults=False)
        if set(tasks) <= set(own.all_tasks) - set(own.all_groups):
            return own
    manager = TaskManager(include_path=None if folder is None else str(folder))
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown or not tasks:
        what = ", ".join(unknown) or "empty list"
        raise RequestError(
            f"--tasks: lm-eval knows no {what}; see `lm-eval ls tasks`, or name a folder with "
            "--task-path (task_path in a recipe)"
        )
    return manager


def check(request: TaskRequest) -> None:
    """Raise RequestError where lm-eval cannot ask these tasks, without any model.

    The tasks' files and questions are read, and the first question of each is written out.
    """
    manager = _manager(request.tasks, request.task_path, fingerprint(request.task_path))
    try:
        loaded = manager.load(list(request.tasks))
        for name, task in cast("dict[str, Any]", loaded["tasks"]).items():
            if getattr(task, "UNSAFE_CODE", False):
                raise RequestError(
                    f"--tasks: {name} runs code that the model writes, which nothing here would "
                    "hold back; measure another task"
                )
            given = task.get_config("num_fewshot")
            if request.few_shot is not None and given != 0:
                task.set_config(key="num_fewshot", value=request.few_shot)
            elif given is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=request.seed)
            task.build_all_requests(limit=1, rank=0, world_size=1)
    except RequestError:
        raise
    except Exception as error:  # task files are programs of their own, and raise anything
        raise RequestError(
            f"--tasks: lm-eval cannot read {', '.join(request.tasks)} "
            f"({type(error).__name__}: {str(error)[:300]}); mend the task's files, or see that the "
            "hub with its questions can be reached"
        ) from error


def run(folder: Path, request: TaskRequest, device: str) -> tuple[RawTask, ...]:
    """Return what lm-eval measures of the model in an artifact's `model/` folder.

    Raises RequestError for tasks that lm-eval does not know, and for models that it cannot ask.
    """
    manager = _manager(request.tasks, request.task_path, fingerprint(request.task_path))
    import lm_eval
    from lm_eval.models import huggingface

    context = load_any.config(folder).context
    tokenizer = ending_tokenizer(folder, context)
    library: Any = lm_eval  # its decorators hide what these two take
    wrapper: Any = huggingface.HFLM
    harness = wrapper(
        pretrained=transformers_model(folder, device),
        tokenizer=tokenizer,
        max_length=context or WINDOW,
        batch_size=request.batch,
        device=device,
    )
    seed = request.seed
    try:
        outcome = library.simple_evaluate(
            model=harness,
            tasks=list(request.tasks),
            num_fewshot=request.few_shot,
            limit=request.limit,
            task_manager=manager,
            log_samples=True,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise FlyweightError(
            f"--tasks: lm-eval failed ({type(error).__name__}: {str(error)[:300]})"
        ) from error
    assert outcome is not None
    return tuple(_task(name, outcome) for name in outcome["results"])


# --- what lm-eval answers ---


def _task(name: str, outcome: Mapping[str, Any]) -> RawTask:
    """Return one task or group of lm-eval's answer."""
    members = _members(name, outcome.get("group_subtasks", {}))
    samples = outcome["samples"]
    own = _Samples(samples.get(name, ()))
    directions = outcome["higher_is_better"].get(name, {})
    counts = outcome["n-samples"].get(name, {})
    found = metrics(outcome["results"][name], directions, counts.get("effective"), own)
    few_shot = outcome["n-shot"].get(name)
    return RawTask(
        name=name,
        version=str(outcome["versions"].get(name)),
        few_shot=few_shot if isinstance(few_shot, int) and not members else None,
        questions=own.hashes,
        metrics=found,
        members=members,
    )


def _members(name: str, groups: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the names of the tasks of a group, those of groups in it too; () for a task."""
    found: list[str] = []
    for child in groups.get(name, ()):
        found += _members(child, groups) or (child,)
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class _Samples:
    """lm-eval's log of a task's questions: one entry for each question and filter of answers."""

    entries: Sequence[Mapping[str, Any]] = field(default=())

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        """Return the entries of one filter in the order of the questions."""
        own = [entry for entry in self.entries if entry.get("filter", kind) == kind]
        return sorted(own, key=lambda entry: entry["doc_id"])

    @property
    def hashes(self) -> tuple[str, ...]:
        """A digest of every question, in their order."""
        places = {entry["doc_id"]: str(entry.get("doc_hash")) for entry in self.entries}
        return tuple(places[place] for place in sorted(places))

    def parts(self, name: str, kind: str) -> tuple[object, ...]:
        """Return each question's part of a metric; () where a question has none."""
        entries = self.of(kind)
        return tuple(entry[name] for entry in entries if name in entry) if entries else ()


def metrics(
    result: Mapping[str, Any],
    directions: Mapping[str, bool | None],
    questions: int | None,
    samples: _Samples | None = None,
) -> dict[str, RawMetric]:
    """Return the metrics of one task's result, by name.

    lm-eval writes `metric,filter` and `metric_stderr,filter`. A metric that several filters give,
    such as strict and flexible answers of one task, keeps its filter in its name.
    """
    parts = {
        key: key.partition(",")
        for key, value in result.items()
        if isinstance(value, int | float) and "," in key
    }
    parts = {key: part for key, part in parts.items() if not part[0].endswith("_stderr")}
    names = Counter(name for name, _, _ in parts.values())
    found: dict[str, RawMetric] = {}
    for key, (name, _, kind) in parts.items():
        value, error = float(result[key]), result.get(f"{name}_stderr,{kind}")
        stderr = None
        if isinstance(error, int | float) and math.isfinite(error):
            stderr = float(error)
        counted = result.get("sample_count", {}).get(key, questions)
        each = () if samples is None else samples.parts(name, kind)
        found[name if names[name] == 1 else key] = RawMetric(
            name=name,
            value=value if math.isfinite(value) else None,
            stderr=stderr,
            n=counted,
            better=_direction(directions.get(name)),
            parts=each if questions is None or len(each) == questions else (),
        )
    return found


def _direction(higher: bool | None) -> Literal["lower", "higher"] | None:
    if higher is None:
        return None
    return "higher" if higher else "lower"
