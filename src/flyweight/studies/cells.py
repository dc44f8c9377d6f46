"""From a study's file to its cells: what to run, what is wrong, and what it will need."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flyweight.config import catalogue, load as config_load, schema, study as config, study_rules
from flyweight.config.model_rules import packed_kinds
from flyweight.config.tuning_study import is_tuning_study
from flyweight.data.sources import with_tokenizer
from flyweight.errors import RequestError
from flyweight.planning.grid import GridPlan, grid
from flyweight.planning.time import Machine
from flyweight.planning.vocabulary import requested, vocabulary_key
from flyweight.records.study_summary import LEAST_SEEDS
from flyweight.spec.adapters import adapter_faults
from flyweight.spec.linears import linear_names, pattern_faults
from flyweight.studies.claims import budget_curves, conditions, select, written

LARGEST = 20_000
"""Cells that a study may have: as many are looked at one by one before anything runs."""


OverLimit = Callable[[config.Study], Sequence[str]]
"""Returns the limits that a study is over once it is planned."""


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


# --- from a file to cells ---


def shipped() -> list[str]:
    """Return the names of the studies that come with the package."""
    folder = resources.files("flyweight") / "assets" / "studies"
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def is_study(target: str) -> bool:
    """Return whether a word names a shipped study or the file of one."""
    if target in shipped():
        return True
    if Path(target).suffix not in (".yaml", ".yml") or not Path(target).is_file():
        return False
    raw = config_load.read_yaml(Path(target))
    return ("models" in raw and "stages" not in raw) or is_tuning_study(raw)


def load(
    study: str | Path | Mapping[str, object],
    *overrides: str,
    yes: bool = False,
    over: OverLimit | None = None,
) -> config.Study:
    """Return a checked study, with `path=value` words applied.

    `study` is a shipped name, a YAML file, or a mapping with the fields of one. Raises RequestError
    with every fault, a grid over its limit of runs among them unless `yes`, and then what `over`
    says too.
    """
    text, raw = read_raw(study)
    if "stages" in raw and "models" not in raw:
        raise RequestError(f"{text} is a recipe, not a study: flyweight run {text}")
    raw = config_load.override(config.longhand(raw), overrides)
    try:
        parsed = config.parse(raw, text)
    except RequestError as error:
        faults = [str(error), *(f"  {fault}" for fault in _others(raw, yes))]
        raise RequestError("\n".join(faults)) from error
    return checked(parsed, text, yes, over)


def read_raw(study: str | Path | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return what messages call a study, and its raw fields.

    Raises RequestError where there is none of that name.
    """
    if isinstance(study, Mapping):
        return str(study.get("name", "the study")), copy.deepcopy(dict(study))
    return str(study), _read(study)


def _read(study: str | Path) -> dict[str, Any]:
    """Return the raw study of a name or file; raise RequestError where there is none."""
    name, assets = str(study), resources.files("flyweight") / "assets"
    if name in shipped():
        source = (assets / "studies" / f"{name}.yaml").read_text(encoding="utf-8")
        return config_load.parse_yaml(source, name)
    if Path(study).exists() or Path(study).suffix in (".yaml", ".yml"):
        return config_load.read_yaml(Path(study))
    if (assets / "recipes" / f"{name}.yaml").is_file():
        raise RequestError(f"{name} is a recipe, not a study: flyweight run {name}")
    near = config_load.nearest(name, shipped())
    raise RequestError(f"there is no study {name!r}{near}; or name a YAML file")


def checked(
    study: config.Study, where: str, yes: bool = False, over: OverLimit | None = None
) -> config.Study:
    """Return the study; raise RequestError with every contradiction in it and in its models."""
    faults, large = _faults(study), [] if yes else _too_large(study)
    if large and over and not faults:
        try:
            large += over(study)
        except RequestError as error:
            large += str(error).splitlines()
    if faults or large:
        raise RequestError("\n".join([f"{where}:", *(f"  {fault}" for fault in (*faults, *large))]))
    return study


def _faults(study: config.Study) -> list[str]:
    faults = study_rules.faults(study)
    if (count := config.cell_count(study)) > LARGEST:
        return [
            *faults,
            f"models: {count:,} cells are more than the {LARGEST:,} that one study may have; "
            f"make several of it",
        ]
    grid, wrong = cells(study)
    faults += wrong + _unvalidated_sweep(study, grid) + _rate_of_nothing(study, grid)
    # A group may be empty, or small, only because what belongs to it is at fault itself.
    return faults or ([] if study.only else _unmatched(study, grid)) or _untested(study, grid)


def _others(raw: Mapping[str, object], yes: bool) -> list[str]:
    """Return what else is wrong with a study whose fields are at fault, without consequences."""
    study, gone = config.readable(raw)
    if study is None:
        return []
    faults = [*_faults(study), *([] if yes else _too_large(study))]
    # Without some of its models, a grid may leave a claim without cells.
    holes = ["findings"] if any(field.startswith("models.") for field in gone) else []
    inside = tuple(f"{place}." for place in (*gone, *holes))
    holders = {place.rpartition(".")[0] for place in gone if "budgets" in place.split(".")}
    where = [fault.partition(": ")[0] for fault in faults]
    return [
        fault
        for fault, place in zip(faults, where, strict=True)
        if place not in gone and place not in holders and not place.startswith(inside)
    ]


