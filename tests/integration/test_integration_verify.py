"""`flyweight verify`: exports of a trained model through the command line, its card, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from toy_recipe import toy
from typer.testing import CliRunner

import flyweight as fw
from flyweight.api import Session
from flyweight.cli.app import app
from flyweight.config import load as config_load
from flyweight.errors import RequestError

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("verify")
    text = place / "text.txt"
    text.write_text("".join(f"Line {number} of the text.\n" for number in range(900)))
    raw = toy(text)
    stages = {name: raw["stages"][name] for name in ("teacher", "alone")}
    stages["alone"]["train"] = {"steps": 6}
    raw["stages"] = {**stages, "int8": {"stage": "quantize", "input": "teacher", "kind": "int8"}}
    raw["report"] = {"measure": ["evaluate"]}
    raw["train"]["precision"] = "fp32"
    fw.run(config_load.recipe(raw), session=Session(runs=place / "runs", threads=1))
    return place / "runs"


def told(runs: Path, *words: str, status: int = 0) -> Any:
    result = CliRunner().invoke(app, ["verify", *words, "--runs", str(runs), "--json"])
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


def refused(runs: Path, *words: str) -> str:
    result = CliRunner().invoke(app, ["verify", *words, "--runs", str(runs)])
    assert isinstance(result.exception, RequestError), result.output
    return str(result.exception)


def test_a_model_is_verified_in_every_format_and_its_card_says_so(runs: Path) -> None:
    answer = told(runs, "toy:int8", "--tokens", "600")
    assert answer["passed"]
    exports = {each["export"]: each for each in answer["exports"]}
    assert exports["Hugging Face folder"]["verdict"] == "pass"
    assert exports["Hugging Face folder"]["agreement"]["tokens"] == 600
    (before,) = (each for name, each in exports.items() if name.startswith("the model before"))
    assert before["loss"] == "quantized" and before["limits"]["within"] == 0.05
    card = fw.export(
        "toy:int8", to="hf", out=runs.parent / "carded", session=Session(runs=runs, threads=1)
    ).card
    assert card is not None
    shown = card.read_text()
    assert "compared with the model on held-out text, passed" in shown
    assert "the model before it" in shown


def test_an_export_that_changes_is_verified_again(runs: Path, tmp_path: Path) -> None:
    session = Session(runs=runs, threads=1)
    fw.export("toy:teacher", to="hf", out=tmp_path / "hf", session=session)
    words = ("toy:teacher", str(tmp_path / "hf"), "--tokens", "600")
    first = told(runs, *words)
    assert first["passed"] and told(runs, *words)["id"] == first["id"]
    file = tmp_path / "hf" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    changed = told(runs, *words, status=1)
    assert not changed["passed"] and changed["id"] != first["id"]


def test_other_models_and_what_is_no_export(runs: Path, tmp_path: Path) -> None:
    other = told(runs, "toy:teacher", "toy:alone", "--tokens", "600", status=1)
    assert other["exports"][0]["verdict"] == "fail"
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "llama"}')
    assert "has no weights" in refused(runs, "toy:teacher", str(tmp_path / "empty"))
    assert "EXPORT" in refused(runs, "toy:teacher", "toy:teachr")
    assert "random weights" in refused(runs, "rung-1.yaml")
