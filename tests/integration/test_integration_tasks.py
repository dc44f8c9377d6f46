"""A recipe that fine-tunes on the examples of a task: one artifact of tokens, completions learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import flyweight as fw
from flyweight.core.events import read_events
from flyweight.reports.cards.card import FILE as card_file
from flyweight.store.artifact import Artifact

TOKENIZER = {"kind": "bpe", "vocab": 300}


def rows_file(folder: Path, rows: int = 200) -> Path:
    """Write sums: short prompts of which the answer can be learned."""
    lines = [
        {"prompt": f"Ann has {at % 9} and gets {at // 9 % 9}; total:", "completion": f" {at % 9}"}
        for at in range(rows)
    ]
    path = folder / "sums.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def recipe(text_file: Path, task: Path | str, data: dict[str, Any], **train: Any) -> dict[str, Any]:
    return {
        "name": "tasks",
        "data": {"corpus": str(text_file), "tokenizer": TOKENIZER, "context": 64},
        "model": {"dim": 16, "layers": 1, "attention": {"heads": 2}},
        "train": {"batch": 4, "validations": 2, "steps": 5},
        "stages": {
            "base": {"stage": "pretrain"},
            "tuned": {
                "stage": "finetune",
                "input": "base",
                "method": "full",
                "data": {"task": str(task), "context": 64, **data},
                "train": {"steps": None, "epochs": 3, "validations": 3, **train},
            },
        },
        "report": {"measure": []},
    }


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> fw.Session:
    return fw.Session(runs=tmp_path_factory.mktemp("tasks") / "runs", threads=1, quiet=True)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rows_file(tmp_path_factory.mktemp("rows"))


def only(session: fw.Session, kind: str) -> Artifact:
    (path,) = Path(session.store.root).glob(f"{kind}-????????")
    return Artifact.open(path)


@pytest.mark.parametrize("packing", ["isolated", "padding"])
def test_a_stage_learns_the_completions_of_a_task(
    text_file: Path, task: Path, session: fw.Session, packing: str
):
    raw = recipe(text_file, task, {"packing": packing})
    if packing == "isolated":
        raw["report"] = {"measure": ["evaluate", "memory"], "compare": ["tuned"]}
    planned = {stage.name: stage for stage in fw.plan(raw, session=session).stages}["tuned"]
    run = fw.run(raw, session=session)
    tuned, examples = run["tuned"], only(session, "examples")
    assert tuned.identity["parents"]["examples"] == examples.id
    assert tuned.facts["corpus"] == run["base"].facts["corpus"], "evaluations read the base's text"
    count = examples.facts["rows"]["train"]
    assert tuned.facts["epochs"] == pytest.approx(3, abs=0.2)
    assert tuned.facts["examples"] == pytest.approx(3 * count, rel=0.1)
    if packing == "padding":
        assert planned.steps == tuned.facts["steps"] == -(-3 * count // 4), "known before"
    else:
        assert tuned.facts["steps"] < count / 2, "several examples share a row"
    validations = [
        event["nll"]
        for event in read_events(tuned.path / "events.jsonl")
        if event["event"] == "validation"
    ]
    assert len(validations) == 3 and validations[-1] < validations[0]
    assert tuned.facts["best_nll"] == min(validations)
    again = fw.run(raw, session=session)
    assert again["tuned"].id == tuned.id
    card = (tuned.path / card_file).read_text()
    assert "Fine-tuned on the task" in card and "Completions alone were learned." in card
    assert "4 rows of examples a step" in card
    assert not fw.gc(dry_run=True, session=session).items, "a run keeps its examples"
    own = (tuned.path / "model" / "tokenizer.json").read_bytes()
    assert own == (run["base"].path / "model" / "tokenizer.json").read_bytes()


def test_two_models_of_one_tokenizer_share_the_tokens(
    text_file: Path, task: Path, session: fw.Session
):
    raw = recipe(text_file, task, {})
    raw["stages"]["tuned"]["method"] = "frozen"
    fw.run(raw, session=session)
    only(session, "examples")


def test_the_loss_of_prompts_too_is_another_training(
    text_file: Path, task: Path, session: fw.Session
):
    completions = fw.run(recipe(text_file, task, {}), session=session)["tuned"]
    everything = fw.run(recipe(text_file, task, {}, loss="all"), session=session)["tuned"]
    assert completions.id != everything.id
    assert "loss" not in completions.identity["config"]["train"]
    nlls = [
        [
            event["nll"]
            for event in read_events(made.path / "events.jsonl")
            if event["event"] == "step"
        ]
        for made in (completions, everything)
    ]
    assert nlls[0][0] != nlls[1][0]


def test_bad_rows_are_refused_before_any_work(text_file: Path, tmp_path: Path):
    path = rows_file(tmp_path, 30)
    path.write_text(path.read_text() + "{broken\n")
    session = fw.Session(runs=tmp_path / "runs", threads=1, quiet=True)
    with pytest.raises(fw.RequestError, match=r"1 of 31 rows .*sums\.jsonl:31: it is not JSON"):
        fw.run(recipe(text_file, path, {}), session=session)
    assert not list((tmp_path / "runs").glob("pretrain-*"))
    fw.run(recipe(text_file, path, {"bad_rows": 1}), session=session)
    assert only(session, "examples").facts["dropped"] == {"train": 1, "validation": 1}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"task": "", "corpus": None}, r"stages\.tuned\.data"),
        ({"contxt": 3}, r"stages\.tuned\.data\.contxt: unknown .*context"),
        ({"task": "squat"}, r"'squat' does not exist"),
        ({"tokenizer": "byte"}, r"stages\.tuned\.data\.tokenizer: unknown"),
        ({"packing": "none"}, r"stages\.tuned\.data\.packing"),
    ],
)
def test_faults_of_task_data_have_their_place(
    text_file: Path, task: Path, tmp_path: Path, change: dict[str, Any], message: str
):
    session = fw.Session(runs=tmp_path / "runs", threads=1, quiet=True)
    raw = recipe(text_file, task, {})
    raw["stages"]["tuned"]["data"] = {**raw["stages"]["tuned"]["data"], **change}
    with pytest.raises(fw.RequestError, match=message):
        fw.plan(raw, session=session)


def test_only_fine_tuning_learns_a_task(text_file: Path, task: Path):
    raw = recipe(text_file, task, {})
    raw["stages"]["base"]["data"] = {"task": str(task)}
    with pytest.raises(fw.RequestError, match=r"stages\.base\.data: task: .* by fine-tuning"):
        fw.load(raw)
