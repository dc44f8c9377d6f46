"""Mistakes of training: losses, schedules, optimizers, and what a run would need."""

from __future__ import annotations

from dataclasses import replace

import torch
from audit.planted.mistake import Mistake
from audit_fixture import Lab, log
from safetensors.torch import load_file, save_file

import flyweight as fw
from flyweight.config import schema
from flyweight.config.schema import Distillation
from flyweight.data.batch import IGNORE, Batch
from flyweight.evaluation import checks, history_checks
from flyweight.evaluation.checks import History, Subject
from flyweight.model import folder
from flyweight.model.attach import attach
from flyweight.model.decoder import Decoder
from flyweight.records.audit import Check
from flyweight.training.objectives import DistillationObjective
from flyweight.training.optimizers import build_optimizers

STEPS = 40


def every_second_rate_is_zero(lab: Lab) -> Check:
    events = log(STEPS)
    for event in events[1::2]:
        event["lr"] = event["lr_low"] = event["lr_high"] = 0.0
    return history_checks.learning_rate(lab.trained(events, STEPS))


def zero_between_two_events(lab: Lab) -> Check:
    """Only every second step is logged, and the others had the rate 0."""
    events = [{**event, "lr_low": 0.0} for event in log(STEPS)[1::2]]
    return history_checks.learning_rate(lab.trained(events, STEPS))


def zero_for_a_loss_that_is_no_number(lab: Lab) -> Check:
    events = log(STEPS)
    events[20]["nll"] = 0.0
    return history_checks.no_gaps(lab.trained(events, STEPS))


def a_loss_left_out(lab: Lab) -> Check:
    events = log(STEPS)
    del events[20]
    return history_checks.no_gaps(lab.trained(events, STEPS))


def padding_and_blank_rows_in_distillation(lab: Lab) -> None:
    """Targets that are not real change neither the sum nor its gradient, whatever stands there."""
    generator = torch.Generator().manual_seed(0)
    teacher, student = Decoder(lab.subject.model.config), lab.subject.model
    tokens = torch.randint(0, 256, (2, 9), generator=generator)
    objective = DistillationObjective(Distillation(temperature=2.0), teacher.eval(), 256)
    alone = objective(student, Batch.from_tensors(tokens[:1, :-1], tokens[:1, 1:]))
    targets = tokens[:, 1:].clone()
    targets[1] = IGNORE
    padded = objective(student, Batch.from_tensors(tokens[:, :-1], targets))
    torch.testing.assert_close(padded.loss, alone.loss)
    assert Batch.from_tensors(tokens[:, :-1], targets).real_targets == 8


def decay_of_norms_and_biases(lab: Lab) -> None:
    """No option of an optimizer decays a norm, a gain or a bias."""
    (optimizer,) = build_optimizers(lab.subject.model, schema.AdamW(weight_decay=0.1), "fp32")
    for group in optimizer.param_groups:
        if group["weight_decay"]:
            assert all(parameter.ndim >= 2 for parameter in group["params"])


def recipe(lab: Lab, **changes: object) -> dict[str, object]:
    (lab.place / "text.txt").write_text("some text\n" * 400)
    model = {"dim": 16, "layers": 1, "attention": {"heads": 2}}
    return {
        "name": "planted",
        "data": {"corpus": str(lab.place / "text.txt"), "tokenizer": "byte", "context": 32},
        "model": model,
        "train": {"steps": 2, "batch": 2},
        "stages": {"student": {"stage": "pretrain"}},
        **changes,
    }


def a_field_that_nothing_reads(lab: Lab) -> None:
    raw = recipe(lab)
    raw["data"] = {**raw["data"], "streaming": True}  # type: ignore[dict-item]
    fw.load(raw)


def more_memory_than_there_is(lab: Lab) -> None:
    session = fw.Session(runs=lab.place / "runs", quiet=True)
    fw.run(recipe(lab, budget={"memory": "1kB"}), session=session)


def layers_that_are_not_shared(lab: Lab) -> Subject:
    """The config says one layer used three times, and the file has three."""
    config = lab.subject.model.config.model_copy(update={"layers": 3})
    save_file(
        {name: tensor for name, tensor in Decoder(config).state_dict().items()},
        lab.place / folder.WEIGHTS,
    )
    return replace(lab.subject, folder=lab.place)


