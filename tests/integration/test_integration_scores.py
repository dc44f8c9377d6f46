"""A model's scores on a task: through the command line, in Python, and in the terminal."""

import json
import math

import chat_fixture
import pytest
import yaml
from toy_recipe import toy

import flyweight as fw
from flyweight.api import Session

METRICS = (
    "exact_match",
    "f1",
    "rouge1",
    "rouge2",
    "rougeL",
    "distinct_1",
    "distinct_2",
    "completion_perplexity",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return chat_fixture.save(tmp_path_factory.mktemp("model"), context=128, template=None)


@pytest.fixture
def rows(tmp_path):
    file = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"{n} and {n} is", "completion": f" {2 * n}"} for n in range(60)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_eval_task_answers_with_every_metric_its_interval_and_the_floor(
    answer, flyweight, model, rows, tmp_path
):
    words = ("eval", model, "--task", rows, "--split", "train", "--limit", 12, "--new-tokens", 4)
    told = answer(*words)
    for name in METRICS:
        metric = told[name]
        assert metric["low"] <= metric["value"] <= metric["high"] and metric["n"] > 0, name
    assert set(told["floors"]["last_turn"]) == set(METRICS) - {"completion_perplexity"}
    assert (told["rows"], told["contexts"], told["split"]) == (12, 12, "train")
    assert told["standing"] in ("above", "below", "undecided")
    assert {"answer", "references", "floor"} <= set(told["answers"][0])

    status, out, err = flyweight(*words)
    assert status == 0, err
    text = " ".join(out.split())
    assert f"on the train split of {rows}" in text and "last_turn" in text
    assert "bove the floor: F1" in text or "elow the floor: F1" in text
    assert "right: " in text and f"12 of {told['rows_available']} rows" in text

    session = Session(runs=tmp_path / "runs", threads=None)
    own = fw.evaluate(model, task=rows, split="train", limit=12, new_tokens=4, session=session)
    assert own.f1.value == told["f1"]["value"] and own.artifact.id == told["id"]


def test_other_rows_are_another_measurement(answer, model, rows):
    words = ("eval", model, "--task", rows, "--split", "train", "--new-tokens", 2, "--limit", 5)
    first = answer(*words)
    rows.write_text(rows.read_text().replace("0 and 0", "none and none"))
    assert answer(*words)["id"] != first["id"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--task", "squad", "--data", "ptb"), "a task brings its own texts"),
        (("--task", "squad", "--tasks", "arc"), "leave --data"),
        (("--new-tokens", 4), "belong to --task"),
        (("--limit", 4), "--limit belongs to --task or --tasks"),
        (("--task", "nothing.jsonl"), "nothing.jsonl"),
        (("--task", "squad", "--metrics", "accuracy"), "no metric of a task is called 'accuracy'"),
        (("--task", "squad", "--split", "validation+test"), "split"),
    ],
)
def test_contradictions_are_refused_in_words(flyweight, model, words, message):
    status, _, err = flyweight("eval", model, *words)
    assert status == 2 and message in " ".join(err.split())


def test_a_task_without_its_files_says_what_to_put_where(flyweight, model, tmp_path):
    status, _, err = flyweight("eval", model, "--task", "squad", "--data-dir", tmp_path)
    text = " ".join(err.split())
    assert status != 0 and "DIR/squad" in text and "Traceback" not in text


def test_compare_on_a_task_pairs_the_same_rows(answer, flyweight, model, rows, tmp_path):
    other = chat_fixture.save(tmp_path / "other", "Mistral", context=96, template=None)
    words = ("compare", model, other, "--task", rows, "--split", "train", "--new-tokens", 3)
    told = answer(*words, "--limit", 9)
    assert told["metric"] == "f1" and told["split"] == "train"
    (pair,) = told["pairs"]
    assert pair["n_units"] == 9 and pair["kind"] == "context"
    assert pair["metrics"]["f1"]["better"] == "higher"
    scores = told["scores"]
    difference = (
        scores[told["models"][0]["name"]]["f1"]["value"]
        - scores[told["models"][1]["name"]]["f1"]["value"]
    )
    assert abs(pair["metrics"]["f1"]["value"]) == pytest.approx(abs(difference))

    status, out, err = flyweight(*words, "--limit", 9)
    text = " ".join(out.split())
    assert status == 0 and "F1" in text and "the floor: F1" in text and "9 contexts" in text, err
    status, _, err = flyweight(*words, "--metric", "distinct_1")
    assert status == 2 and "compare models on a task by exact_match" in " ".join(err.split())


