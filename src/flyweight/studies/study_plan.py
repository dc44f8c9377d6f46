"""What a study of cells will need; nothing is trained or allocated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from flyweight.config import schema, study as config
from flyweight.data.sources import with_tokenizer
from flyweight.errors import RequestError
from flyweight.planning.grid import GridPlan, grid
from flyweight.planning.time import Machine
from flyweight.planning.vocabulary import requested, vocabulary_key
from flyweight.records.study_summary import LEAST_SEEDS
from flyweight.studies.cells import cells, left_out, misfits, texts


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


def _unresolved(data: schema.Data, data_dir: Path | None) -> str:
    try:
        with_tokenizer(data, data_dir)
    except RequestError as error:
        return str(error)
    return ""
