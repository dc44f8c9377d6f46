"""What a run takes beside training, row by row: packing, measuring, stages that do not train."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from flyweight.config import schema
from flyweight.data.document import SPLITS, Document, HeldOut
from flyweight.data.sources import resolve, with_tokenizer
from flyweight.errors import FlyweightError
from flyweight.planning import time
from flyweight.planning.stages import stage_of
from flyweight.planning.time import Speed, TextSize
from flyweight.store.stage import Outline, PlannedInputs

BYTES_PER_TOKEN = {"byte": 1.0, "char": 1.0, "word": 5.5, "file": 3.8}
BPE_BYTES_PER_TOKEN = {257: 1.0, 512: 1.9, 1024: 2.4, 2048: 2.9, 4096: 3.4, 16_384: 4.0}
"""Bytes of text or code that a token stands for, by the vocabulary of a byte-pair tokenizer."""


@dataclass(frozen=True)
class Row:
    """One line of a plan's time; `kind` says what part of a run it belongs to."""

    name: str
    seconds: float
    kind: Literal["packing", "training", "validating", "measuring", "other"]


@dataclass(frozen=True)
class Stage:
    """A stage that trains, as its surroundings see it: its resolved model and its text."""

    model: schema.Architecture
    data: schema.Data


def size_of(data: schema.Data, data_dir: Path | None) -> TextSize | None:
    """Return the size of a text on this machine, which is read once a process.

    None where it is elsewhere or unreadable.
    """
    sizes = _bytes_of(data.corpus, HeldOut(data.validation, data.test), data_dir, data.column)
    if sizes is None:
        return None
    tokenizer = data.tokenizer or with_tokenizer(data, data_dir).tokenizer
    assert tokenizer is not None
    each = bytes_per_token(tokenizer)
    return TextSize(sum(sizes), *(round(size / each) for size in sizes))


def bytes_per_token(tokenizer: schema.Tokenizer) -> float:
    """Return about how many bytes of text a token encodes."""
    if not isinstance(tokenizer, schema.BpeTokenizer):
        return BYTES_PER_TOKEN[tokenizer.kind]
    return max(each for vocab, each in BPE_BYTES_PER_TOKEN.items() if vocab <= tokenizer.vocab)


@lru_cache(maxsize=64)
def _bytes_of(
    corpus: str | tuple[str, ...], held_out: HeldOut, data_dir: Path | None, column: str | None
) -> tuple[int, ...] | None:
    try:
        source = resolve(corpus, data_dir, held_out, column)
        if source.about.origin.startswith("hf:"):
            return None  # reading it would fetch it
        return tuple(
            sum(
                len(part.text.encode())
                for part in source.documents(split)
                if isinstance(part, Document)
            )
            for split in SPLITS
        )
    except FlyweightError:
        return None  # packing says what is wrong with it


def beside_training(
    recipe: schema.Recipe,
    trained: Mapping[str, Stage],
    sizes: Mapping[str, TextSize],
    outlines: Mapping[str, Outline],
    speed: Speed,
) -> list[Row]:
    """Return the rows of a recipe's time other than its trainings and validations.

    `sizes` has its texts by `text_key`, `outlines` what its untrained stages will make.

    Evaluation computes in float32 whatever training does. A text without a size counts as nothing.
    """
    return [
        *_packing(trained.values(), sizes),
        *_untrained(recipe, outlines),
        *_measuring(recipe, trained, sizes, speed),
        *_floors(recipe, trained, sizes),
    ]


def text_key(data: schema.Data) -> str:
    """Return what a packed text depends on: its data config without the context."""
    return data.packed().model_dump_json()


def _packing(stages: Iterable[Stage], sizes: Mapping[str, TextSize]) -> Iterator[Row]:
    for key, data in {text_key(stage.data): stage.data for stage in stages}.items():
        if key in sizes and data.tokenizer is not None:
            yield Row(
                f"packing {data.corpus}",
                time.packing_seconds(sizes[key].bytes, data.tokenizer),
                "packing",
            )


