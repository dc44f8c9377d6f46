"""What lm-eval cannot ask is refused before a recipe trains anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from flyweight.checkpoints import harness
from flyweight.config import schema
from flyweight.config.schema import SAME_AS, StageConfig
from flyweight.config.stage import sources_of_tokens
from flyweight.errors import RequestError
from flyweight.evaluation.stages import lm_eval_request
from flyweight.store.artifact import Artifact

Origin = tuple[str, StageConfig | None]
"""Where a model begins: the stage of a name that makes it, or a MODEL outside the recipe."""


def check_tasks(recipe: schema.Recipe) -> None:
    """Raise RequestError for tasks that lm-eval does not know or cannot read."""
    for config in _asked(recipe):
        harness.check(lm_eval_request(config, recipe.seed))


def check_models(
    recipe: schema.Recipe,
    corpus: Callable[[schema.Data], Artifact],
    resolve: Callable[[str, str], Artifact],
) -> None:
    """Raise RequestError for a model that lm-eval could not ask once it is trained.

    `corpus` packs a text, whose tokenizer tells; `resolve` finds a MODEL outside the recipe.
    """
    names = {config.input for config in _asked(recipe) if config.input}
    if recipe.report.lm_eval is not None:
        made = [name for name, stage in recipe.stages.items() if stage.makes_model]
        names |= set(recipe.report.compare or made)
    origins = dict(origin for name in sorted(names) for origin in _origins(recipe, name))
    for name, stage in origins.items():
        if stage is None:
            harness.check_model(resolve(name, "report.lm_eval").path / "model")
        else:
            folder = _tokenizer_folder(name, stage, corpus)
            if folder is not None:
                harness.ending_tokenizer(folder, None)


def _asked(recipe: schema.Recipe) -> list[schema.LmEval]:
    """Return everything that a recipe asks of lm-eval."""
    asked = [stage for stage in recipe.stages.values() if isinstance(stage, schema.LmEval)]
    if recipe.report.lm_eval is not None:
        asked.append(recipe.report.lm_eval.stage(""))
    return asked


def _origins(recipe: schema.Recipe, name: str) -> Iterator[Origin]:
    """Yield where a model begins, whose tokenizer it has."""
    stage = recipe.stages.get(name)
    if stage is None:
        yield name, None
        return
    references = stage.dependencies()
    if isinstance(stage, schema.Mix | schema.Initialise):
        yield name, stage
    elif isinstance(stage, schema.TrainingStage) and stage.model is not None:
        yield name, stage
        if _of_model(stage.data) and (teachers := sources_of_tokens(references)):
            yield from _origins(recipe, references[teachers[0]])
    else:
        for field, reference in references.items():
            if field not in (SAME_AS, "told") and field.split(".")[0] != "teacher":
                yield from _origins(recipe, reference)


def _of_model(data: object) -> bool:
    return isinstance(data, schema.Data) and isinstance(data.tokenizer, schema.ModelTokenizer)


def _tokenizer_folder(
    name: str, stage: StageConfig, corpus: Callable[[schema.Data], Artifact]
) -> Path | None:
    """Return the folder of a new model's tokenizer; None where it is that of its teacher.

    Raises RequestError for anything but a decoder, and for one without a tokenizer.
    """
    beside = "name the others in report.compare"
    if isinstance(stage, schema.Mix):
        raise RequestError(
            f"stages.{name}: lm-eval reads decoders, and this is a mixture; {beside}"
        )
    model = getattr(stage, "model", None)
    if not isinstance(model, schema.ModelConfig):
        raise RequestError(
            f"stages.{name}: lm-eval reads decoders, and this is a baseline (kind: "
            f"{getattr(model, 'kind', '-')}); {beside}"
        )
    data = getattr(stage, "data", None)
    if not isinstance(data, schema.Data):
        raise RequestError(
            f"stages.{name}: lm-eval asks in text, and this model has no tokenizer; {beside}"
        )
    return None if _of_model(data) else corpus(data).path / "corpus"
