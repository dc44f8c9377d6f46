"""Adapters in peft's format, both ways: transformers with peft computes what our model does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from safetensors import torch as safetensors

from flyweight.checkpoints.peft_export import peft_adapter
from flyweight.checkpoints.peft_import import with_peft
from flyweight.compression.quantize import quantize
from flyweight.config.schema import Adapter, Int8, ModelConfig
from flyweight.errors import FlyweightError, RequestError
from flyweight.formats import hf, peft as ours
from flyweight.model import folder
from flyweight.model.attach import attach, freeze
from flyweight.model.decoder import Decoder
from flyweight.spec import flops
from flyweight.spec.adapters import adapter_tensors

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

TOKENS = torch.arange(18).view(2, 9) * 7 % 40
GPT2 = {
    "position": "learned",
    "norm": "layernorm",
    "attention": {"heads": 4, "bias": True},
    "mlp": {"kind": "gelu", "bias": True, "approximate": "tanh"},
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": GPT2,
    "llama": {"attention": {"heads": 4, "kv_heads": 2}, "embedding": {"tied": False}},
    "qwen3": {"attention": {"heads": 4, "kv_heads": 2, "qk_norm": True}},
}
ADAPTERS: dict[str, list[Any]] = {
    "joint": [{"kind": "lora", "targets": ["attention.qkv"], "r": 4, "dropout": 0.1}],
    "apart": [{"kind": "lora", "targets": ["attention.q", "attention.v"], "r": 3}],
    "everything": [{"kind": "lora", "targets": ["attention", "mlp"], "r": 2, "alpha": 3}],
    "one block": [{"kind": "lora", "targets": ["blocks.1.attention.out"], "r": 2}],
    "several": [
        {"kind": "lora", "targets": ["attention.qkv"], "r": 2, "alpha": 5},
        {"kind": "lora", "targets": ["mlp.down"], "r": 4},
    ],
    "rslora": [{"kind": "rslora", "targets": ["attention.qkv", "mlp.up"], "r": 4}],
    "rslora apart": [{"kind": "rslora", "targets": ["attention.k", "attention.v"], "r": 4}],
    "dora": [{"kind": "dora", "targets": ["attention.qkv", "mlp.down"], "r": 2}],
    "dora apart": [{"kind": "dora", "targets": ["attention.q", "mlp.down"], "r": 2}],
    "ia3": ["ia3"],
    "ia3 alone": [{"kind": "ia3", "targets": ["mlp.down"]}],
    "prefix": [{"kind": "prefix", "length": 4, "softmax": "shared"}],
}


def base(family: str, **fields: Any) -> Decoder:
    sizes = {"vocab_size": 40, "context": 16, "dim": 16, "layers": 2, "init": {"std": 0.2}}
    config = ModelConfig.model_validate({**sizes, **FAMILIES[family], **fields})
    return Decoder(config, seed=1).eval()


def adapted(model: Any, adapters: list[Any]) -> Decoder:
    """Return a model whose adapters change something."""
    reader: TypeAdapter[tuple[Adapter, ...]] = TypeAdapter(tuple[Adapter, ...])
    result = attach(model, reader.validate_python(adapters))
    generator = torch.Generator().manual_seed(3)
    names = {tensor.name for tensor in adapter_tensors(result.config)}
    with torch.no_grad():
        for name, parameter in result.named_parameters():
            if name in names:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return result


def card(written_as: str, notes: Any) -> str:
    return f"# {written_as}\n"


def exported(place: Path, model: Any, tuned: Any) -> tuple[Path, Path]:
    folder.save(model, place / "base")
    folder.save(tuned, place / "tuned")
    hf.write(place / "base", place / "hf", card)
    ours.write(place / "tuned", place / "adapter", card)
    return place / "hf", place / "adapter"


def theirs(place: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_computes_what_the_adapted_model_does(family: str, kind: str, tmp_path: Path) -> None:
    model = base(family)
    tuned = adapted(model, ADAPTERS[kind])
    hub, adapter = exported(tmp_path, model, tuned)
    wrapped = peft.PeftModel.from_pretrained(theirs(hub), adapter).eval()
    with torch.no_grad():
        found, expected, plain = wrapped(TOKENS).logits, tuned(TOKENS), model(TOKENS)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (plain - expected).abs().max() > 1e-2 * expected.abs().max()


# --- the other way ---


def made_by_peft(place: Path, family: str, options: Any) -> tuple[Any, Any]:
    """Return our base, and peft's model around the same one, whose adapter is saved."""
    model = base(family)
    folder.save(model, place / "base")
    hf.write(place / "base", place / "hf", card)
    wrapped = peft.get_peft_model(theirs(place / "hf"), options).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    wrapped.save_pretrained(place / "adapter")
    return model, wrapped