def test_a_recipe_scores_its_models_on_tasks_with_floors_as_rows(
    flyweight, text_file, rows, tmp_path
):
    recipe = toy(text_file)
    recipe["stages"] = {
        "one": {"stage": "pretrain", "model": {"dim": 32}},
        "two": {"stage": "pretrain", "train": {"steps": 3}},
        "scored": {"stage": "score", "input": "one", "task": str(rows), "limit": 4},
    }
    wanted = {"task": str(rows), "split": "train", "limit": 8, "new_tokens": 4}
    recipe["report"] = {"compare": ["one", "two"], "measure": ["evaluate"], "tasks": [wanted]}
    file = tmp_path / "tasks.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    status, out, err = flyweight("run", file)
    assert status == 0, err
    text = " ".join(out.split())
    assert f"{rows}, train split" in text and "last_turn" in text

    folder = tmp_path / "runs" / "toy"
    summary = json.loads((folder / "summary.json").read_text())
    for model in summary["models"]:
        (scores,) = model["scores"]
        assert scores["rows"] == 8 and scores["metrics"]["f1"]["n"] == 8
    (pair,) = summary["task_comparisons"]
    assert (pair["metric"], pair["comparisons"]) == ("f1", 1) and {pair["a"], pair["b"]} == {
        "one",
        "two",
    }
    page = (folder / "report.html").read_text()
    assert "How well they do the tasks" in page and "last_turn" in page
    assert "Answers side by side" in page and str(rows) in page
    assert "last_turn" in (folder / "table.md").read_text()
    assert "floor of" in page  # no model of twelve steps is above it


def test_a_task_that_cannot_be_read_is_refused_before_training(flyweight, text_file, tmp_path):
    recipe = toy(text_file)
    recipe["stages"] = {"one": {"stage": "pretrain"}}
    recipe["report"] = {"tasks": ["nothing.jsonl"]}
    file = tmp_path / "tasks.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    status, _, err = flyweight("run", file)
    assert status == 2 and "nothing.jsonl" in err and "pretrain" not in err


def test_select_takes_the_model_that_answers_best(flyweight, text_file, rows, tmp_path):
    recipe = toy(text_file)
    task = {"task": str(rows), "split": "train", "limit": 6, "new_tokens": 2}
    recipe["stages"] = {
        "one": {"stage": "pretrain", "train": {"steps": 2}},
        "two": {"stage": "pretrain"},
        "best": {
            "stage": "select",
            "among": ["one", "two"],
            "by": "completion_perplexity",
            "task": task,
        },
    }
    recipe["report"] = {"compare": ["one", "two"], "measure": ["evaluate"], "tasks": [task]}
    file = tmp_path / "select.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    status, _, err = flyweight("run", file)
    assert status == 0, err
    folder = tmp_path / "runs" / "toy"
    models = {
        model["name"]: model["scores"][0]["metrics"]["completion_perplexity"]["value"]
        for model in json.loads((folder / "summary.json").read_text())["models"]
    }
    manifest = json.loads((folder / "best" / "manifest.json").read_text())
    assert manifest["facts"]["chosen"] == min(models, key=models.__getitem__)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"by": "f1"}, "f1 is measured on a task; name one, such as task: squad"),
        ({"task": "squad"}, "nll is of a text; name a metric of answers"),
        ({"by": "f2"}, "unknown metric 'f2'"),
    ],
)
def test_select_by_answers_needs_a_task(flyweight, text_file, tmp_path, fields, message):
    recipe = toy(text_file)
    recipe["stages"] = {
        "one": {"stage": "pretrain"},
        "two": {"stage": "pretrain"},
        "best": {"stage": "select", "among": ["one", "two"], **fields},
    }
    recipe["report"] = {}
    file = tmp_path / "select.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    status, _, err = flyweight("plan", file)
    assert status == 2 and message in " ".join(err.split())


def test_the_perplexity_is_that_of_the_trainings_own_validation(
    flyweight, text_file, rows, tmp_path
):
    recipe = toy(text_file)
    recipe["stages"] = {
        "base": {"stage": "pretrain"},
        "tuned": {
            "stage": "finetune",
            "input": "base",
            "method": "full",
            "data": {"task": str(rows), "context": 32},
            "train": {"steps": 6, "validations": 1},
        },
        "scored": {"stage": "score", "input": "tuned", "task": str(rows), "new_tokens": 2},
    }
    recipe["report"] = {"compare": ["tuned"], "measure": []}
    file = tmp_path / "tuned.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    status, _, err = flyweight("run", file)
    assert status == 0, err
    folder = tmp_path / "runs" / "toy"
    nll = json.loads((folder / "tuned" / "manifest.json").read_text())["facts"]["best_nll"]
    metrics = json.loads((folder / "scored" / "metrics.json").read_text())
    assert metrics["completion_perplexity"]["value"] == pytest.approx(math.exp(nll), rel=1e-4)
