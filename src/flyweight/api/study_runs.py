"""Run studies: grids of models trained from nothing, and of fine-tunings.

Part of `flyweight.api`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from flyweight.api import model_references
from flyweight.api.results import StudyRun, TuningStudyRun
from flyweight.api.runs import registry_entry, request_of
from flyweight.api.session import DEFAULT, Session, reads_models, uses_runs_root
from flyweight.api.targets import AnyStudy, machine_of, tuning_study_plan, vocabularies
from flyweight.config import load as config_load, study as study_config, tuning_study
from flyweight.config.tuning_study import TuningStudy
from flyweight.errors import RequestError
from flyweight.planning.grid import GridPlan
from flyweight.planning.time import Machine
from flyweight.reports.pages import study as study_page, tuning_study as tuning_page
from flyweight.store.artifact import Artifact, Store
from flyweight.studies import run as study_run, study_files, study_plan, tuning


@reads_models
def study(
    target: AnyStudy | str | Path | Mapping[str, object],
    *overrides: str,
    yes: bool = False,
    session: Session = DEFAULT,
) -> StudyRun | TuningStudyRun:
    """Run a study: every cell of its grid once for each seed, then tables, plots and findings.

    `target` is a shipped name, a YAML file, the fields of a study, or a checked study. A study with
    `bases` and `methods` is one of fine-tuning. Raises RequestError before any training for a study
    that contradicts itself or its texts. Raises it also for a grid over its `limit`, unless `yes`.
    """

    def over(study: study_config.Study) -> list[str]:
        return study_plan.over_time(
            _study_plan(study, machine_of(session), session.store, session.data_folder)
        )

    if isinstance(target, AnyStudy):
        if overrides:
            raise RequestError(
                "study: path=value words are for a name or a file; this study is checked already"
            )
        if isinstance(target, TuningStudy):
            return _tuning_study(target, yes, session)
        return _study(study_files.checked(target, target.name, yes, over), yes, session)
    where, raw = study_files.read_raw(target)
    if tuning_study.is_tuning_study(raw):
        parsed = tuning_study.parse(config_load.override(raw, overrides), where)
        return _tuning_study(parsed, yes, session)
    return _study(study_files.load(target, *overrides, yes=yes, over=over), yes, session)


@uses_runs_root
def _tuning_study(checked: TuningStudy, yes: bool, session: Session) -> TuningStudyRun:
    context = session.context(seed=checked.seeds[0])

    def resolve(reference: str, where: str) -> Artifact:
        return model_references.find(reference, context.store, where, context.watch)

    planned = tuning_study_plan(checked, session)
    warnings = study_plan.over_time(planned)
    if checked.run_count > checked.limit.runs:
        warnings.append(
            f"limit.runs: {checked.limit.runs:,}, but this study has {checked.run_count:,} "
            f"fine-tunings; start it with --yes, raise limit.runs, or leave some of it out"
        )
    if warnings and not yes:
        raise RequestError(
            "\n".join([f"{checked.name}:", *(f"  {warning}" for warning in warnings)])
        )

    with registry_entry(checked.name, request_of(checked), context) as unfinished:
        unfinished.warn_of_replacing()
        result = tuning.run(checked, replace(context, note=unfinished.note), resolve, planned)
        result = result.model_copy(update={"request": unfinished.work})
        with context.store.recipe_folder(checked.name, context.watch) as place:
            unfinished.replace(place.path)
            result.write(place.path)
            report = place.named(tuning_page.write(place.path))
            unfinished.done(place.path)
    return TuningStudyRun(result, report, report.parent)


@uses_runs_root
def _study(checked: study_config.Study, yes: bool, session: Session) -> StudyRun:
    context = session.context(seed=checked.seeds[0])
    machine = Machine.of(context.store, context.runtime, context.watch)
    planned = _study_plan(checked, machine, context.store, context.data_dir)
    if not planned.cells:
        reasons = (*planned.warnings, *planned.left_out)
        raise RequestError("\n".join([f"{checked.name}:", *(f"  {reason}" for reason in reasons)]))
    if (warnings := study_plan.over_time(planned)) and not yes:
        raise RequestError(
            "\n".join([f"{checked.name}:", *(f"  {warning}" for warning in warnings)])
        )
    with registry_entry(checked.name, request_of(checked), context) as unfinished:
        unfinished.warn_of_replacing()
        result = study_run.run(checked, replace(context, note=unfinished.note), planned)
        result = result.model_copy(update={"request": unfinished.work})
        with context.store.recipe_folder(checked.name, context.watch) as place:
            unfinished.replace(place.path)
            result.write(place.path)
            report = place.named(study_page.write(place.path))
            unfinished.done(place.path)
    return StudyRun(result, report, report.parent)


def _study_plan(
    checked: study_config.Study, machine: Machine, store: Store, data_dir: Path | None
) -> GridPlan:
    """Return a study's plan.

    A text may have changed since it was packed: where its old vocabulary leads to a refusal, the
    plan is made without it.
    """
    try:
        return study_plan.plan(checked, machine, vocabularies(store), data_dir)
    except RequestError:
        return study_plan.plan(checked, machine, {}, data_dir)