def lora(family: str, **options: Any) -> Any:
    targets = {
        "gpt2": ["c_attn", "mlp.c_proj"],
        "llama": ["q_proj", "v_proj", "down_proj"],
        "qwen3": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj"],
    }[family]
    fields = {"r": 3, "lora_alpha": 7, "target_modules": targets, "task_type": "CAUSAL_LM"}
    return peft.LoraConfig(**{**fields, "fan_in_fan_out": family == "gpt2", **options})


def ia3(family: str) -> Any:
    targets = {"gpt2": ["c_attn", "mlp.c_proj"]}.get(family, ["k_proj", "v_proj", "down_proj"])
    return peft.IA3Config(
        target_modules=targets,
        feedforward_modules=targets[-1:],
        task_type="CAUSAL_LM",
        fan_in_fan_out=family == "gpt2",
    )


def prefix(**options: Any) -> Any:
    fields = {"num_virtual_tokens": 3, "task_type": "CAUSAL_LM"}
    return peft.PrefixTuningConfig(**{**fields, **options})


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "patterns", "ia3", "prefix"])
@pytest.mark.parametrize("family", FAMILIES)
def test_our_model_computes_what_pefts_does(family: str, kind: str, tmp_path: Path) -> None:
    last = {"gpt2": "mlp.c_proj", "llama": "down_proj", "qwen3": "o_proj"}[family]
    made = {"ia3": lambda: ia3(family), "prefix": prefix}
    options = {
        "lora": {},
        "rslora": {"use_rslora": True},
        "dora": {"use_dora": True},
        "patterns": {"rank_pattern": {last: 2}, "alpha_pattern": {f"1.*{last}": 5}},
    }
    make = made.get(kind, lambda: lora(family, **options[kind]))
    model, wrapped = made_by_peft(tmp_path, family, make())
    ours = with_peft(model, tmp_path / "adapter").eval()
    with torch.no_grad():
        found, expected = ours(TOKENS), wrapped(TOKENS).logits
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
        assert (model(TOKENS) - expected).abs().max() > 1e-2 * expected.abs().max()


@pytest.mark.parametrize("kind", ["joint", "rslora", "dora", "ia3"])
def test_gradients_are_those_of_peft(kind: str, tmp_path: Path) -> None:
    model = base("gpt2")
    tuned = adapted(model, ADAPTERS[kind])
    hub, adapter = exported(tmp_path, model, tuned)
    wrapped = peft.PeftModel.from_pretrained(theirs(hub), adapter, is_trainable=True).eval()
    freeze(tuned, tuned.config, "adapters")
    wrapped(TOKENS, labels=TOKENS).loss.backward()
    logits = tuned(TOKENS)[:, :-1].flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, TOKENS[:, 1:].flatten()).backward()
    with torch.no_grad():
        for parameter in (*wrapped.parameters(), *tuned.parameters()):
            if parameter.grad is not None:
                parameter.copy_(parameter.grad)
    expected = with_gradients(tuned)
    wrapped.save_pretrained(tmp_path / "gradients")
    found = safetensors.load_file(tmp_path / "gradients" / "adapter_model.safetensors")
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        if kind == "ia3" and "c_attn" in name:  # peft has factors of queries as well
            gradient, found[name] = gradient[16:], found[name][16:]
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def with_gradients(tuned: Any) -> dict[str, torch.Tensor]:
    """Return what is written of a model whose adapters hold their gradients.

    The product's scale is in none of them, and those of IA3 stand where its factors do.
    """
    return peft_adapter(tuned).tensors


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "kind", ["joint", "apart", "everything", "several", "dora", "ia3", "prefix"]
)
def test_there_and_back(family: str, kind: str, tmp_path: Path) -> None:
    model = base(family)
    tuned = adapted(model, ADAPTERS[kind])
    _, adapter = exported(tmp_path, model, tuned)
    again = with_peft(model, adapter)
    assert torch.allclose(again(TOKENS), tuned(TOKENS), rtol=1e-5, atol=1e-5)
    if (kind, family) not in (("apart", "gpt2"), ("everything", "gpt2")):
        assert again.state_dict().keys() == tuned.state_dict().keys()


