"""Linear, MLP and LSTM models through the same stages as a decoder: trained, distilled, quantized, measured, asked to speak."""

import json

import pytest
import yaml

import flyweight as fw
from flyweight.api import Session
from flyweight.checkpoints.harness import transformers_model
from flyweight.errors import RequestError

BASELINES = {
    "linear": {"kind": "linear", "dim": 16, "history": 8},
    "mlp": {"kind": "mlp", "dim": 16, "hidden": 32, "history": 8, "dropout": 0.1},
    "lstm": {"kind": "lstm", "dim": 24, "dropout": 0.1},
}
QUANTIZED = ("linear", "lstm")
TRAIN = {"steps": 60, "batch": 8, "validations": 2, "optimizer": {"kind": "adamw", "lr": 0.01}}


@pytest.fixture(scope="module")
def recipe(text_file, tmp_path_factory):
    """A recipe with a baseline of every kind, two of them in int8, and one that learns from another."""
    stages: dict = {
        name: {"stage": "pretrain", "model": model} for name, model in BASELINES.items()
    }
    stages |= {
        f"{name}-8": {"stage": "quantize", "input": name, "kind": "int8"} for name in QUANTIZED
    }
    stages["student"] = {"stage": "distill", "teacher": "lstm", "model": BASELINES["mlp"]}
    compare = [*BASELINES, *(f"{name}-8" for name in QUANTIZED), "student"]
    raw = {
        "name": "baselines",
        "data": {"corpus": str(text_file), "tokenizer": "byte", "context": 32},
        "train": TRAIN,
        "stages": stages,
        "report": {
            "compare": compare,
            "measure": ["evaluate", "audit"],
            "prompts": ["Ann "],
            "sample_tokens": 8,
        },
    }
    path = tmp_path_factory.mktemp("baselines") / "baselines.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def runs(recipe, tmp_path_factory):
    """The finished recipe's runs root."""
    root = tmp_path_factory.mktemp("runs")
    fw.run(fw.load(recipe), session=Session(runs=root, threads=1))
    return root


@pytest.fixture
def summary(runs):
    return json.loads((runs / "baselines" / "summary.json").read_text())


def test_every_baseline_learns_and_passes_its_audit(summary) -> None:
    models = {model["name"]: model for model in summary["models"]}
    floor = next(iter(summary["corpus"]))["floors"]["unigram"]["nll"]
    for name in BASELINES:
        assert models[name]["evaluate"]["nll"]["value"] < floor - 0.3
    for name, model in models.items():
        # The toy text repeats itself.
        failed = [
            c
            for c in model["audit"]["checks"]
            if c["verdict"] == "fail" and c["name"] != "train_overlap"
        ]
        assert not failed, (name, failed)
        measured = {
            check["name"] for check in model["audit"]["checks"] if check["verdict"] == "pass"
        }
        assert {
            "causality",
            "cached_logits",
            "padding_invariance",
            "stored_bytes",
            "initial_token_sensitivity",
        } <= measured
        assert model["samples"][0]["text"]


def test_fewer_bits_are_fewer_bytes_and_nearly_as_good(summary) -> None:
    models = {model["name"]: model for model in summary["models"]}
    for name in QUANTIZED:
        small, large = models[f"{name}-8"], models[name]
        assert small["disk_bytes"] < 0.6 * large["disk_bytes"]
        assert small["evaluate"]["nll"]["value"] < large["evaluate"]["nll"]["value"] + 0.05
        assert small["parameters"] == large["parameters"]


def test_shapes_are_told_in_a_line(summary) -> None:
    lines = {model["name"]: model["config_line"] for model in summary["models"]}
    assert lines["linear"] == "linear, last 8 x 16"
    assert lines["mlp"] == "mlp, last 8 x 16, 2 x 32"
    assert lines["lstm-8"] == "lstm, 1 x 24, tied, int8"


def test_a_distilled_baseline_counts_its_teacher(summary) -> None:
    models = {model["name"]: model for model in summary["models"]}
    training, teacher = models["student"]["training"], models["lstm"]["training"]
    assert training["flops"] > models["mlp"]["training"]["flops"]
    assert training["total_flops"] == training["flops"] + teacher["total_flops"]


@pytest.mark.parametrize("name", BASELINES)
def test_plan_and_generation_take_one(answer, runs, name, monkeypatch) -> None:
    monkeypatch.setenv("FLYWEIGHT_RUNS", str(runs))
    model = f"baselines:{name}"
    text = answer("generate", model, "Ann ", "--max-new-tokens", 40, "--temperature", 0)["text"]
    assert len(text.encode()) >= 40  # longer than the context: the window moves
    planned = answer("plan", model)
    assert planned["kv_bytes_per_token"] == 0 and planned["parameters"]["unique"] == sum(
        planned["parameters"]["by_part"].values()
    )


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_no_other_program_knows_a_baseline(flyweight, runs, to, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FLYWEIGHT_RUNS", str(runs))
    status, _, said = flyweight("export", "baselines:mlp", "--to", to, "--out", tmp_path / "out")
    assert status == 2 and "this is a baseline (kind: mlp)" in said
    assert not (tmp_path / "out").exists()


def test_the_plan_is_what_was_spent(answer, recipe, runs, summary, monkeypatch) -> None:
    monkeypatch.setenv("FLYWEIGHT_RUNS", str(runs))
    planned = answer("plan", recipe)["stages"]
    models = {model["name"]: model for model in summary["models"]}
    for name in (*BASELINES, "student"):
        assert planned[name]["training_flops"] == models[name]["training"]["flops"]


def test_lm_eval_reads_decoders_alone(runs) -> None:
    with pytest.raises(RequestError, match=r"is a baseline \(kind: lstm\)"):
        transformers_model(runs / "baselines" / "lstm" / "model", "cpu")


@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_trained_again_it_is_the_same_to_the_bit(recipe, runs, name, tmp_path) -> None:
    raw = yaml.safe_load(recipe.read_text())
    alone = {**raw, "stages": {name: raw["stages"][name]}, "report": {"measure": []}}
    again = fw.run(
        fw.load(_written(alone, tmp_path)), session=Session(runs=tmp_path / "runs", threads=1)
    )[name]
    first = runs / "baselines" / name
    assert again.id == first.resolve().name
    assert (again.path / "model/model.safetensors").read_bytes() == (
        first / "model/model.safetensors"
    ).read_bytes()


def _written(raw, place):
    path = place / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


def test_floors_are_of_the_tokens_asked_for(answer, flyweight, text_file) -> None:
    words, letters = (answer("floors", text_file, "--tokenizer", kind) for kind in ("word", "char"))
    assert words["vocab_size"] < 30 and words["tokens"] < letters["tokens"]
    assert set(words["seconds"]) == set(words["bytes"]) == {"unigram", "bigram", "kn5"}
    status, _, said = flyweight("floors", text_file, "--tokenizer", "words")
    assert status == 2 and "words" in said and "word" in said
    status, said, _ = flyweight("floors", text_file, "--tokenizer", "word")
    assert status == 0 and "(Kneser-Ney)" in said and "tokens of train" in said
