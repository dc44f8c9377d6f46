import hashlib
import itertools
import json
import os
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hub_fixture
import pytest
import torch
import transformers
from hub_fixture import CHECKPOINTS, VOCAB
from safetensors.torch import load_file

import flyweight
from flyweight import api
from flyweight.api.session import DEFAULT, Session, reads_models
from flyweight.checkpoints import convert, read, unpickle
from flyweight.checkpoints.families import FAMILIES, family_of
from flyweight.checkpoints.family import Inexpressible
from flyweight.config.adapters import Frozen
from flyweight.config.schema import ModelConfig
from flyweight.errors import FlyweightError, RequestError
from flyweight.model import folder
from flyweight.model.decoder import Decoder
from flyweight.training.finetune import prepared

every_checkpoint = pytest.mark.parametrize("name", CHECKPOINTS)


def tensors_of(place: Path) -> dict[str, torch.Tensor]:
    return dict(read.read(place).tensors())


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype
        assert torch.equal(tensor, second[name]), name


def imported(place: Path, out: Path) -> Decoder:
    config, state = convert.decoder(read.read(place))
    folder.write(config, state, out)
    return folder.load(out).eval()


@every_checkpoint
@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_logits_are_those_of_transformers(name, shard, tmp_path):
    theirs = hub_fixture.save(name, tmp_path / "hf", shard=shard)
    assert (tmp_path / "hf" / read.INDEX).exists() == (shard == "20KB")
    ours = imported(tmp_path / "hf", tmp_path / "ours")
    tokens = torch.randint(VOCAB, (3, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = theirs(tokens).logits, ours(tokens)
    assert expected.std() > 0.1  # random, not constant
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@every_checkpoint
def test_a_round_trip_keeps_every_bit_and_every_field(name, tmp_path):
    theirs = hub_fixture.save(name, tmp_path / "hf")
    config, state = convert.decoder(read.read(tmp_path / "hf"))
    family, _ = family_of(config)
    assert family.model_type == theirs.config.model_type
    convert.write(*convert.checkpoint_files(config, state, family), tmp_path / "again")
    same(tensors_of(tmp_path / "hf"), tensors_of(tmp_path / "again"))
    assert convert.decoder(read.read(tmp_path / "again"))[0] == config
    back = type(theirs).from_pretrained(tmp_path / "again")
    for field in CHECKPOINTS[name][1]:
        if not field.endswith("token_id"):
            assert getattr(back.config, field) == getattr(theirs.config, field), field
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(back.eval()(tokens).logits, theirs(tokens).logits)


SMALL = {"vocab_size": 50, "context": 16, "dim": 32, "layers": 2}
SHAPES = {
    "sharing": ["none", "repeat", {"kind": "cycle", "times": 3}],
    "linears": [{}, {"blocks": "int8"}, {"*": "nf4"}],
    "position": ["learned", {"kind": "rope", "fraction": 0.5}],
}


@pytest.mark.parametrize("values", itertools.product(*SHAPES.values()))
def test_our_own_type_keeps_every_bit(values, tmp_path):
    config = ModelConfig.model_validate(
        {**SMALL, "head": {"softcap": 9}, **dict(zip(SHAPES, values, strict=True))}
    ).resolved()
    model = Decoder(config)
    raw, tensors = convert.checkpoint_files(config, model.state_dict(), None)
    convert.write(raw, tensors, tmp_path / "hf", shard_bytes=4000)
    assert (tmp_path / "hf" / read.INDEX).exists()
    again, state = convert.decoder(read.read(tmp_path / "hf"))
    assert again == config
    same(dict(model.state_dict()), state)


@every_checkpoint
def test_a_head_that_was_trained_apart_goes_to_transformers_and_back(name, tmp_path):
    """`frozen` unties the head: a GPT-2 with a head of its own is still a GPT-2."""
    hub_fixture.save(name, tmp_path / "hf")
    model = prepared(imported(tmp_path / "hf", tmp_path / "ours"), Frozen())
    with torch.no_grad():
        weight = model.get_parameter("head.linear.weight")
        weight += torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)) / 9
    assert not model.config.embedding.tied
    family, _ = family_of(model.config)
    state = {each: tensor.detach() for each, tensor in model.state_dict().items()}
    convert.write(*convert.checkpoint_files(model.config, state, family), tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokens = torch.randint(VOCAB, (3, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = theirs(tokens).logits, model.eval()(tokens)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    config, again = convert.decoder(read.read(tmp_path / "out"))
    assert not config.embedding.tied
    same(state, again)


def test_bfloat16_stays_and_mixed_types_become_the_wider(tmp_path):
    model = hub_fixture.build("llama").to(torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    assert {t.dtype for t in convert.decoder(read.read(tmp_path / "half"))[1].values()} == {
        torch.bfloat16
    }
    model.model.norm.float()
    model.save_pretrained(tmp_path / "mixed")
    _, state = convert.decoder(read.read(tmp_path / "mixed"))
    assert {t.dtype for t in state.values()} == {torch.float32}
    assert torch.equal(
        state["blocks.0.mlp.up.weight"], model.model.layers[0].mlp.up_proj.weight.float()
    )


def test_the_bare_model_and_old_buffers_are_read(tmp_path):
    from safetensors.torch import save_file

    hub_fixture.save("gpt2", tmp_path / "hf")
    expected = convert.decoder(read.read(tmp_path / "hf"))[1]
    found = {
        name.removeprefix("transformer."): tensor.clone()
        for name, tensor in tensors_of(tmp_path / "hf").items()
    }
    found["h.0.attn.bias"] = torch.ones(1, 1, 4, 4)
    save_file(found, tmp_path / "hf" / "model.safetensors")
    same(expected, convert.decoder(read.read(tmp_path / "hf"))[1])


def edited(tmp_path: Path, name: str, **fields: object) -> Path:
    hub_fixture.save(name, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "fields", "reasons"),
    [
        (
            "llama",
            {"hidden_act": "relu", "rope_parameters": {"rope_type": "yarn", "factor": 2.0}},
            ["hidden_act", "yarn"],
        ),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, ["dynamic"]),
        (
            "qwen3",
            {"use_sliding_window": True, "layer_types": ["sliding_attention"] * 3},
            ["window", "sliding_attention"],
        ),
        (
            "gpt2",
            {"scale_attn_by_inverse_layer_idx": True, "activation_function": "relu"},
            ["inverse_layer", "is relu"],
        ),
        ("gpt2", {"n_head": 5}, ["does not divide"]),
        (
            "llama",
            {"pretraining_tp": 2, "flavour": "sweet", "is_encoder_decoder": True},
            ["flavour is 'sweet'", "is_encoder"],
        ),
    ],
)
def test_what_the_decoder_cannot_compute_is_refused_with_every_reason(
    name, fields, reasons, tmp_path
):
    with pytest.raises(Inexpressible) as caught:
        convert.config_of(read.read(edited(tmp_path, name, **fields)))
    assert all(reason in str(caught.value) for reason in reasons), caught.value


def test_a_missing_field_is_at_transformers_default_which_the_tensors_then_do_not_fit(tmp_path):
    place = edited(tmp_path, "llama")
    raw = json.loads((place / "config.json").read_text())
    del raw["intermediate_size"]
    (place / "config.json").write_text(json.dumps(raw))
    assert convert.config_of(read.read(place)).mlp.hidden == 11008
    with pytest.raises(
        FlyweightError, match=r"mlp\.down\.weight has shape \(40, 52\) instead of \(40, 11008\)"
    ):
        convert.decoder(read.read(place))


def test_missing_left_over_and_misshapen_tensors_are_named(tmp_path):
    from safetensors.torch import save_file

    hub_fixture.save("llama", tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    gone = found.pop("model.layers.1.mlp.up_proj.weight")
    save_file({**found, "model.extra": gone}, tmp_path / "model.safetensors")
    with pytest.raises(
        FlyweightError,
        match=r"layers\.1\.mlp\.up_proj\.weight is missing; model\.extra is unexpected",
    ):
        convert.decoder(read.read(tmp_path))
    save_file(
        {**found, "model.layers.1.mlp.up_proj.weight": gone[1:].clone()},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(FlyweightError, match=r"blocks\.1\.mlp\.up\.weight has shape"):
        imported(tmp_path, tmp_path / "ours")


def test_a_head_of_its_own_in_a_tied_model_is_refused(tmp_path):
    from safetensors.torch import save_file

    hub_fixture.save("llama-head-dim-tied", tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    table = found["model.embed_tokens.weight"]
    save_file({**found, "lm_head.weight": table.clone()}, tmp_path / "model.safetensors")
    convert.decoder(read.read(tmp_path))
    save_file({**found, "lm_head.weight": table + 1}, tmp_path / "model.safetensors")
    with pytest.raises(FlyweightError, match="a head of its own"):
        convert.decoder(read.read(tmp_path))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"sharing": "repeat"}, "used more than once"),
        ({"embedding": {"bigram": "hashed"}}, "bigram table"),
        ({"head": {"softcap": 5}}, "softcap"),
        ({"attention": {"heads": 4, "gain": True}}, "gains"),
        ({"attention": {"heads": 4, "window": 4}}, "a sliding window of 4 tokens"),
        ({"linears": {"blocks": "int8"}}, "quantized"),
        ({"adapters": ["ia3"]}, r"adapters of kind ia3 \(flyweight merge"),
        (
            {"linears": {"blocks": "int8"}, "adapters": ["ia3"]},
            r"flyweight merge MODEL --unpack first",
        ),
        ({"adapters": ["lora", "prefix"]}, "of kind prefix, which become part of no matrix"),
        ({"position": {"kind": "rope", "fraction": 0.5}}, "0.5 of each head"),
        ({"mlp": "relu2"}, "relu2"),
        ({"mlp": "double_silu"}, "double_silu"),
        ({"mlp": {"kind": "swiglu", "rank": 4}}, "bottleneck of 4"),
        ({"embedding": {"rank": 4}}, "factorised through 4"),
        ({"head": {"bias": True}}, "head has a bias"),
        ({"norm": {"placement": "post"}}, "after the branches"),
        ({"norm": {"final": False}}, "no final norm"),
        ({"residual": "alpha"}, "joined by alpha"),
        ({"thinking": {"passes": 1}}, "it thinks"),
        ({"position": "sinusoidal"}, "positions are sinusoidal"),
        ({"sharing": {"kind": "span", "span": [0, 1]}}, "used more than once"),
        ({"norm": "layernorm"}, "layernorm"),
        ({"attention": {"heads": 4, "qk_norm": True, "qk_norm_eps": 1e-3}}, "differ in eps"),
    ],
)
def test_what_no_family_holds_is_said(fields, why):
    config = ModelConfig.model_validate({**SMALL, **fields}).resolved()
    with pytest.raises(Inexpressible, match=why) as caught:
        family_of(config)
    assert all(family in str(caught.value) for family in FAMILIES)


def test_each_reason_names_the_field_of_a_model_that_would_do():
    config = ModelConfig.model_validate(
        {**SMALL, "mlp": "relu2", "head": {"softcap": 5}}
    ).resolved()
    with pytest.raises(Inexpressible) as caught:
        FAMILIES["llama"].raw(config)
    assert [reason.rpartition(" (")[2] for reason in caught.value.reasons] == [
        "model.head.softcap=null)",
        "model.mlp=swiglu)",
    ]
    ModelConfig.model_validate({**SMALL, "mlp": "swiglu", "head": {"softcap": None}}).resolved()


@pytest.mark.parametrize(
    ("fields", "family", "lost"),
    [
        ({"dropout": 0.1}, "llama", {"embedding": 0.1, "residual": 0.1}),
        ({"dropout": {"attention": 0.1}}, "llama", {}),
        ({"dropout": {"mlp": 0.2}}, "llama", {"mlp": 0.2}),
        (
            {"dropout": 0.1, "attention": {"heads": 4, "qk_norm": True}},
            "qwen3",
            {"embedding": 0.1, "residual": 0.1},
        ),
        (
            {
                "dropout": {"embedding": 0.1, "mlp": 0.2},
                "attention": {"heads": 4, "bias": True},
                "position": "learned",
                "norm": {"kind": "layernorm"},
                "mlp": {"kind": "gelu", "bias": True},
            },
            "gpt2",
            {"mlp": 0.2},
        ),
    ],
)
def test_dropout_is_training_s_and_keeps_no_model_from_a_family(fields, family, lost):
    config = ModelConfig.model_validate({**SMALL, **fields}).resolved()
    found, _ = family_of(config)
    assert found.model_type == family and found.lost_dropout(config) == lost


def test_rotary_scaling_by_the_base_is_exported_as_a_base(tmp_path):
    scaling = {"kind": "ntk", "factor": 4}
    config = ModelConfig.model_validate(
        {
            "vocab_size": VOCAB,
            "context": 32,
            "dim": 32,
            "layers": 2,
            "position": {"kind": "rope", "scaling": scaling},
        }
    ).resolved()
    model = Decoder(config).eval()
    family, _ = family_of(config)
    convert.write(*convert.checkpoint_files(config, model.state_dict(), family), tmp_path)
    import transformers

    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokens = torch.arange(32)[None]
    with torch.no_grad():
        expected, found = model(tokens), theirs(tokens).logits
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


# --- folders that are not what they say ---


def test_pickles_are_refused_with_the_command_that_converts_them(tmp_path):
    hub_fixture.save("gpt2", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    (tmp_path / "training_args.bin").write_bytes(b"no weights")
    with pytest.raises(
        RequestError,
        match=r"weights are pytorch_model\.bin, .*python -m flyweight\.checkpoints\.unpickle",
    ):
        read.read(tmp_path)
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "tf_model.h5")
    with pytest.raises(RequestError, match=r"tf_model\.h5, of a library other than torch"):
        read.read(tmp_path)


@pytest.mark.parametrize(
    "names", [("pytorch_model.bin",), ("model.pt",), ("pytorch_model-1.bin", "pytorch_model-2.bin")]
)
def test_the_command_that_converts_pickles_does(names, tmp_path, capsys, monkeypatch):
    place = tmp_path / "it's here"
    hub_fixture.save("gpt2", place)
    expected = convert.decoder(read.read(place))[1]
    found = list(load_file(place / "model.safetensors").items())
    (place / "model.safetensors").unlink()
    for at, name in enumerate(names):
        torch.save(dict(found[at :: len(names)]), place / name)
    with pytest.raises(RequestError) as caught:
        read.read(place)
    command = shlex.split(str(caught.value).partition("runs no code of it: ")[2])
    assert command[:3] == ["python", "-m", "flyweight.checkpoints.unpickle"]
    monkeypatch.setattr(sys, "argv", command[2:])
    unpickle.main()
    assert capsys.readouterr().out.strip() == str(place / "model.safetensors")
    same(expected, convert.decoder(read.read(place))[1])
    with pytest.raises(SystemExit) as stopped:
        unpickle.main()
    assert stopped.value.code == 2 and "there already" in capsys.readouterr().err


class Evil:
    def __reduce__(self):
        return open, (str(Evil.ran), "w")


def test_the_converter_runs_no_code_of_a_pickle(tmp_path):
    Evil.ran = tmp_path / "ran"
    torch.save({"weight": torch.ones(2), "evil": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        FlyweightError, match=r"pytorch_model\.bin: torch does not read it as tensors alone"
    ):
        unpickle.convert(tmp_path)
    torch.save({"weight": torch.ones(2), "step": 3}, tmp_path / "pytorch_model.bin")
    with pytest.raises(FlyweightError, match="more than tensors"):
        unpickle.convert(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pytorch_model.bin"]


def test_code_is_refused_unless_asked_for_by_name(tmp_path, monkeypatch):
    place = edited(tmp_path, "gpt2", auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    (place / "modeling_evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n"
    )
    with pytest.raises(RequestError, match=r"modeling_evil\.Evil.*--trust-remote-code"):
        read.read(place)
    assert not (tmp_path / "ran").exists()
    monkeypatch.setenv(read.TRUST, "1")
    assert "modeling_evil.py" in read.read(place).others


def test_trust_is_that_of_the_session_and_of_nothing_else(tmp_path, monkeypatch):
    monkeypatch.delenv(read.TRUST, raising=False)

    @reads_models
    def trusted(session=DEFAULT):
        assert session.store
        return read.trusted()

    @reads_models
    def nested(session, inner):
        within = trusted(inner)
        return within, read.trusted()

    trusting, other = Session(runs=tmp_path, trust_remote_code=True), Session(runs=tmp_path)
    assert trusting.store and not read.trusted()
    assert trusted(trusting) and not trusted(other) and not trusted()
    assert nested(trusting, other) == (False, True) and nested(other, trusting) == (True, False)
    with pytest.raises(ZeroDivisionError), read.trusting(True):
        raise ZeroDivisionError
    assert not read.trusted() and read.TRUST not in os.environ
    with read.trusting(True), ThreadPoolExecutor(1) as pool:
        assert not pool.submit(read.trusted).result()
    monkeypatch.setenv(read.TRUST, "1")  # the user's own word counts for every session
    assert trusted(other)
    monkeypatch.setenv(read.TRUST, "0")
    assert not trusted(other) and trusted(trusting)


def test_functions_that_read_models_do_so_with_the_trust_of_their_session():
    """Those without a session's context list and remember names, and read no model."""
    readers = (
        *(flyweight.plan, flyweight.run, flyweight.study, flyweight.train, flyweight.evaluate),
        *(flyweight.bench, flyweight.audit, flyweight.compare, flyweight.generate, flyweight.chat),
        *(flyweight.distill, flyweight.quantize, flyweight.export, flyweight.report),
        *(api.import_, api.tasks),
    )
    assert all(hasattr(reader, "__wrapped__") for reader in readers)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_links_out_of_the_folder_are_refused(name, tmp_path):
    hub_fixture.save("gpt2", tmp_path / "hf")
    (tmp_path / "hf" / name).rename(tmp_path / "outside")
    (tmp_path / "hf" / name).symlink_to(tmp_path / "outside")
    with pytest.raises(RequestError, match=f"{name} is a link to .*outside"):
        read.read(tmp_path / "hf")


def test_links_in_the_hubs_cache_are_followed(tmp_path):
    repository = tmp_path / "models--me--tiny"
    snapshot = repository / "snapshots" / "0123abcd"
    hub_fixture.save("gpt2", snapshot)
    (repository / "blobs").mkdir()
    (snapshot / "model.safetensors").rename(repository / "blobs" / "aa")
    (snapshot / "model.safetensors").symlink_to("../../blobs/aa")
    assert read.read(snapshot).weights == ("model.safetensors",)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_what_the_hubs_cache_holds_has_to_have_the_hubs_checksum(name, tmp_path):
    repository = tmp_path / "models--me--tiny"
    snapshot = repository / "snapshots" / "0123abcd"
    hub_fixture.save("gpt2", snapshot)
    raw = (snapshot / name).read_bytes()
    known = {
        "model.safetensors": hashlib.sha256(raw),
        "tokenizer.json": hashlib.sha1(b"blob %d\0" % len(raw) + raw),
    }
    blob = repository / "blobs" / known[name].hexdigest()
    blob.parent.mkdir()
    (snapshot / name).rename(blob)
    (snapshot / name).symlink_to(f"../../blobs/{blob.name}")
    before = read.read(snapshot).fingerprint()
    assert len(before) == 64
    blob.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(FlyweightError, match=f"{name}: its checksum is not the hub's"):
        read.read(snapshot).fingerprint()


def test_shards_that_are_not_what_the_index_says_are_named(tmp_path):
    hub_fixture.save("llama", tmp_path, shard="20KB")
    one, two = sorted(tmp_path.glob("model-*.safetensors"))[:2]
    one.rename(tmp_path / "aside")
    two.rename(one)
    (tmp_path / "aside").rename(two)
    with pytest.raises(FlyweightError, match=r"model-00001.*its tensors are not those that"):
        convert.decoder(read.read(tmp_path))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(value, tmp_path):
    from safetensors.torch import save_file

    hub_fixture.save("gpt2", tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    found["transformer.h.1.mlp.c_fc.weight"][3, 5] = value
    save_file(found, tmp_path / "model.safetensors")
    with pytest.raises(FlyweightError, match=r"h\.1\.mlp\.c_fc\.weight holds NaN or infinity"):
        convert.decoder(read.read(tmp_path))


def test_an_index_that_leads_elsewhere_is_refused(tmp_path):
    hub_fixture.save("llama", tmp_path, shard="20KB")
    index = tmp_path / read.INDEX
    raw = json.loads(index.read_text())
    raw["weight_map"]["lm_head.weight"] = "../secret.safetensors"
    index.write_text(json.dumps(raw))
    with pytest.raises(RequestError, match="not the name of a file"):
        read.read(tmp_path)
    index.write_text("[1]")
    with pytest.raises(FlyweightError, match="damaged"):
        read.read(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"model_type": 3}', "\x00", "[" * 100_000]
)
def test_a_broken_config_is_named(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(FlyweightError, match=r"config\.json"):
        read.read(tmp_path)


def test_a_truncated_shard_is_named(tmp_path):
    hub_fixture.save("llama", tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(FlyweightError, match=r"model\.safetensors: damaged"):
        convert.decoder(read.read(tmp_path))
