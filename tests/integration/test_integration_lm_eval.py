"""lm-eval's tasks as the score of a fine-tuning: the command line, recipes, Python, refusals."""

import json

import chat_fixture
import lm_eval_fixture
import pytest
import yaml
from toy_recipe import toy

import flyweight as fw
from flyweight.api import Session
from flyweight.errors import RequestError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return chat_fixture.save(tmp_path_factory.mktemp("model"), context=64, template=None)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    questions = [{"text": f"the cat sat {n} times on the", "label": n % 2} for n in range(6)]
    return lm_eval_fixture.write(tmp_path, monkeypatch, questions)


@pytest.fixture
def rows(tmp_path):
    file = tmp_path / "rows.jsonl"
    lines = [
        {"prompt": f"the cat sat {n} times on the", "completion": " mat" if n % 2 == 0 else " log"}
        for n in range(40)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def tokenizer_without_end(place):
    """Write a tokenizer of bytes alone and return its file."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: at for at, letter in enumerate(letters)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.save(str(place / "bytes.json"))
    return place / "bytes.json"


def measurements(runs):
    return sorted(path.name for path in runs.glob("lm_eval-????????"))


def test_a_fine_tuning_is_measured_on_tasks_before_and_after(
    flyweight, answer, model, folder, rows, tmp_path
):
    asked = ("--tasks", "tiny-choice,tiny-text", "--task-path", folder, "--limit", 4)
    words = ("finetune", model, "--data", rows, *asked, "--method", "lora", "train.steps=3")
    status, out, err = flyweight(*words, "--name", "tuned")
    assert status == 0, err
    text = " ".join(out.split())
    assert "tiny-choice (lm-eval), 4 questions" in text and "log word_perplexity" in text

    runs = tmp_path / "runs"
    summary = json.loads((runs / "tuned" / "summary.json").read_text())
    (measured,) = summary["models"]
    assert set(measured["lm_eval"]["tasks"]) == {"tiny-choice", "tiny-text"}
    acc = measured["lm_eval"]["tasks"]["tiny-choice"]["metrics"]["acc"]
    assert (acc["n"], acc["better"], acc["form"]) == (4, "higher", "mean")
    (tuning,) = summary["tuning"]
    changes = {
        change["metric"]: change for change in tuning["changes"] if "(lm-eval)" in change["on"]
    }
    assert set(changes) == {"acc", "log word_perplexity", "bits_per_byte"}
    assert changes["acc"]["after"]["value"] == acc["value"]
    bits = changes["bits_per_byte"]
    difference = bits["after"]["value"] - bits["before"]["value"]
    assert bits["difference"]["value"] == pytest.approx(difference)
    assert all(change["about"] == "learned" for change in changes.values())
    page = (runs / "tuned" / "report.html").read_text()
    assert "How well they do lm-eval" in page and "tiny-choice, acc" in page
    assert "tiny-text, bits_per_byte" in (runs / "tuned" / "table.md").read_text()

    made = measurements(runs)
    assert len(made) == 2  # the base and the tuned model, each once
    told = answer("eval", "tuned:finetune", *asked)["tasks"]
    assert told["tiny-choice"]["acc"]["value"] == acc["value"]
    keys = {"value", "low", "high", "stderr", "n", "unit", "better"}
    assert set(told["tiny-text"]["bits_per_byte"]) == keys
    assert measurements(runs) == made
    answer("eval", "tuned:finetune", *asked[:-1], 5)
    assert len(measurements(runs)) == 3
    status, out, _ = flyweight("eval", "tuned:finetune", *asked)
    assert status == 0 and "95 % interval" in out


def test_a_recipe_has_a_table_of_its_models_and_their_cards_too(
    flyweight, folder, text_file, tmp_path
):
    recipe = toy(text_file)
    recipe["stages"] = {
        "one": {"stage": "pretrain", "model": {"dim": 32}},
        "two": {"stage": "pretrain", "train": {"steps": 3}},
        "asked": {
            "stage": "lm_eval",
            "input": "one",
            "tasks": ["tiny-choice"],
            "task_path": str(folder),
        },
    }
    asked = {"tasks": ["tiny-choice", "tiny-group-of-two"], "task_path": str(folder)}
    recipe["report"] = {"compare": ["one", "two"], "measure": ["bench"], "lm_eval": asked}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    status, out, err = flyweight("run", file)
    assert status == 0, err
    text = " ".join(out.split())
    assert "task, metric" in text and "tiny-choice, acc" in text
    summary = json.loads((tmp_path / "runs" / "toy" / "summary.json").read_text())
    for model in summary["models"]:
        tasks = model["lm_eval"]["tasks"]
        assert set(tasks) == {"tiny-choice", "tiny-again", "tiny-text", "tiny-group-of-two"}
        group = tasks["tiny-group-of-two"]["metrics"]["acc"]
        assert (group["n"], group["form"]) == (6, "mean")
    assert len(measurements(tmp_path / "runs")) == 3
    status, _, err = flyweight("export", "toy:one", "--to", "hf", "--out", tmp_path / "out")
    assert status == 0, err
    card = (tmp_path / "out" / "README.md").read_text()
    assert "On tasks of lm-eval" in card and "tiny-group-of-two" in card


def test_what_cannot_be_asked_is_refused_before_any_training(
    flyweight, folder, model, rows, text_file, tmp_path
):
    def refused(report, **stages):
        recipe = toy(text_file)
        recipe["stages"] = stages or {"one": {"stage": "pretrain"}}
        recipe["report"] = {"lm_eval": {"task_path": str(folder), **report}}
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(recipe, sort_keys=False))
        status, _, err = flyweight("run", file)
        assert status == 2 and not list((tmp_path / "runs").glob("pretrain-*")), err
        return " ".join(err.split())

    assert "lm-eval knows no nothing" in refused({"tasks": ["nothing"]})
    assert "the folder does not exist" in refused({"tasks": ["x"], "task_path": "nowhere"})
    endless = {"tokenizer": {"kind": "file", "path": str(tokenizer_without_end(tmp_path))}}
    assert "has no end-of-text token" in refused(
        {"tasks": ["tiny-choice"]}, one={"stage": "pretrain", "data": endless}
    )
    lstm = {"stage": "pretrain", "model": {"kind": "lstm", "dim": 8, "layers": 1}}
    assert "this is a baseline" in refused({"tasks": ["tiny-choice"]}, one=lstm)
    assert "report.lm_eval.tasks" in refused({"tasks": []})
    status, _, err = flyweight("finetune", model, "--data", rows, "--task-path", folder)
    assert status == 2 and "belong to --tasks" in err
    with pytest.raises(RequestError, match="a list of names"):
        session = Session(runs=tmp_path / "runs", quiet=True)
        fw.finetune(model, data=rows, tasks="tiny-choice", session=session)


def test_a_stage_of_a_recipe_and_python_find_the_same_measurement(folder, model, tmp_path):
    session = Session(runs=tmp_path / "runs", threads=1, quiet=True)
    base = fw.import_(model, session=session)
    found = fw.tasks(base, ["tiny-choice"], task_path=folder, session=session)
    (first,) = measurements(tmp_path / "runs")
    assert found["tiny-choice"]["acc"]["n"] == 6
    moved = folder.rename(tmp_path / "elsewhere")
    assert fw.tasks(base, ["tiny-choice"], task_path=moved, session=session) == found
    assert measurements(tmp_path / "runs") == [first]
    (moved / "more.py").write_text("x = 1\n")
    fw.tasks(base, ["tiny-choice"], task_path=moved, session=session)
    assert len(measurements(tmp_path / "runs")) == 2
