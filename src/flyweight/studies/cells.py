"""The cells of a study: every condition of its grid, each with the config of its runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flyweight.config import catalogue, load as config_load, schema, study as config
from flyweight.config.model_rules import packed_kinds
from flyweight.errors import RequestError
from flyweight.spec.adapters import adapter_faults
from flyweight.spec.linears import pattern_faults
from flyweight.studies.claims import written


@dataclass(frozen=True)
class StudyCell:
    """One condition of a study: a model on a text at a context for a budget.

    `config` is what each of its runs trains.
    """

    model: str
    fields: Mapping[str, str]
    data: str
    context: int
    budget: str
    config: schema.Pretrain

    @property
    def name(self) -> str:
        """What tells it from all other cells."""
        return f"{self.label}, {self.data}, context {self.context}, {self.budget}"

    @property
    def label(self) -> str:
        """The model with the fields of its grid."""
        return " ".join([self.model, *(f"{path}={value}" for path, value in self.fields.items())])

    def at(self, lr: float | None) -> schema.Pretrain:
        """Return the config of a run at a learning rate; None leaves it as it is."""
        if lr is None:
            return self.config
        train = self.config.train
        optimizer = train.optimizer.model_copy(update={"lr": lr})
        return self.config.model_copy(
            update={"train": train.model_copy(update={"optimizer": optimizer})}
        )


def cells(study: config.Study) -> tuple[list[StudyCell], list[str]]:
    """Return every cell, and what is wrong with those that cannot be made."""
    grid: list[StudyCell] = []
    faults: dict[str, list[str]] = {}
    repeated: list[str] = []
    protocol = study.protocols.get(study.protocol, config.Protocol())
    for name, model in study.models.items():
        try:
            base = _written_out(model)
        except RequestError as error:
            faults.setdefault(f"models.{name}.config: {error}", [])
            continue
        train = config_load.merge(config_load.merge(study.train, protocol.train), model.train)
        first = len(grid)
        for combination in config.combinations(model.grid):
            label = " ".join(
                [name, *(f"{path}={written(value)}" for path, value in combination.items())]
            )
            for place in _places(study, name):
                try:
                    grid.append(_cell(study, name, base, combination, train, place))
                except RequestError as error:
                    _note(faults, error, label)
        repeated += _repeated(f"models.{name}.grid", grid[first:])
    return grid, [*_told(faults), *repeated]


def _note(faults: dict[str, list[str]], error: RequestError, label: str) -> None:
    """Remember who has which faults."""
    for line in str(error).splitlines():
        who = faults.setdefault(line.strip(), [])
        who += [label] if label not in who else []


def _told(faults: Mapping[str, Sequence[str]]) -> list[str]:
    return [text if not who else f"{few(who)}: {text}" for text, who in faults.items()]


def _repeated(where: str, grid: Sequence[StudyCell]) -> list[str]:
    """Return the combinations of a grid that are the same model, or have the same name."""
    first_of: dict[tuple[str, ...], StudyCell] = {}
    repeats: dict[str, None] = {}
    for cell in grid:
        place = (cell.data, str(cell.context), cell.budget)
        for key in (
            ("name", cell.label, *place),
            ("config", cell.config.model_dump_json(), *place),
        ):
            other = first_of.setdefault(key, cell)
            if other is cell:
                continue
            same = other.label == cell.label
            text = (
                f"{cell.label} stands 2 times"
                if same
                else f"{other.label} and {cell.label} are the same model"
            )
            repeats[f"{where}: {text}; leave one of them out"] = None
            break
    return list(repeats)


def few(names: Sequence[str]) -> str:
    """Return the first of some names, and how many others there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")


def _written_out(model: config.StudyModel) -> dict[str, Any]:
    """Return a model's fields with its own laid over them.

    Vocabulary and context are the text's business.
    """
    if isinstance(model.config, dict):
        base = model.config
    elif Path(model.config).suffix in (".yaml", ".yml"):
        base = config_load.read_yaml(Path(model.config))
    else:
        base = catalogue.fields(model.config)
    return {
        key: value
        for key, value in config_load.merge(base, model.fields).items()
        if key not in ("vocab_size", "context")
    }


def _places(study: config.Study, model: str) -> Iterator[tuple[str, int, str, config.RunBudget]]:
    for text in study.texts_of(model):
        for context in study.contexts_of(model, text):
            for name, budget in study.budgets_of(model, text).items():
                yield text, context, name, budget


def _cell(
    study: config.Study,
    name: str,
    base: Mapping[str, object],
    combination: Mapping[str, object],
    train: Mapping[str, object],
    place: tuple[str, int, str, config.RunBudget],
) -> StudyCell:
    text, context, budget, limit = place
    raw: dict[str, Any] = {**config_load.merge({}, base), "context": context}
    for path, value in combination.items():
        config_load.put(raw, path.split("."), value, f"grid.{path}")
    data = study.data[text]
    fields = {
        key: getattr(data, key) for key in ("corpus", "column", "tokenizer", "validation", "test")
    }
    stage = {
        "stage": "pretrain",
        "model": raw,
        "data": schema.Data(**fields, context=context),
        "train": {**train, **limit.limit()},
    }
    try:
        training = schema.Pretrain.model_validate(stage)
    except ValidationError as error:
        lines = config_load.explain(error, "", schema.Pretrain).splitlines()
        raise RequestError("\n".join(line for line in lines[1:])) from error
    assert training.model is not None
    if kinds := packed_kinds(training.model):
        raise RequestError(
            f"model.linears: matrices stored as {' and '.join(kinds)} cannot be trained"
        )
    if faults := [*pattern_faults(training.model), *adapter_faults(training.model)]:
        raise RequestError("\n".join(f"model.{fault}" for fault in faults))
    return StudyCell(
        name,
        {path: written(value) for path, value in combination.items()},
        text,
        context,
        budget,
        training,
    )


def misfits(grid: Iterable[StudyCell], vocabularies: Mapping[str, int]) -> list[str]:
    """Return what is wrong with models given the vocabularies of their texts.

    A text without one is passed over.
    """
    faults: dict[str, list[str]] = {}
    checked: set[tuple[str, str, int]] = set()
    for cell in grid:
        key = (cell.label, cell.data, cell.context)
        if cell.data not in vocabularies or key in checked:
            continue
        checked.add(key)
        assert cell.config.model is not None
        try:
            config_load.resolved(cell.config.model, "model", vocabularies[cell.data], cell.context)
        except RequestError as error:
            lines = str(error).splitlines()
            messages = (
                RequestError("\n".join(f"model: {line.strip()}" for line in lines[1:]))
                if len(lines) > 1
                else error
            )
            _note(faults, messages, f"{cell.label} on {cell.data}")
    return _told(faults)


def texts(grid: Sequence[StudyCell]) -> dict[str, schema.Data]:
    """Return the texts of some cells by their names, each at its first context."""
    result: dict[str, schema.Data] = {}
    for cell in grid:
        result.setdefault(cell.data, cell.config.data)
    return result


def left_out(missing: Mapping[str, str]) -> list[str]:
    """Return what a summary says of the texts that are not there."""
    return [f"{name} is left out: {reason}" for name, reason in missing.items()]
