"""A fine-tuned model's adapter goes to peft, and one of peft's comes onto a model, by the verbs."""

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
from flyweight.model import folder

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

TOKENS = torch.arange(20)[None] + 40


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("peft")
    text = place / "text.txt"
    text.write_text("".join(f"Line {number} of the text.\n" for number in range(900)))
    raw = {
        "name": "tuning",
        "data": {"corpus": str(text), "tokenizer": "byte", "context": 32},
        "train": {"steps": 6, "batch": 4, "validations": 1},
        "stages": {
            "base": {
                "stage": "pretrain",
                "model": {"dim": 16, "layers": 2, "attention": {"heads": 2}},
            },
            "tuned": {"stage": "finetune", "input": "base", "method": {"kind": "lora", "r": 2}},
            "zeros": {"stage": "prune", "input": "tuned", "of": "adapters", "sparsity": 0.5},
            "again": {"stage": "finetune", "input": "zeros", "method": {"kind": "lora", "r": 2}},
            "other": {"stage": "pretrain", "model": {"dim": 24, "layers": 2}},
        },
        "report": {"measure": ["evaluate"]},
    }
    fw.run(config_load.recipe(raw), session=Session(runs=place / "runs", threads=1))
    return place / "runs"


def answer(runs: Path, *words: str) -> Any:
    result = CliRunner().invoke(app, [*words, "--runs", str(runs), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_an_adapter_that_was_pruned_and_trained_again_goes_to_peft(runs: Path, tmp_path: Path):
    words = ("tuning:again", "--to", "peft", "--out", f"{tmp_path}/again")
    assert answer(runs, "export", *words)["kind"] == "peft"
    fw.export("tuning:base", to="hf", out=tmp_path / "hf", session=Session(runs=runs, threads=1))
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    wrapped = peft.PeftModel.from_pretrained(base, tmp_path / "again").eval()
    pruned = folder.load(runs / "tuning" / "again" / "model").eval()
    with torch.no_grad():
        expected = pruned(TOKENS)
        found = wrapped(TOKENS).logits[..., : expected.shape[-1]]
    assert (found - expected).abs().max() < 1e-5


def test_to_peft_and_back(runs: Path, tmp_path: Path) -> None:
    session = Session(runs=runs, threads=1)
    written = answer(runs, "export", "tuning:tuned", "--to", "peft", "--out", f"{tmp_path}/adapter")
    assert written["kind"] == "peft"
    fw.export("tuning:base", to="hf", out=tmp_path / "hf", session=session)
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    wrapped = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    back = answer(runs, "import", f"{tmp_path}/adapter", "--onto", "tuning:base")
    ours = folder.load(Path(back["path"]) / "model").eval()
    tuned = folder.load(runs / "tuning" / "tuned" / "model").eval()
    with torch.no_grad():
        expected = tuned(TOKENS)
        rows = expected.shape[-1]
        assert (wrapped(TOKENS).logits[..., :rows] - expected).abs().max() < 1e-5
        assert (ours(TOKENS) - expected).abs().max() < 1e-5
    card = (Path(back["path"]) / "README.md").read_text()
    assert "with the adapter in" in card
    again = fw.import_(tmp_path / "adapter", onto="tuning:base", session=session)
    assert again.id == back["id"]
    assert fw.evaluate(back["id"], session=session).nll.value == pytest.approx(
        fw.evaluate("tuning:tuned", session=session).nll.value, abs=1e-6
    )


def test_another_base_is_refused(runs: Path, tmp_path: Path) -> None:
    session = Session(runs=runs, threads=1)
    fw.export("tuning:tuned", to="peft", out=tmp_path / "adapter", session=session)
    differs = r"attention\.qkv\.lora\.a is \(2, 16\) there and \(2, 24\) here"
    with pytest.raises(fw.RequestError, match=differs):
        fw.import_(tmp_path / "adapter", onto="tuning:other", session=session)
    with pytest.raises(fw.RequestError, match="holds no adapter of peft's"):
        fw.import_(tmp_path, onto="tuning:base", session=session)
    with pytest.raises(fw.RequestError, match="has none"):
        fw.export("tuning:base", to="peft", out=tmp_path / "none", session=session)
    with pytest.raises(fw.RequestError, match="flyweight merge"):
        fw.export("tuning:tuned", out=tmp_path / "tuned.gguf", session=session)


def test_a_head_that_was_trained_after_the_adapter_is_not_left_out(
    runs: Path, tmp_path: Path
) -> None:
    session = Session(runs=runs, threads=1)
    words = ("data.corpus=" + str(runs.parent / "text.txt"), "data.context=32", "train.steps=1")
    run = fw.finetune("tuning:tuned", *words, method="frozen", session=session)
    with pytest.raises(fw.RequestError, match="trained the head and the last norm after them"):
        fw.export(run["finetune"], to="peft", out=tmp_path / "adapter", session=session)
    assert not (tmp_path / "adapter").exists()
