"""A package outside flyweight adds a stage and a metric, and a recipe uses them from text to report."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch
import yaml
from safetensors.torch import load_file
from toy_recipe import toy

import flyweight as fw
from flyweight.api import Session
from flyweight.config import linear_kinds, load, metrics, plugins, schema, study
from flyweight.errors import RequestError
from flyweight.evaluation.resampling import UNITS, UnitScores
from flyweight.model import linear
from flyweight.store import stage_registry as stages

PLUGINS = Path(__file__).parents[2] / "examples" / "plugin"


@pytest.fixture(scope="module")
def toy_package():
    """The toy package, registered for this file alone."""
    tables = (
        *(schema.STAGE_CONFIGS, stages.REGISTERED, metrics.METRICS),
        *(linear_kinds.REGISTRY, linear.KINDS),
    )
    before = [dict(table) for table in tables]
    sys.path.insert(0, str(PLUGINS))
    import flyweight_toy

    flyweight_toy.register()
    yield flyweight_toy
    sys.path.remove(str(PLUGINS))
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)
    linear_kinds._adapter.cache_clear()


def recipe(text_file):
    """A recipe with the toy package's stage and metric."""
    raw = toy(text_file, small={"stage": "shrink", "input": "student", "by": 0.02})
    raw["stages"]["kept"] = {"stage": "select", "among": ["teacher", "student"], "by": "top_5"}
    raw["report"] = {
        "compare": ["teacher", "student", "small"],
        "measure": ["evaluate"],
        "metrics": ["top_5", "accuracy"],
    }
    return raw


@pytest.fixture(scope="module")
def finished(toy_package, text_file, tmp_path_factory):
    """The recipe, run once for this file."""
    session = Session(runs=tmp_path_factory.mktemp("plugins") / "runs", threads=1)
    return session, fw.run(recipe(text_file), session=session)


def test_a_recipe_runs_the_stage_of_another_package(finished):
    _, run = finished
    small = run["small"]
    assert small.stage == "shrink"
    assert small.facts["total_flops"] == run["student"].facts["total_flops"]
    card = (run.folder / "card-small.md").read_text()
    assert "with weights that are 2% smaller" in card
    assert "small" in run.report.read_text()


def test_its_metric_is_measured_stored_and_shown(finished):
    _, run = finished
    models = {model.name: model for model in run.summary.models}
    for model in models.values():
        top_5, accuracy = model.evaluate.metric("top_5"), model.evaluate.metric("accuracy")
        assert 0 < accuracy.value < top_5.value <= 1
        assert top_5.low <= top_5.value <= top_5.high
        assert (top_5.better, top_5.n) == ("higher", model.evaluate.nll.n)
    assert "top 5" in run.report.read_text()
    pair = next(pair for pair in run.summary.comparisons if pair.metrics)
    difference = pair.metrics["top_5"]
    first, second = models[pair.a].evaluate.metrics, models[pair.b].evaluate.metrics
    expected = first["top_5"].value - second["top_5"].value
    assert difference.value == pytest.approx(expected, abs=1e-12)


def test_select_chooses_the_higher_of_a_metric_that_is_better_higher(finished):
    session, run = finished
    values = {
        name: fw.evaluate(
            run[name], split="validation", metrics=["top_5"], session=session
        ).top_5.value
        for name in ("teacher", "student")
    }
    assert run["kept"].facts["chosen"] == max(values, key=values.get)


def test_models_are_compared_by_it(finished):
    session, run = finished
    compared = fw.compare(run["teacher"], run["small"], metric="top_5", session=session)
    rows = list(compared)
    assert rows[0].metrics["top_5"] >= rows[1].metrics["top_5"]
    assert rows[1].paired.decisive.better == "higher"
    assert rows[1].paired.decisive.value <= 0
    assert rows[1].verdict in ("worse", "undecided")
    assert "share of targets" in str(compared)


def test_the_command_line_measures_and_compares_by_it(finished, answer, flyweight):
    session, run = finished
    root = ("--runs", session.store.root, "--threads", 1)
    words = ("eval", "toy:student", "--metrics", "top_5,accuracy", *root)
    measured = answer(*words)["metrics"]
    model = next(model for model in run.summary.models if model.name == "student")
    assert measured["top_5"]["value"] == model.evaluate.metric("top_5").value
    status, out, err = flyweight(*words)
    assert status == 0, err
    assert re.search(r"top 5 .*higher", out)
    words = ("compare", "toy:student", "toy:small", "--metric", "top_5", *root)
    assert answer(*words)["metric"] == "top_5"
    status, out, err = flyweight("eval", "toy:student", "--metrics", "top_6", *root)
    assert (status, out) == (2, "")
    assert "unknown metric 'top_6' (did you mean top_5?)" in err


def test_plans_know_the_stage(toy_package, text_file):
    planned = fw.plan(load.recipe(recipe(text_file)), session=Session(threads=1))
    assert "small" in {name for row in planned.rows for name in row.name.split(", ")}


