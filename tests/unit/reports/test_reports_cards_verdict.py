from types import SimpleNamespace

import report_fixture as made

from flyweight.cli.show import results
from flyweight.reports.cards import card, verdict
from flyweight.reports.pages import run as page

DASH = "\N{EN DASH}"


def test_every_card_has_the_verdict_of_its_run_and_what_its_model_is_in_it():
    sections = verdict.sections(made.quickstart())
    assert set(sections) == {each.name for each in made.quickstart_models()}
    text = "\n".join(sections["int8"])
    assert text.startswith("## Verdict of `quickstart`\n\nTake `int8`: 1.7 MB, 1.514 bits/byte")
    assert (
        f"- best, fastest: `student-compute`, 5.64 MB, 1.511 bits/byte (1.497{DASH}1.525)" in text
    )
    assert (
        "- Not significantly slower than `student-compute`: `student` and `student-alone`" in text
    )
    assert "This card's model: smallest within 1\N{NO-BREAK SPACE}%." in text
    assert "This card's model is not one of those to take." in sections["teacher"]
    assert "This card's model: best, fastest." in sections["student-compute"]


def test_cards_pages_and_terminals_say_the_same(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    summary = made.quickstart()
    card_text = "\n".join(verdict.sections(summary)["teacher"]).replace("`", "")
    results.run(SimpleNamespace(summary=summary, report="r"))
    terminal, html = capsys.readouterr().out, page.render([summary])
    for figure in (
        "1.7 MB",
        "1.514 bits/byte",
        "402 tokens/s",
        f"1.500{DASH}1.528",
        "best, fastest",
    ):
        plain = html.replace("\N{NO-BREAK SPACE}", " ")
        assert figure in card_text and figure in terminal and figure in plain


def test_names_cannot_format_the_verdict():
    models = (made.model("a*b*|<i>"), made.model("c", 1.8))
    lines = verdict.sections(made.quickstart(models=models, comparisons=()))["c"]
    assert "<i>" not in "\n".join(lines).replace("`a*b*|<i>`", "")


def test_what_was_not_measured_has_no_verdict():
    bare = made.model("only", evaluate=None)
    assert verdict.sections(made.quickstart(models=(bare,), comparisons=())) == {}


def test_cards_beside_a_run_have_the_verdict(tmp_path, monkeypatch):
    folder = made.write(tmp_path)
    (tmp_path / "artifact" / "model").mkdir(parents=True)
    artifact = SimpleNamespace(path=tmp_path / "artifact")
    monkeypatch.setattr(card.Artifact, "open", lambda path: artifact)
    monkeypatch.setattr(card, "full", lambda *_, verdict_lines, **__: "\n".join(verdict_lines))
    card.write_beside(folder, folder.name, SimpleNamespace(root=tmp_path, entries=list))
    assert "This card's model: smallest within" in (folder / "card-int8.md").read_text()
    assert len(list(folder.glob("card-*.md"))) == 6
