"""The whole way, at toy size: text to report, by recipe, by API and by single verbs."""

import json
import subprocess
import sys

import pytest
import yaml
from toy_recipe import toy

import flyweight as fw
from flyweight.api import Session, load, shipped
from flyweight.config import load as config_load
from flyweight.errors import RequestError
from flyweight.store.budget import Meter


@pytest.fixture(scope="module")
def finished(tmp_path_factory, text_file):
    """The toy recipe, run once for this file."""
    folder = tmp_path_factory.mktemp("finished")
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(toy(text_file), sort_keys=False))
    session = Session(runs=folder / "runs", threads=1)
    return path, session, fw.run(load(path), session=session)


def test_every_shipped_recipe_is_valid():
    assert {"quickstart", "shakespeare"} <= set(shipped())
    for name in shipped():
        if name != "train":  # it is completed for its text by `flyweight train`
            assert load(name).name == name


def test_the_run_has_everything_it_promises(finished):
    _, _session, run = finished
    assert run.report.is_file()
    assert (run.folder / "summary.json").is_file()
    assert (run.folder / "student").resolve() == run["student"].path.resolve()
    models = {model.name: model for model in run.summary.models}
    assert list(models) == ["teacher", "student", "alone", "int8"]
    for model in models.values():
        assert model.evaluate.nll.low <= model.evaluate.nll.value <= model.evaluate.nll.high
        assert model.bench.decode_tokens_per_s.value > 0
        assert model.audit.checks
        assert model.samples[0].prompt == "Ann "
    assert models["alone"].training.flops >= models["student"].training.total_flops
    assert (
        models["alone"].training.flops
        < 1.1 * models["student"].training.total_flops + models["teacher"].training.flops / 10
    )
    assert models["int8"].disk_bytes < models["alone"].disk_bytes
    assert models["int8"].input in ("student", "alone")
    floors = run.summary.corpus[0].floors
    assert floors["bigram"].nll < floors["unigram"].nll


def test_running_again_repeats_nothing(finished):
    path, session, first = finished
    before = {p: p.stat().st_mtime_ns for p in session.store.root.glob("*-????????/manifest.json")}
    again = fw.run(load(path), session=session)
    after = {p: p.stat().st_mtime_ns for p in session.store.root.glob("*-????????/manifest.json")}
    assert before == after
    assert all(stage.reused for stage in again.summary.stages)
    assert again.summary.models == first.summary.models
    used = {row.name: row.used for row in again.summary.budget}
    held = [stage.memory.used or 0 for stage in again.summary.stages if stage.memory]
    assert held and used["memory"] >= max(held) > 0, "what reused trainings held counts"


def test_a_run_is_a_mapping_of_its_stages(finished):
    _, _, run = finished
    names = ["teacher", "student", "alone", "best", "int8"]
    assert list(run) == run.keys() == names and len(run) == 5
    assert "student" in run and "techer" not in run
    assert dict(run) == dict(run.items()) and run.values()[1].id == run["student"].id
    with pytest.raises(fw.RequestError, match=r"no stage 'techer' \(did you mean teacher\?\)"):
        run["techer"]


def test_a_changed_field_remakes_only_what_depends_on_it(finished):
    path, session, first = finished
    changed = fw.run(load(path, "stages.student.objective.temperature=2.0"), session=session)
    assert changed["teacher"].id == first["teacher"].id
    assert changed["student"].id != first["student"].id


def test_the_api_and_the_command_line_agree(finished, flyweight):
    _, session, run = finished
    status, out, err = flyweight(
        "eval", run["student"].path, "--runs", session.store.root, "--threads", 1, "--json"
    )
    assert status == 0, err
    ours = fw.evaluate(run["student"], session=session)
    printed = json.loads(out)
    assert printed["nll"] == ours.nll.json()
    for key in ("nll", "perplexity", "word_perplexity", "bits_per_byte"):
        assert {"value", "low", "high", "n"} <= set(printed[key])
    assert (printed["split"], printed["window"], printed["stride"]) == ("test", 32, 32)


def test_the_json_keys_of_the_interface(finished, answer, flyweight):
    _, session, _ = finished
    runs = ("--runs", session.store.root, "--threads", 1)
    plan = answer("plan", "gpt2")
    assert plan["parameters"]["unique"] == 124_439_808
    assert {"forward_per_token", "training_per_token"} <= set(plan["flops"])
    assert {"kv_bytes_per_token", "weight_bytes"} <= set(plan)
    bench = answer("bench", "toy:int8", *runs, "--repeats", 2, "--new-tokens", 4, "--prompt", 8)
    assert {
        "forward_ms",
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
        "peak_bytes",
        "weight_bytes",
    } <= set(bench)
    status, out, _ = flyweight("audit", "toy:student", *runs, "--json")
    audit = json.loads(out)
    assert audit["passed"] == (status == 0)
    assert all({"name", "measured", "bound", "verdict"} <= set(check) for check in audit["checks"])
    rows = answer("compare", "toy:student", "toy:alone", "toy:int8", *runs)["models"]
    assert [row["bits_per_byte"] for row in rows] == sorted(row["bits_per_byte"] for row in rows)