def adapted(lab: Lab, moves: bool) -> Subject:
    """Return a fine-tuned model of which one frozen tensor moved, or none."""
    method = {"kind": "lora", "r": 2}
    model = attach(folder.load(lab.subject.folder), [schema.Lora(r=2)])
    child = lab.place / "model"
    child.mkdir()
    folder.save(model, child)
    parent = replace_place(lab)
    if moves:
        file = child / folder.WEIGHTS
        tensors = load_file(file)
        tensors["norm.weight"] = tensors["norm.weight"] + 1e-6
        save_file(tensors, file)
    artifact = lab.artifact("finetune", config={"method": method})
    history = History(artifact, parent)
    return replace(lab.subject, folder=child, model=folder.load(child).eval(), history=history)


def replace_place(lab: Lab):
    """Return the artifact of the model before its fine-tuning."""
    before = lab.place / "parent"
    (before / "model").mkdir(parents=True)
    folder.save(folder.load(lab.subject.folder), before / "model")
    return Lab(lab.subject, before).artifact("pretrain")


MISTAKES = (
    Mistake(
        "unmasked_distillation",
        "lightgpt2",
        3,
        "the divergence from the teacher is summed over padding and blank rows too",
        "impossible",
        "a batch tells its real targets, and objectives sum over those alone",
        padding_and_blank_rows_in_distillation,
    ),
    Mistake(
        "layers_not_shared",
        "distilqwen3",
        2,
        "one layer is said to be used many times, and each use has its own weights",
        "caught",
        "stored_bytes",
        lambda lab: checks.stored_bytes(layers_that_are_not_shared(lab)),
        lambda lab: checks.stored_bytes(lab.subject),
    ),
    Mistake(
        "nothing_streamed",
        "distilqwen3",
        3,
        "an option is written down that nothing reads",
        "refused",
        "unknown fields of a recipe are faults",
        a_field_that_nothing_reads,
    ),
    Mistake(
        "never_fitted",
        "distilqwen3",
        4,
        "a training is said to fit a memory that it never fitted",
        "refused",
        "the plan, before any work, where budget.memory is passed",
        more_memory_than_there_is,
    ),
    Mistake(
        "lost_losses",
        "distilqwen3",
        5,
        "a loss that is not a number is replaced by 0",
        "caught",
        "no_gaps",
        zero_for_a_loss_that_is_no_number,
        lambda lab: history_checks.no_gaps(lab.trained(log(STEPS), STEPS)),
    ),
    Mistake(
        "left_out_losses",
        "distilqwen3",
        5,
        "a step whose loss is not a number is left out of the log",
        "caught",
        "no_gaps",
        a_loss_left_out,
        lambda lab: history_checks.no_gaps(lab.trained(log(STEPS), STEPS)),
    ),
    Mistake(
        "every_second_rate_is_zero",
        "compact-ladder",
        3,
        "a scheduler gives the learning rates 2e-3, 0, 2e-3, 0, ...",
        "caught",
        "learning_rate",
        every_second_rate_is_zero,
        lambda lab: history_checks.learning_rate(lab.trained(log(STEPS), STEPS)),
    ),
    Mistake(
        "rates_between_logged_steps",
        "compact-ladder",
        3,
        "the same, where only every second step is logged",
        "caught",
        "learning_rate",
        zero_between_two_events,
        lambda lab: history_checks.learning_rate(lab.trained(log(STEPS)[1::2], STEPS)),
    ),
    Mistake(
        "decay_on_everything",
        "compact-ladder",
        4,
        "weight decay shrinks norms and biases as well",
        "impossible",
        "the optimizers' groups: no field puts a vector among what decays",
        decay_of_norms_and_biases,
    ),
    Mistake(
        "frozen_weights_moved",
        "others",
        2,
        "an adapter is said to be trained alone, and the model under it moved as well",
        "caught",
        "trained_subset",
        lambda lab: history_checks.trained_subset(adapted(lab, moves=True)),
        lambda lab: history_checks.trained_subset(adapted(lab, moves=False)),
    ),
)
