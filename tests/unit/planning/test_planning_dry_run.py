import gc
from contextlib import nullcontext

import pytest
import torch

from flyweight.compression.quantize import quantized
from flyweight.config import catalogue, load
from flyweight.config.finetuning import tuned_config
from flyweight.config.schema import (
    NF4,
    AdamW,
    Distillation,
    Int8,
    Lora,
    ModelConfig,
    NextToken,
    Train,
)
from flyweight.data.batch import Batch
from flyweight.model.build import build
from flyweight.model.precision import autocast
from flyweight.planning import dry_run, memory
from flyweight.planning.dry_run import _LiveBytes
from flyweight.spec import flops
from flyweight.training.memory_saving import save_memory
from flyweight.training.objectives import DistillationObjective, NextTokenObjective
from flyweight.training.optimizers import build_optimizers
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
    hidden, head, _ = summed.loss.grad_fn.gradients
    held += hidden.nbytes + sum(part.nbytes for part in head.parts)
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


POSTER = ModelConfig.model_validate(
    {
        "dim": 96,
        "layers": 1,
        "attention": {"heads": 2, "kv_heads": 1, "head_dim": 48, "qk_norm": True},
        "mlp": {"kind": "swiglu", "hidden": 48, "rank": 16},
        "sharing": {"kind": "all", "times": 24, "index": True},
    }
).resolved(9000, 64)
"""DistilQwen3's student at 1/32 of its width."""

LARGE = ModelConfig.model_validate(
    {
        "dim": 128,
        "layers": 12,
        "attention": {"heads": 2, "kv_heads": 1, "head_dim": 64, "qk_norm": True},
        "mlp": {"kind": "swiglu", "hidden": 384},
        "embedding": {"tied": False},
    }
).resolved(9000, 64)
"""Its teacher at 1/32 of its width, with fewer layers."""

TEACHER = quantized(LARGE, NF4(), Int8())


def _live_bytes(model, teacher, train, precision):
    """The most bytes that tensors hold in two real steps of a distillation, counted as they live."""
    torch.manual_seed(0)
    with _LiveBytes() as live:
        student = build(model).train()
        guide = build(teacher).eval().requires_grad_(False)
        save_memory(student, train.memory, "test")
        objective = DistillationObjective(Distillation(), guide)
        optimizers = build_optimizers(student, train.optimizer, precision, train.memory.states)
        ids = torch.randint(0, 9000, (train.batch, 65))
        for _ in range(2):
            gc.collect()
            live.most = live.now
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            for rows in ids.chunk(train.accumulate):
                batch = Batch.from_tensors(rows[:, :-1], rows[:, 1:])
                with autocast("cpu", precision):
                    summed = objective(student, batch)
                summed.loss.backward()
            for optimizer in optimizers:
                optimizer.step()
    return live.most


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("saving", [{}, {"recompute": "blocks", "states": "int8"}])
def test_a_distillation_from_packed_layers_is_counted_as_it_happens(precision, saving):
    fields = {"batch": 8, "accumulate": 2, "clip": 0, "validations": 0, "memory": saving}
    train = Train.model_validate(fields)
    planned = training_memory(
        POSTER, train, 64, precision, teacher=TEACHER, objective=Distillation()
    )
    assert planned.method == "dry-run"
    counted = planned.total - planned.libraries - planned.copies
    assert counted == pytest.approx(_live_bytes(POSTER, TEACHER, train, precision), rel=0.03)


def test_a_teacher_of_many_layers_holds_their_weights_and_no_more():
    models = [LARGE.model_copy(update={"layers": n, "vocab_size": 500}) for n in (2, 12)]
    few, many = (training_memory(SMALL, Train(batch=4), 64, teacher=each) for each in models)
    weights = [flops.weight_bytes(each) for each in models]
    assert many.teacher - few.teacher == weights[1] - weights[0]
    assert many.head == few.head


def test_products_in_half_precision_are_compiled_once_for_each_shape():
    plain, deep = (ModelConfig(dim=64, layers=n).resolved(500, 64) for n in (2, 4))
    assert training_memory(plain, Train(batch=4), 64).copies == 0
    half = training_memory(plain, Train(batch=4), 64, "bf16").copies
    assert half > dry_run.KERNELS
    assert training_memory(deep, Train(batch=4), 64, "bf16").copies == half


def test_qlora_is_counted_in_a_dry_run():
    packed = quantized(SMALL, NF4(), Int8())
    tuned = tuned_config(packed, Lora())
    planned = training_memory(tuned, Train(batch=4), 64, trains="adapters")
    dense = training_memory(tuned_config(SMALL, Lora()), Train(batch=4), 64, trains="adapters")
    assert planned.method == "dry-run"
    assert planned.weights < 0.5 * dense.weights
