"""A toy study end to end: grid to page, killed and resumed, collapsed and diverged runs, and what is shared with recipes."""

import json
import subprocess
import sys

import pytest
import yaml
from toy_study import toy_study

import flyweight as fw
from flyweight.api import Session, model_references
from flyweight.config import load as config_load
from flyweight.errors import RequestError
from flyweight.evaluation import checks
from flyweight.records.study_summary import StudySummary
from flyweight.store import gc
from flyweight.store.artifact import Store


@pytest.fixture(scope="module")
def finished(tmp_path_factory, text_file):
    """The toy study, run once for this file."""
    folder = tmp_path_factory.mktemp("study")
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(toy_study(text_file), sort_keys=False))
    session = Session(runs=folder / "runs", threads=1)
    return path, session, fw.study(path, session=session)


def numbers(summary):
    return [
        (run.id, run.seed, run.lr, run.metrics, run.validation)
        for cell in summary.cells
        for run in cell.runs
    ]


def test_it_has_everything_it_promises(finished):
    _, session, run = finished
    summary = run.summary
    files = {"report.html", "study.json", "table.md", "table.csv", "story-flops.svg"}
    assert files <= {path.name for path in run.folder.iterdir()}
    assert [cell.fields for cell in summary.cells] == [
        {"position": "learned"},
        {"position": "rope"},
    ]
    for cell in summary.cells:
        assert cell.standing == "ok"
        assert [each.seed for each in cell.runs] == [0, 1, 2]
        spread = cell.spread("nll")
        assert spread.low < spread.mean < spread.high
        assert len({each.metrics["nll"] for each in cell.runs}) == 3
        assert all((session.store.root / each.id).is_dir() for each in cell.runs)
        assert cell.spread("nll").mean < summary.corpus["story"].floors["unigram"].nll
    assert summary.findings[0].contests[0].n == 3
    used = {item["id"]: item["used_by"] for item in fw.artifacts(session)["items"]}
    run = summary.cells[0].runs[1]
    assert used[run.id] == used[run.evaluation] == ["toy-study"]  # gc keeps what a study refers to


def test_running_again_repeats_nothing(finished):
    path, session, first = finished
    before = {p: p.stat().st_mtime_ns for p in session.store.root.glob("*-????????/manifest.json")}
    again = fw.study(path, session=session)
    assert before == {
        p: p.stat().st_mtime_ns for p in session.store.root.glob("*-????????/manifest.json")
    }
    assert again.summary.cells == first.summary.cells


def test_cells_are_shared_with_recipes(finished, text_file):
    _, session, run = finished
    recipe = {
        "name": "same",
        "seed": 1,
        "stages": {
            "m": {
                "stage": "pretrain",
                "model": {
                    "dim": 16,
                    "layers": 1,
                    "attention": {"heads": 2},
                    "mlp": "relu2",
                    "position": "rope",
                    "context": 32,
                },
                "data": {"corpus": str(text_file), "tokenizer": "byte", "context": 32},
                "train": {
                    "batch": 8,
                    "steps": 40,
                    "validations": 2,
                    "optimizer": {"kind": "muon", "lr": 0.04, "rest": {"lr": 0.03}},
                },
            }
        },
        "report": {"measure": ["evaluate"]},
    }
    made = fw.run(config_load.recipe(recipe), session=session)
    assert made["m"].id == run.summary.cells[1].runs[1].id
    assert made.summary.stages[0].reused


