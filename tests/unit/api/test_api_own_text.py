"""`flyweight train`: the texts it takes, what it calls their runs, and that it always ends in a model."""

import json

import pytest

from flyweight.api import own_text
from flyweight.api.session import Session
from flyweight.errors import RequestError
from flyweight.store.artifact import Store

QUICK = (
    "budget.time=4s",
    "model.layers=1",
    "model.dim=16",
    "data.context=32",
    "train.batch=4",
    "report.measure=[evaluate]",
)


@pytest.fixture
def session(tmp_path):
    return Session(tmp_path / "runs", threads=1)


def ids(store):
    return {artifact.id: artifact.manifest["created"] for artifact in store.artifacts()}


def test_a_run_over_its_time_ends_with_a_model_a_report_and_the_next_commands(
    flyweight, text_file, tmp_path, monkeypatch
):
    from flyweight.store.budget import Meter

    monkeypatch.setattr(Meter, "late_now", lambda meter: True)
    status, out, err = flyweight("train", text_file, *QUICK, "--threads", 1)
    assert status == 0, err
    assert "over budget.time" in err
    assert "model.dim=N" in err and "times through the text" in err
    assert (tmp_path / "runs" / "train-story" / "report.html").is_file()
    assert "a sample: " in out and "flyweight generate train-story:model" in out
    status, _, err = flyweight("train", text_file, *QUICK, "--threads", 1)
    assert status == 0 and "kept from before" in err
    status, out, _ = flyweight("generate", "train-story:model", "Ann", "--max-new-tokens", 4)
    assert status == 0 and out.startswith("Ann")


def test_fresh_makes_a_finished_run_anew_and_keeps_its_packed_text(text_file, session):
    own_text.train(text_file, *QUICK, session=session)
    before = ids(session.store)
    (session.store.root / "train-story" / "mark").write_text("old")
    run = own_text.train(text_file, *QUICK, fresh=True, session=session)
    assert not (run.folder / "mark").exists()
    assert not any(stage.reused for stage in run.summary.stages)
    assert {name for name in ids(session.store) if name.startswith("corpus-")} <= before.keys()


def test_fresh_refuses_to_remove_what_another_run_needs(text_file, session):
    own_text.train(text_file, *QUICK, session=session)
    own_text.train(text_file, *QUICK, name="other", session=session)
    with pytest.raises(RequestError, match=r"--fresh: .* is part of other.* --name"):
        own_text.train(text_file, *QUICK, fresh=True, session=session)


def test_texts_of_one_name_have_runs_of_their_own(tmp_path, session):
    store = session.store
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "novel.txt").write_text("words")
    first, second = str(tmp_path / "a" / "novel.txt"), str(tmp_path / "b" / "novel.txt")
    assert own_text._name(store, first) == own_text._name(store, second) == "train-novel"
    own_text._remember(store, "train-novel", first)
    (store.root / "train-novel").mkdir()
    assert own_text._name(store, first) == "train-novel"
    other = own_text._name(store, second)
    assert other.startswith("train-novel-") and len(other) == len("train-novel-") + 4
    assert own_text._name(store, [first, second]) == f"train-{tmp_path.name}"[:46].rstrip("-.")


def test_a_list_of_runs_that_is_damaged_is_named(tmp_path, session):
    session.store.prepare()
    (session.store.root / own_text.TEXTS).write_text("[]")
    with pytest.raises(RequestError, match=r"texts\.json"):
        own_text._name(Store(session.store.root), "a.txt")


def test_words_are_texts_until_one_is_a_field(flyweight, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "flyweight.api.train", lambda data, *fields, **_: asked.append((data, fields)) or 1 / 0
    )
    (tmp_path / "a=b.txt").write_text("words")
    with pytest.raises(ZeroDivisionError):
        flyweight("train", tmp_path / "a=b.txt", "c.md", "budget.time=5s")
    assert asked == [([str(tmp_path / "a=b.txt"), "c.md"], ("budget.time=5s",))]
    status, _, err = flyweight("train", "budget.time=5s")
    assert status == 2 and "no text is named" in err


def test_a_plan_says_what_would_be_chosen_and_makes_nothing(flyweight, text_file, tmp_path):
    status, out, _ = flyweight("plan", text_file, "budget.time=1min", "--parameters", "100k")
    assert status == 0
    assert "model.dim=N" in out and "memory" in out
    assert not list((tmp_path / "runs").glob("*-????????"))
    answer = json.loads(flyweight("plan", text_file, "--json")[1])
    assert len(answer["chosen"]) >= 5 and answer["name"] == "train-story"


def test_several_files_are_one_corpus(tmp_path, session):
    for name in ("one.md", "two.md"):
        (tmp_path / name).write_text("a line of words to read\n" * 400)
    files = [tmp_path / "one.md", tmp_path / "two.md"]
    run = own_text.train(files, *QUICK, session=session)
    assert run.summary.corpus[0].name == f"{tmp_path / 'one.md'} and 1 more"
