"""What is for texts that are read many times, from a recipe to its cards."""

import pytest
import torch

import flyweight as fw
from flyweight.api import Session
from flyweight.checkpoints import convert, read
from flyweight.config import load as config_load
from flyweight.errors import RequestError
from flyweight.model import folder
from flyweight.reports.gather import config_line


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


ALL = {
    "layers": 4,
    "attention": {"heads": 2, "value_residual": True, "gate": True},
    "skips": ["unet", "embedding"],
    "dropout": {"depth": 0.2},
}


def test_all_of_it_is_trained_taken_over_quantized_pruned_measured_and_not_lost(raw, tmp_path):
    raw["model"] = {"dim": 16, **ALL}
    raw["train"] |= {"input_noise": 0.1, "optimizer": "muon"}
    raw["stages"] = {
        "teacher": {"stage": "pretrain"},
        "student": {"stage": "distill", "teacher": "teacher", "start": {"from": "teacher"}},
        "int8": {"stage": "quantize", "input": "student", "kind": "int8"},
        "narrow": {
            "stage": "prune",
            "input": "student",
            "method": "structured",
            "heads": 1,
            "hidden": 20,
        },
        "tuned": {
            "stage": "finetune",
            "input": "student",
            "method": "lora",
            "train": {"optimizer": "adamw"},
        },
    }
    raw["report"]["measure"] = ["evaluate", "audit"]
    run = fw.run(config_load.recipe(raw), session=session(tmp_path))
    for name in ("teacher", "student", "int8", "narrow", "tuned"):
        model = folder.load(run[name].path / "model").eval()
        tokens = torch.arange(24)[None] % 200
        with torch.no_grad():
            cache = model.new_cache(1, 24)
            apart = torch.cat([model(tokens[:, n : n + 1], cache) for n in range(24)], 1)
            torch.testing.assert_close(apart, model(tokens), rtol=1e-3, atol=1e-4)
    student = folder.load(run["student"].path / "model").eval()
    assert "skips embedding and unet, value residual, gated heads" in config_line(student.config)
    with pytest.raises(RequestError, match="connections past layers") as refusal:
        fw.export(run["student"], out=tmp_path / "student.gguf", session=session(tmp_path))
    assert "gates" in str(refusal.value) and "mix their values" in str(refusal.value)
    fw.export(run["student"], to="hf", out=tmp_path / "hf", session=session(tmp_path))
    config, state = convert.decoder(read.read(tmp_path / "hf"))
    assert config == student.config
    assert all(torch.equal(state[name], tensor) for name, tensor in student.state_dict().items())
