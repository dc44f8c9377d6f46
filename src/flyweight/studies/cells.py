"""From a study's file to its cells: what to run, what is wrong, and what it will need."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flyweight.config import catalogue, load as config_load, schema, study as config
from flyweight.config.model_rules import packed_kinds
from flyweight.core.runtime import Runtime
from flyweight.data.sources import with_tokenizer
from flyweight.errors import RequestError
from flyweight.planning import recipe_plan as plans
from flyweight.planning.grid import GridPlan, grid
from flyweight.records.study_summary import LEAST_SEEDS
from flyweight.spec.linears import linear_names, pattern_faults
from flyweight.studies.claims import conditions, lines_of, select, written

LARGEST = 20_000
"""Cells that a study may have: as many are looked at one by one before anything runs."""


Over = Callable[[config.Study], Sequence[str]]
"""Returns the limits that a study is over once it is planned."""


@dataclass(frozen=True)
class Cell:
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
    return "models" in raw and "stages" not in raw


def load(
    study: str | Path | Mapping[str, Any],
    *overrides: str,
    yes: bool = False,
    over: Over | None = None,
) -> config.Study:
    """Return a checked study, with `path=value` words applied.

    `study` is a shipped name, a YAML file, or a mapping with the fields of one. Raises RequestError
    with every fault, a grid over its limit of runs among them unless `yes`, and then what `over`
    says too.
    """
    if isinstance(study, Mapping):
        text, raw = str(study.get("name", "the study")), copy.deepcopy(dict(study))
    else:
        text, raw = str(study), _read(study)
    if "stages" in raw and "models" not in raw:
        raise RequestError(f"{text} is a recipe, not a study: flyweight run {text}")
    raw = config_load.override(config.longhand(raw), overrides)
    try:
        parsed = config.parse(raw, text)
    except RequestError as error:
        faults = [str(error), *(f"  {fault}" for fault in _others(raw, yes))]
        raise RequestError("\n".join(faults)) from error
    return checked(parsed, text, yes, over)


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
    study: config.Study, where: str, yes: bool = False, over: Over | None = None
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
    faults = config.faults(study)
    if (count := config.cell_count(study)) > LARGEST:
        return [
            *faults,
            f"models: {count:,} cells are more than the {LARGEST:,} that one study may have; "
            f"make several of it",
        ]
    made, wrong = cells(study)
    faults += wrong + _unvalidated_sweep(study, made) + _rate_of_nothing(study, made)
    # A group may be empty, or small, only because what belongs to it is at fault itself.
    return faults or ([] if study.only else _unmatched(study, made)) or _untested(study, made)


def _others(raw: Mapping[str, Any], yes: bool) -> list[str]:
    """Return what else is wrong with a study whose fields are at fault, without consequences."""
    study, gone = config.readable(raw)
    if study is None:
        return []
    faults = [*_faults(study), *([] if yes else _too_large(study))]
    # Without some of its models, a grid may leave a claim without cells.
    holes = ["findings"] if any(each.startswith("models.") for each in gone) else []
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


def cells(study: config.Study) -> tuple[list[Cell], list[str]]:
    """Return every cell, and what is wrong with those that cannot be made."""
    made: list[Cell] = []
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
        first = len(made)
        for combination in config.combinations(model.grid):
            label = " ".join(
                [name, *(f"{path}={written(value)}" for path, value in combination.items())]
            )
            for place in _places(study, name):
                try:
                    made.append(_cell(study, name, base, combination, train, place))
                except RequestError as error:
                    _note(faults, error, label)
        repeated += _repeated(f"models.{name}.grid", made[first:])
    return made, [*_told(faults), *repeated]


def _note(faults: dict[str, list[str]], error: RequestError, label: str) -> None:
    """Remember who has which faults."""
    for line in str(error).splitlines():
        who = faults.setdefault(line.strip(), [])
        who += [label] if label not in who else []


def _told(faults: Mapping[str, Sequence[str]]) -> list[str]:
    return [text if not who else f"{_few(who)}: {text}" for text, who in faults.items()]


def _repeated(where: str, made: Sequence[Cell]) -> list[str]:
    """Return the combinations of a grid that are the same model, or have the same name."""
    seen: dict[tuple[str, ...], Cell] = {}
    found: dict[str, None] = {}
    for cell in made:
        place = (cell.data, str(cell.context), cell.budget)
        for key in (
            ("name", cell.label, *place),
            ("config", cell.config.model_dump_json(), *place),
        ):
            other = seen.setdefault(key, cell)
            if other is cell:
                continue
            same = other.label == cell.label
            text = (
                f"{cell.label} stands 2 times"
                if same
                else f"{other.label} and {cell.label} are the same model"
            )
            found[f"{where}: {text}; leave one of them out"] = None
            break
    return list(found)


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
        made = schema.Pretrain.model_validate(stage)
    except ValidationError as error:
        lines = config_load.explain(error, "", schema.Pretrain).splitlines()
        raise RequestError("\n".join(line for line in lines[1:])) from error
    assert made.model is not None
    if kinds := packed_kinds(made.model):
        raise RequestError(
            f"model.linears: matrices stored as {' and '.join(kinds)} cannot be trained"
        )
    if faults := pattern_faults(made.model):
        raise RequestError("\n".join(f"model.{fault}" for fault in faults))
    return Cell(
        name,
        {path: written(value) for path, value in combination.items()},
        text,
        context,
        budget,
        made,
    )


def _unmatched(study: config.Study, made: Sequence[Cell]) -> list[str]:
    """Return the groups of findings that no cell belongs to."""
    return [
        f"findings.{place}.{side}: no cell of this study belongs to it"
        for place, finding in enumerate(study.findings)
        for side in ("below", "above")
        if not select(getattr(finding, side), made)
    ]


def _untested(study: config.Study, made: Sequence[Cell]) -> list[str]:
    """Return the findings that nothing could test, and those whose models nothing could choose."""
    found = []
    for place, finding in enumerate(study.findings):
        where = f"findings.{place}"
        compared = [
            (below, above) for _, below, above in conditions(finding, made) if below and above
        ]
        if (
            not (compared or study.only)
            and select(finding.below, made)
            and select(finding.above, made)
        ):
            found.append(
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
                found.append(
                    f"{where}.{side}: train.validations is 0 for {blind.label}, but validation "
                    f"chooses which of several models"
                    " speaks for this side; give it validations or name one model"
                )
    return found


def _speakers(finding: config.Finding, group: Sequence[Cell]) -> int:
    """Return how many could speak for a side.

    At equal FLOPs a model with all its budgets is one.
    """
    return len(lines_of(group)) if finding.compare == "equal_flops" else len(group)


def _unvalidated_sweep(study: config.Study, made: Sequence[Cell]) -> list[str]:
    blind = {cell.model for cell in made if not cell.config.train.validations}
    if not blind or study.protocol not in study.protocols or len(study.rates()) == 1:
        return []
    return [
        f"train.validations: 0 for {_few(sorted(blind))}, but validation chooses among the "
        f"learning rates of this protocol"
    ]


def _rate_of_nothing(study: config.Study, made: Sequence[Cell]) -> list[str]:
    """Return the models of which the protocol's learning rate moves nothing."""
    if study.protocol not in study.protocols or study.rates() == (None,):
        return []
    idle = {
        cell.model
        for cell in made
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
    study: config.Study, runtime: Runtime, vocabularies: Mapping[str, int], data_dir: Path | None
) -> GridPlan:
    """Return what the study will need; nothing is trained or allocated.

    Raises RequestError with every model that cannot be made with the vocabulary that its text is
    known to have.
    """
    made, missing = cells(study)[0], {}
    for name, data in texts(made).items():
        if study.data[name].optional and (why := _unresolved(data, data_dir)):
            missing[name] = why
    runs = len(study.seeds) + len(study.rates()) - 1
    kept = [cell for cell in made if cell.data not in missing]
    known: dict[str, int] = {}
    for name, data in texts(kept).items():
        data = with_tokenizer(data, data_dir)
        if vocab := vocabularies.get(plans.vocabulary_key(data)) or plans.requested(data):
            known[name] = vocab
    if faults := misfits(kept, known):
        raise RequestError("\n".join([f"{study.name}:", *(f"  {fault}" for fault in faults)]))
    trainings = [(cell.name, runs, cell.config) for cell in kept]
    planned = grid(
        study.name, trainings, study.limit.time, runtime, vocabularies, data_dir, left_out(missing)
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


def misfits(made: Iterable[Cell], vocabularies: Mapping[str, int]) -> list[str]:
    """Return what is wrong with models given the vocabularies of their texts.

    A text without one is passed over.
    """
    faults: dict[str, list[str]] = {}
    seen: set[tuple[str, str, int]] = set()
    for cell in made:
        key = (cell.label, cell.data, cell.context)
        if cell.data not in vocabularies or key in seen:
            continue
        seen.add(key)
        assert cell.config.model is not None
        try:
            config_load.resolved(cell.config.model, "model", vocabularies[cell.data], cell.context)
        except RequestError as error:
            lines = str(error).splitlines()
            told = (
                RequestError("\n".join(f"model: {line.strip()}" for line in lines[1:]))
                if len(lines) > 1
                else error
            )
            _note(faults, told, f"{cell.label} on {cell.data}")
    return _told(faults)


def texts(made: Sequence[Cell]) -> dict[str, schema.Data]:
    """Return the texts of some cells by their names, each at its first context."""
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
