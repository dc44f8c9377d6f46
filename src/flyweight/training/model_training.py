"""Train a stage's model on its text or examples by the one loop, and write what comes of it."""

from __future__ import annotations

from typing import Any

from flyweight.checkpoints import load_any
from flyweight.checkpoints.load_any import AnyModel
from flyweight.config import schema
from flyweight.core.files import copy_file, disk_errors
from flyweight.model import folder
from flyweight.model.build import Model
from flyweight.model.rounding import check_rounding, round_in_training
from flyweight.model.sparsity import sparsity_facts
from flyweight.store.artifact import Draft
from flyweight.store.stage import Context, Inputs
from flyweight.training import snapshots
from flyweight.training.limits import Limits
from flyweight.training.memory_saving import check_saving
from flyweight.training.objectives import Objective
from flyweight.training.step_cost import StepCost
from flyweight.training.trainer import Trainer
from flyweight.training.training_data import training_data


def train_model(
    config: schema.TrainingStage,
    model: Model,
    objective: Objective,
    teacher: AnyModel | None,
    inputs: Inputs,
    context: Context,
    draft: Draft,
) -> dict[str, Any]:
    """Train `model` by `objective`, write `model/` and return the facts.

    Their totals hold what the inputs had cost as well.
    """
    runtime, train = context.runtime, config.train
    check_saving(model, train.memory, f"stages.{inputs.name}")  # before anything is encoded
    if config.round is not None:
        check_rounding(model.config, config.round_layers, f"stages.{inputs.name}")
    precision = runtime.precision(train.products, model.config.dim)
    context_length = config.data.context
    check_data(config, model.config, f"stages.{inputs.name}", "model")
    if teacher is not None:
        check_data(config, teacher.config, f"stages.{inputs.name}", "teacher")
    data = training_data(config, model, inputs, context, precision, draft.events)
    teacher_flops = 0
    if teacher is not None:
        teacher_flops = load_any.forward_flops(teacher, context_length)
    trains = config.tuning().trains
    cost = StepCost.of(
        model.config,
        train,
        context_length,
        teacher_flops,
        fresh=config.model is not None,
        trains=trains,
    )

    limits = Limits.of(
        train,
        train.batch * context_length,
        cost,
        f"stages.{inputs.name}",
        epoch=data.epoch,
    )
    data.check((limits.steps or 0) * train.batch, f"stages.{inputs.name}")
    trainer = Trainer(
        model=model,
        objective=objective,
        source=data.source,
        validate=data.validate,
        config=train,
        limits=limits,
        cost=cost,
        runtime=runtime,
        precision=precision,
        draft=draft,
        meter=context.meter,
        name=inputs.name,
        stream=data.stream,
    )
    if config.round is not None:
        round_in_training(model, model.config, config.round, config.round_layers)
    facts = trainer.train()
    kept = snapshots.publish(draft, facts.pop("snapshots"))
    with disk_errors(draft.path):
        folder.save(model, draft.new_folder("model"))
        for file in inputs.tokenizer_files():
            copy_file(file, draft.path / "model" / file.name)
    return {
        **facts,
        **data.facts(facts["steps"] * train.batch),
        **sparsity_facts(model),
        **kept,
        "total_flops": facts["flops"] + inputs.spent("total_flops", config.shapes),
        "total_seconds": facts["seconds"] + inputs.spent("total_seconds", config.shapes),
    }


def check_data(
    config: schema.TrainingStage | schema.Teach,
    architecture: load_any.AnyConfig,
    where: str,
    what: str,
) -> None:
    """Raise RequestError where a model cannot read the rows that its stage asks for.

    Nothing is read for that. `where` is the stage, `what` the model's role in it.
    """
    load_any.require_context(architecture, config.data.context, f"{where}.data.context", what)
    if config.data.documents == "isolated":
        task = isinstance(config.data, schema.TaskData)
        field = f"{where}.data.{'packing' if task else 'documents'}"
        field = f"{field}: the teacher" if what == "teacher" else field
        load_any.require_isolation(architecture, field, task)


def vocabulary(inputs: Inputs) -> int:
    """Return the number of tokens that the tokenizer knows; a head may have more rows than that."""
    return inputs.vocabulary()
