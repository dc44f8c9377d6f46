"""What is for texts that are read many times, from a recipe to its cards."""

import pytest
import torch

import flyweight as fw
from flyweight.api import Session
from flyweight.config import load as config_load
from flyweight.model import folder


@pytest.fixture
def raw(text_file):
    return {
        "name": "repeated",
        "data": {"corpus": str(text_file), "tokenizer": "byte", "context": 32},
        "model": {"dim": 16, "layers": 2, "attention": {"heads": 2}},
        "train": {"steps": 6, "batch": 4, "validations": 1, "precision": "fp32"},
        "report": {"measure": ["evaluate"]},
    }


def session(tmp_path):
    return Session(runs=tmp_path / "runs", threads=1, quiet=True)


def weights(run, name):
    return folder.load(run[name].path / "model").state_dict()


def test_noise_is_the_students_alone_beside_a_teacher_or_its_record(raw, tmp_path):
    noise = {"train": {"input_noise": 0.2}}
    taught = {"stage": "distill", "teacher": "teacher"}
    raw["stages"] = {
        "teacher": {"stage": "pretrain"},
        "noisy": {"stage": "pretrain", **noise},
        "taught": {**taught, **noise},
        "told": {**taught, **noise, "told": {"k": 10_000, "store": "fp32"}},
    }
    run = fw.run(config_load.recipe(raw), session=session(tmp_path))
    assert not torch.equal(
        *(weights(run, name)["embedding.tokens.weight"] for name in ("teacher", "noisy"))
    )
    for name, tensor in weights(run, "taught").items():
        torch.testing.assert_close(weights(run, "told")[name], tensor, atol=1e-4, rtol=1e-3)
    said = ", 0.2 of its inputs exchanged for other tokens at random"
    for name, expected in (("teacher", False), ("noisy", True), ("taught", True)):
        assert (said in (run[name].path / "README.md").read_text()) is expected
