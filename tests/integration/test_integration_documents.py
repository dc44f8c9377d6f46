"""Documents that are kept apart: in training, distillation, evaluation and after quantization."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import flyweight as fw
from flyweight.api import Session
from flyweight.config import load as config_load

LSTM = {"kind": "lstm", "dim": 8, "hidden": 8, "layers": 1}


def recipe(folder: Path, documents: str = "isolated", **stages: Any) -> dict[str, Any]:
    text = folder / "texts"
    text.mkdir(exist_ok=True)
    for number in range(60):
        (text / f"{number}.txt").write_text(f"This is text {number}. " * (1 + number % 7))
    windowed = {"heads": 2, "window": 8, "sinks": 2}
    return {
        "name": "apart",
        "data": {
            "corpus": str(text),
            "tokenizer": {"kind": "bpe", "vocab": 260},
            "context": 32,
            "validation": 0.2,
            "test": 0.2,
            "documents": documents,
        },
        "model": {"dim": 16, "layers": 1, "attention": windowed, "position": "learned"},
        "train": {"steps": 6, "batch": 4, "validations": 1},
        "stages": {
            "teacher": {"stage": "pretrain"},
            "student": {"stage": "distill", "teacher": "teacher"},
            "int8": {"stage": "quantize", "input": "student", "kind": "int8"},
            **stages,
        },
        "report": {"compare": ["teacher", "student", "int8"], "measure": ["evaluate"]},
    }


def test_a_recipe_of_isolated_documents(tmp_path: Path) -> None:
    session = Session(runs=tmp_path / "runs", threads=1)
    apart = fw.run(config_load.recipe(recipe(tmp_path)), session=session)
    joined = fw.run(config_load.recipe(recipe(tmp_path, "joined")), session=session)
    for name in ("teacher", "student", "int8"):
        assert apart[name].facts["documents"] == "isolated"
        assert "documents" not in joined[name].facts
        assert apart[name].id != joined[name].id
        assert apart[name].facts["corpus"] == joined[name].facts["corpus"]
    theirs = {model.name: model for model in joined.summary.models}
    for model in apart.summary.models:
        other = theirs[model.name]
        assert model.evaluate and other.evaluate
        assert model.evaluate.nll.n == other.evaluate.nll.n
        assert model.evaluate.nll.value != other.evaluate.nll.value


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"other": {"stage": "pretrain", "model": LSTM}}, "an LSTM carries its state"),
        (
            {
                "other": {"stage": "pretrain", "model": LSTM, "data": {"documents": "joined"}},
                "taught": {"stage": "distill", "teacher": "other"},
            },
            r"stages\.taught\.teacher: an LSTM carries its state",
        ),
        ({"mixed": {"stage": "mix", "input": "teacher"}}, r"stages\.mixed: .* a mixture look"),
    ],
)
def test_what_cannot_keep_documents_apart_is_refused(
    tmp_path: Path, stages: dict[str, Any], message: str
) -> None:
    with pytest.raises(fw.RequestError, match=message):
        config_load.recipe(recipe(tmp_path, **stages))
