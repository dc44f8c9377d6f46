"""A recipe with a layout, from training to page: every number is that of its artifact."""

import json
import math

import pytest
from lightgpt2_toy import bench, toy

import flyweight as fw
from flyweight import api
from flyweight.api.session import Session
from flyweight.store.artifact import Artifact

TEXT = "".join(f"Ann has {n} cats and {n * n % 97} dogs; Bob reads page {n}.\n" for n in range(700))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> fw.Run:
    place = tmp_path_factory.mktemp("layout")
    (place / "text.txt").write_text(TEXT)
    stages = {
        "speed-baseline": bench("baseline"),
        "speed-nf4": bench("nf4"),
        "operators": {"stage": "profile", "input": "baseline", "new_tokens": 3, "prompt": 4},
    }
    compared = ("baseline", "student", "tuned", "nf4")
    raw = toy(place / "text.txt", measure=("evaluate",), compared=compared, **stages)
    return api.run(raw, without=["student"], session=Session(runs=place / "runs", threads=1))


@pytest.fixture(scope="module")
def layout(run: fw.Run) -> dict:
    return json.loads((run.folder / "report" / "lightgpt2.json").read_text())


def artifact(run: fw.Run, cell: dict) -> Artifact:
    return Artifact.open(run.folder.parent / cell["artifact"])


def cells(layout: dict, key: str) -> dict:
    return {row["name"]: row["cells"] for row in layout[key]["rows"]}


def test_numbers_are_those_of_their_artifacts(run: fw.Run, layout: dict) -> None:
    baseline = cells(layout, "table_4")["Baseline"]
    for split in ("validation", "test"):
        made = artifact(run, baseline[split])
        metrics = made.metrics()
        assert (made.stage, metrics["split"]) == ("evaluate", split)
        assert baseline[split]["value"] == metrics["perplexity"]["value"]
    made = artifact(run, cells(layout, "table_1")["Baseline"]["generate_ms"])
    assert made.stage == "profile"
    assert cells(layout, "table_1")["Baseline"]["cpu_ms"]["value"] == made.metrics()["cpu_ms"]
    latency = next(each for each in layout["targets"] if each["key"] == "forward_latency")
    judged = latency["judged"][0]
    before, after = (artifact(run, judged[side]) for side in ("baseline", "light"))
    times = [each.metrics()["forward_ms"] for each in (before, after)]
    assert judged["change"]["value"] == pytest.approx(times[1] / times[0] - 1)
    assert latency["verdict"] in ("reached", "not reached", "undecided")
    assert len(cells(layout, "factors")) == 1


def test_perplexity_is_paired_on_both_splits(layout: dict) -> None:
    perplexity = next(each for each in layout["targets"] if each["key"] == "perplexity")
    for judged in perplexity["judged"]:
        change = judged["change"]
        assert change["low"] <= change["value"] <= change["high"]


def test_figures_are_those_of_the_sweep_and_of_the_logs(run: fw.Run, layout: dict) -> None:
    first, whole = layout["figure_2"]["lines"]
    facts = run["pruned"].facts
    assert [point["x"] for point in whole["points"]] == [row["sparsity"] for row in facts["sweep"]]
    for point, row in zip(first["points"], facts["sweep"], strict=True):
        assert point["value"] == pytest.approx(math.exp(row["chosen_on"]["nll"]))
        assert point["artifact"] == run["pruned"].id
    assert first["name"] == "first 200 tokens"
    steps = [point["x"] for point in layout["figure_3"]["lines"][0]["points"]]
    assert steps[-1] == run["baseline"].facts["steps"]


def test_a_stage_that_was_left_out_is_told(layout: dict) -> None:
    student = cells(layout, "table_4")["Distilled student"]["validation"]
    why = "there is no stage student: it is not in the recipe, or was left out"
    assert student["missing"] == why and student["artifact"] is None
    memory = cells(layout, "table_5")["Baseline"]["peak_bytes"]
    assert "report.measure: memory" in memory["missing"]
    assert memory["printed"] == {"value": 12031.7, "unit": "MB", "text": "12031.7 MB"}


def test_the_page_can_be_drawn_again_from_the_summary(run: fw.Run, layout: dict) -> None:
    session = Session(runs=run.folder.parent, threads=1)
    page = api.report(run, session=session).read_text()
    assert json.loads((run.folder / "report" / "lightgpt2.json").read_text()) == layout
    assert "Table VI: inference" in page and "Figure 2: perplexity against sparsity" in page
