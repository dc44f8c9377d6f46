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
from flyweight.core import usage
from flyweight.core.artifact import Artifact, Store
from flyweight.errors import RequestError

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
    fw.run(fw.load(small(text_file, folder)), session)
    fw.run(fw.load(small(text_file, folder, "spare", steps=6)), session)
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
    assert said.startswith("# toy:int8") and "nats/token" in said and "flyweight run toy.yaml" in said
    assert "Not measured: speed" in said


def test_an_export_has_the_card_with_the_numbers_that_there_are(runs, answer):
    done = answer("export", "toy:teacher", "--to", "hf", "--out", runs.parent / "hf")
    said = Path(done["card"]).read_text()
    assert done["card"] == str(runs.parent / "hf" / "README.md") and said.startswith("---\n")
    nll = json.loads((next(runs.glob("toy")) / "summary.json").read_text())["models"][0]["evaluate"]["nll"]
    assert f"{nll['low']:,.5g} ... {nll['high']:,.5g}" in said
    other = runs.parent / "other.txt"
    other.write_text("another text. " * 300)
    answer("eval", "toy:student", "--data", other, *THREADS)
    answer("export", "toy:student", "--to", "gguf", "--out", runs.parent / "m.gguf")
    said = (runs.parent / "m.gguf.md").read_text()
    assert str(other) in said and "- gguf" in said and "no token that ends a document" in said


def test_an_export_replaces_neither_a_file_nor_a_card(runs, flyweight):
    for name, taken in (("m.gguf", "m.gguf"), ("n.gguf", "n.gguf.md")):
        (runs.parent / taken).write_text("mine")
        status, _, err = flyweight("export", "toy:student", "--to", "gguf", "--out", runs.parent / name)
        assert status == 2 and f"{taken}: there is something already" in err
        assert (runs.parent / taken).read_text() == "mine"
    assert not (runs.parent / "n.gguf").exists()


def test_ls_tells_who_needs_what(runs, answer, flyweight):
    found = answer("ls")
    users = {item["id"]: item["used_by"] for item in found["items"]}
    stages = {
        stage.name: (runs / "toy" / stage.name).resolve().name for stage in (runs / "toy").iterdir() if stage.is_symlink()
    }
    assert {name: users[identifier] for name, identifier in stages.items()} == {name: [f"toy:{name}"] for name in stages}
    assert sum(used == ["toy"] for used in users.values()) == 4  # the text, two evaluations, the floors
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
    assert others and all((runs / name / "model").is_dir() for name in others), "the run whose folder is gone"
    for item in items:
        folder = runs / item["id"] / "model"
        assert item["bytes"] == sum(file.stat().st_size for file in folder.iterdir())
    assert any(item["bits_per_byte"] for item in items) and any(item["bits_per_byte"] is None for item in items)
    status, out, _ = flyweight("ls", "--models")
    lines = out.splitlines()
    assert status == 0 and len(lines) == 1 + len(items), "a line each"
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
    assert status == 0 and "removed 5 folders and 6 lock files" in out
    assert len(sorted(runs.rglob("*"))) < len(before)


def test_gc_removes_what_the_deleted_recipe_needed_and_nothing_else(runs, answer, flyweight):
    kept = {item["id"] for item in answer("ls")["items"] if item["used_by"]}
    would = answer("gc", "--dry-run")
    assert not would["removed"] and len([item for item in would["items"] if item["kind"] == "artifact"]) == 5
    assert answer("gc", "--dry-run", "--older-than", "7d")["items"] == []
    done = answer("gc", "--yes")
    assert done["removed"] and done["items"] == would["items"] and done["bytes"] == would["bytes"]
    assert {path.name for path in runs.glob("*-????????")} == kept
    for identifier in kept:
        Artifact.open(runs / identifier)
    assert answer("gc", "--yes") == {"items": [], "bytes": 0, "kept": [], "removed": False}
    status, out, _ = flyweight("gc", "--yes")
    assert status == 0 and "nothing to remove" in out
    assert answer("eval", "toy:int8", *THREADS)["nll"]["value"] > 0


def test_gc_waits_its_turn(runs, flyweight):
    with usage.working(Store(runs), "flyweight run other"):
        status, _, err = flyweight("gc", "--yes")
    assert status == 1 and "flyweight run other" in err and "try again" in err