@pytest.mark.parametrize(
    "first", ["flyweight.evaluation.floors", "flyweight.planning.memory", "flyweight.api"]
)
def test_the_verbs_can_be_called_whatever_was_imported_first(first):
    code = (
        f"import {first}, flyweight as fw; assert callable(fw.evaluate) and "
        f"callable(fw.plan); print(fw.plan('gpt2').context)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "1024\n", done.stderr


def test_generation(finished, answer, flyweight):
    _, session, run = finished
    runs = ("--runs", session.store.root, "--threads", 1)
    words = ("generate", "toy:student", "Ann ", *runs, "--max-new-tokens", 12, "--temperature", 0)
    text = answer(*words)["text"]
    assert text == fw.generate(
        run["student"], "Ann ", max_new_tokens=12, temperature=0.0, session=session
    )
    status, out, _ = flyweight(*words)
    assert (status, out) == (0, f"Ann {text}\n")
    stop = text[3]
    assert answer(*words, "--stop", stop)["text"] == text[: text.index(stop)]


def test_floors_and_evaluation_of_another_text(finished, answer, tmp_path, text_file):
    _, session, _ = finished
    runs = ("--runs", session.store.root, "--threads", 1)
    floors = answer("floors", text_file, "--runs", session.store.root)
    assert max(floors["kn5"], floors["bigram"]) < floors["unigram"]
    other = tmp_path / "other.txt"
    other.write_text(text_file.read_text()[::-1])
    there, here = (
        answer("eval", "toy:alone", "--data", other, *runs),
        answer("eval", "toy:alone", *runs),
    )
    assert there["nll"]["value"] > here["nll"]["value"]


def test_single_verbs_are_recipes_of_one_stage(finished, answer):
    _, session, _ = finished
    made = answer(
        "quantize", "toy:student", "--kind", "nf4", "--runs", session.store.root, "--threads", 1
    )
    assert [model["stage"] for model in made["models"]] == ["quantize"]


def test_train_on_ones_own_text(answer, text_file):
    words = [
        "budget.time=25s",
        "model.layers=1",
        "model.dim=16",
        "data.context=32",
        "train.batch=4",
        "--threads",
        1,
    ]
    made = answer("train", text_file, *words)
    (model,) = made["models"]
    assert model["training"]["stopped_by"] in ("time", "steps"), (
        "by the clock, or after 20 readings of a short text"
    )
    assert model["stage"] == "mix"
    assert made["name"] == "train-story"


def test_a_packed_model_is_not_trained_further_and_nothing_is_begun(finished, text_file):
    _, session, _ = finished
    before = sorted(path.name for path in session.store.root.iterdir())
    data = {"corpus": str(text_file), "tokenizer": "byte", "context": 32}
    stages = {
        "new": {"stage": "pretrain", "model": {"dim": 8, "layers": 1}},
        "more": {"stage": "pretrain", "input": "toy:int8"},
    }
    raw = {"name": "further", "data": data, "train": {"steps": 2}, "stages": stages}
    with pytest.raises(
        RequestError,
        match=r"stages\.more\.input: this model's matrices are stored as int8 and cannot be",
    ):
        fw.run(config_load.recipe(raw), session=session)
    assert sorted(path.name for path in session.store.root.iterdir()) == before


def test_leaving_a_stage_out(finished, tmp_path):
    path, _session, _ = finished
    recipe = load(path, without=["int8"])
    assert "int8" not in recipe.stages
    assert recipe.report.compare == ("teacher", "student", "alone")


def test_what_was_finished_before_a_budget_was_spent_is_named_and_reported(
    toy_recipe, flyweight, tmp_path, monkeypatch
):
    observe = Meter.observe

    def spent(meter, where, *rest, **options):
        if where == "alone":
            meter._stop("time", "1 s", "2 s", where)
        return observe(meter, where, *rest, **options)

    monkeypatch.setattr(Meter, "observe", spent)
    status, _, err = flyweight("run", toy_recipe, "--threads", 1)
    said = " ".join(err.split())
    assert status == 1
    assert (
        "Finished and measured: toy:teacher, toy:student; report: " in said
        and "the same command" in said
    )
    assert (tmp_path / "runs" / "toy" / "report.html").is_file()
    assert flyweight("eval", "toy:student", "--threads", 1)[0] == 0
    monkeypatch.setattr(Meter, "observe", observe)
    status, _, err = flyweight("run", toy_recipe, "--threads", 1)
    assert status == 0 and "student" in err and "kept from before" in err


def test_a_spent_budget_of_time_advises_what_goes_on(toy_recipe, flyweight, monkeypatch):
    monkeypatch.setattr(Meter, "seconds", lambda _: 100.0)
    status, _, err = flyweight(
        "run", toy_recipe, "budget.time=60s", "train.steps=12", "--threads", 1
    )
    assert status == 1 and "a larger budget.time and the same" in " ".join(err.split()), err


def test_a_mixture_is_not_trained_further_and_nothing_is_begun(finished, text_file):
    _, session, _ = finished
    data = {"corpus": str(text_file), "tokenizer": "byte", "context": 32}
    raw = {
        "name": "mixing",
        "stages": {"mixed": {"stage": "mix", "input": "toy:student"}},
        "report": {"measure": []},
    }
    fw.run(raw, session=session)
    before = sorted(path.name for path in session.store.root.iterdir())
    more = {"stage": "pretrain", "input": "mixing:mixed", "data": data, "train": {"steps": 2}}
    with pytest.raises(
        RequestError, match=r"stages\.more\.input: this model is a mixture .*Train the network"
    ):
        fw.run({"name": "further", "stages": {"more": more}}, session=session)
    assert sorted(path.name for path in session.store.root.iterdir()) == before