def _too_large(study: config.Study) -> list[str]:
    count = config.run_count(study)
    if count <= study.limit.runs:
        return []
    return [
        f"limit.runs: {study.limit.runs:,}, but this grid has {count:,} runs; start it with "
        f"--yes, raise limit.runs, or"
        " leave some of it out"
    ]


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
    return [text if not who else f"{_few(who)}: {text}" for text, who in faults.items()]


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


def _few(names: Sequence[str]) -> str:
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


def _unmatched(study: config.Study, grid: Sequence[StudyCell]) -> list[str]:
    """Return the groups of findings that no cell belongs to."""
    return [
        f"findings.{place}.{side}: no cell of this study belongs to it"
        for place, finding in enumerate(study.findings)
        for side in ("below", "above")
        if not select(getattr(finding, side), grid)
    ]


def _untested(study: config.Study, grid: Sequence[StudyCell]) -> list[str]:
    """Return the findings that nothing could test, and those whose models nothing could choose."""
    result = []
    for place, finding in enumerate(study.findings):
        where = f"findings.{place}"
        compared = [
            (below, above) for _, below, above in conditions(finding, grid) if below and above
        ]
        if (
            not (compared or study.only)
            and select(finding.below, grid)
            and select(finding.above, grid)
        ):
            result.append(
                f"{where}: no cell of below can be compared with one of above: they have no "
                f"text, context, budget or field in"
                " common that neither side names; name both sides' own"
            )
        for side, members in (
            ("below", [below for below, _ in compared]),
            ("above", [above for _, above in compared]),
        ):
            several = [group for group in members if _speakers(finding, group) > 1]
            if blind := next(
                (cell for group in several for cell in group if not cell.config.train.validations),
                None,
            ):
                result.append(
                    f"{where}.{side}: train.validations is 0 for {blind.label}, but validation "
                    f"chooses which of several models"
                    " represents this side; give it validations or name one model"
                )
    return result


def _speakers(finding: config.Finding, group: Sequence[StudyCell]) -> int:
    """Return how many could speak for a side.

    At equal FLOPs a model with all its budgets is one.
    """
    return len(budget_curves(group)) if finding.compare == "equal_flops" else len(group)


def _unvalidated_sweep(study: config.Study, grid: Sequence[StudyCell]) -> list[str]:
    blind = {cell.model for cell in grid if not cell.config.train.validations}
    if not blind or study.protocol not in study.protocols or len(study.rates()) == 1:
        return []
    return [
        f"train.validations: 0 for {_few(sorted(blind))}, but validation chooses among the "
        f"learning rates of this protocol"
    ]


def _rate_of_nothing(study: config.Study, grid: Sequence[StudyCell]) -> list[str]:
    """Return the models of which the protocol's learning rate moves nothing."""
    if study.protocol not in study.protocols or study.rates() == (None,):
        return []
    idle = {
        cell.model
        for cell in grid
        if cell.config.train.optimizer.kind == "muon" and not _has_blocks(cell.config.model)
    }
    return [
        f"models.{name}: the protocol's learning rate is Muon's, which moves the blocks' "
        f"matrices, and this model has none;"
        f" give it train: {{optimizer: adamw}}"
        for name in sorted(idle)
    ]


def _has_blocks(model: schema.Architecture | None) -> bool:
    return model is not None and any(name.startswith("blocks.") for name in linear_names(model))


# --- before it runs ---


def plan(
    study: config.Study, machine: Machine, vocabularies: Mapping[str, int], data_dir: Path | None
) -> GridPlan:
    """Return what the study will need; nothing is trained or allocated.

    Raises RequestError with every model that cannot be made with the vocabulary that its text is
    known to have.
    """
    all_cells, missing = cells(study)[0], {}
    for name, data in texts(all_cells).items():
        if study.data[name].optional and (reason := _unresolved(data, data_dir)):
            missing[name] = reason
    runs = len(study.seeds) + len(study.rates()) - 1
    runnable = [cell for cell in all_cells if cell.data not in missing]
    sizes: dict[str, int] = {}
    for name, data in texts(runnable).items():
        data = with_tokenizer(data, data_dir)
        if vocab := vocabularies.get(vocabulary_key(data)) or requested(data):
            sizes[name] = vocab
    if faults := misfits(runnable, sizes):
        raise RequestError("\n".join([f"{study.name}:", *(f"  {fault}" for fault in faults)]))
    trainings = [(cell.name, runs, cell.config) for cell in runnable]
    planned = grid(
        study.name, trainings, study.limit.time, machine, vocabularies, data_dir, left_out(missing)
    )
    if study.findings and len(study.seeds) < LEAST_SEEDS:
        few = (
            f"{len(study.seeds)} seed{'' if len(study.seeds) == 1 else 's'}: every finding "
            f"will stay undecided; a test needs"
        )
        planned = replace(planned, notes=(f"{few} {LEAST_SEEDS}",))
    return planned


def over_time(planned: GridPlan) -> list[str]:
    """Return what a refusal says of a plan that is over its limit."""
    return [f"{warning}; or start it with --yes" for warning in planned.warnings]


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


def _unresolved(data: schema.Data, data_dir: Path | None) -> str:
    try:
        with_tokenizer(data, data_dir)
    except RequestError as error:
        return str(error)
    return ""


def left_out(missing: Mapping[str, str]) -> list[str]:
    """Return what a summary says of the texts that are not there."""
    return [f"{name} is left out: {reason}" for name, reason in missing.items()]