def test_killed_and_resumed_it_ends_with_the_same_numbers(finished, tmp_path):
    path, _, first = finished
    code = """
import os, sys
import flyweight as fw
from flyweight.api import Session
seen = []
def watch(kind, fields):
    seen.append(kind)
    if kind == "validation" and seen.count("made") >= 3:
        os._exit(9)  # in the middle of a training, nothing tidied up
fw.study(sys.argv[1], session=Session(runs=sys.argv[2], threads=1, watch=watch))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, path, tmp_path / "runs"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 9, done.stderr
    (left,) = model_references.listed(Store(tmp_path / "runs"))["recipes"]
    assert (left["name"], left["created"], len(left["unfinished"])) == ("toy-study", None, 1)
    found = gc.find(Store(tmp_path / "runs"))
    assert {item.kind for item in found.items} <= {
        "lock"
    } and "toy-study is unfinished" in found.kept[0]
    kept = {p.parent.name for p in (tmp_path / "runs").glob("pretrain-????????/manifest.json")}
    assert kept
    events = []
    session = Session(
        runs=tmp_path / "runs",
        threads=1,
        watch=lambda kind, fields: events.append((kind, dict(fields))),
    )
    again = fw.study(path, session=session)
    assert numbers(again.summary) == numbers(first.summary)
    made = [fields for kind, fields in events if kind == "made"]
    assert {fields["id"] for fields in made if fields["reused"]} >= kept
    told = [fields for kind, fields in events if kind == "grid"]
    assert [fields["run"] for fields in told] == [1, 2, 3, 4, 5, 6]
    assert all(fields["of"] == 6 for fields in told)
    assert told[0]["left"] > told[-1]["left"] > 0


def test_a_sweep_is_decided_on_validation_with_the_first_seed(finished, flyweight):
    path, session, first = finished
    words = (
        "study",
        path,
        "protocol=tuned",
        "name=tuned",
        "only=[small]",
        "--runs",
        session.store.root,
        "--threads",
        1,
    )
    status, out, err = flyweight(*words, "--json")
    assert status == 0, err
    cells = json.loads(out)["cells"]
    for cell, before in zip(cells, first.summary.cells, strict=True):
        assert [(run["seed"], run["lr"], run["chosen"]) for run in cell["runs"]] == [
            (0, 0.001, False),
            (0, 0.04, True),
            (1, 0.04, True),
            (2, 0.04, True),
        ]
        assert cell["at_edge"]
        assert cell["runs"][0]["validation"] > cell["runs"][1]["validation"]
        assert cell["runs"][0]["metrics"] == {}  # who loses on validation is never tested
        assert [run["id"] for run in cell["runs"][1:]] == [run.id for run in before.runs]


def test_what_is_worse_than_unigrams_is_collapsed(finished, flyweight):
    path, session, _ = finished
    words = (
        "study",
        path,
        "budgets.short.steps=1",
        "name=one-step",
        "--runs",
        session.store.root,
        "--threads",
        1,
    )
    status, out, err = flyweight(*words)
    assert status == 0, err
    assert out.count("collapsed") >= 2
    summary = StudySummary.read(session.store.root / "one-step")
    assert all("no better than the unigram floor" in cell.why for cell in summary.cells)
    assert [cell.spread("nll") for cell in summary.cells] == [None, None]
    assert summary.findings[0].verdict == "undecided"


def test_what_does_not_see_its_input_is_collapsed(finished, monkeypatch, tmp_path):
    path, session, _ = finished
    monkeypatch.setattr(checks, "SENSITIVITY", 10.0)
    for folder in session.store.root.glob("audit-????????"):
        folder.rename(tmp_path / folder.name)
    summary = fw.study(path, "name=blind", session=session).summary
    assert {cell.standing for cell in summary.cells} == {"collapsed"}
    assert "initial token sensitivity fails" in summary.cells[0].why
    for folder in session.store.root.glob("audit-????????"):
        folder.rename(tmp_path / f"bad-{folder.name}")


def test_a_run_that_diverges_does_not_end_the_study(finished):
    path, session, _ = finished
    words = (
        "protocols.published.lr=1000",
        "train.clip=0",
        "name=wild",
        "seeds=[0]",
        "models.small.grid.position=[rope]",
    )
    summary = fw.study(path, *words, "findings=[]", session=session).summary
    (cell,) = summary.cells
    assert cell.standing == "collapsed"
    assert "diverged" in cell.why and cell.runs[0].id is None


def test_a_missing_optional_text_is_left_out_and_said(finished, tmp_path, text_file):
    _, session, _ = finished
    (tmp_path / "wikitext-2").mkdir()
    raw = toy_study(text_file, name="optional")
    raw["data"]["wikitext-2"] = {"corpus": "wikitext-2", "context": 32, "optional": True}
    path = tmp_path / "optional.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    there = Session(runs=session.store.root, data_dir=tmp_path, threads=1)
    summary = fw.study(path, session=there).summary
    assert list(summary.corpus) == ["story"]
    assert summary.left_out[0].startswith("wikitext-2 is left out")
    raw["data"]["wikitext-2"]["optional"] = False
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    with pytest.raises(RequestError, match="wikitext-2"):
        fw.study(path, session=there)


def test_what_the_real_vocabulary_rules_out_is_refused_before_anything_is_trained(tmp_path):
    """40 words are few enough for an exact table, whatever is assumed before they are counted.

    For a rank of 60 too few.
    """
    words = [f"w{place}" for place in range(40)]
    text = tmp_path / "words.txt"
    text.write_text("\n".join(" ".join(words[turn:] + words[:turn]) for turn in range(40)))
    raw = toy_study(text, name="words", findings=[], seeds=[0], budgets={"short": {"steps": 2}})
    raw["data"] = {"words": {"corpus": str(text), "tokenizer": "word", "context": 8}}
    model = {"dim": 64, "layers": 1}
    raw["models"] = {
        "exact": {"config": {**model, "embedding": {"bigram": "exact"}}},
        "wide": {"config": {**model, "embedding": {"rank": 60}}},
        "wider": {"config": {**model, "embedding": {"rank": 61}}},
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    session = Session(runs=tmp_path / "runs", threads=1)
    with pytest.raises(
        RequestError, match=r"wide on words: .*60 is larger than vocab_size 44.*\n.*wider on words"
    ):
        fw.study(path, session=session)
    assert not list((tmp_path / "runs").glob("pretrain-*"))
    assert [cell.model for cell in fw.study(path, "only=exact", session=session).summary.cells] == [
        "exact"
    ]
    recipe = {
        "name": "words",
        "data": raw["data"]["words"],
        "train": {"steps": 1, "batch": 2},
        "stages": {
            name: {"stage": "pretrain", "model": each["config"]}
            for name, each in raw["models"].items()
        },
        "report": {"measure": ["evaluate"]},
    }
    fresh = Session(runs=tmp_path / "fresh", threads=1)
    with pytest.raises(
        RequestError, match=r"stages.wide.model:\n.*vocab_size 44(.|\n)*stages.wider.model"
    ):
        fw.run(config_load.recipe(recipe), session=fresh)
    assert not list((tmp_path / "fresh").glob("pretrain-*"))
    done = fw.run(config_load.recipe(recipe, without=["wide", "wider"]), session=fresh)
    assert done["exact"].facts["steps"] == 1
    text.write_text(
        " ".join(f"w{place}" for place in range(4000))
    )  # what was packed before says nothing of it now
    with pytest.raises(RequestError, match=r"exact on words: .*vocab_size 3"):
        fw.study(path, session=session)


def test_a_context_that_a_text_lacks_is_refused_before_anything_is_trained(tmp_path, text_file):
    raw = toy_study(text_file, name="long", findings=[], seeds=[0])
    raw["data"]["story"]["context"] = [16, 90_000]
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    with pytest.raises(
        RequestError,
        match=r"data\.story\.context: 90,000 is longer than the train split, which has",
    ):
        fw.study(path, "limit.time=100000h", session=Session(runs=tmp_path / "runs", threads=1))
    assert not list((tmp_path / "runs").glob("pretrain-*"))


def test_a_metric_that_a_text_lacks_is_refused_before_anything_is_trained(tmp_path):
    text = tmp_path / "blank.txt"
    text.write_text(" \n\t\n" * 2000)
    path = tmp_path / "study.yaml"
    path.write_text(
        yaml.safe_dump(
            toy_study(text, name="blank", metrics=["nll", "word_perplexity"]), sort_keys=False
        )
    )
    with pytest.raises(RequestError, match="the test split of story has no word"):
        fw.study(path, session=Session(runs=tmp_path / "runs", threads=1))
    assert not list((tmp_path / "runs").glob("pretrain-*"))


def test_limits_are_told_together_and_a_study_without_texts_is_not_a_matter_of_size(
    finished, tmp_path, text_file
):
    path, session, _ = finished
    with pytest.raises(RequestError, match=r"limit\.runs: 1(.|\n)*limit\.time: 1 ms"):
        fw.study(path, "limit.runs=1", "limit.time=1ms", session=session)
    (tmp_path / "wikitext-2").mkdir()
    raw = toy_study(
        text_file, data={"wikitext-2": {"corpus": "wikitext-2", "context": 32, "optional": True}}
    )
    alone = tmp_path / "alone.yaml"
    alone.write_text(yaml.safe_dump(raw, sort_keys=False))
    with pytest.raises(RequestError, match="no cell is left to run") as refused:
        fw.study(alone, session=Session(runs=tmp_path / "runs", data_dir=tmp_path, threads=1))
    assert "--yes" not in str(refused.value)
    assert "wikitext-2 is left out" in str(refused.value)


def test_the_command_line(finished, flyweight, answer):
    path, session, run = finished
    runs = ("--runs", session.store.root, "--threads", 1)
    assert {
        "tradeoffs",
        "tradeoffs-quick",
        "compact-ladder",
        "compact-ladder-small",
        "best-small",
    } <= set(answer("ls", "--studies")["items"])
    plan = answer("plan", path, *("--runs", session.store.root))
    assert plan["total"]["runs"] == 6
    status, out, _ = flyweight("plan", path, "--time", "1s")
    assert status == 1
    assert "over its limit" in out
    status, _, err = flyweight("study", path, "limit.runs=1", *runs)
    assert status == 2
    assert "--yes" in err
    assert answer("study", path, "limit.runs=1", "--yes", *runs)["name"] == "toy-study"
    status, _, err = flyweight("study", path, "limit.time=1ms", *runs)
    assert status == 2
    assert "limit.time" in err
    status, _, err = flyweight("study", path, "seeds=[]", "--runs", session.store.root / "none")
    assert status == 2
    assert "seeds: there are none" in err
    assert not (session.store.root / "none").exists()  # what is refused leaves nothing behind
    status, _, err = flyweight("study", "tradeofs", *runs)
    assert status == 2
    assert "did you mean tradeoffs" in err
    (run.folder / "report.html").unlink()
    assert answer("report", run.folder)["report"] == str(run.folder / "report.html")
    assert json.loads(flyweight("schema", "--study")[1])["$defs"]["Study"]["properties"]["seeds"]
    status, out, _ = flyweight("study", path, *runs)
    assert status == 0
    assert "report:" in out
