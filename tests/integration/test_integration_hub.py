"""import, export, and every verb on models from elsewhere, through the command line."""

import json

import hub_fixture
import pytest
import torch
import transformers


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat, and the dog on the log. " * 400)
    return path


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3"])
def test_a_checkpoint_is_measured_quantized_distilled_and_heard(
    name, answer, flyweight, tmp_path, text
):
    hub_fixture.save(name, tmp_path / "hf")
    place = tmp_path / "hf"
    imported = answer("import", place, "--out", tmp_path / "ours")
    assert imported["path"] == str(tmp_path / "ours")
    scored = [
        answer("eval", model, "--data", text, "--window", "24")["nll"]["value"]
        for model in (place, tmp_path / "ours")
    ]
    assert scored[0] == scored[1]
    _, out, _ = flyweight("audit", place, "--data", text, "--json")
    failed = {check["name"] for check in json.loads(out)["checks"] if check["verdict"] == "fail"}
    assert failed <= {"predicts_next", "below_unigram_floor", "train_overlap"}  # it is random
    assert (
        answer("bench", place, "--repeats", "1", "--new-tokens", "4", "--prompt", "4")[
            "decode_tokens_per_s"
        ]
        > 0
    )
    assert answer("generate", place, "the ", "--max-new-tokens", "5")["text"]
    small = answer("quantize", place, "--data", text, "--name", "small")["models"][0]
    assert small["evaluate"]["nll"]["value"] == pytest.approx(scored[0], rel=0.05)
    words = [
        f"data.corpus={text}",
        "data.context=16",
        "model.dim=16",
        "model.layers=1",
        "train.steps=3",
        "train.batch=4",
    ]
    student = answer("distill", place, *words, "--name", "student")
    assert student["models"][0]["evaluate"]["nll"]["value"] > 0
    again = answer("export", "student:distill", "--to", "hf", "--out", tmp_path / "student")
    assert again["kind"] == "llama"


def test_export_gives_a_folder_that_needs_no_flyweight(answer, tmp_path):
    model = hub_fixture.save("qwen3", tmp_path / "hf", shard="20KB")
    done = answer("export", tmp_path / "hf", "--to", "hf", "--out", tmp_path / "out")
    assert done["kind"] == "qwen3"
    again = transformers.Qwen3ForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        theirs = model(tokens).logits
        assert torch.equal(again(tokens).logits[..., : theirs.shape[-1]], theirs), (
            "padding has a row of its own"
        )
    assert (tmp_path / "out" / "README.md").is_file()


def test_a_foreign_model_teaches_and_is_measured(answer, flyweight, tmp_path, text):
    config = transformers.GPTNeoXConfig(
        vocab_size=hub_fixture.VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=64, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    transformers.GPTNeoXForCausalLM(config).save_pretrained(tmp_path / "neox")
    hub_fixture.tokenizer(tmp_path / "neox")
    place = tmp_path / "neox"
    assert answer("eval", place, "--data", text)["nll"]["value"] > 1
    assert answer("audit", place)["passed"]
    assert (
        answer("bench", place, "--repeats", "1", "--new-tokens", "4", "--prompt", "4")[
            "weight_bytes"
        ]
        > 0
    )
    assert answer("generate", place, "the ", "--max-new-tokens", "5")["prompt"] == "the "
    words = [
        f"data.corpus={text}",
        "data.context=16",
        "model.dim=16",
        "model.layers=1",
        "train.steps=3",
        "train.batch=4",
    ]
    summary = answer("distill", place, *words, "--name", "student")
    flops = summary["models"][0]["training"]["flops"]
    assert flops > 0
    for verb in (("quantize", place, "--data", text), ("import", place)):
        status, _, err = flyweight(*verb)
        assert status == 2, err
        assert "gpt_neox" in err
        assert "Traceback" not in err


def test_bad_requests_are_told(flyweight, tmp_path):
    hub_fixture.save("gpt2", tmp_path / "hf")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "empty").mkdir()
    bad = {
        ("import", tmp_path / "nowhere"): "config.json is missing",
        ("import", tmp_path / "empty"): "config.json is missing",
        ("import", "hf:no such name"): "hf:no such name",
        ("import", tmp_path / "hf", "--out", tmp_path / "full"): "something already",
        (
            "export",
            tmp_path / "hf",
            "--to",
            "onnx",
            "--out",
            tmp_path / "x",
        ): "known are hf, gguf and peft",
        ("export", tmp_path / "hf", "--out", tmp_path / "full"): "something already",
        ("eval", tmp_path / "empty", "--data", "ptb"): "neither an artifact",
        ("eval", tmp_path / "hf", "--tasks", "a", "--data", "ptb"): "leave --data",
        ("eval", tmp_path / "hf", "--limit", "3"): "belongs to --task or --tasks",
    }
    for words, message in bad.items():
        status, _, err = flyweight(*words)
        assert (status, "Traceback" in err) == (2, False), (words, err)
        assert message in err, (words, err)
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["mine"]


