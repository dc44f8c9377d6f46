"""What a training gives up for memory: the same updates, from fewer bytes."""

from types import SimpleNamespace

import pytest
import torch
from unit.training.test_training_trainer import (
    CONTEXT,
    Interrupted,
    corpus as corpus,
    trainer,
    windows,
)

from flyweight.compression.quantize import quantize
from flyweight.config import load, schema
from flyweight.config.baselines import LstmConfig
from flyweight.config.schema import MemorySaving, ModelConfig, Train
from flyweight.core.events import read_events
from flyweight.errors import DivergedError, RequestError
from flyweight.model.build import build
from flyweight.model.decoder import Decoder
from flyweight.planning import memory
from flyweight.store.stage import identity_config
from flyweight.training.finetune import prepared
from flyweight.training.memory_saving import (
    check_saving,
    hold_in_bfloat16,
    hold_in_float32,
    recompute_blocks,
)
from flyweight.training.sliced_adamw import SlicedAdamW

SHAPE = {"dim": 16, "layers": 2, "attention": {"heads": 2}, "dropout": 0.1}
MODELS = {
    "dropout": {},
    "shared": {"sharing": {"kind": "cycle", "times": 2}},
    "thinking": {"thinking": {"passes": 2, "memory": "first", "learned": True}},
    "window": {"attention": {"heads": 2, "window": 8, "sinks": 2}},
    "bottleneck": {"mlp": {"kind": "swiglu", "rank": 4}},
    "reading back": {
        "layers": 4,
        "attention": {"heads": 2, "value_residual": True, "gate": True},
        "skips": ["unet", "embedding"],
        "dropout": {"residual": 0.1, "depth": 0.3},
    },
}
METHODS = {
    "lora": schema.Lora(r=4, dropout=0.2),
    "dora": schema.Lora(r=4, dora=True, dropout=0.2),
    "bottleneck": schema.Bottleneck(dim=4),
    "frozen": schema.Frozen(),
}


def decoder(vocab, fields):
    return Decoder(ModelConfig.model_validate({**SHAPE, **fields}).resolved(vocab, CONTEXT))


