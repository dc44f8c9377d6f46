"""`train.epochs`: the plan and the run count the same steps, and the schedule ends with them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import flyweight as fw
from flyweight.core.events import read_events


def recipe(text_file: Path, **train: Any) -> dict[str, Any]:
    return {
        "name": "epochs",
        "data": {
            "corpus": str(text_file),
            "tokenizer": {"kind": "bpe", "vocab": 300},
            "context": 64,
        },
        "model": {"dim": 16, "layers": 1, "attention": {"heads": 2}},
        "train": {"batch": 16, "validations": 1, **train},
        "stages": {"small": {"stage": "pretrain"}},
        "report": {"measure": []},
    }


def test_two_epochs_of_a_text_are_the_right_number_of_steps(text_file: Path, tmp_path: Path):
    session = fw.Session(runs=tmp_path / "runs", threads=1, quiet=True)
    raw = recipe(text_file, epochs=2, schedule={"tail": "linear"})
    before = fw.plan(raw, session=session)
    assert any("tokens an epoch, from the size of the text" in note for note in before.assumed)
    run = fw.run(raw, session=session)
    small = run["small"]
    tokens = next(iter((tmp_path / "runs").glob("corpus-*/corpus/meta.json"))).read_text()
    windows = (json.loads(tokens)["content"]["splits"]["train"]["tokens"] - 1) // 64
    steps = math.ceil(2 * windows / 16)
    assert (small.facts["steps"], small.facts["stopped_by"]) == (steps, "steps")
    after = fw.plan(raw, session=session)
    assert after.stages[0].steps == steps, "a packed text gives the plan its exact number"
    assert before.stages[0].steps, "an estimate: the text has few different words"
    rates = [
        event["lr"]
        for event in read_events(small.path / "events.jsonl")
        if event["event"] == "step"
    ]
    assert rates[-1] < rates[len(rates) // 2] < rates[2], "the schedule follows the epochs"
    assert "epochs" in small.identity["config"]["train"]


def test_ids_of_recipes_without_epochs_stay(text_file: Path):
    checked = fw.load(recipe(text_file, steps=3))
    train = checked.stages["small"].train.model_dump(mode="json")
    assert "epochs" not in train and "loss" not in train


def test_a_loss_of_completions_is_refused_for_a_text(text_file: Path):
    with pytest.raises(fw.RequestError, match=r"stages.small.train.loss: completion is for the ex"):
        fw.load(recipe(text_file, steps=3, loss="completion"))
