import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from flyweight.compression.quantize import quantize
from flyweight.config.schema import NF4, Adapter, Dense, Int8, LinearKind, ModelConfig
from flyweight.errors import FlyweightError, RequestError
from flyweight.model import folder
from flyweight.model.attach import attach, freeze
from flyweight.model.build import Model
from flyweight.model.decoder import Decoder
from flyweight.model.linear_layer import layers_of
from flyweight.model.masks import TokenSpan
from flyweight.model.position import Rotary
from flyweight.spec.adapters import adapter_tensors, trained_tensors

APART: list[Any] = [{"kind": "lora", "targets": ["attention", "mlp"], "r": 3, "alpha": 6}]
EVERY_KIND: dict[str, list[Any]] = {
    "joint": [{"kind": "lora", "targets": ["attention.qkv", "mlp.gate_up"], "r": 3}],
    "apart": APART,
    "rslora": [{"kind": "rslora", "targets": ["*.q", "*.v"], "r": 4}],
    "dora": [{"kind": "dora", "targets": ["attention.qkv", "mlp.down"], "r": 3}],
    "ia3": ["ia3"],
    "bottleneck": [{"kind": "bottleneck", "dim": 5}],
    "prefix": [{"kind": "prefix", "length": 4}],
    "shared": [{"kind": "prefix", "length": 3, "softmax": "shared"}],
    "together": [
        {"kind": "dora", "targets": ["attention.qkv"], "r": 2},
        "ia3",
        {"kind": "lora", "targets": ["mlp.down"], "r": 2},
        {"kind": "bottleneck", "after": ["mlp"], "dim": 3},
        {"kind": "prefix", "length": 3},
    ],
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"attention": {"heads": 4, "kv_heads": 2, "qk_norm": True, "gain": True}},
    "gpt2": {"position": "learned", "norm": "layernorm", "attention": {"heads": 4, "bias": True}},
    "shared": {"sharing": {"kind": "cycle", "times": 2}, "attention": {"heads": 2}},
    "thinking": {"thinking": {"kind": "deep", "passes": 1, "memory": "first"}},
    "window": {"attention": {"heads": 2, "window": 4, "sinks": 1}},
    "low rank": {"mlp": {"kind": "swiglu", "rank": 6}},
}


def read(adapters: list[Any]) -> tuple[Adapter, ...]:
    reader: TypeAdapter[tuple[Adapter, ...]] = TypeAdapter(tuple[Adapter, ...])
    return reader.validate_python(adapters)


def base(seed: int = 1, **fields: Any) -> Decoder:
    sizes = {"vocab_size": 40, "context": 12, "dim": 16, "layers": 2}
    return Decoder(ModelConfig.model_validate({**sizes, **fields}), seed).eval()


def tokens(rows: int = 2, length: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 40, (rows, length), generator=generator)


def moved(model: Model, seed: int = 3, size: float = 0.3) -> Model:
    """Give every adapter values that change something."""
    generator = torch.Generator().manual_seed(seed)
    names = {tensor.name for tensor in adapter_tensors(model.config)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in names:
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return model


def supported(kind: str, shape: str) -> list[Any]:
    adapters = EVERY_KIND[kind]
    if kind == "joint" and shape == "low rank":
        return [{"kind": "lora", "targets": ["attention.qkv", "mlp"], "r": 3}]
    if kind == "dora" and shape == "thinking":
        return [{**each, "per": "visit"} for each in adapters]
    return adapters


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_fresh_adapter_changes_nothing(kind: str, shape: str) -> None:
    model = base(**SHAPES[shape])
    adapted = attach(model, read(supported(kind, shape)), seed=5)
    # A prefix in the text's softmax takes weight from the text, whatever its values are.
    assert torch.equal(adapted(tokens()), model(tokens())) == (kind != "shared")
    for name, tensor in model.state_dict().items():
        assert adapted.state_dict()[name].data_ptr() == tensor.data_ptr()
    changed = moved(adapted)(tokens())
    assert not torch.allclose(changed, model(tokens()), atol=1e-3)


@pytest.mark.parametrize("per", ["layer", "visit"])
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_tensors_are_those_that_were_counted(kind: str, per: str) -> None:
    adapters = [TypeAdapter(Adapter).validate_python(each) for each in EVERY_KIND[kind]]
    adapters = [each.model_copy(update={"per": per}) for each in adapters]
    model = base(sharing={"kind": "repeat", "times": 3})
    adapted = attach(model, adapters)
    new = adapted.state_dict().keys() - model.state_dict().keys()
    expected = {tensor.name: tensor.shape for tensor in adapter_tensors(adapted.config)}
    assert {name: tuple(adapted.state_dict()[name].shape) for name in new} == expected


@pytest.mark.parametrize("shape", ["llama", "gpt2", "shared", "thinking", "window"])
@pytest.mark.parametrize("kind", ["joint", "prefix", "shared", "together"])
def test_a_cache_changes_nothing(kind: str, shape: str) -> None:
    model = moved(attach(base(**SHAPES[shape]), read(EVERY_KIND[kind])))
    whole = model(tokens())
    cache = model.new_cache(2, 9)
    parts = [model(tokens()[:, :5], cache)]
    parts += [model(tokens()[:, place : place + 1], cache) for place in range(5, 9)]
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)


