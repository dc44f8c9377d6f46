"""What a run measures: every compared model in the same ways, floors, and before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flyweight.checkpoints import load_any
from flyweight.config import schema
from flyweight.config.schema import STAGE_CONFIGS, StageConfig
from flyweight.pipeline import before_after
from flyweight.pipeline.before_after import BeforeAfter
from flyweight.pipeline.runner import Runner, StageResult
from flyweight.planning import evaluating
from flyweight.records.scores import SCORED
from flyweight.store.artifact import Artifact


def measure(runner: Runner, recipe: schema.Recipe, result: StageResult) -> dict[str, StageResult]:
    """Measure one compared model in every way that the report asks for."""
    stages: dict[str, StageConfig] = {}
    for kind in recipe.report.measure:
        config = STAGE_CONFIGS[kind]
        if config is schema.TrainingMemory and not isinstance(result.config, schema.TrainingStage):
            continue  # it was made without training
        if kind == "evaluate" and _textless(recipe, result):
            runner.context.watch("unscored", {"model": result.name})
            continue
        fields: dict[str, Any] = {"stage": kind, "input": result.name}
        if recipe.report.data is not None and "data" in config.model_fields:
            fields["data"] = recipe.report.data
        if "metrics" in config.model_fields:
            fields["metrics"] = recipe.report.metrics
        if config is schema.Evaluate:
            fields["batch"] = _windows_at_once(runner, recipe, result)
        stages[kind] = config(**fields)
    if recipe.report.prompts:
        new = recipe.report.sample_tokens
        stages["sample"] = schema.Sample(
            stage="sample", input=result.name, prompts=recipe.report.prompts, new_tokens=new
        )
    for place, task in enumerate(recipe.report.scored()):
        stages[f"{SCORED}{place}"] = task.stage(result.name)
    if recipe.report.lm_eval is not None:
        stages["lm_eval"] = recipe.report.lm_eval.stage(result.name)
    return {
        kind: runner.make(result.name, config, {"input": result.artifact})
        for kind, config in stages.items()
    }


def _windows_at_once(runner: Runner, recipe: schema.Recipe, result: StageResult) -> int:
    """Return how many windows of a model an evaluation reads at once within `budget.memory`."""
    config = load_any.config(result.artifact.path / "model")
    if not isinstance(config, schema.ARCHITECTURES):
        return evaluating.WINDOWS_AT_ONCE
    device = runner.context.runtime.device
    return evaluating.windows_at_once(config, recipe.budget.memory, device)


def _textless(recipe: schema.Recipe, result: StageResult) -> bool:
    """Return whether a model of a recipe with tasks has no text here to be evaluated on."""
    data = [getattr(stage, "data", None) for stage in recipe.stages.values()]
    tasks = any(isinstance(each, schema.TaskData) for each in data)
    text = result.artifact.path.parent / str(result.artifact.facts.get("corpus"))
    return tasks and recipe.report.data is None and not (text / "manifest.json").is_file()


def measure_floors(
    runner: Runner, measured: Mapping[str, Mapping[str, StageResult]]
) -> dict[str, StageResult]:
    """Return the n-gram floors of every corpus that was evaluated on, by the corpus' id."""
    floors: dict[str, StageResult] = {}
    for evaluation in (
        results["evaluate"].artifact for results in measured.values() if "evaluate" in results
    ):
        name = evaluation.facts["corpus"]
        if name not in floors:
            packed = Artifact.open(runner.context.store.root / name)
            config = {**packed.identity["config"], "context": evaluation.metrics()["window"]}
            data = schema.Data.model_validate(config, context={"resolved": True})
            runner.register_corpus(data, packed)
            floors[name] = runner.make("floors", schema.Floors(stage="floors", data=data), {})
    return floors


def measure_tuned(
    runner: Runner, recipe: schema.Recipe, results: Sequence[StageResult]
) -> dict[str, BeforeAfter]:
    """Measure what is fine-tuned among the compared models before and after, by their names."""
    asked = before_after.Asked(
        evaluate="evaluate" in recipe.report.measure, lm_eval=recipe.report.lm_eval
    )
    if not asked.evaluate and asked.lm_eval is None:
        return {}
    return {
        result.name: before_after.measure(
            runner.make,
            result.name,
            result.config,
            result.inputs["input"],
            result.artifact,
            runner.context.data_dir,
            asked,
        )
        for result in results
        if isinstance(result.config, schema.Finetune)
    }
