import report_fixture as made
import study_fixture

from flyweight.reports.tables import html


def test_a_notebook_shows_the_verdict_then_the_table():
    text = html.of_run(made.quickstart())
    assert text.startswith("<p><b>Take int8: 1.7 MB, 1.514 bits/byte, 402 tokens/s</b></p><table>")
    assert "<b>1.511</b>" in text and "tok/s: tokens generated per second" in text


def test_a_study_shows_its_verdict_its_claims_and_its_tables():
    cells = [study_fixture.cell("a", [1.0, 1.1, 1.2]), study_fixture.cell("b<i>", [2.0, 2.1, 2.2])]
    text = html.of_study(study_fixture.summary(cells))
    assert text.startswith("<p><b>1 claim: 1 confirmed.</b></p><p>confirmed: a below b</p><table>")
    assert "<b>1.100</b>" in text and "b&lt;i&gt;" in text and "<i>" not in text


def test_names_are_made_visible_and_escaped():
    models = (made.model("<b>x\x1b"), made.model("y", 1.7))
    text = html.of_run(made.quickstart(models=models, comparisons=()))
    assert "\x1b" not in text and "&lt;b&gt;x\\x1b" in text
