"""Cards, ls and gc through the command line, on one small recipe that is run once."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from toy_recipe import toy

import flyweight as fw
from flyweight.api import Session
from flyweight.errors import RequestError
from flyweight.store import locks
from flyweight.store.artifact import Artifact, Store

THREADS = ("--threads", 1)


def small(text_file, folder: Path, name: str = "toy", **train) -> Path:
    raw = toy(text_file)
    raw["name"] = name
    raw["stages"] = {key: raw["stages"][key] for key in ("teacher", "student", "int8")}
    raw["stages"]["int8"]["input"] = "student"
    raw["train"].update(train)
    raw["report"] = {"measure": ["evaluate"], "compare": ["teacher", "int8"]}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, text_file):
    """A runs root with one finished recipe and one whose folder was deleted."""
    folder = tmp_path_factory.mktemp("finished")
    session = Session(runs=folder / "runs", threads=1, command="flyweight run toy.yaml")
    fw.run(fw.load(small(text_file, folder)), session=session)
    fw.run(fw.load(small(text_file, folder, "spare", steps=6)), session=session)
    shutil.rmtree(folder / "runs" / "spare")
    return folder / "runs"


@pytest.fixture
def runs(finished, tmp_path):
    """A copy of that root, which is the command line's."""
    return Path(shutil.copytree(finished, tmp_path / "runs", symlinks=True))


def test_every_model_and_no_other_artifact_has_a_card(finished):
    for path in finished.glob("*-????????"):
        assert (path / "README.md").is_file() == (path / "model").is_dir()
    assert sorted(path.name for path in (finished / "toy").glob("*.md")) == [
        "card-int8.md", "card-student.md", "card-teacher.md", "table.md"
    ]  # fmt: skip
    said = (finished / "toy" / "card-int8.md").read_text()
    assert (
        said.startswith("# toy:int8") and "nats/token" in said and "flyweight run toy.yaml" in said
    )
    assert "Not measured: speed" in said


def test_an_export_has_the_card_with_the_numbers_that_there_are(runs, answer):
    done = answer("export", "toy:teacher", "--to", "hf", "--out", runs.parent / "hf")
    said = Path(done["card"]).read_text()
    assert done["card"] == str(runs.parent / "hf" / "README.md") and said.startswith("---\n")
    nll = json.loads((next(runs.glob("toy")) / "summary.json").read_text())["models"][0][
        "evaluate"
    ]["nll"]
    assert f"{nll['low']:.3f} to {nll['high']:.3f}" in said
    other = runs.parent / "other.txt"
    other.write_text("another text. " * 300)
    answer("eval", "toy:student", "--data", other, *THREADS)
    answer("export", "toy:student", "--to", "gguf", "--out", runs.parent / "m.gguf")
    said = (runs.parent / "m.gguf.md").read_text()
    assert str(other) in said and "- gguf" in said


def test_the_name_of_a_gguf_file_says_the_format(runs, answer, flyweight):
    done = answer("export", "toy:student", "--out", runs.parent / "m.gguf")
    assert (done["kind"], (runs.parent / "m.gguf").read_bytes()[:4]) == ("llama", b"GGUF")
    for words, message in {
        ("--to", "hf", "--out", runs.parent / "n.gguf"): "named like a GGUF file",
        ("--type", "q8_0", "--out", runs.parent / "folder"): "--type q8_0 is for GGUF files",
    }.items():
        status, _, err = flyweight("export", "toy:student", *words)
        assert (status, message in err) == (2, True), err
    assert not (runs.parent / "n.gguf").exists() and not (runs.parent / "folder").exists()


def test_a_model_trained_with_dropout_becomes_a_folder_of_its_family(runs, text_file, answer):
    raw = yaml.safe_load(small(text_file, runs.parent).read_text())
    raw |= {"name": "dropped", "model": {**raw["model"], "dropout": 0.1}}
    raw["stages"] = {"teacher": raw["stages"]["teacher"]}
    raw["report"] = {"measure": ["evaluate"]}
    (runs.parent / "dropped.yaml").write_text(yaml.safe_dump(raw))
    answer("run", runs.parent / "dropped.yaml", *THREADS)
    done = answer("export", "dropped:teacher", "--out", runs.parent / "hf")
    assert done["kind"] == "llama"
    (note,) = [note for note in done["notes"] if "dropout" in note]
    assert "(embedding 0.1, residual 0.1) is left out" in note and "in training alone" in note