def test_the_schema_lists_the_stage(toy_package):
    definitions = load.json_schema()["$defs"]
    assert set(definitions["Shrink"]["properties"]) == {"stage", "input", "by"}
    assert "top_5" in study.json_schema()["properties"]["metrics"]["items"]["enum"]


def test_without_the_stage_its_consumers_take_its_input(toy_package, text_file):
    raw = recipe(text_file)
    raw["stages"]["packed"] = {"stage": "quantize", "input": "small", "kind": "int8"}
    checked = load.recipe(raw, without=["small"])
    assert checked.stages["packed"].input == "student"
    assert "small" not in checked.report.compare


def test_faults_of_the_stage_are_told_like_any_others(toy_package, text_file):
    raw = recipe(text_file)
    raw["stages"]["small"] = {"stage": "shrink", "input": "studnet", "by": 2, "from": 1}
    with pytest.raises(RequestError) as error:
        load.recipe(raw)
    assert "stages.small.by: has to be less than 1, and is 2" in str(error.value)
    assert "stages.small.from: unknown name" in str(error.value)
    raw["stages"]["small"] = {"stage": "shrnk", "input": "student"}
    with pytest.raises(RequestError, match=r"unknown kind 'shrnk' \(did you mean shrink\?\)"):
        load.recipe(raw)


def test_unit_sums_of_a_metric_give_the_stored_value(finished):
    session, run = finished
    result = fw.evaluate(run["student"], metrics=["top_5", "accuracy"], session=session)
    scores = UnitScores.load(result.artifact.path / UNITS)
    for name in ("top_5", "accuracy"):
        assert scores.metrics[name].value == pytest.approx(result.values["metrics"][name]["value"])
    assert len(scores.metrics["top_5"].sums) == len(scores.nll)


# --- a stage that trains, and a linear kind that holds another ---


@pytest.fixture(scope="module")
def trained(toy_package, text_file, tmp_path_factory):
    """A recipe whose stages train with another package's loss and linear kind, run once."""
    twice = {"kind": "scaled", "base": {"kind": "scaled", "base": "int8"}}
    raw = toy(
        text_file,
        soft={"stage": "smooth", "smoothing": 0.3},
        hard={"stage": "smooth", "smoothing": 0.0},
        plain={
            "stage": "pretrain",
            "train": {"steps": None, "same_as": {"stage": "hard", "of": "flops"}},
        },
        better={"stage": "select", "among": ["soft", "plain"]},
        nested={"stage": "smooth", "model": {"linears": {"blocks": {**twice, "base": "nf4"}}}},
        packed={"stage": "quantize", "input": "soft", "kind": twice, "embedding": "dense"},
        tuned={"stage": "pretrain", "input": "packed", "model": None},
        guesser={"stage": "select", "among": ["soft", "nested", "tuned"], "by": "top_5"},
    )
    raw["train"] |= {"precision": "fp32"}
    raw["report"] = {"compare": ["soft", "nested", "tuned"], "measure": ["evaluate"]}
    session = Session(runs=tmp_path_factory.mktemp("trained") / "runs", threads=1)
    checked = load.recipe(raw)
    return checked, session, fw.run(checked, session=session)


def tensors(artifact):
    return load_file(artifact.path / "model" / "model.safetensors")


def test_a_stage_of_another_package_trains(trained):
    checked, session, run = trained
    planned = {stage.name: stage for stage in fw.plan(checked, session=session).stages}
    assert planned["soft"].flops == planned["plain"].flops == run["soft"].facts["flops"]
    assert planned["soft"].steps == run["soft"].facts["steps"] == 12
    # From a model that another stage makes of a trained one.
    assert planned["tuned"].flops == run["tuned"].facts["flops"] < planned["soft"].flops
    hard, plain, soft = (run[name].facts for name in ("hard", "plain", "soft"))
    assert hard["best_nll"] == pytest.approx(plain["best_nll"], abs=1e-6)
    assert abs(soft["best_nll"] - hard["best_nll"]) > 1e-5  # the loss of the package was used
    best = min(("soft", "plain"), key=lambda name: run[name].facts["best_nll"])
    assert run["better"].facts["chosen"] == best
    assert "trained from random weights" in (run.folder / "card-soft.md").read_text()


def test_a_kind_that_holds_another_is_trained_in_a_recipe(trained):
    _, session, run = trained
    before, after = tensors(run["packed"]), tensors(run["tuned"])
    frozen = {name for name in before if ".base." in name}
    assert any(name.endswith("base.base.codes") for name in frozen), sorted(frozen)
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    scales = [name for name in before if name.endswith("q.scale")]
    assert scales and not any(torch.equal(before[name], after[name]) for name in scales)
    assert any(name.endswith("base.codes") for name in tensors(run["nested"]))
    values = {
        name: fw.evaluate(run[name], split="validation", metrics=["top_5"], session=session)
        for name in ("soft", "nested", "tuned")
    }
    assert run["guesser"].facts["chosen"] == max(values, key=lambda name: values[name].top_5.value)


