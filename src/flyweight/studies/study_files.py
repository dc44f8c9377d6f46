"""From the file of a study to a checked study: every fault of its fields and its cells at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from flyweight.config import load as config_load, schema, study as config, study_rules
from flyweight.config.tuning_study import is_tuning_study
from flyweight.errors import RequestError
from flyweight.spec.linears import linear_names
from flyweight.studies.cells import StudyCell, cells, few
from flyweight.studies.claims import budget_curves, conditions, select

LARGEST = 20_000
"""Cells that a study may have: as many are looked at one by one before anything runs."""

OverLimit = Callable[[config.Study], Sequence[str]]
"""Returns the limits that a study is over once it is planned."""


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
        f"train.validations: 0 for {few(sorted(blind))}, but validation chooses among the "
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
