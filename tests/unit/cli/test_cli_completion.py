"""What tab completion offers, as bash asks for it."""

import os
import subprocess
import sys

import pytest

from flyweight.cli import completion
from flyweight.config import catalogue
from flyweight.data.sources import SOURCES


@pytest.fixture
def runs(tmp_path):
    """A runs root with one finished run of a model and a corpus, and an unfinished one."""
    for name in ("pretrain-aaaaaaaa/model", "corpus-bbbbbbbb", "toy", "half"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "toy" / "teacher").symlink_to("../pretrain-aaaaaaaa")
    (tmp_path / "toy" / "text").symlink_to("../corpus-bbbbbbbb")
    (tmp_path / "toy" / "report.html").touch()
    return tmp_path


def offered(runs, *words: str) -> list[str]:
    """Return what completes the last of these words; bash makes a word of every colon."""
    line = ["flyweight", *words]
    asked = {
        "_FLYWEIGHT_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(line),
        "COMP_CWORD": str(len(line) - 1),
    }
    script = "import sys; sys.argv = ['flyweight']; from flyweight import cli; cli.main()"
    command = [
        sys.executable,
        "-c",
        f"{script.replace('cli.main()', '')}\ntry: cli.main()\nfinally: assert 'torch' not in "
        f"sys.modules",
    ]
    done = subprocess.run(
        command,
        env={**os.environ, **asked, "FLYWEIGHT_RUNS": str(runs)},
        capture_output=True,
        text=True,
    )
    assert not done.stderr, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("quanti",), ["quantize"]),
        (("run", "quick"), ["quickstart"]),
        (("study", "compact-ladder-s"), ["compact-ladder-small"]),
        (("bench", "gpt2-m"), ["gpt2-medium"]),
        (("eval", "to"), ["toy:teacher"]),
        (("eval", "toy", ":"), ["teacher"]),
        (("compare", "toy", ":", "teacher", "toy", ":", "te"), ["teacher"]),
        (("eval", "toy", ":", "teacher", "--data", "tiny"), ["tiny-shakespeare"]),
        (("eval", "toy", ":", "teacher", "--dat"), ["--data", "--data-dir"]),
        (("report", ""), ["toy"]),
    ],
)
def test_bash_is_offered(runs, words, expected):
    assert offered(runs, *words) == expected


def test_names_are_those_of_the_package():
    assert set(completion.CORPORA) == set(SOURCES)
    assert sorted(completion.KINDS["CONFIG"](None)) == catalogue.names()