def test_what_is_quantized_without_anything_to_train_is_not_trained(toy_package, text_file):
    scaled = {"kind": "scaled", "base": "int8"}
    for kind, embedding in (("int8", "dense"), (scaled, "int8")):
        raw = toy(
            text_file,
            packed={"stage": "quantize", "input": "best", "kind": kind, "embedding": embedding},
            tuned={"stage": "pretrain", "input": "packed", "model": None},
        )
        with pytest.raises(RequestError, match=r"stages\.tuned\.input: packed stores its matrices"):
            load.recipe(raw)


# --- how an installed package is found ---


def installed(folder, module="flyweight_toy"):
    """Write what pip leaves of a package with an entry point."""
    info = folder / "flyweight_toy-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flyweight-toy\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[flyweight.plugins]\ntoy = {module}\n")
    return folder


def schema_of(*path, cwd):
    """Return the finished process of `flyweight schema` that searches these folders for packages."""
    source = Path(fw.__file__).parents[1]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (source, *path)))}
    return subprocess.run(
        [sys.executable, "-m", "flyweight", "schema"],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_installed_package_is_found_by_its_entry_point(tmp_path):
    done = schema_of(installed(tmp_path / "site"), PLUGINS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Shrink" in json.loads(done.stdout)["$defs"]


def test_a_package_that_cannot_be_imported_is_named(tmp_path):
    site = installed(tmp_path / "site", "flyweight_gone")
    done = schema_of(site, cwd=tmp_path)
    assert done.returncode == 2
    assert "the plug-in toy of flyweight-toy cannot be imported" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_in_the_working_folder_is_imported(tmp_path):
    here = installed(tmp_path / "here", "planted")
    (here / "planted.py").write_text(f"open({str(tmp_path / 'planted')!r}, 'w')\n")
    done = schema_of("", here, cwd=here)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "planted").exists()
    site = installed(tmp_path / "site", "planted")  # a real plug-in, and a file of its name
    done = schema_of(here, site, cwd=here)
    assert done.returncode == 2
    assert not (tmp_path / "planted").exists()


def test_the_working_folder_is_searched_again_afterwards(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    before = list(sys.path)
    with plugins._without_the_working_folder():
        assert "" not in sys.path and str(tmp_path) not in sys.path
    assert sys.path == before


# --- what cannot be registered ---


def test_a_name_that_is_taken_is_refused(toy_package):
    class Other(fw.StageConfig):
        stage: Literal["quantize"]
        input: str

    with pytest.raises(RequestError, match="'quantize' is taken"):
        fw.register_stage(Other, toy_package.stage.STAGE)
    with pytest.raises(RequestError, match="'nll' is taken"):
        fw.register_metric(fw.MetricKind("nll", "x", "x", "lower", "x", score=lambda a, b: a))
    with pytest.raises(RequestError, match="not a MetricKind with a score"):
        fw.register_metric(fw.MetricKind("mine", "x", "x", "lower", "x"))
    toy_package.register()  # the same once more


def test_a_study_takes_the_metric_and_its_direction(toy_package, text_file, tmp_path):
    raw = {
        "name": "toy-study",
        "data": {"story": {"corpus": str(text_file), "tokenizer": "byte", "context": 32}},
        "models": {
            "small": {"config": {"dim": 8, "layers": 1, "attention": {"heads": 1}}},
            "large": {"config": {"dim": 32, "layers": 1, "attention": {"heads": 2}}},
        },
        "budgets": {"short": {"steps": 150}},
        "train": {"batch": 8, "validations": 1, "optimizer": {"kind": "adamw", "lr": 0.02}},
        "seeds": [0, 1, 2],
        "metrics": ["top_5", "nll"],
        "findings": [
            {
                "claim": "the large model guesses better",
                "better": {"model": "large"},
                "worse": {"model": "small"},
            },
            {
                "claim": "and has a lower NLL",
                "metric": "nll",
                "better": {"model": "large"},
                "worse": {"model": "small"},
            },
        ],
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(raw))
    done = fw.study(path, session=Session(runs=tmp_path / "runs", threads=1))
    first, second = done.summary.findings
    assert (first.metric, first.contests[0].below) == ("top_5", "small, story, context 32, short")
    assert second.contests[0].below == "large, story, context 32, short"
    means = {cell.model: cell.spread("top_5").mean for cell in done.summary.cells}
    assert first.contests[0].difference == pytest.approx(means["small"] - means["large"])
    assert "top 5" in (done.folder / "report.html").read_text()


def test_the_page_on_extending_names_traits_that_are_there():
    page = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
    table = page.partition("| trait |")[2].partition("\n\n")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) == 9
    for _, name, _, default, _ in rows:
        documented = default.strip().strip("`")
        assert (
            repr(getattr(fw.StageConfig, name.strip().strip("`"))).replace("'", '"') == documented
        )
