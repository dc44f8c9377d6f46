import gc
from contextlib import nullcontext

import pytest
import torch

from flyweight.config import catalogue, load
from flyweight.config.schema import AdamW, ModelConfig, NextToken, Train
from flyweight.data.batch import Batch
from flyweight.model.build import build
from flyweight.planning import dry_run, memory
from flyweight.training.objectives import NextTokenObjective
from flyweight.training.planned_training import PlannedTraining

SMALL = ModelConfig(dim=64, layers=2).resolved(500, 64)


def training_memory(model, train, context, precision="fp32", **fields):
    planned = PlannedTraining(
        model=model, train=train, context=context, precision=precision, **fields
    )
    return dry_run.training_memory(planned)


def test_parts_are_those_of_the_training_and_add_up():
    planned = training_memory(SMALL, Train(batch=4), 64)
    model = build(SMALL)
    bytes_of_weights = sum(tensor.nbytes for tensor in model.parameters())
    assert planned.method == "dry-run"
    assert bytes_of_weights <= planned.weights < 1.05 * bytes_of_weights
    assert planned.gradients == bytes_of_weights
    assert planned.optimizer == pytest.approx(2 * bytes_of_weights, rel=0.03)
    assert planned.total == sum(planned.parts.values())


def test_activations_are_what_autograd_keeps():
    held = 0
    seen = set()

    def keep(tensor):
        nonlocal held
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            held += storage.nbytes()
        return tensor

    model = build(SMALL).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    seen |= own
    batch = Batch(*torch.zeros(2, 4, 64, dtype=torch.int64), 256)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        summed = NextTokenObjective(NextToken())(model, batch)
    # Head and loss give their gradients away, so that they are not among what is saved.
    held += sum(gradient.nbytes for gradient in summed.loss.grad_fn.gradients[:2])
    planned = training_memory(SMALL, Train(batch=4, validations=0), 64)
    assert planned.activations == pytest.approx(held, rel=0.1)


def test_what_saves_memory_is_seen():
    config = ModelConfig(dim=64, layers=6).resolved(500, 128)
    whole = training_memory(config, Train(batch=16), 128)
    quarter = training_memory(config, Train(batch=16, accumulate=4), 128)
    assert 0.2 < quarter.activations / whole.activations < 0.3
    again = Train.model_validate({"batch": 16, "memory": {"recompute": "blocks"}})
    assert training_memory(config, again, 128).activations < 0.4 * whole.activations
    half = training_memory(config, Train(batch=16), 128, "bf16")
    assert half.activations < 0.8 * whole.activations


def test_only_what_trains_has_gradients_and_states():
    lora = {"kind": "lora", "targets": ["attention.qkv"], "r": 4}
    config = load.model_config(
        {**SMALL.model_dump(mode="json"), "adapters": [lora]}, "test"
    ).resolved()
    planned = training_memory(config, Train(batch=4), 64, trains="adapters")
    adapters = sum(
        tensor.nbytes for name, tensor in build(config).named_parameters() if ".lora." in name
    )
    assert planned.gradients == adapters
    assert 0 <= planned.optimizer - 2 * adapters < 20_000  # with the table of rotations


def test_a_teacher_takes_its_weights_and_isolated_documents_take_masks():
    alone = training_memory(SMALL, Train(batch=4), 64)
    taught = training_memory(SMALL, Train(batch=4), 64, teacher=SMALL)
    assert taught.teacher >= alone.weights
    apart = training_memory(SMALL, Train(batch=4), 64, isolated=True)
    assert apart.activations > alone.activations


def test_nothing_is_allocated_and_gpt2_takes_seconds(monkeypatch):
    monkeypatch.setattr(dry_run, "_known", {})
    gc.collect()
    before = _resident()
    planned = training_memory(catalogue.load("gpt2").resolved(), Train(batch=16), 128)
    assert planned.total > 2.5e9
    assert _resident() - before < 1e8
    formula = memory.training(catalogue.load("gpt2").resolved(), Train(batch=16), 128)
    assert 0.8 < planned.total / formula.total < 1.2


def test_muon_stacks_its_updates():
    adamw = training_memory(SMALL, Train(batch=1, optimizer=AdamW()), 8)
    muon = training_memory(SMALL, Train.model_validate({"batch": 1, "optimizer": "muon"}), 8)
    assert muon.optimizer < adamw.optimizer
    assert muon.head > adamw.head


def _resident() -> int:
    from flyweight.core.machine import resident_bytes

    return resident_bytes()


@pytest.mark.parametrize(("states", "share"), [("bf16", 0.5), ("int8", 0.26)])
def test_short_states_and_weights_and_dropped_gradients_are_seen(states, share):
    config = ModelConfig(dim=128, layers=6).resolved(500, 64)

    def planned(precision="fp32", **saving):
        train = {"batch": 1, "clip": 0, "validations": 0, "memory": saving}
        return training_memory(config, Train.model_validate(train), 8, precision)

    plain, short = planned(), planned(states=states)
    assert short.optimizer == pytest.approx(share * plain.optimizer, rel=0.05)
    half = planned("bf16", weights="bf16", states=states)
    assert half.weights == pytest.approx(plain.weights / 2, rel=0.05)
    assert half.gradients == pytest.approx(plain.gradients / 2, rel=0.05)
    for saving in ({}, {"states": states}):
        dropped = planned(step="backward", **saving)
        assert dropped.gradients == 0
        assert dropped.total < planned(**saving).total - 0.5 * plain.gradients


def test_loops_over_alike_parts_are_cut_short_without_a_difference(monkeypatch):
    config = ModelConfig(dim=64, layers=1).resolved(20_000, 64)
    train = Train.model_validate({"batch": 16, "memory": {"states": "int8"}})
    monkeypatch.setattr(dry_run, "_known", {})
    short = training_memory(config, train, 64)
    monkeypatch.setattr(dry_run, "_known", {})
    monkeypatch.setattr(dry_run, "few_turns", nullcontext)
    assert training_memory(config, train, 64).total == pytest.approx(short.total, rel=1e-3)
