"""A made-up run of `distilqwen3-small`: every stage with what it measures, in easy numbers."""

from __future__ import annotations

import report_fixture as made
from layout_fixture import bench, stage

from flyweight import api
from flyweight.config.schema import Score, TrainingStage
from flyweight.records.difference import Difference
from flyweight.records.metric import Metric
from flyweight.records.run_summary import (
    ParameterCount,
    StageSummary,
    StageTraining,
    Summary,
    Training,
)
from flyweight.records.scores import TaskScores
from flyweight.records.training_memory import TrainingMemory

LOSS = {
    "bottleneck": 3.0,
    "none": 2.9,
    "none-parameters": 3.2,
    "none-flops": 3.1,
    "unshared": 2.8,
    "once": 3.4,
    "text-too": 2.95,
    "text-alone": 3.05,
}
"""Loss of the last steps, of seed 0; each further seed has 0.01 more."""

BITS = {
    "teacher": 0.9,
    "independent": 1.1,
    "poster": 1.2,
    "poster-same-tokens": 1.25,
    "poster-same-compute": 1.0,
    "poster-with-text": 1.18,
    "poster-nf4": 1.21,
}
PARAMETERS = {
    "gpt2": 124_439_808,
    "qwen3-06b": 596_049_920,
    "teacher": 4_000_000,
    "independent": 2_000_000,
    "poster": 1_300_000,
    "poster-nf4": 1_300_000,
}
SCORES = {
    "dialogue": ("completion_perplexity", 30.0),
    "squad": ("f1", 8.0),
    "summarize": ("rougeL", 0.2),
}
STEPS = {"poster-pretrained": 300, "poster": 300, "poster-squad": 60}


def variant_of(name: str) -> tuple[str, int]:
    """Return the variant and the seed of a stage's name."""
    base, _, seed = name.rpartition("-")
    return (base, int(seed)) if base in LOSS and seed.isdigit() else (name, 0)


def final_loss(name: str) -> float:
    """Return the loss that a training ends at."""
    variant, seed = variant_of(name)
    return LOSS.get(variant, 3.5) + 0.01 * seed


def curve(name: str):
    """Return a curve without noise that falls by 2 from its first step to its last."""
    steps = STEPS.get(name, 120)
    drawn = made.curve(final_loss(name), steps, 10.0, 1e12, 1)
    at = [final_loss(name) + 2 * (1 - step / steps) for step in drawn.step]
    return drawn.model_copy(update={"train_nll": tuple(at)})


def cost(name: str) -> Training:
    """Return what a training cost."""
    steps, flops = STEPS.get(name, 120), 1e12
    return Training(
        steps=steps,
        tokens=steps * 1024,
        seconds=10.0,
        total_seconds=30.0,
        flops=flops,
        total_flops=3 * flops,
        stopped_by="steps",
    )


def scores(kind: str) -> TaskScores:
    """Return a model's scores on a task, its own metric near the number of SCORES."""
    name, value = SCORES[kind]
    metric = Metric(value, "", "higher", 100, 0.9 * value, 1.1 * value)
    return TaskScores(
        task=kind,
        kind=kind,
        split="validation",
        origin="made up",
        fingerprint="0" * 16,
        rows=100,
        rows_available=1000,
        contexts=90,
        dropped=0,
        cut_prompts=0,
        unscored=0,
        window=256,
        new_tokens=24,
        metrics={name: metric},
        floor="first_sentence",
        floor_about="the first sentence",
        floor_metrics={name: metric},
        above_floor={name: Difference(value=0.0, low=-1.0, high=1.0, unit="", verdict="undecided")},
        decides=name,
        p=0.5,
        standing="undecided",
        shown=(name,),
    )


def summary_of(name: str, config, compared: set[str]) -> StageSummary:
    """Return a stage as a run's summary has it."""
    fields = {}
    source = config.dependencies().get("input")
    if config.stage == "evaluate":
        bits = made.evaluation(final_loss(source) / 3)
        fields["evaluate"] = bits.model_copy(update={"split": config.split})
    if config.stage == "bench":
        fields["bench"] = bench(source)
    if isinstance(config, Score):
        fields["scores"] = scores(config.task)
    if config.makes_model and name not in compared:
        count = PARAMETERS.get(name, 1_300_000)
        fields["parameters"] = ParameterCount(total=2 * count, unique=count)
    if isinstance(config, TrainingStage):
        fields["memory"] = TrainingMemory(
            planned=10**9, used=9 * 10**8, method="dry-run", held=True
        )
        if name not in compared:
            fields["trained"] = StageTraining(training=cost(name), curve=curve(name))
    return stage(config.stage, name, source, **fields)


def run(recipe=None, **changes) -> Summary:
    """Return the summary of a finished run of a recipe; any field of it can be replaced."""
    recipe = recipe or api.load("distilqwen3-small")
    compared = set(recipe.report.compare)
    models = []
    for name in recipe.report.compare:
        config = recipe.stages[name]
        trains = isinstance(config, TrainingStage)
        each = made.model(
            name,
            BITS.get(name, 1.5),
            bench=bench(name),
            parameters=ParameterCount(
                total=2 * PARAMETERS.get(name, 10**6), unique=PARAMETERS.get(name, 10**6)
            ),
            measured={kind: f"{kind}-{len(models):08x}" for kind in ("evaluate", "bench")},
            training=cost(name) if trains else None,
            curve=curve(name) if trains else None,
        )
        models.append(each)
    pair = made.compare("poster", "poster-same-tokens", BITS["poster"] - BITS["poster-same-tokens"])
    fields = {
        "name": recipe.name,
        "models": tuple(models),
        "stages": tuple(summary_of(*each, compared) for each in recipe.stages.items()),
        "comparisons": (pair,),
        "layout": "distilqwen3",
    }
    return made.quickstart(**{**fields, **changes})


def without(*names: str) -> Summary:
    """Return the run without some stages and what they measured."""
    whole = run()
    stages = [each for each in whole.stages if not {each.name, each.input} & set(names)]
    models = [model for model in whole.models if model.name not in names]
    return whole.model_copy(update={"stages": tuple(stages), "models": tuple(models)})