def test_an_export_replaces_neither_a_file_nor_a_card(runs, flyweight):
    for name, taken in (("m.gguf", "m.gguf"), ("n.gguf", "n.gguf.md")):
        (runs.parent / taken).write_text("mine")
        status, _, err = flyweight(
            "export", "toy:student", "--to", "gguf", "--out", runs.parent / name
        )
        assert status == 2 and f"{taken}: there is something already" in err
        assert (runs.parent / taken).read_text() == "mine"
    assert not (runs.parent / "n.gguf").exists()


def test_ls_tells_who_needs_what(runs, answer, flyweight):
    found = answer("ls")
    users = {item["id"]: item["used_by"] for item in found["items"]}
    stages = {
        stage.name: (runs / "toy" / stage.name).resolve().name
        for stage in (runs / "toy").iterdir()
        if stage.is_symlink()
    }
    assert {name: users[identifier] for name, identifier in stages.items()} == {
        name: [f"toy:{name}"] for name in stages
    }
    assert (
        sum(used == ["toy"] for used in users.values()) == 4
    )  # the text, two evaluations, the floors
    assert sum(used == [] for used in users.values()) == 5  # three stages and two evaluations
    assert [recipe["name"] for recipe in found["recipes"]] == ["toy"]
    assert found["bytes"] > sum(item["bytes"] for item in found["items"])
    (runs / "pretrain-00000000.partial").mkdir()
    status, out, _ = flyweight("ls")
    assert status == 0 and "half-made" in out and "in all" in out
    assert max(map(len, out.splitlines())) <= 80


def test_ls_models_names_what_can_be_given_as_model(runs, answer, flyweight):
    items = answer("ls", "--models")["items"]
    names = [item["name"] for item in items]
    assert set(names) >= {"toy:teacher", "toy:student", "toy:int8"}
    others = [item["name"] for item in items if not item["name"].startswith("toy:")]
    assert others and all((runs / name / "model").is_dir() for name in others), (
        "the run whose folder is gone"
    )
    for item in items:
        folder = runs / item["id"] / "model"
        assert item["bytes"] == sum(file.stat().st_size for file in folder.iterdir())
    assert any(item["bits_per_byte"] for item in items) and any(
        item["bits_per_byte"] is None for item in items
    )
    status, out, _ = flyweight("ls", "--models")
    lines = out.splitlines()
    assert status == 0 and len(lines) == 2 + len(items), "head, rule, a line each"
    assert all(name in out for name in names)