def test_an_import_is_made_once_and_known_by_its_content(answer, tmp_path):
    hub_fixture.save("gpt2", tmp_path / "a")
    hub_fixture.save("gpt2", tmp_path / "b")
    first, second = (answer("import", tmp_path / name)["id"] for name in "ab")
    assert first == second
    raw = json.loads((tmp_path / "b" / "config.json").read_text())
    (tmp_path / "b" / "config.json").write_text(json.dumps({**raw, "layer_norm_epsilon": 1e-3}))
    assert answer("import", tmp_path / "b")["id"] != first


CODE = """
from pathlib import Path
import transformers
Path({ran!r}).touch()
class OddConfig(transformers.LlamaConfig):
    model_type = "odd"
class OddForCausalLM(transformers.LlamaForCausalLM):
    config_class = OddConfig
"""


def test_a_models_own_code_runs_only_where_the_user_says_so_by_name(
    flyweight, tmp_path, monkeypatch
):
    monkeypatch.delenv("FLYWEIGHT_TRUST_REMOTE_CODE", raising=False)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    place, ran = tmp_path / "odd", tmp_path / "ran"
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    config = transformers.LlamaConfig(
        vocab_size=hub_fixture.VOCAB, max_position_embeddings=64, **sizes
    )
    transformers.LlamaForCausalLM(config).save_pretrained(place)
    hub_fixture.tokenizer(place)
    raw = json.loads((place / "config.json").read_text())
    code = {"AutoConfig": "odd.OddConfig", "AutoModelForCausalLM": "odd.OddForCausalLM"}
    (place / "config.json").write_text(json.dumps({**raw, "model_type": "odd", "auto_map": code}))
    (place / "odd.py").write_text(CODE.format(ran=str(ran)))
    words = ("the ", "--max-new-tokens", "2", "--json")
    for verb in (
        ("generate", place, *words),
        ("eval", place, "--data", "x"),
        ("audit", place),
        ("import", place),
        ("plan", place),
    ):
        status, _, err = flyweight(*verb)
        assert (status, ran.exists()) == (2, False), err
        assert "auto_map" in err and "--trust-remote-code" in err
    status, _, err = flyweight("generate", place, *words, "--trust-remote-code")
    assert (status, ran.exists()) == (0, True), err
    ran.unlink()
    (kept,) = (tmp_path / "runs").glob("import-????????")
    for model in (
        place,
        kept.name,
    ):  # what was trusted once is asked about again, the copy in the runs root too
        status, _, err = flyweight("generate", model, *words)
        assert (status, ran.exists()) == (2, False), err
    timing = ("bench", kept.name, "--prompt", "4", "--new-tokens", "2", "--repeats", "1", "--json")
    status, _, err = flyweight(*timing)
    assert (status, ran.exists()) == (2, False) and "--trust-remote-code" in err
    status, _, err = flyweight(*timing, "--trust-remote-code")
    assert (status, ran.exists()) == (0, True), err  # the process that measures is told as well
