"""What a study of fine-tuning will need: bases and conditions planned as stages of a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from flyweight.config import schema
from flyweight.config.tuning_study import TuningStudy
from flyweight.planning.grid import GridPlan, grid
from flyweight.planning.time import Machine


def plan(
    study: TuningStudy,
    machine: Machine,
    vocabularies: Mapping[str, int],
    data_dir: Path | None,
    known: Mapping[str, schema.Architecture],
) -> GridPlan:
    """Return what the study will need; nothing is trained or allocated.

    Bases that are made here count once; `known` are those from elsewhere. The score of every run is
    not part of the estimate: how long answers are is known only once a model gives them. A control
    from scratch is planned with the FLOPs that base and full fine-tuning are planned with.
    """
    made = {name: base.made for name, base in study.bases.items() if base.made is not None}
    trained = [
        (name, 1, stage) for name, stage in made.items() if isinstance(stage, schema.TrainingStage)
    ]
    others = {
        name: stage for name, stage in made.items() if not isinstance(stage, schema.TrainingStage)
    }

    def planned(scratch: Mapping[tuple[str, str], float]) -> GridPlan:
        cells = [
            (_label(*condition), len(study.seeds), study.finetune(*condition, flops=flops))
            for condition, flops in _conditions(study, scratch)
        ]
        return grid(
            study.name,
            [*trained, *cells],
            study.limit.time,
            machine,
            vocabularies,
            data_dir,
            others=others,
            known=known,
        )

    first = planned({})
    cost = {cell.name: cell.stage.flops or 0.0 for cell in first.cells}
    spent = {
        (base, task): cost.get(base, 0.0) + cost.get(_label(base, method, task), 0.0)
        for base, method, task in study.conditions()
        if method in study.whole_methods
    }
    return planned(spent) if any(method.scratch for method in study.methods.values()) else first


def _conditions(
    study: TuningStudy, scratch: Mapping[tuple[str, str], float]
) -> Iterator[tuple[tuple[str, str, str], float | None]]:
    """Yield every condition, and the FLOPs that end it where it is a control from scratch."""
    for base, method, task in study.conditions():
        flops = scratch.get((base, task)) if study.methods[method].scratch else None
        yield (base, method, task), flops or None


def _label(base: str, method: str, task: str) -> str:
    return f"{method} on {base}, {task}"
