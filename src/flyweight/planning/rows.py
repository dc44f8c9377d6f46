"""What a run takes beside training, row by row: packing, measuring, stages that do not train."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from flyweight.config import schema
from flyweight.planning import time
from flyweight.planning.stages import stage_of
from flyweight.planning.text_size import TextSize, bytes_per_token
from flyweight.planning.time import MachineSpeed
from flyweight.store.stage import Outline, PlannedInputs

LISTED = 4
"""Stages that a row or a remark names where it is for many."""


@dataclass(frozen=True)
class TimeRow:
    """One line of a plan's time; `kind` says what part of a run it belongs to."""

    name: str
    seconds: float
    kind: Literal["packing", "training", "validating", "measuring", "other"]


@dataclass(frozen=True)
class TrainedStage:
    """A stage that trains, as the rest of a recipe sees it: its resolved model and its text."""

    model: schema.Architecture
    data: schema.Data


def beside_training(
    recipe: schema.Recipe,
    trained: Mapping[str, TrainedStage],
    sizes: Mapping[str, TextSize],
    outlines: Mapping[str, Outline],
    speed: MachineSpeed,
) -> list[TimeRow]:
    """Return the rows of a recipe's time other than its trainings and validations.

    `sizes` has its texts by `text_key`, `outlines` what its untrained stages will make. `speed` is
    that of float32, in which evaluation computes whatever training does. A text without a size
    counts as nothing.
    """
    return [
        *_packing(trained.values(), sizes, speed),
        *_untrained(recipe, outlines, speed),
        *_measuring(recipe, trained, sizes, outlines, speed),
        *_floors(recipe, trained, sizes, speed),
        TimeRow("report", speed.slowed(time.REPORT_SECONDS), "other"),
    ]


def text_key(data: schema.Data) -> str:
    """Return what a packed text depends on: its data config without the context."""
    return data.packed().model_dump_json()


def _shown(data: schema.Data) -> str:
    """Return the names of the corpus, of files without their folders."""
    if data.stream is not None:
        return f"the head of {data.label}"
    corpora = (data.corpus,) if isinstance(data.corpus, str) else data.corpus or ()
    return ", ".join(PurePath(corpus).name for corpus in corpora)


def _packing(
    stages: Iterable[TrainedStage], sizes: Mapping[str, TextSize], speed: MachineSpeed
) -> Iterator[TimeRow]:
    for key, data in {text_key(stage.data): stage.data for stage in stages}.items():
        if key in sizes and data.tokenizer is not None:
            yield TimeRow(
                f"packing {_shown(data)}",
                time.packing_seconds(sizes[key].whole, data.tokenizer, speed),
                "packing",
            )


def _untrained(
    recipe: schema.Recipe, outlines: Mapping[str, Outline], speed: MachineSpeed
) -> Iterator[TimeRow]:
    """Yield what stages take that do not train: one row for those that only copy and store."""
    stages = {name: recipe.stages[name] for name in outlines}
    models = {name: stage for name, stage in stages.items() if stage.measures is None}
    timed = [name for name in models if outlines[name].seconds is not None or outlines[name].work]
    stored = [name for name in models if name not in timed]
    if stored:
        seconds = sum(models[name].seconds for name in stored)
        yield TimeRow(listed(stored), speed.slowed(seconds), "other")
    for name in timed:
        yield TimeRow(name, _seconds(stages[name], outlines[name], speed), "other")
    for name, stage in stages.items():
        if stage.measures is not None:
            yield TimeRow(name, _seconds(stage, outlines[name], speed), "measuring")


def listed(names: Sequence[str]) -> str:
    """Return the names of stages, of many the first: so a row leaves room for its numbers."""
    if len(names) <= LISTED:
        return ", ".join(names)
    first = ", ".join(names[: LISTED - 1])
    return f"{first} and {len(names) - LISTED + 1} more"


def _seconds(stage: schema.StageConfig, outline: Outline, speed: MachineSpeed) -> float:
    """Return what a stage takes that does not train."""
    seconds = stage.seconds if outline.seconds is None else outline.seconds
    products = sum(time.work_seconds(work, speed) for work in outline.work)
    return speed.slowed(seconds) + products


def _measuring(
    recipe: schema.Recipe,
    trained: Mapping[str, TrainedStage],
    sizes: Mapping[str, TextSize],
    outlines: Mapping[str, Outline],
    speed: MachineSpeed,
) -> Iterator[TimeRow]:
    asked = {kind: list(compared(recipe)) for kind in dict.fromkeys(recipe.report.measure)}
    for stage in recipe.stages.values():
        if stage.stage in time.MEASURES:
            asked.setdefault(stage.stage, []).append(getattr(stage, "input", ""))
    for kind, names in asked.items():
        seconds = 0.0
        for name in names:
            source = _root(recipe, name, trained)
            seconds += _one(kind, source, sizes, _mixed(outlines.get(name)), speed)
        if names:
            noun = schema.STAGE_CONFIGS[kind].noun or kind
            yield TimeRow(_counted(len(names), noun), seconds, "measuring")
    report = recipe.report
    models = [stage.model for name in compared(recipe) if (stage := _root(recipe, name, trained))]
    for task in report.scored():
        rows = task.limit or time.TASK_ROWS
        tokens = task.new_tokens or time.TASK_TOKENS
        seconds = sum(time.sampling_seconds(model, rows, tokens, speed) for model in models)
        yield TimeRow(f"{task.task} by {_counted(len(models), 'model')}", seconds, "measuring")
    if report.lm_eval is not None:
        seconds = speed.slowed(schema.LmEval.seconds) * len(models) * len(report.lm_eval.tasks)
        yield TimeRow(f"lm-eval by {_counted(len(models), 'model')}", seconds, "measuring")
    if report.prompts:
        seconds = sum(
            time.sampling_seconds(model, len(report.prompts), report.sample_tokens, speed)
            for model in models
        )
        yield TimeRow(f"samples of {_counted(len(models), 'model')}", seconds, "measuring")