def test_an_adapter_around_packed_matrices_is_written_with_a_note(tmp_path: Path) -> None:
    tuned = adapted(quantize(base("llama"), Int8(), Int8()), ADAPTERS["joint"])
    folder.save(tuned, tmp_path / "tuned")
    written = ours.write(tmp_path / "tuned", tmp_path / "adapter", card)
    assert "it was trained around matrices in int8" in written.notes[0]
    assert (tmp_path / "adapter" / "README.md").read_text().startswith("# peft")


@pytest.mark.parametrize(
    ("adapters", "words"),
    [
        ([{"kind": "bottleneck", "dim": 2}], "peft has no bottleneck"),
        (["prefix"], r"a softmax of its own.*method\.softmax=shared"),
        (["lora", {"kind": "ia3", "targets": ["mlp.up"]}], "has ia3 and lora; merge"),
        (["lora", *ADAPTERS["prefix"]], "has lora and prefix; use --to hf"),
        ([], "has none"),
    ],
)
def test_what_peft_does_not_have_is_refused(
    adapters: list[Any], words: str, tmp_path: Path
) -> None:
    folder.save(adapted(base("llama"), adapters), tmp_path / "tuned")
    with pytest.raises(RequestError, match=words):
        ours.write(tmp_path / "tuned", tmp_path / "adapter", card)
    assert not (tmp_path / "adapter").exists()


def test_an_adapter_for_another_base_names_what_differs(tmp_path: Path) -> None:
    made_by_peft(tmp_path, "llama", lora("llama"))
    adapter = tmp_path / "adapter"
    with pytest.raises(RequestError, match=r"no place for base_model\.model\.model\.layers\.0"):
        with_peft(base("gpt2"), adapter)
    with pytest.raises(RequestError, match=r"layers\.1.*no place|no place for.*layers\.1"):
        with_peft(base("llama", layers=1), adapter)
    differs = r"mlp\.down\.lora\.a is \(3, 64\) there and \(3, 100\) here"
    with pytest.raises(RequestError, match=differs):
        with_peft(base("llama", mlp={"kind": "swiglu", "hidden": 100}), adapter)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "P_TUNING"}, "kind P_TUNING cannot"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "changes the base"),
        ({"init_lora_weights": "pissa_niter_16"}, "changes the base"),
        ({"use_another_kind_of_lora": True}, "use_another_kind_of_lora is True"),
        ({"lora_dropout": 2}, "lora_dropout: .*less than 1"),
        ({"lora_alpha": "x"}, "lora_alpha: .*number"),
        ({"lora_alpha": None}, "lora_alpha: .*number"),
        ({"lora_alpha": 1e308}, "lora_alpha: .*1000000000"),
        ({"use_rslora": "false"}, "use_rslora: .*boolean"),
        ({"alpha_pattern": [1]}, "alpha_pattern: .*dictionary"),
        ({"alpha_pattern": {"(": 3}}, "not a regular expression"),
        ({"alpha_pattern": {"(.+)+(.+)+(.+)+(.+)+x": 3}}, "matched without end"),
    ],
)
def test_options_that_flyweight_lacks_are_refused(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    model, _ = made_by_peft(tmp_path, "llama", lora("llama"))
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RequestError, match=words):
        with_peft(model, tmp_path / "adapter")


