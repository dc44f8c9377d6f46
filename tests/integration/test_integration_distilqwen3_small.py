"""The stages of `distilqwen3-small`, from a cut tokenizer to the poster's figures, at toy size."""

import json
import math
from itertools import pairwise

import pytest
from distilqwen3_toy import LARGE, STEPS, text, toy, write_shards, write_tasks, write_tokenizer

import flyweight as fw
from flyweight import api
from flyweight.api.session import Session
from flyweight.store.artifact import Artifact


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> fw.Run:
    place = tmp_path_factory.mktemp("distilqwen3")
    write_shards(place / "shards", text())
    write_tokenizer(place / "tokenizer.json", text())
    write_tasks(place / "data")
    raw = toy(place / "shards", place / "tokenizer.json")
    session = Session(runs=place / "runs", threads=1, data_dir=place / "data")
    return api.run(raw, session=session)


@pytest.fixture(scope="module")
def layout(run: fw.Run) -> dict:
    return json.loads((run.folder / "report" / "distilqwen3.json").read_text())


def test_the_layout_is_filled(run: fw.Run, layout: dict) -> None:
    assert set(layout) == {"claims", "figure_2", "figure_3", "figure_4", "models", "experiments"}
    for row in layout["experiments"]["rows"]:
        missing = [cell["missing"] for cell in row["cells"].values() if cell["missing"]]
        assert missing == [], row["name"]
        assert len(row["cells"]["last"]["artifacts"]) == 3
    rows = {row["stage"]: row["cells"] for row in layout["models"]["rows"]}
    for name in LARGE[:2]:
        assert rows[name]["parameters"]["missing"].startswith(f"there is no stage {name}")
    counts = {name: rows[name]["parameters"]["value"] for name in ("poster", "poster-nf4")}
    assert counts["poster"] == counts["poster-nf4"] < rows["independent"]["parameters"]["value"]
    assert "<svg" in (run.folder / "report.html").read_text()


def test_seeds_differ_and_are_those_of_the_ids(run: fw.Run) -> None:
    artifacts = [run[f"bottleneck-{seed}"] for seed in range(3)]
    assert [each.identity["seed"] for each in artifacts] == [0, 1, 2]
    assert all("seed" not in each.identity["config"] for each in artifacts)
    assert len({each.facts["best_nll"] for each in artifacts}) == 3


def test_the_tokenizer_has_lost_what_the_text_never_uses(run: fw.Run) -> None:
    corpus = Artifact.open(run.folder.parent / run["teacher-trained"].facts["corpus"])
    assert 256 < corpus.facts["vocab_size"] < 500
    meta = json.loads((corpus.path / "corpus" / "meta.json").read_text())["content"]
    assert all(split["lost"] == 0 for split in meta["splits"].values())


def test_curves_are_those_of_the_logs(run: fw.Run, layout: dict) -> None:
    lines = {line["stage"]: line["points"] for line in layout["figure_3"]["lines"]}
    assert lines["poster-pretrained"][-1]["x"] == STEPS
    assert lines["poster"][-1]["x"] == 2 * STEPS
    assert lines["poster-squad"][-1]["x"] == 3 * STEPS
    last = run["poster"].facts["best_nll"]
    assert min(math.log(point["value"]) for point in lines["poster"]) == pytest.approx(last)
    for points in lines.values():
        assert all(a["x"] < b["x"] for a, b in pairwise(points))


def test_scores_are_those_of_the_models_that_learned_the_task(run: fw.Run, layout: dict) -> None:
    rows = {row["stage"]: row["cells"] for row in layout["models"]["rows"]}
    for name in ("poster", "poster-nf4", "independent", "teacher"):
        for task, metric in (("squad", "f1"), ("dialogue", "completion_perplexity")):
            cell = rows[name][task]
            made = Artifact.open(run.folder.parent / cell["artifact"])
            assert made.stage == "score" and cell["value"] == made.metrics()[metric]["value"]
    assert "fine-tuned" in rows["poster-nf4"]["squad"]["setting"]
    assert "without fine-tuning" in rows["teacher"]["squad"]["setting"]


def test_claims_have_verdicts(layout: dict) -> None:
    verdicts = {claim["key"]: claim["verdict"] for claim in layout["claims"]}
    measured = {key for key, verdict in verdicts.items() if verdict != "not measured"}
    assert measured >= {"bottleneck_start", "bottleneck_fall", "bottleneck_end", "sharing"}
    assert measured >= {"distillation", "pretraining", "fine_tuning"}
