"""A model with adapters in a recipe: trained, quantized with them, merged; the verb and the function."""

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


def recipe(place: Path, *adapters: Any, **stages: Any) -> dict[str, Any]:
    text = place / "text.txt"
    text.write_text("".join(f"Line {number} of the text.\n" for number in range(900)))
    return {
        "name": "adapted",
        "data": {"corpus": str(text), "tokenizer": "byte", "context": 32},
        "model": {"dim": 16, "layers": 1, "attention": {"heads": 2}, "adapters": list(adapters)},
        "train": {"steps": 6, "batch": 4, "validations": 1},
        "stages": {"tuned": {"stage": "pretrain"}, **stages},
        "report": {"measure": ["evaluate"]},
    }


def run(place: Path, raw: dict[str, Any]) -> fw.Run:
    return fw.run(config_load.recipe(raw), session=Session(runs=place / "runs", threads=1))


def test_merged_in_a_recipe_by_the_verb_and_by_the_function(tmp_path: Path) -> None:
    stages = {"merged": {"stage": "merge", "input": "tuned"}}
    raw = recipe(tmp_path, {"kind": "lora", "r": 2}, "ia3", **stages)
    result = run(tmp_path, raw)
    tuned, merged = (
        folder.load(result[name].path / "model").eval() for name in ("tuned", "merged")
    )
    tokens = torch.arange(20)[None] + 40
    assert torch.allclose(tuned(tokens), merged(tokens), atol=1e-5)
    assert merged.config.model_dump().get("adapters") is None
    nll = [model.evaluate.nll.value for model in result.summary.models if model.evaluate]
    assert nll[0] == pytest.approx(nll[1], abs=1e-6)
    session = Session(runs=tmp_path / "runs", threads=1)
    by_function = fw.merge("adapted:tuned", session=session)
    words = ["merge", "adapted:tuned", "--runs", str(tmp_path / "runs"), "--threads", "1", "--json"]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0, answer.output
    by_verb = json.loads(answer.stdout)
    assert by_function["merge"].id == by_verb["stages"][0]["id"] == result["merged"].id
    assert by_verb["name"] == "merge-adapted-tuned"


def test_a_packed_base_asks_to_be_unpacked(tmp_path: Path) -> None:
    packed = {"stage": "quantize", "input": "tuned", "kind": "int8"}
    run(tmp_path, recipe(tmp_path, {"kind": "lora", "r": 2}, packed=packed))
    session = Session(runs=tmp_path / "runs", threads=1)
    with pytest.raises(fw.RequestError, match="--unpack"):
        fw.merge("adapted:packed", session=session)
    merged = fw.merge("adapted:packed", unpack=True, session=session)
    config = folder.load_config(merged["merge"].path / "model")
    assert config.linears == {}


def test_what_cannot_be_merged_is_told_before_work(tmp_path: Path) -> None:
    stages = {"merged": {"stage": "merge", "input": "tuned"}}
    with pytest.raises(fw.RequestError, match="becomes part of no matrix"):
        run(tmp_path, recipe(tmp_path, {"kind": "prefix", "length": 2}, **stages))
    assert not list((tmp_path / "runs").glob("pretrain-*"))