@pytest.mark.parametrize("shape", ["llama", "gpt2", "shared", "thinking", "window"])
def test_every_document_of_a_row_sees_a_prefix(shape: str) -> None:
    model = moved(attach(base(**SHAPES[shape]), read(EVERY_KIND["shared"])))
    documents = torch.tensor([[0] * 4 + [1] * 5]).expand(2, -1)
    packed = model(tokens(), documents=documents)
    apart = [model(tokens()[:, :4]), model(tokens()[:, 4:])]
    assert torch.allclose(packed, torch.cat(apart, 1), atol=1e-5)


def test_a_prefix_in_the_softmax_of_the_text_is_what_its_formula_says() -> None:
    model = moved(attach(base(layers=1, **SHAPES["llama"]), read(EVERY_KIND["shared"]))).double()
    attention = model.get_submodule("blocks.0.attention")
    x = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(1)).double()
    rotation = model._rotation(x, None, 0, 5)
    mask = TokenSpan(0, 5, None, None, x.device).mask(prefix=3)
    found, _ = attention(x, mask, rotation, None)
    later = Rotary(model.config.position, [4]).rotation(x, x.dtype, None, 3, 5)
    q = later(attention.q_norm(attention.q(x).view(1, 5, 4, 4))) * attention.gain[:, None]
    k = later(attention.k_norm(attention.k(x).view(1, 5, 2, 4)))[0]
    v = attention.v(x).view(5, 2, 4)
    keys = torch.cat((attention.prefix.keys.view(3, 2, 4), k))
    values = torch.cat((attention.prefix.values.view(3, 2, 4), v))
    read_ = torch.zeros(5, 4, 4).double()
    for token in range(5):
        for head in range(4):
            seen = keys[: 3 + token + 1, head // 2]
            weights = (seen @ q[0, token, head] / 2).softmax(0)
            read_[token, head] = weights @ values[: 3 + token + 1, head // 2]
    assert torch.allclose(found[0], attention.out(read_.view(5, 16)), atol=1e-12)


@pytest.mark.parametrize("shape", ["llama", "window"])
def test_training_in_bfloat16_reads_a_prefix_as_everywhere(shape: str) -> None:
    model = moved(attach(base(**SHAPES[shape]), read(EVERY_KIND["shared"]))).train()
    with torch.autocast("cpu", torch.bfloat16):
        half = model(tokens())
    assert torch.allclose(half.float(), model(tokens()), atol=0.05)


def test_a_prefix_takes_learned_positions() -> None:
    model = base(**SHAPES["gpt2"])
    tuned = attach(model, read(EVERY_KIND["shared"]))
    assert tuned.config.context == 9
    assert attach(tuned, read(["lora"])).config.context == 9
    tuned(tokens())
    with pytest.raises(RequestError, match="longer than the 9 positions"):
        tuned(tokens(length=10))
    with pytest.raises(RequestError, match="none is left for a text"):
        attach(model, read([{"kind": "prefix", "softmax": "shared", "length": 12}]))
    assert attach(base(), read(EVERY_KIND["shared"])).config.context == 12


@pytest.mark.parametrize("kind", ["prefix", "shared"])
def test_padding_on_the_left_changes_nothing_beside_a_prefix(kind: str) -> None:
    model = moved(attach(base(), read(EVERY_KIND[kind])))
    padded = torch.cat((torch.zeros(2, 2, dtype=torch.long), tokens(length=6)), 1)
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[:, :2] = False
    found = model(padded, mask=mask)[:, 2:]
    assert torch.allclose(found, model(tokens(length=6)), atol=1e-5)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_saved_and_loaded_to_the_bit(kind: str, tmp_path: Path) -> None:
    model = moved(attach(base(), read(EVERY_KIND[kind])))
    folder.save(model, tmp_path)
    loaded = folder.load(tmp_path).eval()
    assert loaded.config == model.config
    assert torch.equal(loaded(tokens()), model(tokens()))


def test_a_model_of_other_tensors_is_refused(tmp_path: Path) -> None:
    model = attach(base(), read(["ia3"]))
    with pytest.raises(FlyweightError, match=r"ia3\.scale is missing"):
        folder.write(model.config, base().state_dict(), tmp_path)


def gradient(model: Model) -> torch.Tensor:
    """Return the gradient of the mean NLL to everything that trains."""
    model.train()
    model.zero_grad()
    logits = model(tokens()).flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, tokens().flatten()).backward()
    parts = []
    for name, parameter in trained(model):
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
        parts.append(parameter.grad.flatten())
    return torch.cat(parts)


@pytest.mark.parametrize(
    ("dtype", "size", "tolerance"), [(torch.float64, 0.3, 1e-10), (torch.float32, 0.02, 1e-6)]
)
@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("packed", [Int8(), NF4()])
def test_gradients_over_packed_matrices_are_those_over_dense_ones(
    packed: LinearKind, kind: str, dtype: torch.dtype, size: float, tolerance: float
) -> None:
    small = quantize(base(), packed, Int8())
    twin = base()
    with torch.no_grad():
        for name, layer in layers_of(small):
            twin.get_parameter(f"{name}.weight").copy_(layer.dense())
    pair = [
        moved(attach(model.to(dtype), read(EVERY_KIND[kind])), size=size) for model in (small, twin)
    ]
    for model in pair:
        freeze(model, model.config, "adapters")
    for _ in range(3):
        ours, theirs = (gradient(model) for model in pair)
        assert (ours - theirs).norm() <= tolerance * theirs.norm()
        for model in pair:
            model.eval()
            with torch.no_grad():
                model(tokens())
                model(tokens(1, 1), model.new_cache(1, 4))
                for _, parameter in trained(model):
                    assert parameter.grad is not None
                    parameter.add_(parameter.grad, alpha=-0.1)


def trained(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, each) for name, each in model.named_parameters() if each.requires_grad]


