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
        (("run", "quickstart", "budget.t"), ["budget.time=6min"]),
        (("quickstart", "data.con"), ["data.context=512"]),
        (("quickstart", "data.context", "=", "12"), []),
        (("plan", "quickstart", "stages.int8.k"), ["stages.int8.kind=int8"]),
        (("train", "notes.txt", "train.schedule.w"), ["train.schedule.warmup=0.02"]),
        (("study", "compact-ladder-small", "train.b"), ["train.batch=16"]),
        (
            ("study", "compact-ladder-small", "models.rung-9r.fields.mlp"),
            ["models.rung-9r.fields.mlp.hidden=192"],
        ),
        (("run", "gone.yaml", "data"), []),
    ],
)
def test_bash_is_offered(runs, words, expected):
    assert offered(runs, *words) == expected


def test_fields_of_a_file_of_ones_own_are_offered(runs):
    """Values that a shell would split or change are not."""
    file = runs / "mine.yaml"
    file.write_text(
        'name: no\ntrain: {steps: 400}\n$(x): 1\nreport: {prompts: ["a b"], title: "x y"}\n'
    )
    assert offered(runs, "run", str(file), "") == ["name=no", "train.steps=400"]


@pytest.mark.parametrize(
    "text",
    ["a: [", "a: &a {b: *a}", "- 1", "!!python/object:os.system x: 1", "[" * 5000, "\0", "3"],
)
def test_a_file_that_is_not_a_recipe_offers_nothing(runs, text):
    (runs / "mine.yaml").write_text(text)
    assert offered(runs, "run", str(runs / "mine.yaml"), "") == []


def test_what_a_file_names_many_times_is_offered_up_to_a_limit(runs):
    lines = ["a0: &a0 {x: 1, y: 1}"]
    lines += [f"a{n}: &a{n} {{l: *a{n - 1}, r: *a{n - 1}}}" for n in range(1, 40)]
    (runs / "mine.yaml").write_text("\n".join(lines))
    assert len(offered(runs, "run", str(runs / "mine.yaml"), "")) <= completion.MOST_FIELDS


def test_names_are_those_of_the_package():
    assert set(completion.CORPORA) == set(SOURCES)
    assert sorted(completion.KINDS["CONFIG"](None)) == catalogue.names()
