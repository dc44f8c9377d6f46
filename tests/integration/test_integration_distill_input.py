"""Distillation into weights that are there: a model with fewer parts or weights learns from the whole one."""

import pytest
import torch

import flyweight as fw
from flyweight.api import Session
from flyweight.config import load as config_load
from flyweight.errors import RequestError
from flyweight.model import folder
from flyweight.model.masked import masks_of, unpack_bits

TINY = {"dim": 32, "layers": 2, "attention": {"heads": 2}}
FEW = {"steps": 4}


@pytest.fixture
def raw(text_file):
    pruned = {"stage": "prune", "input": "base", "method": "magnitude", "sparsity": 0.5}
    fewer = {"stage": "prune", "input": "base", "method": "structured", "heads": 1}
    taught = {"stage": "distill", "teacher": "base"}
    return {
        "name": "recovered",
        "data": {"corpus": str(text_file), "tokenizer": "byte", "context": 32},
        "model": TINY,
        "train": {"steps": 20, "batch": 8, "validations": 1, "precision": "fp32"},
        "stages": {
            "base": {"stage": "pretrain"},
            "pruned": pruned,
            "fewer": fewer,
            "back": {**taught, "input": "pruned", "train": FEW},
            "fewer-back": {**taught, "input": "fewer", "train": FEW},
            "still": {
                **taught,
                "input": "fewer",
                "train": {"steps": 1, "optimizer": {"lr": 1e-30}},
            },
            "half": {
                **taught,
                "model": {"layers": 1},
                "start": {"from": "teacher", "width": "norm"},
                "objective": {"hidden": {"places": {0: 1}, "weight": 0.5}},
                "train": {**FEW, "average": {"decay": 0.9}},
            },
            "small": {"stage": "quantize", "input": "fewer-back", "kind": "int8"},
        },
        "report": {"measure": ["evaluate"]},
    }


def test_a_pruned_model_learns_from_the_whole_one(raw, tmp_path):
    raw["train"]["optimizer"] = "adamw"
    session = Session(runs=tmp_path / "runs", threads=1, quiet=True)
    plan = fw.plan(raw, session=session)
    planned = {stage.name: stage for stage in plan.stages}
    run = fw.run(config_load.recipe(raw), session=session)

    before, after = (folder.load(run[name].path / "model") for name in ("pruned", "back"))
    changed = 0
    for (_, mask), (weight, own) in zip(masks_of(before), masks_of(after), strict=True):
        assert torch.equal(mask, own)
        assert weight[~unpack_bits(own, weight.shape[-1])].count_nonzero() == 0
        changed += 1
    assert changed

    fewer, still = (folder.load(run[name].path / "model") for name in ("fewer", "still"))
    for (name, value), (_, kept) in zip(
        fewer.named_parameters(), still.named_parameters(), strict=True
    ):
        torch.testing.assert_close(kept, value, msg=name)
    size = sum(each.numel() for each in fewer.parameters())
    assert planned["fewer-back"].model.parameters.unique == size

    facts = run["half"].facts["started_from"]
    assert facts["layers"] == [0] and facts["new"] == []
    assert run["half"].facts["best_nll"] < 4

    spent = [run[name].facts["total_flops"] for name in ("base", "fewer-back")]
    assert spent[1] > spent[0], "it counts what the teacher and the start have cost"
    card = (run["fewer-back"].path / "README.md").read_text()
    assert f"distilled from `{run['base'].id}`, starting from `{run['fewer'].id}`" in card


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"model": TINY, "input": "base"}, "needs either model .* or input .*, and not both"),
        ({"model": None}, "needs either model .* or input"),
        ({"input": "packed"}, "stages.taught.input: packed stores its matrices in fewer bits"),
        ({"input": "nobody"}, "nobody"),
        ({"input": "base", "start": {"from": "teacher"}}, "start: input has weights to start from"),
        ({"model": TINY, "start": {"from": "input"}}, "from: 'input' is not known"),
    ],
)
def test_what_cannot_start_a_student(raw, stage, message):
    del raw["model"]
    raw["stages"] = {
        "base": {"stage": "pretrain", "model": TINY},
        "packed": {"stage": "quantize", "input": "base", "kind": "int8"},
        "taught": {"stage": "distill", "teacher": "base", **stage},
    }
    with pytest.raises(RequestError, match=message):
        config_load.recipe(raw)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"start": {"layers": [5]}}, "stages.taught.start.layers: the teacher has no layer 5"),
        ({"objective": {"hidden": {"places": {3: 0}}}}, "the student has no place 3"),
        ({"model": {"dim": 16}, "objective": {"hidden": {"places": {0: 0}}}}, "by: relations"),
    ],
)
def test_a_plan_says_what_does_not_fit(raw, stage, message, tmp_path):
    taught = {"stage": "distill", "teacher": "base", "model": {"layers": 1}, **stage}
    raw["stages"] = {"base": {"stage": "pretrain"}, "taught": taught}
    with pytest.raises(RequestError, match=message):
        fw.plan(raw, session=Session(runs=tmp_path / "runs", threads=1, quiet=True))


def test_the_function_goes_on_from_a_student(raw, tmp_path):
    raw["stages"] = {
        "base": raw["stages"]["base"],
        "other": {"stage": "pretrain", "model": {"dim": 16}},
    }
    session = Session(runs=tmp_path / "runs", threads=1, quiet=True)
    fw.run(config_load.recipe(raw), session=session)
    corpus = raw["data"]["corpus"]
    words = dict(data={"corpus": corpus, "context": 32}, session=session)
    run = fw.distill("recovered:base", "train.steps=2", input="recovered:other", **words)
    student = folder.load(run["distill"].path / "model")
    assert student.config.dim == 16
    with pytest.raises(RequestError, match="needs either model"):
        fw.distill("recovered:base", "train.steps=2", **words)
