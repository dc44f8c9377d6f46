import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import report_fixture as made

from flyweight import api
from flyweight.api.session import Session
from flyweight.errors import RequestError
from flyweight.records.sample import Continuation
from flyweight.reports import report
from flyweight.reports.findings import run as words
from flyweight.reports.models import ranked_models
from flyweight.reports.pages import run as page
from flyweight.visible import visible

VOID = {"meta", "link", "br", "input"}


class Checker(HTMLParser):
    """Collects a page's text and what it refers to, and complains where tags do not nest."""

    def __init__(self, html):
        super().__init__()
        self.open, self.text, self.references, self.ids = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                self.references.append(value)
            if name == "id":
                self.ids.append(value)
            assert not name.startswith("on")

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)


@pytest.fixture(scope="module")
def html():
    return page.render([made.quickstart()])


def test_the_page_is_well_formed_and_refers_to_nothing_outside(html):
    checker = Checker(html)
    assert len(checker.ids) == len(set(checker.ids))
    for reference in checker.references:
        assert reference == "data:," or (
            reference.startswith("#") and reference[1:] in checker.ids
        ), reference
    assert not re.search(r"https?://|@import|url\((?!#)|<script", html)
    assert "default-src 'none'" in html


def test_the_headline_comes_first_and_every_part_is_there(html):
    text = " ".join(" ".join(Checker(html).text).split())
    advice = text.index("Take int8 : 1.7 MB, 1.514 bits/byte, 402 tokens/s")
    paid, found = (
        text.index("What paid and what did not"),
        text.index("Distillation did not pay here"),
    )
    assert advice < text.index("The models") < text.index("Quality against") < paid < found
    for part in (
        "Quality, and what it costs",
        "How they learned",
        "What they write",
        "The audit",
        "The text",
        "The run",
        "9.3 % of the test lines",
        "planned 4 min 44 s",
        "flyweight quickstart",
        "flyweight generate quickstart:student-compute 'def '",
        "AMD EPYC 7B13",
        "torch 2.13.0+cpu",
        "quantized weights cannot be initialised again",
    ):
        assert part in text, part


def test_the_verdict_box_has_intervals_links_and_commands(html):
    text = " ".join(" ".join(Checker(html).text).split()).replace("\N{NO-BREAK SPACE}", " ")
    dash = "\N{EN DASH}"
    assert (
        f"best, fastest student-compute 5.64 MB 1.511 bits/byte 1.497{dash}1.525 "
        f"690 tokens/s 662{dash}718 flyweight generate quickstart:student-compute 'def '"
    ) in text.replace("● ", "")
    for anchor, label in re.findall(r'<a href="#(g0-models-row-\d+)">.*?</span>([^<]+)</a>', html):
        row = html[html.index(f'<tr id="{anchor}"') :]
        assert label in row[: row.index("</th>")]
    assert len(re.findall(r'<a href="#g0-models-row-', html)) == 2


def test_every_column_is_explained_on_hover_to_the_keyboard_and_in_the_legend(html):
    heads = re.findall(
        r'<th scope="col"><span class="term" tabindex="0" title="([^"]+)">([^<]+)</span></th>', html
    )
    assert len(heads) == 10
    glossary = html[html.index('<details class="glossary">') :]
    for about, title in heads:
        assert f"<dt>{title}</dt><dd>{about}</dd>" in glossary
    assert ".term:focus-visible::after { content: attr(title)" in html


def test_everything_from_outside_is_escaped_and_made_visible():
    evil = "<script>alert(1)</script>&amp;\x00\x1b[2J\u202egpj.exe"
    models = made.quickstart_models()
    models[0] = models[0].model_copy(
        update={
            "samples": (Continuation(prompt=evil, text=evil),),
            "role": evil,
            "config_line": evil,
        }
    )
    audit = made.audit(1.9, causality=evil)
    models.append(made.model(evil, audit=audit))
    html = page.render(
        [made.quickstart(models=tuple(models), command=evil, corpus=(made.corpus(name=evil),))]
    )
    assert "<script" not in html
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", html)
    shown = "<script>alert(1)</script>&amp;\\x00\\x1b[2J\\u202egpj.exe"
    assert "".join(Checker(html).text).count(shown) >= 6


def test_what_is_visible_stays():
    text = 'def f():\n\treturn "\u00e9\u4e2d \U0001f469\u200d\U0001f4bb"'
    assert visible(text) == text
    assert (
        visible("a\r\nb\rc\x7f\x85\u2066\ufeff\ufffe")
        == "a\nb\\x0dc\\x7f\\x85\\u2066\\ufeff\\ufffe"
    )


def test_missing_parts_leave_no_holes():
    bare = made.model(
        "only",
        evaluate=None,
        bench=None,
        audit=None,
        training=None,
        curve=None,
        samples=(),
        disk_bytes=None,
    )
    html = page.render(
        [made.quickstart(models=(bare,), comparisons=(), budget=(), stages=(), corpus=())]
    )
    text = " ".join(Checker(html).text)
    assert "Nothing was measured in this run." in text
    for absent in (
        "Quality, and what it costs",
        "How they learned",
        "What they write",
        "The audit",
        "Budget",
    ):
        assert absent not in text
    assert 'href="#costs"' not in html


def test_write_leaves_three_files(tmp_path):
    folder = made.write(tmp_path)
    assert page.write(folder) == folder / "report.html"
    assert sorted(each.name for each in folder.iterdir()) == [
        "report.html",
        "summary.json",
        "table.csv",
        "table.md",
    ]
    before = (folder / "report.html").read_text()
    page.write(folder)
    assert (folder / "report.html").read_text() == before, "the same run gives another page"


