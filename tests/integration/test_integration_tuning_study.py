"""A study of fine-tuning from its file to its page, on a task of one's own."""

import csv
import json
import random

import pytest
from stream_fixture import write_shards

import flyweight as fw
from flyweight.api.session import Session
from flyweight.errors import RequestError
from flyweight.records.tuning_study import TuningStudySummary


@pytest.fixture(scope="module")
def study(text_file, tmp_path_factory):
    """A study of three methods, a packed base and a control from scratch."""
    folder = tmp_path_factory.mktemp("study")
    draw = random.Random(0)
    rows = [
        {"prompt": f"say {letter} {count} times:", "completion": f" {letter * count}"}
        for letter, count in ((draw.choice("abcdefghijkl"), draw.randint(1, 4)) for _ in range(200))
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    plain = {
        "stage": "pretrain",
        "model": {"dim": 16, "layers": 1, "attention": {"heads": 2}},
        "data": {"corpus": str(text_file), "tokenizer": "byte", "context": 64},
        "train": {"steps": 8, "batch": 4, "validations": 1, "validation_tokens": 256},
    }
    return {
        "name": "which",
        "bases": {"plain": plain, "packed": {"stage": "quantize", "input": "plain", "kind": "nf4"}},
        "methods": {
            "full": {"method": "full", "bases": "plain"},
            "lora": {"method": "lora"},
            "scratch": {"method": "full", "scratch": True, "bases": "plain"},
        },
        "tasks": {"say": {"task": str(folder / "rows.jsonl"), "context": 64}},
        "train": {"steps": 4, "batch": 4, "validations": 2, "validation_tokens": 256},
        "score": {"limit": 16, "new_tokens": 4},
        "seeds": [0, 1, 2],
    }


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A runs root of the tests' own."""
    return Session(runs=tmp_path_factory.mktemp("runs"), quiet=True)


@pytest.fixture(scope="module")
def finished(study, session):
    """The study after its run."""
    return fw.study(study, session=session)


def test_every_condition_is_trained_scored_and_measured(finished):
    cells = {cell.name: cell for cell in finished.summary.cells}
    assert set(cells) == {
        "full on plain, say",
        "lora on plain, say",
        "lora on packed, say",
        "scratch on plain, say",
    }
    full, lora = cells["full on plain, say"], cells["lora on plain, say"]
    assert lora.trainable < full.trainable
    assert lora.added_bytes == 4 * lora.trainable
    assert all(cell.peak_bytes and cell.planned_bytes for cell in cells.values())
    assert [run.seed for run in full.runs] == [0, 1, 2]
    assert {run.steps for run in full.runs} == {4}
    assert full.spread("f1") is not None
    assert full.losses("retained_nll") is not None


def test_the_control_from_scratch_spends_what_base_and_full_fine_tuning_cost(finished):
    cells = {cell.method: cell for cell in finished.summary.cells if cell.base == "plain"}
    base = finished.summary.base("plain")
    due = base.total_flops + cells["full"].runs[0].flops
    assert cells["scratch"].runs[0].flops == pytest.approx(due, rel=0.3)
    assert cells["scratch"].runs[0].steps > cells["full"].runs[0].steps


def test_methods_are_held_against_full_fine_tuning(finished):
    compared = {(each.base, each.method): each for each in finished.summary.comparisons}
    assert set(compared) == {("plain", "lora"), ("plain", "scratch")}
    assert compared["plain", "lora"].n == 3


def test_the_page_the_table_and_the_csv_hold_the_same_study(finished):
    page = finished.report.read_text(encoding="utf-8")
    assert "lora on packed" in page
    assert "plain, untouched" in (finished.folder / "table.md").read_text(encoding="utf-8")
    with open(finished.folder / "table.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {"plain", "packed", ""} == {row["base"] for row in rows}
    assert {"full", "lora", "scratch", "untouched", "last_turn"} == {row["method"] for row in rows}
    assert {"say-score.svg", "say-development.svg", "say-loss.svg"} <= {
        file.name for file in finished.folder.iterdir()
    }
    assert TuningStudySummary.read(finished.folder) == finished.summary


def test_the_report_is_written_anew_and_the_study_repeats_nothing(finished, study, session):
    before = finished.report.read_bytes()
    assert fw.report("which", session=session).read_bytes() == before
    again = fw.study(study, session=session)
    assert [cell.runs for cell in again.summary.cells] == [
        cell.runs for cell in finished.summary.cells
    ]


def test_rows_that_choose_are_not_scored(study, session):
    asked = {**study, "score": {**study["score"], "split": "validation"}, "name": "chosen"}
    with pytest.raises(RequestError, match="validation rows of say choose the kept step"):
        fw.study(asked, session=session)


def test_its_plan_counts_all_runs(study, session):
    planned = fw.plan(study, session=session)
    assert planned.totals["runs"] == 1 + 4 * 3
    with pytest.raises(RequestError, match=r"limit\.runs: 3, but this study has 12 fine-tunings"):
        fw.study({**study, "limit": {"runs": 3}, "name": "large"}, session=session)
    with pytest.raises(RequestError, match=r"limit\.time"):
        fw.study({**study, "limit": {"time": "1ms"}, "name": "late"}, session=session)


def test_a_model_from_elsewhere_is_a_base_with_a_text_of_its_own(finished, study, session):
    made = finished.summary.base("plain")
    text = study["bases"]["plain"]["data"]
    bases = {
        "known": {"model": made.id, "text": text},
        "smaller": {"stage": "quantize", "input": "known", "kind": "nf4"},
    }
    methods = {"lora": {"method": "lora"}, "prefix": {"method": "prefix"}}
    asked = {**study, "name": "elsewhere", "bases": bases, "methods": methods}
    planned = fw.plan(asked, session=session)
    assert [cell.runs for cell in planned.cells] == [3, 3, 3, 3]
    assert all(cell.stage.model.parameters.unique > made.parameters for cell in planned.cells[:2])
    summary = fw.study(asked, session=session).summary
    for base in summary.bases:
        assert base.own_text == text["corpus"] and base.own_nll is not None
    assert {cell.base for cell in summary.cells if cell.losses("retained_nll")} == set(bases)
    with pytest.raises(RequestError, match=r"bases\.known\.model"):
        fw.plan({**asked, "bases": {"known": {"model": "nowhere"}}}, session=session)


def test_compressed_models_of_a_recipe_are_bases(study, text_file, tmp_path):
    shared = {
        "dim": 16,
        "layers": 1,
        "attention": {"heads": 2, "kv_heads": 1, "qk_norm": True},
        "mlp": {"hidden": 16, "rank": 4},
        "sharing": {"kind": "all", "times": 3, "index": True},
    }
    recipe = {
        "name": "compressed",
        "data": {"corpus": str(text_file), "tokenizer": "byte", "context": 64},
        "train": {"steps": 4, "batch": 4, "validations": 1, "precision": "fp32"},
        "stages": {
            "poster": {"stage": "pretrain", "model": shared},
            "poster-nf4": {"stage": "quantize", "input": "poster", "kind": "nf4"},
        },
        "report": {"measure": ["evaluate"]},
    }
    session = Session(runs=tmp_path / "runs", quiet=True)
    fw.run(recipe, session=session)
    bases = {name: {"model": f"compressed:{name}"} for name in ("poster", "poster-nf4")}
    methods = {
        "full": {"method": "full", "bases": "poster"},
        "lora": {"method": "lora"},
    }
    asked = {**study, "name": "compressed-bases", "bases": bases, "methods": methods, "seeds": [0]}
    asked |= {"train": {**study["train"], "steps": 2}, "score": {"limit": 4, "new_tokens": 2}}
    cells = {cell.name: cell for cell in fw.study(asked, session=session).summary.cells}
    assert set(cells) == {
        "full on poster, say",
        *(f"lora on {base}, say" for base in bases),
    }
    both = [cells[f"lora on {base}, say"] for base in bases]
    assert both[0].trainable == both[1].trainable > 0
    everywhere = {**methods, "full": {"method": "full"}}
    with pytest.raises(RequestError, match=r"full.*poster-nf4|poster-nf4.*full"):
        fw.study({**asked, "methods": everywhere}, session=session)


def test_a_base_whose_shards_are_gone_is_told_before_any_fine_tuning(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_shards(tmp_path / "shards", shards=2)
    stream = {"source": "shards/*.jsonl.gz", "validation": "2kB", "test": "2kB"}
    plain = {
        **study["bases"]["plain"],
        "data": {"stream": stream, "tokenizer": "byte", "context": 64},
    }
    session = Session(runs=tmp_path / "runs", quiet=True)
    fw.run(
        {"name": "streamed", "stages": {"plain": plain}, "report": {"measure": []}}, session=session
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    bases = {"plain": {"model": "streamed:plain"}}
    asked = {**study, "name": "gone", "bases": bases, "methods": {"lora": {"method": "lora"}}}
    with pytest.raises(RequestError, match="shards/"):
        fw.study(asked, session=session)
    assert not list((tmp_path / "runs").glob("finetune-*"))
