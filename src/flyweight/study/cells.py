"""From a study's file to its cells: what there is to run, what is wrong with it, and what it will need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flyweight.config import load as config_load, schema, study as config
from flyweight.core.runtime import Runtime
from flyweight.data.sources import with_tokenizer
from flyweight.errors import RequestError
from flyweight.model import catalogue
from flyweight.plan.grid import GridPlan, grid
from flyweight.report.study_findings import select, written

LARGEST = 20_000
"""Cells that are looked at one by one; a larger grid is refused by its size alone."""


@dataclass(frozen=True)
class Cell:
    """One condition of a study: a model on a text at a context for a budget; `config` is what each of its runs trains."""

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
        return self.config.model_copy(update={"train": train.model_copy(update={"optimizer": optimizer})})


# --- from a file to cells ---


def shipped() -> list[str]:
    """Return the names of the studies that come with the package."""
    folder = resources.files("flyweight") / "studies"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def is_study(target: str) -> bool:
    """Return whether a word names a shipped study or the file of one."""
    if target in shipped():
        return True
    if Path(target).suffix not in (".yaml", ".yml") or not Path(target).is_file():
        return False
    raw = config_load.read_yaml(Path(target))
    return "models" in raw and "stages" not in raw


def load(name: str | Path, *overrides: str, yes: bool = False) -> config.Study:
    """Return a checked study: a shipped name or a YAML file, with `path=value` words applied.

    Raises RequestError with every fault, a grid over its limit of runs among them unless `yes`.
    """
    text = str(name)
    if text in shipped():
        source = (resources.files("flyweight") / "studies" / f"{text}.yaml").read_text(encoding="utf-8")
        raw = config_load.parse_yaml(source, text)
    elif Path(name).exists() or Path(name).suffix in (".yaml", ".yml"):
        raw = config_load.read_yaml(Path(name))
    else:
        raise RequestError(f"there is no study {text!r}{config_load.nearest(text, shipped())}; or name a YAML file")
    return checked(config.parse(config_load.override(raw, overrides), text), text, yes)


def checked(study: config.Study, where: str, yes: bool = False) -> config.Study:
    """Return the study; raise RequestError with every contradiction in it and in the models of its grid."""
    faults, count = config.faults(study), config.run_count(study)
    if config.cell_count(study) <= LARGEST:
        made, wrong = cells(study)
        faults += wrong + (_unmatched(study, made) if not (wrong or study.only) else [])
    if count > study.limit.runs and not yes:
        faults.append(
            f"limit.runs: {study.limit.runs:,}, but this grid has {count:,} runs; start it with --yes, raise limit.runs, or"
            " leave some of it out"
        )
    if faults:
        raise RequestError("\n".join([f"{where}:", *(f"  {fault}" for fault in faults)]))
    return study


def cells(study: config.Study) -> tuple[list[Cell], list[str]]:
    """Return every cell, and what is wrong with those that cannot be made."""
    made: list[Cell] = []
    faults: dict[str, list[str]] = {}
    protocol = study.protocols.get(study.protocol, config.Protocol())
    for name, model in study.models.items():
        try:
            base = _written_out(model)
        except RequestError as error:
            faults.setdefault(f"models.{name}.config: {error}", [])
            continue
        train = config_load.merge(config_load.merge(study.train, protocol.train), model.train)
        for combination in config.combinations(model.grid):
            label = " ".join([name, *(f"{path}={written(value)}" for path, value in combination.items())])
            for place in _places(study, name):
                try:
                    made.append(_cell(study, name, base, combination, train, place))
                except RequestError as error:
                    for line in str(error).splitlines():
                        who = faults.setdefault(line.strip(), [])
                        who += [label] if label not in who else []
    return made, [text if not who else f"{_few(who)}: {text}" for text, who in faults.items()]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")


def _written_out(model: config.StudyModel) -> dict[str, Any]:
    """Return a model's fields with its own laid over them; vocabulary and context are the text's business."""
    if isinstance(model.config, dict):
        base = model.config
    elif Path(model.config).suffix in (".yaml", ".yml"):
        base = config_load.read_yaml(Path(model.config))
    else:
        base = catalogue.fields(model.config)
    return {key: value for key, value in config_load.merge(base, model.fields).items() if key not in ("vocab_size", "context")}


def _places(study: config.Study, model: str) -> Iterator[tuple[str, int, str, config.RunBudget]]:
    for text in study.texts_of(model):
        for context in study.contexts_of(model, text):
            for name, budget in study.budgets_of(model, text).items():
                yield text, context, name, budget


def _cell(
    study: config.Study,
    name: str,
    base: Mapping[str, Any],
    combination: Mapping[str, Any],
    train: Mapping[str, Any],
    place: tuple[str, int, str, config.RunBudget],
) -> Cell:
    text, context, budget, limit = place
    raw: dict[str, Any] = {**config_load.merge({}, base), "context": context}
    for path, value in combination.items():
        config_load.put(raw, path.split("."), value, f"grid.{path}")
    data = study.data[text]
    fields = {key: getattr(data, key) for key in ("corpus", "tokenizer", "validation", "test")}
    stage = {
        "stage": "pretrain",
        "model": raw,
        "data": schema.Data(**fields, context=context),
        "train": {**train, **limit.limit()},
    }
    try:
        made = schema.Pretrain.model_validate(stage)
    except ValidationError as error:
        lines = config_load.explain(error, "", schema.Pretrain).splitlines()
        raise RequestError("\n".join(line for line in lines[1:])) from error
    return Cell(name, {path: written(value) for path, value in combination.items()}, text, context, budget, made)


def _unmatched(study: config.Study, made: Sequence[Cell]) -> list[str]:
    """Return the groups of findings that no cell belongs to."""
    return [
        f"findings.{place}.{side}: no cell of this study belongs to it"
        for place, finding in enumerate(study.findings)
        for side in ("below", "above")
        if not select(getattr(finding, side), made)
    ]


# --- before it runs ---


def plan(study: config.Study, runtime: Runtime, vocabularies: Mapping[str, int], data_dir: Path | None) -> GridPlan:
    """Return what the study will need; nothing is trained or allocated."""
    made, missing = cells(study)[0], {}
    for name, data in texts(made).items():
        if study.data[name].optional and (why := _unresolved(data, data_dir)):
            missing[name] = why
    runs = len(study.seeds) + len(study.rates()) - 1
    kept = [(cell.name, runs, cell.config) for cell in made if cell.data not in missing]
    return grid(study.name, kept, study.limit.time, runtime, vocabularies, data_dir, left_out(missing))


def texts(made: Sequence[Cell]) -> dict[str, schema.Data]:
    """Return the texts of some cells by their names in the study, each at the first context it is used with."""
    found: dict[str, schema.Data] = {}
    for cell in made:
        found.setdefault(cell.data, cell.config.data)
    return found


def _unresolved(data: schema.Data, data_dir: Path | None) -> str:
    try:
        with_tokenizer(data, data_dir)
    except RequestError as error:
        return str(error)
    return ""


def left_out(missing: Mapping[str, str]) -> list[str]:
    """Return what a summary says of the texts that are not there."""
    return [f"{name} is left out: {why}" for name, why in missing.items()]