def test_damaged_files_are_told(tmp_path: Path) -> None:
    model, _ = made_by_peft(tmp_path, "llama", lora("llama"))
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    with pytest.raises(FlyweightError, match="damaged"):
        with_peft(model, tmp_path / "adapter")
    weights.unlink()
    with pytest.raises(RequestError, match="is missing beside"):
        with_peft(model, tmp_path / "adapter")


def _thin(change: Any) -> Any:
    """Return a change of the A of every module."""
    return lambda tensors: {
        name: change(tensor) if "lora_A" in name else tensor for name, tensor in tensors.items()
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_thin(lambda tensor: tensor[:0]), r"rank 3 by adapter_config.json.*\(0, 16\)"),
        (_thin(lambda tensor: torch.tensor(1.0)), r"lora_A.weight is \(\)"),
        (_thin(lambda tensor: tensor[:2]), r"rank 3 by adapter_config.json.*\(2, 16\)"),
        (_thin(lambda tensor: tensor * torch.nan), "NaN or infinity"),
        (_thin(lambda tensor: tensor.to(torch.int8)), "torch.int8, not floats"),
        (_thin(lambda tensor: tensor.to(torch.complex64)), "torch.complex64, not floats"),
        (
            lambda tensors: {
                **tensors,
                **{name.removeprefix("base_model.model."): tensors[name] for name in tensors},
            },
            "has two lora_A.weight",
        ),
    ],
)
def test_tensors_that_no_adapter_has_are_refused(change: Any, words: str, tmp_path: Path) -> None:
    model, _ = made_by_peft(tmp_path, "llama", lora("llama"))
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = change(safetensors.load_file(path))
    safetensors.save_file({name: each.clone() for name, each in tensors.items()}, path)
    with pytest.raises(FlyweightError, match=words):
        with_peft(model, tmp_path / "adapter")


def test_an_ia3_that_has_learned_nothing_changes_nothing(tmp_path: Path) -> None:
    tuned = attach(base("gpt2"), TypeAdapter(tuple[Adapter, ...]).validate_python(["ia3"]))
    _, adapter = exported(tmp_path, base("gpt2"), tuned)
    assert torch.equal(with_peft(base("gpt2"), adapter)(TOKENS), base("gpt2")(TOKENS))


# --- prefix tuning ---


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefix_is_that_of_peft_to_double_precision(family: str, tmp_path: Path) -> None:
    model, wrapped = made_by_peft(tmp_path, family, prefix())
    ours = with_peft(model, tmp_path / "adapter").double().eval()
    wrapped = wrapped.double()
    if family == "gpt2":
        table = wrapped.base_model.transformer.wpe.weight
        assert ours.config.context == len(table) - 3  # a prefix takes positions of a text
        assert torch.equal(ours.state_dict()["embedding.positions.weight"].float(), table.float())
    freeze(ours, ours.config, "adapters")
    found, expected = ours(TOKENS), wrapped(TOKENS).logits
    gap = 1e-12 if family == "gpt2" else 1e-5  # transformers rotates in float32
    assert (found - expected).abs().max() < gap
    for logits in (found, expected):
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), NEXT)
        loss.backward()
    gradient = wrapped.prompt_encoder.default.embedding.weight.grad
    mine = [
        getattr(ours.get_submodule(f"blocks.{block}.attention.prefix"), name).grad
        for block in range(2)
        for name in ("keys", "values")
    ]
    assert (torch.cat(mine, 1) - gradient).norm() < gap * gradient.norm()