def test_gc_asks_and_without_a_terminal_refuses(runs, flyweight, monkeypatch):
    before = sorted(runs.rglob("*"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    status, _, err = flyweight("gc")
    assert status == 2 and "--yes" in err
    assert flyweight("gc", "--json")[0] == 2
    assert flyweight("gc", "--yes", "--dry-run")[0] == 2
    status, _, err = flyweight("gc", "--dry-run", "--older-than", "7")
    assert status == 2 and "--older-than" in err
    status, out, _ = flyweight("gc", "--dry-run")
    assert status == 0 and "no recipe refers to it" in out
    assert sorted(runs.rglob("*")) == before


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_gc_shows_and_does_what_is_answered(runs, flyweight, monkeypatch):
    before = sorted(runs.rglob("*"))
    for answered in ("n\n", "\n"):
        monkeypatch.setattr(sys, "stdin", Terminal(answered))
        status, out, _ = flyweight("gc")
        assert status == 0 and "no recipe refers to it" in out and "nothing was removed" in out
        assert sorted(runs.rglob("*")) == before
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    status, out, _ = flyweight("gc")
    assert status == 0 and "Removed 5 folders and 6 lock files" in out
    assert len(sorted(runs.rglob("*"))) < len(before)


def test_gc_removes_what_the_deleted_recipe_needed_and_nothing_else(runs, answer, flyweight):
    kept = {item["id"] for item in answer("ls")["items"] if item["used_by"]}
    would = answer("gc", "--dry-run")
    assert (
        not would["removed"]
        and len([item for item in would["items"] if item["kind"] == "artifact"]) == 5
    )
    assert answer("gc", "--dry-run", "--older-than", "7d")["items"] == []
    done = answer("gc", "--yes")
    assert done["removed"] and done["items"] == would["items"] and done["bytes"] == would["bytes"]
    assert {path.name for path in runs.glob("*-????????")} == kept
    for identifier in kept:
        Artifact.open(runs / identifier)
    assert answer("gc", "--yes") == {"items": [], "bytes": 0, "kept": [], "removed": False}
    status, out, _ = flyweight("gc", "--yes")
    assert status == 0 and "Nothing to remove" in out
    assert answer("eval", "toy:int8", *THREADS)["nll"]["value"] > 0


def test_gc_waits_its_turn(runs, flyweight):
    with locks.working(Store(runs), "flyweight run other"):
        status, _, err = flyweight("gc", "--yes")
    assert status == 1 and "flyweight run other" in err and "try again" in err


def test_a_working_command_is_seen_by_another_process(runs, text_file, flyweight, answer):
    recipe = small(text_file, runs.parent, "long", steps=None, time="60s")
    command = [
        sys.executable,
        "-m",
        "flyweight",
        "run",
        str(recipe),
        "--threads",
        "1",
        "--runs",
        str(runs),
    ]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert run.stderr is not None
        assert any("teacher: pretrain" in line for line in run.stderr)
        status, _, err = flyweight("gc", "--yes")
        assert status == 1 and f"process {run.pid} (flyweight run" in err
    finally:
        run.kill()
        run.wait()
    assert len(list(runs.glob("pretrain-*.partial"))) == 1
    done = answer("gc", "--yes")
    # The artifact is the spare recipe's, whose folder is gone; what was being written when the
    # process died is left over.
    assert {item["kind"] for item in done["items"]} - {"leftover"} == {"lock", "artifact"}
    assert [line.partition(",")[0] for line in done["kept"]] == ["long is unfinished"]
    assert len(list(runs.glob("pretrain-*.partial"))) == 1
    status, out, _ = flyweight("ls")
    assert status == 0 and any("long" in line and "unfinished" in line for line in out.splitlines())
    shutil.rmtree(runs / "long")
    assert {item["kind"] for item in answer("gc", "--yes")["items"]} - {"leftover"} == {
        "half-made",
        "lock",
    }
    assert not list(runs.glob("*.partial"))


def test_nothing_of_an_interrupted_run_is_garbage_and_nothing_is_left_when_it_is_done(
    runs, tmp_path, text_file, answer, flyweight
):
    shutil.rmtree(runs)
    recipe = small(text_file, tmp_path)

    def stop(kind, fields):
        if kind == "stage" and fields["stage"] == "evaluate":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fw.run(
            fw.load(recipe),
            session=Session(runs=runs, threads=1, watch=stop, command="flyweight run toy.yaml"),
        )
    made = {path.name for path in runs.glob("*-????????")}
    assert {name.rpartition("-")[0] for name in made} == {
        "corpus",
        "pretrain",
        "distill",
        "quantize",
    }
    found = answer("gc", "--yes")
    assert {item["kind"] for item in found["items"]} <= {"lock"}
    (said,) = found["kept"]
    assert (
        "toy is unfinished, and 4 artifacts" in said
        and "`flyweight run toy.yaml` goes on from there" in said
    )
    listed = answer("ls")
    assert {item["used_by"][0] for item in listed["items"]} == {"toy (unfinished)"}
    assert listed["recipes"][0]["unfinished"] == ["flyweight run toy.yaml"]
    for words in (("generate", "toy", "A"), ("eval", "toy:student"), ("run", "toy")):
        status, _, err = flyweight(*words)
        assert (status, "go on with: flyweight run toy.yaml" in err) == (2, True), err
    done = fw.run(fw.load(recipe), session=Session(runs=runs, threads=1))
    assert all(stage.reused for stage in done.summary.stages)
    assert not list((runs / "toy").glob("other-runs.json"))
    assert answer("ls")["recipes"][0]["unfinished"] == []


def test_what_a_refused_run_leaves_is_no_run(runs, tmp_path, text_file, answer):
    shutil.rmtree(runs)
    with pytest.raises(RequestError, match="vocab_size: 7"):
        fw.run(
            fw.load(small(text_file, tmp_path), "stages.teacher.model.vocab_size=7"),
            session=Session(runs=runs, threads=1),
        )
    assert list(runs.glob("corpus-*")) and not (runs / "toy").exists()
    assert answer("ls")["recipes"] == []


def test_other_work_of_the_same_name_is_kept_until_its_list_is_deleted(
    runs, text_file, answer, flyweight
):
    before = {item["id"] for item in answer("ls")["items"] if item["used_by"]}
    answer("run", small(text_file, runs.parent, steps=8), *THREADS)
    listed = answer("ls")
    users = {item["id"]: item["used_by"] for item in listed["items"]}
    assert all(users[name] for name in before)
    assert (
        sum(used == ["toy (earlier)"] for used in users.values()) == 5
    )  # three stages, two evaluations
    assert listed["recipes"][0]["earlier"] == ["flyweight run toy.yaml"]
    status, out, _ = flyweight("ls")
    assert status == 0 and "toy: results of 1 earlier run are kept as well" in " ".join(out.split())
    found = answer("gc", "--yes")
    assert "toy had earlier results (`flyweight run toy.yaml`), and 5 artifacts" in found["kept"][0]
    assert all((runs / name).is_dir() for name in before)
    answer(
        "run", small(text_file, runs.parent), *THREADS
    )  # the first work again: now the second is the earlier one
    users = {item["id"]: item["used_by"] for item in answer("ls")["items"]}
    assert {name for name, used in users.items() if used != ["toy (earlier)"]} >= before
    assert sum(used == ["toy (earlier)"] for used in users.values()) == 5
    (runs / "toy" / "other-runs.json").unlink()
    assert len([item for item in answer("gc", "--yes")["items"] if item["kind"] == "artifact"]) == 5
    assert all((runs / name).is_dir() for name in before)


def test_kinds_of_quantization_have_names_of_their_own(runs, answer):
    names = [
        answer("quantize", "toy:teacher", "--kind", kind, *THREADS)["name"]
        for kind in ("int8", "nf4")
    ]
    assert names == ["quantize-int8-toy-teacher", "quantize-nf4-toy-teacher"]
    assert not answer("gc", "--dry-run")["kept"]


def test_a_name_that_is_no_model_brings_those_that_there_are(runs, flyweight):
    for word, message in {
        "toy": "toy is a run; name one of its models: toy:teacher, toy:student, toy:int8",
        "nothing": "there is no model 'nothing'; there are toy:teacher, toy:student, toy:int8",
        "toy:studnt": "toy has no stage 'studnt' (did you mean student?)",
        "toy-student": "(did you mean toy:student?)",
    }.items():
        status, _, err = flyweight("eval", word)
        assert (status, message in err) == (2, True), err


def test_a_run_is_called_after_the_kind_that_a_word_gives(runs, answer):
    summary = answer("quantize", "toy:teacher", "kind=nf4", *THREADS)
    assert summary["name"] == "quantize-nf4-toy-teacher"
    assert (
        summary["models"][0]["stage"] == "quantize"
        and not (runs / "quantize-int8-toy-teacher").exists()
    )


def test_another_request_gets_another_name_and_the_same_one_its_own(runs, answer):
    words = ("quantize", "toy:teacher", *THREADS)
    first, second = answer(*words), answer(*words, "embedding=nf4")
    assert [first["name"], second["name"]] == [
        "quantize-int8-toy-teacher",
        "quantize-int8-toy-teacher-2",
    ]
    assert answer(*words, "embedding=nf4")["name"] == second["name"]
    assert answer(*words)["name"] == first["name"]
    assert first["request"] != second["request"]


def test_a_run_is_made_anew_with_fresh_and_says_so_where_nothing_was_left_to_do(
    runs, text_file, flyweight
):
    recipe = small(text_file, runs.parent)
    _, out, _ = flyweight("run", recipe, "--json", *THREADS)
    made = [stage["id"] for stage in json.loads(out)["stages"]]
    before = [(runs / name / "manifest.json").stat().st_mtime_ns for name in made]
    _, _, err = flyweight("run", recipe, *THREADS)
    assert "nothing was left to do for toy" in err and "--fresh" in err
    status, out, err = flyweight("run", recipe, "--fresh", "--json", *THREADS)
    assert status == 0 and "nothing was left" not in err, err
    assert [stage["id"] for stage in json.loads(out)["stages"]] == made
    after = [(runs / name / "manifest.json").stat().st_mtime_ns for name in made]
    assert all(now > then for now, then in zip(after, before, strict=True))


def test_results_of_another_request_are_not_replaced_in_silence(runs, text_file, flyweight):
    recipe = small(text_file, runs.parent)
    _, _, err = flyweight("run", recipe, *THREADS)
    assert "will be replaced" not in err
    status, _, err = flyweight("run", recipe, "stages.teacher.train.steps=9", *THREADS)
    assert status == 0
    told = " ".join(err.split())
    assert "the results of another run called toy will be replaced (flyweight run" in told
    assert told.index("will be replaced") < told.index("teacher: pretrain")
