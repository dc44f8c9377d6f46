"""Answers about runs and runs roots in a terminal."""

from types import SimpleNamespace

import pytest
import report_fixture as made
import study_fixture
from rich.console import Console

from flyweight.cli.show import results
from flyweight.cli.show.console import prose
from flyweight.records.audit import AuditResult


def printed(capsys, **changes):
    summary = made.quickstart(**changes)
    results.run(SimpleNamespace(summary=summary, report="runs/quickstart/report.html"))
    return capsys.readouterr().out


def test_which_model_to_take_comes_first(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    lines = [line for line in printed(capsys).splitlines() if line.strip()]
    assert lines[0] == "Take int8: 1.7 MB, 1.514 bits/byte, 402 tokens/s"
    assert lines[1].split() == [
        "best,",
        "fastest",
        "student-compute",
        "5.64",
        "MB",
        "1.511",
        "bits/byte",
        "690",
        "tokens/s",
    ]
    assert lines[2].split() == ["1.497\N{EN DASH}1.525", "662\N{EN DASH}718"]
    assert lines[3].startswith("smallest within 1\N{NO-BREAK SPACE}%  int8")
    assert lines[5:7] == [
        "  flyweight generate quickstart:student-compute 'def '",
        "  flyweight generate quickstart:int8 'def '",
    ]
    text = " ".join(" ".join(lines).split())
    assert "5-gram (Kneser-Ney)" in text and "kn5" not in text
    assert (
        "tok/s: tokens generated per second" in text and "A floor is what counting reaches" in text
    )
    assert lines[-1] == "report: runs/quickstart/report.html"


def test_a_run_without_a_sound_model_says_what_to_do(capsys):
    text = " ".join(printed(capsys, models=(made.model("a", 3.1),), comparisons=()).split())
    assert text.startswith("No model here has learned enough yet: train longer.")
    assert "Raise train.steps" in text and "Nothing here can be ranked" not in text


def test_a_study_begins_with_its_verdict_and_fits_eighty_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    values = {"a": [1.0, 1.1, 1.2], "b": [2.0, 2.1, 2.2]}
    summary = study_fixture.summary([study_fixture.cell(*item) for item in values.items()])
    results.study(SimpleNamespace(summary=summary, report="runs/grid/report.html"))
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line) == "1 claim: 1 confirmed."
    assert "best  a, b  1.100 nats/token" in lines[2] and "confirmed a below b" in lines
    assert max(len(line) for line in lines) <= 80
    text = " ".join(" ".join(lines).split())
    assert "5-gram (Kneser-Ney)" in text and "Not shown at this width:" in text


def test_a_terminal_breaks_sentences_between_words(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(Console, "is_terminal", True)
    prose("word " * 40)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and {word for line in lines for word in line.split()} == {"word"}


def item(number):
    return {
        "id": f"pretrain-{number:08x}",
        "state": "finished",
        "created": "2026-01-02T03:04:05",
        "seconds": 1.0,
        "bytes": 1000,
        "used_by": [],
        "damaged": None,
    }


@pytest.mark.parametrize(
    ("terminal", "everything", "cut"),
    [(True, False, True), (True, True, False), (False, False, False)],
)
def test_long_lists_are_cut_in_a_terminal_alone(terminal, everything, cut, monkeypatch, capsys):
    monkeypatch.setattr(Console, "is_terminal", terminal)
    results.listing(
        {"items": [item(number) for number in range(50)], "recipes": [], "bytes": 50_000},
        everything,
    )
    out = capsys.readouterr().out
    assert "pretrain-00000031" in out, "the newest"
    assert ("pretrain-00000000" in out) != cut
    assert ("20 older ones not shown" in out) == cut
    assert "50 artifacts" in out


def test_models_without_any_say_how_to_get_some(capsys):
    results.models([], everything=False)
    assert "flyweight quickstart" in capsys.readouterr().out


def test_a_check_whose_figure_is_infinite_is_shown(capsys):
    check = {
        "name": "save_load",
        "verdict": "fail",
        "measured": "Infinity",
        "bound": 0.0,
        "why": "it comes back changed",
    }
    checks = [check, {**check, "measured": None, "bound": None}]
    results.checks(AuditResult.from_metrics({"checks": checks, "passed": False}))
    assert "save_load fail infinite 0 it comes back changed" in " ".join(
        capsys.readouterr().out.split()
    )


def test_zeros_have_a_column_where_a_model_was_pruned(capsys):
    plain = {"name": "r:a", "id": "a", "stage": "pretrain", "bytes": 10, "created": "x"}
    plain |= {"sparsity": None, "bits_per_byte": None, "split": None, "corpus": None}
    results.models([plain], everything=True)
    assert "zeros" not in capsys.readouterr().out
    results.models([plain, {**plain, "name": "r:b", "sparsity": 0.995}], everything=True)
    out = capsys.readouterr().out
    assert "zeros" in out and "99.5 %" in out
