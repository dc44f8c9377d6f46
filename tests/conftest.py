"""Fixtures that several test folders share: a small text, a toy recipe over it, and the command line run in this process."""

import json
import os
import random
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a made-up name must not be looked up anywhere

import pytest
import yaml
from elsewhere_fixture import elsewhere as elsewhere
from known_machine import RATES
from toy_recipe import toy


@pytest.fixture(autouse=True)
def own_environment():
    """Let what the command line puts into the environment of its process end with each test."""
    before = os.environ.get("PYTHONSAFEPATH")
    yield
    if before is None:
        os.environ.pop("PYTHONSAFEPATH", None)


@pytest.fixture(autouse=True)
def known_rates(monkeypatch):
    """Let every runs root find the same rates of this machine at once, whatever else it is doing."""
    from flyweight.planning import rate

    monkeypatch.setattr(rate, "measured", lambda runtime, precision: RATES)


@pytest.fixture(scope="session", autouse=True)
def known_precision():
    """Let `precision: auto` choose float32 below width 128, whatever else the machine is doing."""
    from flyweight.core import bfloat16

    known = bfloat16.Speedups(tuple(zip(bfloat16.WIDTHS, (0.9, 1.3, 1.5), strict=True)))

    def known_speedups(threads):
        return known

    known_speedups.__wrapped__ = bfloat16._measure.__wrapped__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bfloat16, "_measure", known_speedups)
        yield


@pytest.fixture(scope="session")
def real_data():
    """The folder with the standard corpora's files.

    Tests that need it are skipped where it is not there.
    """
    here = Path(os.environ.get("FLYWEIGHT_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (here / "ptb" / "ptb.train.txt").exists():
        pytest.skip("no local copies of the standard corpora")
    return here


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    """A text of some 30 kB that a toy model can learn."""
    path = tmp_path_factory.mktemp("text") / "story.txt"
    draw = random.Random(0)
    names, verbs, things = (
        ["Ann", "Bob", "the king"],
        ["sees", "takes", "wants"],
        ["a model", "the budget", "one small word"],
    )
    lines = [
        f"{draw.choice(names)} {draw.choice(verbs)} {draw.choice(things)}." for _ in range(1200)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def toy_recipe(text_file, tmp_path):
    """The toy recipe as a file."""
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(toy(text_file), sort_keys=False))
    return path


@pytest.fixture
def flyweight(monkeypatch, capsys, tmp_path):
    """Run the command line in this process: flyweight("run", ...) -> (status, standard output, standard error)."""
    monkeypatch.setenv("FLYWEIGHT_RUNS", str(tmp_path / "runs"))

    def call(*words):
        from flyweight import cli

        monkeypatch.setattr(sys, "argv", ["flyweight", *map(str, words)])
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture
def answer(flyweight):
    """Run a verb with --json and return its object; fail where it fails."""

    def call(*words):
        status, out, err = flyweight(*words, "--json")
        assert status == 0, err
        return json.loads(out)

    return call