NEXT = TOKENS[:, 1:].flatten()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_and_a_cache_beside_a_prefix_of_pefts(
    family: str, attention: str, tmp_path: Path
) -> None:
    model, wrapped = made_by_peft(tmp_path, family, prefix())
    wrapped.base_model.config._attn_implementation = attention
    ours = with_peft(model, tmp_path / "adapter").eval()
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[0, :2] = 0  # padding on the left
    rows = {"input_ids": TOKENS[:, :6], "attention_mask": mask}
    written = wrapped.generate(**rows, max_new_tokens=5, do_sample=False, pad_token_id=39)
    assert torch.equal(written, greedy(ours, TOKENS[:, :6], mask.bool(), 5))


def greedy(model: Any, tokens: torch.Tensor, mask: torch.Tensor, count: int) -> torch.Tensor:
    cache, new = model.new_cache(len(tokens), tokens.shape[1] + count), tokens
    for _ in range(count):
        with torch.no_grad():
            new = model(new, cache, mask)[:, -1:].argmax(-1)
        tokens = torch.cat((tokens, new), 1)
        mask = torch.cat((mask, torch.ones_like(new, dtype=torch.bool)), 1)
    return tokens


def test_a_prefix_that_a_network_makes_is_refused(tmp_path: Path) -> None:
    model, _ = made_by_peft(tmp_path, "llama", prefix(prefix_projection=True))
    with pytest.raises(RequestError, match="prefix_projection is true"):
        with_peft(model, tmp_path / "adapter")


def test_a_prefix_for_another_base_names_what_differs(tmp_path: Path) -> None:
    made_by_peft(tmp_path, "llama", prefix())
    adapter = tmp_path / "adapter"
    with pytest.raises(RequestError, match=r"is \(3, 32\) there and \(3, 64\) here"):
        with_peft(base("gpt2"), adapter)
    with pytest.raises(RequestError, match=r"is \(3, 32\) there and \(3, 48\) here"):
        with_peft(base("llama", layers=3), adapter)
    turned = {"attention": {"heads": 8, "kv_heads": 4}}
    with pytest.raises(RequestError, match="num_attention_heads is 2 there and 4 here"):
        with_peft(base("llama", **turned), adapter)
    with pytest.raises(RequestError, match=r"no family there.*window"):
        with_peft(base("llama", attention={"heads": 4, "kv_heads": 2, "window": 4}), adapter)


def test_a_prefix_leaves_a_text_its_positions(tmp_path: Path) -> None:
    made_by_peft(tmp_path, "gpt2", prefix(num_virtual_tokens=15))
    room = with_peft(base("gpt2"), tmp_path / "adapter")
    assert room.config.context == 1
    assert flops.parameters(room.config).by_part["positions"] == 16 * 16
    with pytest.raises(RequestError, match="9 tokens is longer than the 1 positions"):
        room(TOKENS)
    with pytest.raises(RequestError, match="none is left for a text"):
        with_peft(base("gpt2", context=15), tmp_path / "adapter")


def test_a_prefix_around_a_model_of_no_family_is_refused(tmp_path: Path) -> None:
    shared = base("llama", sharing={"kind": "cycle", "times": 2})
    folder.save(adapted(shared, ADAPTERS["prefix"]), tmp_path / "tuned")
    with pytest.raises(RequestError, match=r"no family there.*sharing"):
        ours.write(tmp_path / "tuned", tmp_path / "adapter", card)


def test_our_own_type_keeps_a_prefix(tmp_path: Path) -> None:
    tuned = adapted(base("gpt2"), ADAPTERS["prefix"])
    folder.save(tuned, tmp_path / "tuned")
    hf.write(tmp_path / "tuned", tmp_path / "hf", card)
    again = theirs(tmp_path / "hf")
    assert again.config.max_position_embeddings == 12
    with torch.no_grad():
        assert (again(TOKENS).logits - tuned(TOKENS)).abs().max() < 1e-6
        rows = {"input_ids": TOKENS[:, :6], "attention_mask": torch.ones(2, 6).long()}
        written = again.generate(**rows, max_new_tokens=4, do_sample=False, pad_token_id=39)
    assert torch.equal(written, greedy(tuned, TOKENS[:, :6], torch.ones(2, 6).bool(), 4))