@pytest.mark.parametrize("part", ["adapters", "frozen", "full"])
def test_only_what_trains_gets_a_gradient(part: Any) -> None:
    model = moved(attach(base(), read(EVERY_KIND["together"])))
    freeze(model, model.config, part)
    model(tokens()).square().sum().backward()
    trains = trained_tensors(model.config, part)
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == trains(name), name


def test_dropout_is_for_training_alone() -> None:
    adapter = {"kind": "lora", "targets": ["attention.qkv"], "dropout": 0.5}
    model = moved(attach(base(), read([adapter])))
    assert torch.equal(model(tokens()), model(tokens()))
    model.train()
    assert not torch.equal(model(tokens()), model(tokens()))


def test_the_order_of_the_list_counts() -> None:
    lora, ia3 = {"kind": "lora", "targets": ["mlp.down"], "r": 2}, {"kind": "ia3"}
    first = moved(attach(base(), read([lora, ia3])))
    second = attach(base(), read([ia3, lora]))
    second.load_state_dict(first.state_dict())
    assert not torch.allclose(first(tokens()), second(tokens()), atol=1e-4)


def test_each_visit_may_have_its_own() -> None:
    adapter = {"kind": "lora", "targets": ["*"], "per": "visit", "r": 2}
    model = moved(attach(base(sharing={"kind": "cycle", "times": 2}), read([adapter])))
    twin = base(layers=4)
    state, target = model.state_dict(), twin.state_dict()
    for name in target:
        if name.startswith("blocks."):
            _, layer, rest = name.split(".", 2)
            target[name] = state[f"blocks.{int(layer) % 2}.{rest}"]
        else:
            target[name] = state[name]
    twin.load_state_dict(target)
    unrolled = attach(twin, read([{**adapter, "per": "layer"}]))
    with torch.no_grad():
        for name, parameter in unrolled.named_parameters():
            if ".lora." in name:
                _, layer, rest = name.split(".", 2)
                parameter.copy_(state[f"blocks.{int(layer) % 2}.{rest}"][int(layer) // 2])
    assert torch.allclose(model(tokens()), unrolled(tokens()), atol=1e-6)


def test_recomputed_blocks_have_the_same_gradients() -> None:
    from torch.utils.checkpoint import checkpoint

    lora = {"kind": "lora", "targets": ["*"], "per": "visit"}
    adapters = read([lora, *EVERY_KIND["shared"]])
    plain = moved(attach(base(sharing={"kind": "cycle", "times": 2}), adapters)).train()
    again = copy.deepcopy(plain)
    again.recompute = lambda *reads: checkpoint(*reads, use_reentrant=False)
    for model in (plain, again):
        model(tokens()).square().sum().backward()
    for one, two in zip(plain.parameters(), again.parameters(), strict=True):
        assert one.grad is not None and two.grad is not None
        assert torch.equal(one.grad, two.grad)


def test_a_quantized_model_keeps_its_adapters() -> None:
    model = moved(attach(base(), read(EVERY_KIND["joint"])))
    packed = quantize(model, Int8(), Dense())
    assert torch.equal(
        packed.state_dict()["blocks.0.attention.qkv.lora.a"],
        model.state_dict()["blocks.0.attention.qkv.lora.a"],
    )
    assert torch.allclose(packed(tokens()), model(tokens()), atol=0.2)


def test_what_cannot_be_attached_is_refused() -> None:
    with pytest.raises(RequestError, match=r"no layer is called 'mlp\.dwn'"):
        attach(base(), read([{"kind": "lora", "targets": ["mlp.dwn"]}]))
    with pytest.raises(RequestError, match="has a prefix already"):
        attach(attach(base(), read(["prefix"])), read(["prefix"]))


def test_layers_of_peft_stand_between_ours_and_the_matrix() -> None:
    peft = pytest.importorskip("peft")
    model = moved(attach(base(), read(["dora", "ia3"])))
    before = model(tokens())
    options = peft.LoraConfig(target_modules=["q", "down"], r=2, init_lora_weights=True)
    wrapped = peft.inject_adapter_in_model(options, model).eval()
    assert torch.equal(wrapped(tokens()), before)