def test_several_runs_on_one_page(tmp_path):
    folders = [made.write(tmp_path), made.write(tmp_path, name="second", seed=1)]
    out = page.write_many([*folders, folders[0]], tmp_path / "both")
    checker = Checker(out.read_text())
    text = " ".join(" ".join(checker.text).split())
    assert text.count("Take int8: 1.7 MB") == 2, "which to take of each run"
    assert "2 runs" in text and "second:nf4" in text and "quickstart:nf4" in text
    assert len(checker.ids) == len(set(checker.ids))
    assert (tmp_path / "both" / "table.csv").read_text().count("second,1,") > 50


def test_requests_that_cannot_be_done(tmp_path):
    with pytest.raises(RequestError, match="at least one run"):
        page.write_many([], tmp_path)
    with pytest.raises(RequestError, match="not a finished run"):
        page.write_many([tmp_path / "nowhere"], tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="is a file"):
        page.write_many([made.write(tmp_path)], tmp_path / "file")


def test_a_single_run_is_reported_where_one_wants(tmp_path):
    run, session = made.write(tmp_path / "runs"), Session(runs=tmp_path / "runs")
    assert api.report(run, out=tmp_path / "page.html", session=session) == tmp_path / "page.html"
    assert "<html" in (tmp_path / "page.html").read_text()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["page.html", "runs"]
    assert (
        api.report(run, out=tmp_path / "folder", session=session)
        == tmp_path / "folder" / "report.html"
    )
    (tmp_path / "old.html").mkdir()
    with pytest.raises(RequestError, match="is a folder"):
        api.report(run, out=tmp_path / "old.html", session=session)


def test_several_runs_have_a_folder_and_studies_none_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [made.write(tmp_path / "runs"), made.write(tmp_path / "runs", name="other")]
    session = Session(runs=tmp_path / "runs")
    assert (
        api.report("quickstart", "other", session=session).resolve()
        == tmp_path / "report" / "report.html"
    )
    (tmp_path / "runs" / "grid").mkdir()
    (tmp_path / "runs" / "grid" / "study.json").write_text("{}")
    with pytest.raises(RequestError, match=r"grid: a study has a page of its own"):
        api.report(runs[0], "grid", session=session)


def test_a_run_is_found_by_its_name_whatever_it_ends_in_and_whatever_lies_around(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    session = Session(runs=tmp_path / "runs")
    for name in ("x.html", "table.htm"):
        folder = made.write(tmp_path / "runs", name=name)
        (tmp_path / name).mkdir()
        assert api.report(name, session=session) == folder / "report.html"
        assert (folder / "table.csv").is_file()
        assert not any((tmp_path / name).iterdir())
        with pytest.raises(RequestError, match="not a finished run"):
            api.report(f"./{name}", session=session)


def test_importing_the_report_is_quick():
    code = (
        "import sys, flyweight.reports.pages.run; print([m for m in ('torch', 'matplotlib', "
        "'jinja2', 'rich') if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_a_page_sorts_its_models_once(monkeypatch):
    calls = []

    def counted(summaries):
        calls.append(len(summaries))
        return ranked_models(summaries)

    monkeypatch.setattr(report, "ranked_models", counted)
    monkeypatch.setattr(words, "ranked_models", counted)
    page.render([made.quickstart()])
    assert calls == [1]


def test_the_best_three_write_openly_and_the_rest_is_folded(html):
    opened, folded = html[html.index('id="samples"') : html.index('id="audit"')].split(
        "<details>", 1
    )
    for label in ("student-compute", "int8", "nf4"):
        assert f"</span>{label}</h4>" in opened
    for label in ("teacher", "student", "student-alone"):
        assert f"</span>{label}</h4>" not in opened and f"</span>{label}</h4>" in folded
    assert "The same by 3 more models" in folded


def test_learning_is_one_figure_with_a_switch_and_columns_are_explained(html):
    assert html.count('type="radio"') == 2 and html.count(" checked>") == 1
    assert "Against training compute" in html and "Against training time" in html
    text = " ".join(" ".join(Checker(html).text).split())
    assert "What the columns mean" in text and "perplexity per token, lower is better" in text


def test_documents_that_were_left_out_stand_on_the_page():
    left_out = ("notes/bad.md: not UTF-8 at byte 7", "notes/\x1b[31m.md: empty")
    text = " ".join(
        page.render([made.quickstart(corpus=(made.corpus(skipped=5, left_out=left_out),))]).split()
    )
    assert (
        "5 documents were left out:" in text
        and "<li>notes/bad.md: not UTF-8 at byte 7</li>" in text
    )
    assert "and 3 more" in text and "\x1b" not in text
    one = " ".join(
        page.render(
            [made.quickstart(corpus=(made.corpus(skipped=1, left_out=left_out[:1]),))]
        ).split()
    )
    assert "1 document was left out:" in one and "more</li>" not in one


def test_what_stands_in_the_training_text_is_told_in_its_own_unit():
    def said(**changes):
        return " ".join(page.render([made.quickstart(corpus=(made.corpus(**changes),))]).split())

    assert (
        "8.1 % of the validation lines and 9.3 % of the test lines also occur in the training text."
        in said()
    )
    pieces = said(overlap_unit="pieces", overlap={"test": 0.5})
    assert (
        "50 % of the test text also occurs in the training text, in pieces of 50 characters."
        in pieces
    )