def trained(corpus, folder, model, memory=None, **options):
    options = {"steps": 4, "validations": 0, **options}
    made = trainer(corpus, folder, model, memory=memory or {}, **options)
    made.train()
    return {name: tensor.clone() for name, tensor in made.model.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize("name", MODELS)
def test_recomputed_blocks_train_to_the_same_bits(corpus, tmp_path, name):
    vocab = corpus.meta.vocab_size
    kept = trained(corpus, tmp_path / "a", decoder(vocab, MODELS[name]))
    again = trained(corpus, tmp_path / "b", decoder(vocab, MODELS[name]), {"recompute": "blocks"})
    assert_same(kept, again)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_recomputed_blocks_tune_to_the_same_bits(corpus, tmp_path, name, packed):
    def tuned(folder, memory):
        base = decoder(corpus.meta.vocab_size, {})
        base = quantize(base, schema.NF4(), schema.Dense()) if packed else base
        return trained(corpus, tmp_path / folder, prepared(base, METHODS[name]), memory)

    assert_same(tuned("a", None), tuned("b", {"recompute": "blocks"}))


def test_recomputed_blocks_keep_documents_apart():
    def gradients(recompute):
        model = decoder(33, {"dropout": 0.0})
        if recompute:
            recompute_blocks(model)
        tokens = torch.arange(2 * CONTEXT).view(2, CONTEXT)  # (B, T)
        documents = (tokens % CONTEXT >= 5).long()
        model(tokens % 33, documents=documents).square().sum().backward()
        return {name: each.grad for name, each in model.named_parameters()}

    assert_same(gradients(False), gradients(True))


def saved_bytes(model):
    """Return the bytes that autograd keeps of a forward pass, each tensor's memory once."""
    found = {}

    def pack(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tokens = torch.zeros(4, CONTEXT, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(tokens).sum()
    return sum(found.values())


def test_recomputed_blocks_keep_less():
    plain, saving = decoder(33, {"layers": 6}), decoder(33, {"layers": 6})
    recompute_blocks(saving)
    assert saved_bytes(saving) < 0.5 * saved_bytes(plain)


def test_a_baseline_has_no_blocks_to_recompute(corpus, tmp_path):
    lstm = build(LstmConfig(dim=16, layers=1).resolved(corpus.meta.vocab_size, CONTEXT))
    with pytest.raises(RequestError, match=r"memory\.recompute.*leave it out"):
        trained(corpus, tmp_path, lstm, {"recompute": "blocks"})


def recipe(model, memory, **train):
    data = {"corpus": "x.txt", "tokenizer": "byte", "context": 32}
    train = {"steps": 10, "memory": memory, **train}
    stage = {"stage": "pretrain", "model": model, "data": data, "train": train}
    return load.recipe({"name": "toy", "stages": {"model": stage}})


def test_a_recipe_that_recomputes_a_baseline_is_refused():
    with pytest.raises(RequestError, match=r"stages\.model.*memory\.recompute"):
        recipe({"kind": "lstm", "dim": 16}, {"recompute": "blocks"})


def test_what_is_not_saved_is_not_in_an_identity():
    plain = identity_config(recipe({"dim": 16, "layers": 1}, {}).stages["model"])
    assert "memory" not in plain["train"]
    assert (
        identity_config(recipe({"dim": 16, "layers": 1}, {"recompute": "none"}).stages["model"])
        == plain
    )
    saving = identity_config(
        recipe({"dim": 16, "layers": 1}, {"recompute": "blocks"}).stages["model"]
    )
    assert saving["train"]["memory"] == {"recompute": "blocks"}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("states", ["bf16", "int8"])
def test_an_interrupted_run_with_short_states_ends_with_the_same_bits(
    corpus, tmp_path, optimizer, states
):
    assert_resumes(corpus, tmp_path, {"states": states}, optimizer=optimizer)


def assert_resumes(corpus, tmp_path, memory, **options):
    vocab, options = corpus.meta.vocab_size, {"steps": 6, "checkpoint": "1ms", **options}
    whole = trained(corpus, tmp_path / "a", decoder(vocab, {"dim": 64}), memory, **options)
    source = Interrupted(windows(corpus), 4)
    with pytest.raises(KeyboardInterrupt):
        trained(
            corpus, tmp_path / "b", decoder(vocab, {"dim": 64}), memory, source=source, **options
        )
    assert (tmp_path / "b" / "state" / "current.json").exists()
    assert_same(
        whole, trained(corpus, tmp_path / "b", decoder(vocab, {"dim": 64}), memory, **options)
    )


WEIGHTS = {"weights": "bf16"}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("states", ["fp32", "int8"])
def test_an_interrupted_run_with_bfloat16_weights_ends_with_the_same_bits(
    corpus, tmp_path, optimizer, states
):
    options = {"optimizer": optimizer, "precision": "bf16"}
    assert_resumes(corpus, tmp_path, {**WEIGHTS, "states": states}, **options)


def test_bfloat16_weights_are_finished_in_float32(corpus, tmp_path):
    made = decoder(corpus.meta.vocab_size, {})
    after = trained(corpus, tmp_path, made, WEIGHTS, precision="bf16")
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    for name, tensor in after.items():
        short = torch.equal(tensor, tensor.bfloat16().float())
        assert short == (tensor.ndim >= 2), name


def test_with_bfloat16_weights_the_stream_stays_float32():
    model = decoder(33, {"dropout": 0.0})
    tokens = torch.arange(CONTEXT)[None]
    with torch.autocast("cpu", torch.bfloat16):
        plain = model(tokens)
    hold_in_bfloat16(model)
    dtypes = []
    hook = model.blocks[0].register_forward_hook(lambda *call: dtypes.append(call[2][0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(model(tokens).float(), plain.float(), atol=2e-3)
    hook.remove()
    assert dtypes == [torch.float32]
    hold_in_float32(model)
    assert model(tokens).dtype == torch.float32


def test_small_steps_are_not_lost_in_bfloat16(corpus, tmp_path):
    """A rate of 1e-5 moves no weight of 1 that is rounded to the nearest."""
    weight = torch.nn.Parameter(torch.ones(100, 100, dtype=torch.bfloat16))
    options = {"lr": 1e-5, "betas": (0.9, 0.95), "eps": 1e-8, "states": "fp32"}
    optimizer = SlicedAdamW([weight], **options)
    for _ in range(100):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert float(weight.detach().float().mean()) == pytest.approx(1 - 1e-3, abs=2e-4)


def test_bfloat16_weights_are_refused_where_they_cannot_be():
    with pytest.raises(RequestError, match=r"precision is fp32; set precision to bf16"):
        recipe({"dim": 16, "layers": 1}, WEIGHTS, precision="fp32")
    with pytest.raises(RequestError, match=r"memory\.weights.*baseline"):
        recipe({"kind": "lstm", "dim": 16}, WEIGHTS)
    tuned = prepared(decoder(33, {}), METHODS["lora"])
    with pytest.raises(RequestError, match=r"memory\.weights.*this method leaves"):
        check_saving(tuned, MemorySaving(weights="bf16"), "here")


def test_bfloat16_weights_are_multiplied_in_bfloat16():
    train = Train.model_validate({"steps": 1, "memory": WEIGHTS})
    assert (train.precision, train.products) == ("auto", "bf16")


BACKWARD = {"step": "backward"}


@pytest.mark.parametrize("memory", [{}, {"states": "int8", "recompute": "blocks"}])
@pytest.mark.parametrize("name", ["dropout", "shared", "thinking", "reading back"])
def test_steps_in_the_backward_pass_are_the_same_updates(corpus, tmp_path, name, memory):
    def after(folder, memory):
        model = decoder(corpus.meta.vocab_size, {**MODELS[name], "dim": 64})
        return trained(corpus, tmp_path / folder, model, memory, clip=0, validations=2)

    assert_same(after("a", memory), after("b", {**memory, **BACKWARD}))
    events = [read_events(tmp_path / folder / "events.jsonl") for folder in "ab"]
    norms = [[event["norm"] for event in each if event["event"] == "step"] for each in events]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4) and len(norms[0]) == 4


def test_steps_in_the_backward_pass_tune_adapters(corpus, tmp_path):
    def after(folder, memory):
        model = prepared(decoder(corpus.meta.vocab_size, {}), METHODS["lora"])
        return trained(corpus, tmp_path / folder, model, memory, clip=0)

    assert_same(after("a", {}), after("b", BACKWARD))


def test_no_two_gradients_are_there_at_once(corpus, tmp_path):
    model = decoder(corpus.meta.vocab_size, {})
    most = []

    def look(parameter):
        most.append(sum(each.grad is not None for each in model.parameters()))

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(look)
    trained(corpus, tmp_path, model, BACKWARD, clip=0)
    assert set(most) == {1}
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_interrupted_run_with_everything_saved_ends_with_the_same_bits(corpus, tmp_path):
    memory = {**BACKWARD, **WEIGHTS, "states": "int8", "recompute": "blocks"}
    assert_resumes(corpus, tmp_path, memory, precision="bf16", clip=0)


def test_a_diverged_step_in_the_backward_pass_is_refused(corpus, tmp_path):
    model = decoder(corpus.meta.vocab_size, {})
    with torch.no_grad():
        model.embedding.tokens.weight[:] = float("nan")
    with pytest.raises(DivergedError, match="diverged at step 1"):
        trained(corpus, tmp_path, model, BACKWARD, clip=0)


@pytest.mark.parametrize(
    ("train", "reason"),
    [
        ({"accumulate": 2, "clip": 0}, "set accumulate to 1"),
        ({}, "clip is 1, .*; set clip to 0"),
        ({"clip": 0, "optimizer": "muon"}, "set optimizer to adamw"),
        ({"clip": 0, "precision": "fp16"}, "fp16 .*; set precision to bf16 or fp32"),
        ({"accumulate": 2}, "set accumulate to 1.*set clip to 0"),
    ],
)
def test_what_needs_all_gradients_at_once_is_refused(train, reason):
    with pytest.raises(RequestError, match=rf"memory\.step: .*{reason}"):
        recipe({"dim": 16, "layers": 1}, BACKWARD, **train)


def test_a_step_in_the_backward_pass_is_not_shared(corpus, tmp_path):
    world = SimpleNamespace(size=2, rank=0)
    with pytest.raises(RequestError, match=r"memory\.step.*2 processes"):
        model = decoder(corpus.meta.vocab_size, {})
        trained(corpus, tmp_path, model, BACKWARD, clip=0, world=world)


@pytest.mark.parametrize("states", ["bf16", "int8"])
def test_short_states_learn_as_well(corpus, tmp_path, states):
    def nll(memory):
        model = decoder(corpus.meta.vocab_size, {"dim": 32})
        made = trainer(corpus, tmp_path / str(len(memory)), model, memory=memory, steps=60)
        return made.train()["best_nll"]

    assert nll({"states": states}) == pytest.approx(nll({}), abs=0.03)


def planned(**saving):
    config = ModelConfig.model_validate({"dim": 128, "layers": 8}).resolved(1000, 128)
    train = Train.model_validate({"steps": 1, "clip": 0, "memory": saving})
    return memory.training(config, train, 128)


def test_a_plan_counts_recomputed_blocks():
    kept, again = planned().activations, planned(recompute="blocks").activations
    assert 8 * 16 * 128 * 128 * 4 < again < 0.4 * kept


@pytest.mark.parametrize(("states", "share"), [("bf16", 0.5), ("int8", 0.26)])
def test_a_plan_counts_short_states(states, share):
    assert planned(states=states).optimizer == pytest.approx(share * planned().optimizer, rel=0.03)


def test_a_plan_counts_bfloat16_weights():
    plain, short = planned(), planned(weights="bf16")
    assert (short.weights, short.gradients) == (plain.weights // 2, plain.gradients // 2)


def test_a_plan_counts_gradients_that_are_dropped():
    plain, dropped = planned().gradients, planned(step="backward").gradients
    assert 4 * 1000 * 128 < dropped < 0.25 * plain