def test_a_working_command_is_seen_by_another_process(runs, text_file, flyweight, answer):
    recipe = small(text_file, runs.parent, "long", steps=None, time="60s")
    command = [sys.executable, "-m", "flyweight", "run", str(recipe), "--threads", "1", "--runs", str(runs)]
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
    # The artifact is the spare recipe's, whose folder is gone; what was being written when the process died is left over.
    assert {item["kind"] for item in done["items"]} - {"leftover"} == {"lock", "artifact"}
    assert [line.partition(",")[0] for line in done["kept"]] == ["long is unfinished"]
    assert len(list(runs.glob("pretrain-*.partial"))) == 1
    status, out, _ = flyweight("ls")
    assert status == 0 and any("long" in line and "unfinished" in line for line in out.splitlines())
    shutil.rmtree(runs / "long")
    assert {item["kind"] for item in answer("gc", "--yes")["items"]} - {"leftover"} == {"half-made", "lock"}
    assert not list(runs.glob("*.partial"))


def test_nothing_of_an_interrupted_run_is_garbage_and_nothing_is_left_when_it_is_done(runs, tmp_path, text_file, answer):
    shutil.rmtree(runs)
    recipe = small(text_file, tmp_path)

    def stop(kind, fields):
        if kind == "stage" and fields["stage"] == "evaluate":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fw.run(fw.load(recipe), Session(runs=runs, threads=1, watch=stop, command="flyweight run toy.yaml"))
    made = {path.name for path in runs.glob("*-????????")}
    assert {name.rpartition("-")[0] for name in made} == {"corpus", "pretrain", "distill", "quantize"}
    found = answer("gc", "--yes")
    assert {item["kind"] for item in found["items"]} <= {"lock"}
    (said,) = found["kept"]
    assert "toy is unfinished, and 4 artifacts" in said and "`flyweight run toy.yaml` goes on from there" in said
    listed = answer("ls")
    assert {item["used_by"][0] for item in listed["items"]} == {"toy (unfinished)"}
    assert listed["recipes"][0]["unfinished"] == ["flyweight run toy.yaml"]
    done = fw.run(fw.load(recipe), Session(runs=runs, threads=1))
    assert all(stage.reused for stage in done.summary.stages)
    assert not list((runs / "toy").glob("other-runs.json"))
    assert answer("ls")["recipes"][0]["unfinished"] == []


def test_what_a_refused_run_leaves_is_no_run(runs, tmp_path, text_file, answer):
    shutil.rmtree(runs)
    with pytest.raises(RequestError, match="vocab_size: 7"):
        fw.run(fw.load(small(text_file, tmp_path), "stages.teacher.model.vocab_size=7"), Session(runs=runs, threads=1))
    assert list(runs.glob("corpus-*")) and not (runs / "toy").exists()
    assert answer("ls")["recipes"] == []


def test_other_work_of_the_same_name_is_kept_until_its_list_is_deleted(runs, text_file, answer, flyweight):
    before = {item["id"] for item in answer("ls")["items"] if item["used_by"]}
    answer("run", small(text_file, runs.parent, steps=8), *THREADS)
    listed = answer("ls")
    users = {item["id"]: item["used_by"] for item in listed["items"]}
    assert all(users[name] for name in before)
    assert sum(used == ["toy (earlier)"] for used in users.values()) == 5  # three stages, two evaluations
    assert listed["recipes"][0]["earlier"] == ["flyweight run toy.yaml"]
    status, out, _ = flyweight("ls")
    assert status == 0 and "toy: results of 1 earlier run are kept as well" in " ".join(out.split())
    found = answer("gc", "--yes")
    assert "toy had earlier results (`flyweight run toy.yaml`), and 5 artifacts" in found["kept"][0]
    assert all((runs / name).is_dir() for name in before)
    answer("run", small(text_file, runs.parent), *THREADS)  # the first work again: now the second is the earlier one
    users = {item["id"]: item["used_by"] for item in answer("ls")["items"]}
    assert {name for name, used in users.items() if used != ["toy (earlier)"]} >= before
    assert sum(used == ["toy (earlier)"] for used in users.values()) == 5
    (runs / "toy" / "other-runs.json").unlink()
    assert len([item for item in answer("gc", "--yes")["items"] if item["kind"] == "artifact"]) == 5
    assert all((runs / name).is_dir() for name in before)


def test_kinds_of_quantization_have_names_of_their_own(runs, answer):
    names = [answer("quantize", "toy:teacher", "--kind", kind, *THREADS)["name"] for kind in ("int8", "nf4")]
    assert names == ["quantize-int8-toy-teacher", "quantize-nf4-toy-teacher"]
    assert not answer("gc", "--dry-run")["kept"]
