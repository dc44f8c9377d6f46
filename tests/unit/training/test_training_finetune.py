"""What of a model a fine-tuning trains, and what it adds to it."""

import pytest
import torch
from pydantic import TypeAdapter
from torch.utils.flop_counter import FlopCounterMode

from flyweight.compression.quantize import quantize
from flyweight.config import schema
from flyweight.config.adapters import Frozen, Full
from flyweight.config.finetuning import tuned_config
from flyweight.config.schema import NF4, Int8, LstmConfig, ModelConfig
from flyweight.data.batch import Batch
from flyweight.errors import RequestError
from flyweight.model import folder
from flyweight.model.build import build
from flyweight.model.decoder import Decoder
from flyweight.model.own_head import with_own_head
from flyweight.spec import flops
from flyweight.training import checkpoint
from flyweight.training.finetune import prepared, tunable_config, tuning_facts
from flyweight.training.objectives import NextTokenObjective

PLAIN = NextTokenObjective(schema.NextToken())


def decoder(**fields):
    config = {"vocab_size": 40, "context": 16, "dim": 16, "layers": 2, "attention": {"heads": 2}}
    model = Decoder(ModelConfig.model_validate({**config, **fields}), seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.manual_seed(0)) * 0.1)
    return model


def batch(rows=2, length=16):
    tokens = torch.randint(0, 40, (rows, length + 1), generator=torch.manual_seed(2))
    return Batch.from_tensors(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"head": {"bias": True, "softcap": 5.0}},
        {"embedding": {"tied": False}},
        {"norm": "layernorm", "position": "learned"},
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_head_of_its_own_gives_the_same_logits(fields, packed):
    model = decoder(**fields)
    if packed:
        model = quantize(model, NF4(), Int8())
    apart = with_own_head(model)
    assert not apart.config.embedding.tied
    assert apart.config == tuned_config(model.config, Frozen())
    tokens = batch().inputs
    assert torch.equal(apart(tokens), model(tokens)) or torch.allclose(
        apart(tokens), model(tokens), atol=1e-5
    )
    if not packed:
        assert torch.equal(apart(tokens), model(tokens))


@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "ia3", "bottleneck", "prefix"])
@pytest.mark.parametrize("packed", [False, True])
def test_an_adapter_changes_nothing_at_first_and_trains_alone(method, packed):
    base = decoder()
    if packed:
        base = quantize(base, NF4(), Int8())
    method = TypeAdapter(schema.Method).validate_python(method)
    model, tokens = prepared(base, method, seed=3), batch().inputs
    assert torch.equal(model(tokens), base(tokens))
    assert model.config == tuned_config(base.config, method)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == model.state_dict().keys() - base.state_dict().keys()
    count = sum(model.get_parameter(name).numel() for name in trained)
    assert tuning_facts(model, method) == {
        "trainable_parameters": count,
        "trainable_bytes": 4 * count,
        "adapter_bytes": 4 * count,
    }
    again = prepared(model, method)
    assert again is model


def test_a_prefix_in_the_softmax_of_the_text_trains_alone_and_learns():
    base = decoder(position="learned")
    fields = {"kind": "prefix", "softmax": "shared", "length": 4}
    method = TypeAdapter(schema.Method).validate_python(fields)
    model = prepared(base, method, seed=3)
    assert model.config == tuned_config(base.config, method)
    assert model.config.context == base.config.context - 4
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sum(each.numel() for each in trained) == flops.trained_parameters(
        model.config, "adapters"
    )
    before = {name: each.clone() for name, each in base.state_dict().items()}
    optimizer = torch.optim.AdamW(trained, lr=0.05)
    rows = torch.arange(24).view(2, 12) % 40
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        logits = model(rows[:, :-1]).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, rows[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    for name, tensor in before.items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_a_factorised_head_is_multiplied_out():
    model = decoder(embedding={"rank": 4})
    apart, tokens = with_own_head(model), batch().inputs
    assert apart.head.linear.weight.shape == (40, 16)
    torch.testing.assert_close(apart(tokens), model(tokens), rtol=1e-5, atol=1e-6)


def test_only_the_head_and_the_final_norm_of_a_frozen_model_change():
    model = prepared(decoder(norm="layernorm"), Frozen())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    PLAIN(model, batch()).loss.backward()
    optimizer.step()
    changed = {n for n, tensor in model.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed == {"head.linear.weight", "norm.weight", "norm.bias"}
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert count == flops.trained_parameters(model.config, "frozen") == 40 * 16 + 2 * 16


@pytest.mark.parametrize("method", [Full(), Frozen()])
@pytest.mark.parametrize("final", [True, False])
def test_the_flops_of_a_method_are_those_that_torch_counts(method, final):
    model = prepared(decoder(norm={"kind": "rmsnorm", "final": final}), method)
    counter = FlopCounterMode(display=False)
    with torch.device("meta"):
        twin = Decoder(model.config)
    for name, parameter in twin.named_parameters():
        parameter.requires_grad_(model.get_parameter(name).requires_grad)
    tokens = torch.zeros((1, 16), dtype=torch.long, device="meta")
    with counter:
        twin(tokens).sum().backward()
    assert flops.training_flops(model.config, 16, trains=method.trains) == counter.get_total_flops()


def test_the_head_of_a_frozen_weight_gets_no_gradient_and_the_hidden_states_the_same():
    free, fixed = decoder(), decoder()
    fixed.embedding.tokens.weight.requires_grad_(False)
    for model in (free, fixed):
        PLAIN(model, batch()).loss.backward()
    assert fixed.embedding.tokens.weight.grad is None
    assert torch.equal(
        fixed.blocks[0].attention.q.weight.grad, free.blocks[0].attention.q.weight.grad
    )


def test_a_checkpoint_has_the_trained_tensors_alone_and_the_rest_stays(tmp_path):
    model = prepared(decoder(), Frozen())
    checkpoint.save(tmp_path / "state", "finetune-00000000", checkpoint.Progress(step=1), model, [])
    (file,) = tmp_path.rglob("model.safetensors")
    kept = 4 * flops.trained_parameters(model.config, "frozen")
    assert kept <= file.stat().st_size < kept + 1000
    again = prepared(decoder(), Frozen())
    with torch.no_grad():
        again.head.linear.weight.zero_()
        again.blocks[0].attention.q.weight.zero_()
    checkpoint.restore(again, file)
    assert torch.equal(again.head.linear.weight, model.head.linear.weight)
    assert not again.blocks[0].attention.q.weight.any()


def saved(model, place):
    folder.save(model, place)
    return place


def test_what_cannot_be_tuned_is_refused(tmp_path):
    packed = saved(quantize(decoder(), Int8(), Int8()), tmp_path / "packed")
    with pytest.raises(RequestError, match=r"stages.x.input: .* stored as int8 and cannot be"):
        tunable_config(packed, Full(), "stages.x")
    assert tunable_config(packed, Frozen(), "stages.x").dim == 16
    wrong = schema.Lora(targets=("attention.w",))
    with pytest.raises(
        RequestError, match=r"stages.x.method: adapters.0.targets: no layer is called"
    ):
        tunable_config(packed, wrong, "stages.x")
    lstm = LstmConfig.model_validate(
        {"kind": "lstm", "dim": 8, "layers": 1, "vocab_size": 40, "context": 16}
    )
    baseline = saved(build(lstm), tmp_path / "baseline")
    with pytest.raises(RequestError, match=r"stages.x.method: frozen is for decoders"):
        tunable_config(baseline, Frozen(), "stages.x")
    assert tunable_config(baseline, Full(), "stages.x").kind == "lstm"
