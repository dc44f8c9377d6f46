"""Pruning in recipes: masks through training and a resume, the sweep, the verb, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import flyweight as fw
from flyweight.api import Session
from flyweight.cli.app import app
from flyweight.config import load as config_load
from flyweight.config.schema import ModelConfig
from flyweight.data.tokenizer import Tokenizer
from flyweight.errors import RequestError
from flyweight.model import folder
from flyweight.model.masked import masks_of, unpack_bits
from flyweight.training import checkpoint

TUNE = {"stage": "finetune", "method": "full", "train": {"steps": 4}}


def recipe(place: Path, **stages: Any) -> dict[str, Any]:
    text = place / "text.txt"
    words = ["tree", "stone", "river", "cloud", "field"]
    lines = (f"The {words[n % 5]} near the {words[n * 7 % 5]}.\n" for n in range(1500))
    text.write_text("".join(lines))
    return {
        "name": "pruned",
        "data": {"corpus": str(text), "tokenizer": "byte", "context": 32},
        "train": {
            "steps": 30,
            "batch": 8,
            "validations": 1,
            "optimizer": "muon",
            "precision": "fp32",
        },
        "stages": {
            "base": {
                "stage": "pretrain",
                "model": {"dim": 32, "layers": 1, "attention": {"heads": 2}},
            },
            **stages,
        },
        "report": {"measure": ["evaluate"]},
    }


def run(place: Path, raw: dict[str, Any]) -> fw.Run:
    return fw.run(config_load.recipe(raw), session=Session(runs=place / "runs", threads=1))


def zeros(artifact: Any) -> dict[str, torch.Tensor]:
    model = folder.load(artifact.path / "model")
    found = {}
    for number, (weight, mask) in enumerate(masks_of(model)):
        pruned = ~unpack_bits(mask, weight.shape[-1])
        assert weight[pruned].count_nonzero() == 0
        found[str(number)] = pruned
    assert found
    return found


def test_masks_go_through_training_quantizing_and_leaving_out(tmp_path: Path) -> None:
    stages = {
        "pruned": {"stage": "prune", "input": "base", "sparsity": 0.6},
        "back": {**TUNE, "input": "pruned"},
        "again": {**TUNE, "input": "pruned", "start": "random"},
        "small": {"stage": "quantize", "input": "back", "kind": "int8"},
    }
    raw = recipe(tmp_path, **stages)
    result = run(tmp_path, raw)
    before = zeros(result["pruned"])
    for name in ("back", "again"):
        after = zeros(result[name])
        assert all(torch.equal(after[key], before[key]) for key in before)
        assert result[name].facts["sparsity"] == pytest.approx(0.6, abs=1e-3)
        assert result[name].facts["nonzero"] == result["pruned"].facts["nonzero"]
    assert result["small"].facts["sparsity"] >= 0.6 - 1e-3
    weights = [folder.load(result[name].path / "model").state_dict() for name in ("back", "pruned")]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    of = {name: result[name].facts for name in ("pruned", "back", "again")}
    assert of["back"]["total_flops"] == of["back"]["flops"] + of["pruned"]["total_flops"]
    assert of["again"]["total_flops"] == of["again"]["flops"]  # it took the shape alone
    without = config_load.recipe(raw, without=["pruned"])
    assert without.stages["back"].dependencies() == {"input": "base"}


def test_a_sweep_chooses_the_largest_sparsity_within_the_limit(tmp_path: Path) -> None:
    among = [0.1, 0.3, 0.5, 0.7, 0.9]
    sweep = {"among": among, "within": {"perplexity": 0.5}}
    stages = {
        "whole": {"stage": "prune", "input": "base", "sparsity": sweep},
        "part": {"stage": "prune", "input": "base", "sparsity": {**sweep, "tokens": 200}},
    }
    result = run(tmp_path, recipe(tmp_path, **stages))
    for name in stages:
        facts = result[name].facts
        rows = facts["sweep"]
        assert [row["sparsity"] for row in rows] == among
        assert all(row["low"] <= row["nll"] <= row["high"] for row in rows)
        within = [row["sparsity"] for row in rows if row["perplexity_cost"]["value"] <= 0.5]
        assert facts["chosen"] == max(within)
        assert facts["sparsity"] == pytest.approx(facts["chosen"], abs=2e-3)
        assert facts["decided"] == (not facts["undecided"])
    whole, part = (result[name].facts["sweep"][0] for name in ("whole", "part"))
    assert whole["nll"] == part["nll"]
    assert part["whole_cost"] == whole["whole_cost"] == whole["perplexity_cost"]
    assert whole["chosen_on"]["targets"] > part["chosen_on"]["targets"] == 200
    assert _width(part["chosen_on"]) > _width(whole["chosen_on"])


def _width(nll: dict[str, float]) -> float:
    return nll["high"] - nll["low"]


def test_the_verb_the_function_and_a_recipe_make_the_same(tmp_path: Path) -> None:
    stages = {"pruned": {"stage": "prune", "input": "base", "pattern": "2:4"}}
    result = run(tmp_path, recipe(tmp_path, **stages))
    session = Session(runs=tmp_path / "runs", threads=1)
    by_function = fw.prune("pruned:base", pattern="2:4", session=session)
    words = ["prune", "pruned:base", "--pattern", "2:4", "--runs", str(tmp_path / "runs")]
    answer = CliRunner().invoke(app, [*words, "--threads", "1", "--json"])
    assert answer.exit_code == 0, answer.output
    by_verb = json.loads(answer.stdout)
    assert by_function["prune"].id == by_verb["stages"][0]["id"] == result["pruned"].id
    assert by_verb["name"] == "prune-magnitude-pruned-base"


def test_pruned_adapters_stay_pruned_and_end_with_the_merge(tmp_path: Path) -> None:
    lora = {"kind": "lora", "r": 4}
    adamw = {"steps": 4, "optimizer": "adamw", "precision": "fp32"}
    tuned = {"stage": "finetune", "input": "base", "method": lora, "train": adamw}
    stages = {
        "tuned": tuned,
        "cut": {"stage": "prune", "input": "tuned", "of": "adapters", "sparsity": 0.8},
        "back": {**tuned, "input": "cut"},
        "merged": {"stage": "merge", "input": "back"},
    }
    result = run(tmp_path, recipe(tmp_path, **stages))
    before, after = zeros(result["cut"]), zeros(result["back"])
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert result["back"].facts["adapter_sparsity"] == pytest.approx(0.8, abs=0.01)
    assert result["cut"].facts["sparsity"] == result["back"].facts["sparsity"] == 0
    assert result["merged"].facts["sparsity"] == 0
    assert "adapter_sparsity" not in result["merged"].facts
    card = (result["merged"].path / "README.md").read_text()
    assert "0.0%" in card


REFUSED = {
    "a quantized model": (
        {"q": {"stage": "quantize", "input": "base", "kind": "nf4"}},
        {"input": "q", "sparsity": 0.5},
        "stored as nf4",
    ),
    "no adapters": ({}, {"input": "base", "of": "adapters", "sparsity": 0.5}, "no LoRA"),
    "2:4 first": (
        {"fours": {"stage": "prune", "input": "base", "pattern": "2:4"}},
        {"input": "fours", "sparsity": 0.7},
        "pattern 2:4",
    ),
}


@pytest.mark.parametrize(("stages", "prune", "words"), REFUSED.values(), ids=REFUSED)
def test_an_order_that_cannot_be_is_refused_before_work(tmp_path, stages, prune, words) -> None:
    raw = recipe(tmp_path, **stages, p={"stage": "prune", **prune})
    with pytest.raises(fw.RequestError, match=words):
        run(tmp_path, raw)
    assert not list((tmp_path / "runs").glob("pretrain-*"))


def test_a_calibration_text_is_read_and_has_to_be_long_enough(tmp_path: Path) -> None:
    fields = {"stage": "prune", "input": "base", "sparsity": 0.5}
    calibration = {"tokens": 2048}
    stages = {
        name: {**fields, "method": name, "calibration": calibration}
        for name in ("wanda", "sparsegpt")
    }
    stages["random"] = {**fields, "method": "random"}
    result = run(tmp_path, recipe(tmp_path, **stages))
    nll = {
        model.name: model.evaluate.nll.value for model in result.summary.models if model.evaluate
    }
    assert nll["base"] < nll["random"]
    assert max(nll["wanda"], nll["sparsegpt"]) < nll["random"]
    session = Session(runs=tmp_path / "runs", threads=1)
    with pytest.raises(fw.RequestError, match="are not fewer than the"):
        fw.prune(
            "pruned:base", "calibration.tokens=10M", method="wanda", sparsity=0.5, session=session
        )
    with pytest.raises(fw.RequestError, match="reads no text"):
        fw.prune("pruned:base", "calibration.tokens=500", sparsity=0.5, session=session)


def test_a_pruned_model_is_packed_and_then_left_as_it_is(tmp_path: Path) -> None:
    stages: dict[str, Any] = {
        "pruned": {"stage": "prune", "input": "base", "sparsity": 0.7},
        "packed": {"stage": "pack", "input": "pruned"},
    }
    result = run(tmp_path, recipe(tmp_path, **stages))
    facts = result["packed"].facts
    assert facts["entropy_bytes"] < facts["packed_bytes"] < facts["dense_bytes"]
    assert facts["nonzero"] == result["pruned"].facts["nonzero"]
    nll = {
        model.name: model.evaluate.nll.value for model in result.summary.models if model.evaluate
    }
    assert nll["packed"] == pytest.approx(nll["pruned"], abs=1e-6)
    session = Session(runs=tmp_path / "runs", threads=1)
    words = ["pack", "pruned:pruned", "--runs", str(tmp_path / "runs"), "--threads", "1", "--json"]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["stages"][0]["id"] == result["packed"].id
    later = {
        "quantize": {"stage": "quantize", "input": "packed", "kind": "int8"},
        "prune": {"stage": "prune", "input": "packed", "sparsity": 0.8},
        "pack": {"stage": "pack", "input": "packed"},
        "finetune": {**TUNE, "input": "packed"},
        "pretrain": {"stage": "pretrain", "input": "packed"},
    }
    for name, stage in later.items():
        with pytest.raises(fw.RequestError, match="packed"):
            config_load.recipe(recipe(tmp_path, **stages, later=stage))
        if name not in ("pretrain", "finetune"):
            outside = recipe(tmp_path, later={**stage, "input": "pruned:packed"})
            with pytest.raises(fw.RequestError, match=r"sparse|no masks"):
                run(tmp_path, outside)
    with pytest.raises(fw.RequestError, match="no masks"):
        fw.pack("pruned:base", session=session)


def test_fewer_heads_and_channels_are_an_ordinary_model_that_trains_on(tmp_path: Path) -> None:
    fields = {"stage": "prune", "input": "base", "method": "structured"}
    stages = {
        "small": {**fields, "heads": 1, "hidden": 48},
        "felt": {**fields, "heads": 1, "score": "taylor", "calibration": {"tokens": 1024}},
        "back": {**TUNE, "input": "small"},
        "int8": {"stage": "quantize", "input": "back", "kind": "int8"},
    }
    result = run(tmp_path, recipe(tmp_path, **stages))
    facts = result["small"].facts
    assert facts["parameters"] < facts["parameters_before"]
    config = folder.load_config(result["back"].path / "model")
    assert isinstance(config, ModelConfig)
    assert (config.attention.heads, config.mlp.hidden) == (1, 48)
    assert not config.linears
    assert "parameters" in (result["small"].path / "README.md").read_text()
    with pytest.raises(fw.RequestError, match="not fewer"):
        run(tmp_path, recipe(tmp_path, small={**fields, "heads": 2}))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_killed_fine_tuning_of_a_pruned_model_goes_on_with_its_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    train = {"steps": 8, "validations": 4, "keep": "last", "optimizer": optimizer}
    stages = {
        "pruned": {"stage": "prune", "input": "base", "sparsity": 0.6},
        "back": {**TUNE, "input": "pruned", "train": train},
    }
    raw = recipe(tmp_path, **stages)
    result = run(tmp_path, raw)
    whole = folder.load(result["back"].path / "model").state_dict()
    saved = list[int]()

    def killed(state: Path, name: str, progress: Any, *others: Any) -> None:
        real(state, name, progress, *others)
        saved.append(progress.step)
        if name.startswith("finetune") and progress.step == 4:
            raise KeyboardInterrupt

    real = checkpoint.save
    second = tmp_path / "second"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            run(second, raw)
    assert saved[-1] == 4
    resumed = run(second, raw)["back"]
    assert resumed.id == result["back"].id
    state = folder.load(resumed.path / "model").state_dict()
    assert state.keys() == whole.keys()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in state.items())
    before, after = zeros(result["pruned"]), zeros(resumed)
    assert all(torch.equal(after[key], before[key]) for key in before)
    events = (resumed.path / "events.jsonl").read_text()
    assert [json.loads(line)["step"] for line in events.splitlines() if '"validation"' in line] == [
        2,
        4,
        6,
        8,
    ]


def test_vocabulary_that_the_text_never_uses_goes_with_its_rows(tmp_path: Path) -> None:
    stages = {
        "small": {"stage": "prune", "input": "base", "method": "structured", "vocabulary": "used"},
        "int8": {"stage": "quantize", "input": "small", "kind": "int8"},
        "back": {**TUNE, "input": "small"},
    }
    raw = recipe(tmp_path, **stages)
    general = tmp_path / "general.txt"
    words = "".join(f"a{n % 37:02d} zebra quartz vivid jumbo {n % 11}.\n" for n in range(800))
    general.write_text((tmp_path / "text.txt").read_text() + words)
    raw["data"]["tokenizer"] = {"kind": "bpe", "vocab": 400}
    raw["stages"]["base"]["data"] = {"corpus": str(general)}
    special = {"data": {"corpus": str(tmp_path / "text.txt"), "tokenizer": "model"}}
    stages["small"]["calibration"] = special
    stages["back"]["data"] = special["data"]
    raw["report"]["data"] = special["data"]
    result = run(tmp_path, raw)
    facts = result["small"].facts
    fewer = facts["vocabulary_before"] - facts["vocabulary"]
    assert fewer > 10 and facts["vocabulary"] > 256
    assert facts["parameters_before"] - facts["parameters"] == 32 * fewer
    nll = {model.name: model.evaluate for model in result.summary.models}
    assert all(each is not None for each in nll.values())
    # Fewer tokens share the same probability: never worse, on the text whose tokens all stay.
    assert nll["small"].bits_per_byte.value <= nll["base"].bits_per_byte.value + 1e-6
    assert nll["small"].nll.n == nll["base"].nll.n
    assert Tokenizer.load(result["back"].path / "model").vocab_size == facts["vocabulary"]
    whole = {**raw, "stages": {"base": raw["stages"]["base"], "small": dict(stages["small"])}}
    del whole["stages"]["small"]["calibration"], whole["report"]["data"]
    own = run(tmp_path, {**whole, "name": "own"})
    assert own["small"].facts["vocabulary"] >= facts["vocabulary"]
    values = [model.evaluate.bits_per_byte.value for model in own.summary.models]
    if own["small"].facts["vocabulary"] == facts["vocabulary_before"]:  # all is used
        assert values[0] == values[1]
    assert values[1] <= values[0] + 1e-6


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"vocabulary": "used"}, "the tokenizer"),
        ({"vocabulary": "used", "method": "magnitude", "sparsity": 0.5}, "method: structured"),
        ({"vocabulary": "all"}, "vocabulary: 'all' is not 'used'"),
    ],
)
def test_a_vocabulary_that_cannot_be_cut_is_refused(tmp_path, fields, words) -> None:
    small = {"stage": "prune", "input": "base", "method": "structured", **fields}
    raw = recipe(tmp_path, small=small)
    raw["data"]["tokenizer"] = "char"
    raw["train"]["steps"] = 2
    with pytest.raises(RequestError, match=words):
        run(tmp_path, raw)
