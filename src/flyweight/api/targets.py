"""What a plan can be asked of, and its plan: a recipe, a study, a model, or a word for one.

Part of `flyweight.api`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flyweight.api import model_references
from flyweight.api.measurements import Model
from flyweight.api.recipes import NO_STAGES, load, recipe_that_trains, shipped
from flyweight.api.results import Run as Run
from flyweight.api.session import (
    DEFAULT,
    Session,
    shows_what_takes_long,
)
from flyweight.config import (
    catalogue,
    load as config_load,
    schema,
    study as study_config,
    tuning_study as tuning_study_config,
)
from flyweight.config.tuning_study import TuningStudy, is_tuning_study
from flyweight.data.corpus import Meta
from flyweight.errors import FlyweightError, RequestError
from flyweight.planning import planner as plans
from flyweight.planning.grid import GridPlan
from flyweight.planning.model_plan import ModelPlan
from flyweight.planning.recipe_plan import Plan
from flyweight.planning.time import Machine
from flyweight.planning.vocabulary import vocabulary_key
from flyweight.store.artifact import Artifact, Store
from flyweight.studies import study_files, study_plan, tuning_plan

AnyStudy = study_config.Study | TuningStudy
"""A checked study: of models trained from nothing, or of fine-tuning."""


@shows_what_takes_long
def plan(
    target: schema.Recipe | AnyStudy | schema.Architecture | Model,
    session: Session = DEFAULT,
) -> Plan | GridPlan | ModelPlan:
    """Return what a recipe, study, config or model needs; nothing is allocated."""
    if session.device is not None or session.threads is not None:
        session.runtime()  # a device that this machine lacks is refused for a single model too
    if isinstance(target, study_config.Study):
        return study_plan.plan(
            target, machine_of(session), vocabularies(session.store), session.data_folder
        )
    if isinstance(target, TuningStudy):
        return tuning_study_plan(target, session)
    if isinstance(target, schema.Recipe):
        machine = machine_of(session, target.seed)
        store = session.store
        return plans.plan(
            target,
            machine,
            vocabularies(store),
            session.data_folder,
            _packed_tokens(store),
            _shapes_outside(target, store),
            dry_run=True,
            watch=session.watch,
        )
    if isinstance(target, schema.ARCHITECTURES):
        return ModelPlan.of(target)
    if not isinstance(target, Artifact) and model_references.is_config(target):
        return ModelPlan.of(model_references.config(target))
    names = [*shipped(), *study_files.shipped(), *catalogue.names()]
    return ModelPlan.of(known_config(model_references.find(target, session.store, also=names)))


def tuning_study_plan(study: TuningStudy, session: Session) -> GridPlan:
    """Return the plan of a study of fine-tuning; its MODELs are found, and imported where needed.

    Raises RequestError for a MODEL that is not there, or that cannot be trained.
    """
    known = {
        name: known_config(model_references.find(base.model, session.store, f"bases.{name}.model"))
        for name, base in study.bases.items()
        if base.model is not None
    }
    store = session.store
    return tuning_plan.plan(
        study, machine_of(session), vocabularies(store), session.data_folder, known
    )


def machine_of(session: Session, seed: int = 0) -> Machine:
    """Return this machine as estimates see it."""
    return Machine.of(session.store, session.runtime(seed), session.watch)


def planned(
    target: str,
    overrides: Sequence[str] = (),
    limits: Mapping[str, str] = MappingProxyType({}),
    without: Sequence[str] = (),
) -> Any:
    """Return what `plan` takes for a word of the command line.

    That is a recipe or a study with its overrides, or the word itself. `limits` are those of a
    recipe's budget by name. A study has budgets of its own, and takes the limit of time alone.
    """
    if target in shipped() or (model_references.is_config(target) and _is_recipe(target)):
        words = [f"budget.{name}={value}" for name, value in limits.items()]
        return load(target, *overrides, *words, without=without)
    if without and not recipe_that_trains(target):
        raise RequestError(NO_STAGES.format(target))
    if study_files.is_study(target):
        return _planned_study(target, target, overrides, limits)
    if not (overrides or limits or without):
        return target
    if recipe := recipe_that_trains(target):
        return planned(recipe, overrides, limits, without)
    raise RequestError(
        f"{target}: limits and path=value words are for recipes; this is a single model"
    )


def planned_fields(
    target: Mapping[str, object],
    overrides: Sequence[str],
    limits: Mapping[str, str],
    without: Sequence[str] = (),
) -> schema.Recipe | AnyStudy:
    """Return what `plan` takes for the fields of a recipe or of a study."""
    if ("models" in target and "stages" not in target) or is_tuning_study(target):
        name = str(target.get("name", "the study"))
        if without:
            raise RequestError(NO_STAGES.format(name))
        return _planned_study(target, name, overrides, limits)
    words = [f"budget.{name}={value}" for name, value in limits.items()]
    return load(target, *overrides, *words, without=without)


def _planned_study(
    target: str | Mapping[str, object],
    name: str,
    overrides: Sequence[str],
    limits: Mapping[str, str],
) -> AnyStudy:
    if unknown := [f"--{limit}" for limit in limits if limit != "time"]:
        raise RequestError(
            f"{' and '.join(unknown)}: {name} is a study, of which only the --time can be limited;"
            " its runs train for its own budgets"
        )
    words = [f"limit.time={value}" for value in limits.values()]
    # `yes`: a plan is the way to learn how large a grid is.
    where, raw = study_files.read_raw(target)
    if is_tuning_study(raw):
        return tuning_study_config.parse(config_load.override(raw, [*overrides, *words]), where)
    return study_files.load(target, *overrides, *words, yes=True)


def _is_recipe(path: Any) -> bool:
    return Path(path).exists() and "stages" in config_load.read_yaml(Path(path))


def _shapes_outside(recipe: schema.Recipe, store: Store) -> dict[str, schema.Architecture]:
    """Return the shapes of MODELs that a recipe's stages refer to, where they are known here.

    They are artifacts, and models of the hub that the catalogue has. Nothing is imported.
    """
    models = dict[str, schema.Architecture]()
    for stage in recipe.stages.values():
        for reference in stage.dependencies().values():
            if reference in recipe.stages or reference in models:
                continue
            shape = catalogue.published(reference)
            if shape is None and model_references.is_artifact(reference, store):
                shape = known_config(model_references.find(reference, store))
            if shape is not None:
                models[reference] = shape
    return models


def known_config(artifact: Artifact) -> schema.Architecture:
    """Return the config of a model; raise RequestError for a type that no plan knows."""
    from flyweight.checkpoints import load_any as hub
    from flyweight.checkpoints.foreign_model import ForeignConfig

    config = hub.config(artifact.path / "model")
    if isinstance(config, ForeignConfig):
        raise RequestError(
            f"{artifact.id}: plan knows GPT-2, Llama and Qwen3 models and flyweight's own, not "
            f"the type {config.model_type}"
        )
    return config


def _packed_tokens(store: Store) -> dict[str, int]:
    """Return the tokens of the train split of every packed corpus, by its data config."""
    tokens: dict[str, int] = {}
    for path in store.root.glob("corpus-????????"):
        corpus = Artifact.glance(path)
        data = schema.Data.model_validate(corpus.identity["config"], context={"resolved": True})
        with suppress(FlyweightError):  # a damaged corpus is named when it is used
            tokens[vocabulary_key(data)] = train_tokens(corpus)
    return tokens


def train_tokens(corpus: Artifact) -> int:
    """Return the tokens of the train split of a packed text."""
    return Meta.load(corpus.path / "corpus" / "meta.json").splits["train"].tokens


def vocabularies(store: Store) -> dict[str, int]:
    """Return the vocabulary size of every corpus that is packed already, by its data config."""
    sizes = {}
    for path in store.root.glob("corpus-????????"):
        corpus = Artifact.glance(path)
        data = schema.Data.model_validate(corpus.identity["config"], context={"resolved": True})
        sizes[vocabulary_key(data)] = corpus.facts["vocab_size"]
    return sizes
