"""Every import is compared with transformers' model by its logits, and reads from left to right."""

import json

import hub_fixture
import pytest
import torch
import transformers

from flyweight.api import model_references
from flyweight.checkpoints import convert, foreign_model, proof, read
from flyweight.errors import RequestError
from flyweight.formats import hf
from flyweight.store.artifact import Store

BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 97,
}


def imported(place, tmp_path):
    return model_references.find(place, Store(tmp_path / "runs")).facts["proof"]


@pytest.mark.parametrize("name", ["gpt2-untied-wide", "llama-llama3", "qwen3-biases"])
@pytest.mark.parametrize("whole", [True, False])
def test_an_import_says_by_how_much_its_logits_differ(name, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(proof, "WHOLE_BYTES", 1e9 if whole else 0)
    hub_fixture.save(name, tmp_path / "hf")
    found = imported(tmp_path / "hf", tmp_path)
    assert found["difference"] <= proof.BOUND and found["leak"] <= proof.BOUND
    assert found["compared_with"] == f"transformers {transformers.__version__}"
    assert found["layers"] == (None if whole else 2) and found["tokens"] == (
        64 if name.startswith("gpt2") else 128
    )


@pytest.mark.parametrize(
    "changed",
    [{"norm": {"kind": "rmsnorm", "eps": 0.5}}, {"position": {"kind": "rope", "base": 7.0}}],
)
def test_a_rule_that_is_missing_is_noticed(changed, tmp_path):
    hub_fixture.save("llama", tmp_path / "hf")
    source = read.read(tmp_path / "hf")
    config, state = convert.decoder(source)
    wrong = type(config).model_validate({**config.model_dump(), **changed}).resolved()
    with pytest.raises(
        RequestError,
        match=r"transformers' llama model and ours differ in their logits by .* not imported",
    ):
        proof.of_ours(source, wrong, state)


def test_without_transformers_nothing_is_compared_and_the_proof_says_so(tmp_path, monkeypatch):
    hub_fixture.save("llama", tmp_path / "hf")
    monkeypatch.setattr(proof, "find_spec", lambda name: None)
    found = imported(tmp_path / "hf", tmp_path)
    assert found["compared_with"] is found["difference"] is None and found["leak"] <= proof.BOUND


def test_our_own_exports_have_nothing_to_be_compared_with(tmp_path):
    hub_fixture.save("llama", tmp_path / "hf")
    first = model_references.find(tmp_path / "hf", Store(tmp_path / "runs"))
    hf.write(first.path / "model", tmp_path / "out", lambda kind, notes: "")
    raw = convert.own_fields(convert.config_of(read.read(tmp_path / "out")))
    source = read.Checkpoint(
        tmp_path / "out", {"model_type": convert.OWN, **raw}, ("model.safetensors",), ()
    )
    config, state = convert.decoder(read.read(tmp_path / "out"))
    assert proof.of_ours(source, config, state).compared_with is None


def test_a_model_that_reads_in_both_directions_is_refused(tmp_path):
    torch.manual_seed(0)
    transformers.BertLMHeadModel(transformers.BertConfig(**BERT)).save_pretrained(tmp_path / "bert")
    with pytest.raises(RequestError, match="reads in both directions"):
        imported(tmp_path / "bert", tmp_path)
    transformers.BertLMHeadModel(transformers.BertConfig(**BERT, is_decoder=True)).save_pretrained(
        tmp_path / "decoder"
    )
    hub_fixture.tokenizer(tmp_path / "decoder")
    assert imported(tmp_path / "decoder", tmp_path)["leak"] < 1e-5


def test_logits_that_are_no_numbers_are_refused(tmp_path):
    model = hub_fixture.save("llama", tmp_path / "hf")
    with torch.no_grad():
        model.lm_head.weight.fill_(3e38)
    model.save_pretrained(tmp_path / "hf")
    with pytest.raises(RequestError, match="not all numbers"):
        imported(tmp_path / "hf", tmp_path)


def test_of_a_large_foreign_model_two_layers_are_tried(tmp_path, monkeypatch):
    torch.manual_seed(0)
    fields = {**hub_fixture.LLAMA, "sliding_window": None}
    transformers.MistralForCausalLM(transformers.MistralConfig(**fields)).save_pretrained(
        tmp_path / "hf"
    )
    hub_fixture.tokenizer(tmp_path / "hf")
    monkeypatch.setattr(proof, "WHOLE_BYTES", 0)
    found = imported(tmp_path / "hf", tmp_path)
    assert found["layers"] == 2 and found["difference"] <= proof.BOUND


def test_a_softcap_that_hardly_changes_small_logits_is_noticed(tmp_path):
    torch.manual_seed(0)
    fields = {
        **hub_fixture.LLAMA,
        "head_dim": 8,
        "sliding_window": 16,
        "final_logit_softcapping": 30.0,
    }
    transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**fields)).save_pretrained(
        tmp_path / "hf"
    )
    hub_fixture.tokenizer(tmp_path / "hf")
    assert not foreign_model.load(tmp_path / "hf")._split
    assert imported(tmp_path / "hf", tmp_path)["difference"] <= proof.BOUND


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_config_that_asks_for_tuples_is_compared_all_the_same(name, tmp_path):
    hub_fixture.save(name, tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "return_dict": False}))
    assert imported(tmp_path / "hf", tmp_path)["difference"] <= proof.BOUND


def test_a_model_that_cannot_be_run_is_refused(tmp_path):
    hub_fixture.save("qwen3", tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    window = {
        "use_sliding_window": True,
        "sliding_window": -1,
        "layer_types": ["sliding_attention"] * 3,
    }
    path.write_text(json.dumps({**json.loads(path.read_text()), **window}))
    with pytest.raises(RequestError, match="it cannot read 64 tokens: "):
        imported(tmp_path / "hf", tmp_path)


def test_logits_that_are_all_zero_are_equal():
    zeros = torch.zeros(2, 3)
    assert proof._share(zeros - zeros, zeros) == 0 and proof._share(zeros + 1, zeros) > 1