def _counted(number: int, noun: str) -> str:
    plural = "es" if noun.endswith("h") else "s"
    return f"{number} {noun}{'' if number == 1 else plural}"


def _mixed(outline: Outline | None) -> bool:
    """Return whether a stage's model scores with counts or a pointer."""
    model = None if outline is None else outline.model
    return isinstance(model, schema.ModelConfig) and model.mixture is not None


def _one(
    kind: str,
    source: TrainedStage | None,
    sizes: Mapping[str, TextSize],
    mixed: bool,
    speed: MachineSpeed,
) -> float:
    """Return the seconds of one measurement; of a model outside the recipe what any model takes."""
    if source is None:
        return speed.slowed(schema.STAGE_CONFIGS[kind].seconds)
    return time.measuring_seconds(
        source.model, _tokens(source.data, sizes)[1], speed, (kind,), mixed
    )[kind]


def _tokens(data: schema.Data, sizes: Mapping[str, TextSize]) -> tuple[float, float]:
    """Return the tokens of a text's training and test splits; none of a text without a size."""
    size = sizes.get(text_key(data))
    if size is None or data.tokenizer is None:
        return 0.0, 0.0
    return size.tokens("train", data.tokenizer), size.tokens("test", data.tokenizer)


def _tokens_by_split(data: schema.Data, sizes: Mapping[str, TextSize]) -> dict[str, int]:
    """Return the tokens of a text's splits; nothing of a text without a size."""
    size = sizes.get(text_key(data))
    if size is None or data.tokenizer is None:
        return {}
    return {split: round(size.tokens(split, data.tokenizer)) for split in ("train", "validation")}


def _own_tokens(
    recipe: schema.Recipe, stage: schema.StageConfig, trained: Mapping[str, TrainedStage]
) -> dict[str, float]:
    """Return how many tokens inputs with their own tokenizers read for one of the stage's text."""
    data, found = getattr(stage, "data", None), dict[str, float]()
    if not isinstance(data, schema.Data) or data.tokenizer is None:
        return found
    for field in stage.own_texts():
        source = _root(recipe, stage.dependencies()[field], trained)
        if source is not None and source.data.tokenizer is not None:
            found[field] = bytes_per_token(data.tokenizer) / bytes_per_token(source.data.tokenizer)
    return found


def _floors(
    recipe: schema.Recipe,
    trained: Mapping[str, TrainedStage],
    sizes: Mapping[str, TextSize],
    speed: MachineSpeed,
) -> Iterator[TimeRow]:
    if "evaluate" not in recipe.report.measure:
        return
    models = [stage for name in compared(recipe) if (stage := _root(recipe, name, trained))]
    for key, data in {text_key(stage.data): stage.data for stage in models}.items():
        if key in sizes:
            seconds = time.floors_seconds(*_tokens(data, sizes), speed)
            yield TimeRow(f"n-gram floors of {_shown(data)}", seconds, "measuring")


def compared(recipe: schema.Recipe) -> Sequence[str]:
    """Return the names of the models that a recipe compares."""
    return recipe.report.compare or [
        name for name, stage in recipe.stages.items() if stage.makes_model
    ]


def _root(
    recipe: schema.Recipe, name: str, trained: Mapping[str, TrainedStage]
) -> TrainedStage | None:
    """Return the trained stage that a stage's model comes from.

    None where that is outside the recipe.
    """
    return trained.get(root(recipe, name, trained))


def root(recipe: schema.Recipe, name: str, trained: Collection[str]) -> str:
    """Return the name among `trained` that a stage's model comes from, if the recipe tells."""
    seen: set[str] = set()
    while name not in trained and name in recipe.stages and name not in seen:
        seen.add(name)
        references = recipe.stages[name].dependencies()
        name = references.get("input") or next(iter(references.values()), "")
    return name


def outline(
    recipe: schema.Recipe,
    name: str,
    models: Mapping[str, schema.Architecture],
    trained: Mapping[str, TrainedStage],
    sizes: Mapping[str, TextSize],
) -> Outline:
    """Return what a stage that does not train will make, from what is planned before it."""
    stage = recipe.stages[name]
    source = _root(recipe, name, trained)
    tokens = {} if source is None else _tokens_by_split(source.data, sizes)
    references = stage.dependencies()
    inputs = PlannedInputs(
        models={field: models[ref] for field, ref in references.items() if ref in models},
        own_tokens=_own_tokens(recipe, stage, trained),
        train_tokens=tokens.get("train"),
        validation_tokens=tokens.get("validation"),
    )
    return stage_of(stage.stage).plan(stage, inputs)