def _untrained(recipe: schema.Recipe, outlines: Mapping[str, Outline]) -> Iterator[Row]:
    """Yield what stages take that do not train: one row for those that only copy and store."""
    stages = {name: recipe.stages[name] for name in outlines}
    models = {name: stage for name, stage in stages.items() if stage.measures is None}
    stored = [name for name in models if outlines[name].seconds is None]
    if stored:
        yield Row(", ".join(stored), sum(models[name].seconds for name in stored), "other")
    for name in models:
        if (seconds := outlines[name].seconds) is not None:
            yield Row(name, seconds, "other")
    for name, stage in stages.items():
        if stage.measures is not None:
            seconds = outlines[name].seconds
            yield Row(name, stage.seconds if seconds is None else seconds, "measuring")


def _measuring(
    recipe: schema.Recipe, trained: Mapping[str, Stage], sizes: Mapping[str, TextSize], speed: Speed
) -> Iterator[Row]:
    asked = {kind: list(_compared(recipe)) for kind in dict.fromkeys(recipe.report.measure)}
    for stage in recipe.stages.values():
        if stage.stage in time.MEASURES:
            asked.setdefault(stage.stage, []).append(getattr(stage, "input", ""))
    for kind, names in asked.items():
        seconds = sum(_one(kind, _root(recipe, name, trained), sizes, speed) for name in names)
        if names:
            yield Row(
                _counted(len(names), schema.STAGE_CONFIGS[kind].noun or kind), seconds, "measuring"
            )
    report = recipe.report
    if report.prompts:
        models = [
            stage.model for name in _compared(recipe) if (stage := _root(recipe, name, trained))
        ]
        seconds = sum(
            time.sampling_seconds(model, len(report.prompts), report.sample_tokens, speed)
            for model in models
        )
        yield Row(f"samples of {_counted(len(models), 'model')}", seconds, "measuring")


def _counted(number: int, noun: str) -> str:
    plural = "es" if noun.endswith("h") else "s"
    return f"{number} {noun}{'' if number == 1 else plural}"


def _one(kind: str, stage: Stage | None, sizes: Mapping[str, TextSize], speed: Speed) -> float:
    """Return the seconds of one measurement; of a model outside the recipe what any model takes."""
    if stage is None:
        return time.FIXED_SECONDS[kind]
    size = sizes.get(text_key(stage.data))
    return time.measuring_seconds(stage.model, size.test if size else 0, (kind,), speed)[kind]


def _floors(
    recipe: schema.Recipe, trained: Mapping[str, Stage], sizes: Mapping[str, TextSize]
) -> Iterator[Row]:
    if "evaluate" not in recipe.report.measure:
        return
    compared = [stage for name in _compared(recipe) if (stage := _root(recipe, name, trained))]
    for key, data in {text_key(stage.data): stage.data for stage in compared}.items():
        if key in sizes:
            yield Row(
                f"n-gram floors of {data.corpus}", time.floors_seconds(sizes[key]), "measuring"
            )


def _compared(recipe: schema.Recipe) -> Sequence[str]:
    return recipe.report.compare or [
        name for name, stage in recipe.stages.items() if stage.makes_model
    ]


def _root(recipe: schema.Recipe, name: str, trained: Mapping[str, Stage]) -> Stage | None:
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
    trained: Mapping[str, Stage],
    sizes: Mapping[str, TextSize],
) -> Outline:
    """Return what a stage that does not train will make, from what is planned before it."""
    stage = recipe.stages[name]
    source = _root(recipe, name, trained)
    size = sizes.get(text_key(source.data)) if source else None
    references = stage.dependencies()
    inputs = PlannedInputs(
        models={field: models[ref] for field, ref in references.items() if ref in models},
        train_tokens=size.train if size else None,
    )
    return stage_of(stage.stage).plan(stage, inputs)
