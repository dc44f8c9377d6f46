import csv
import io
import json

import pytest
import report_fixture as made
from markdown_it import MarkdownIt
from rich.console import Console

from flyweight.reports.models import groups, ranked_models
from flyweight.reports.tables import run as tables
from flyweight.visible import visible


def group(**changes):
    return groups(ranked_models([made.quickstart(**changes)]))[0]


def drawn(width, **changes):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(tables.terminal(group(**changes), width))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_everything_fits_a_hundred_columns():
    text = drawn(100)
    assert max(map(len, text.splitlines())) <= 100
    for column in tables.table(group()).columns:
        assert column.title in text.splitlines()[0]
    assert "Not shown" not in text
    assert "1.497\N{EN DASH}1.525" in text and "\N{GREEK CAPITAL LETTER SIGMA} 212 T" in text


@pytest.mark.parametrize("width", [80, 60, 40, 20])
def test_a_narrow_terminal_drops_the_least_important_and_says_so(width):
    text = drawn(width)
    if width >= 40:
        assert max(map(len, text.splitlines())) <= width
    assert "bits/byte" in text.splitlines()[0]
    assert "1.511" in text
    flat = " ".join(text.split())
    assert (
        "Not shown at this width:" in flat and "time" in flat.split("Not shown at this width:")[1]
    )
    if width == 80:
        assert "audit" in text.splitlines()[0]


def test_names_are_never_cut():
    long = "a-name-that-is-much-longer-than-any-column-ought-to-be"
    text = drawn(100, models=(made.model(long),), comparisons=())
    rows = text[: text.index("unigram")].splitlines()[2:]
    assert "".join(row.split()[0] for row in rows if row.strip()).startswith(long)


def test_unsound_models_are_marked():
    text = drawn(
        100,
        models=(made.model("bad", 5.0, audit=made.audit(5.0, below_unigram_floor="no")),),
        comparisons=(),
    )
    assert "collapsed" in text and "1 fail" in text


def test_what_is_best_is_bold_with_what_cannot_be_told_from_it():
    best = tables.table(group()).best
    assert {label for label, key in best if key == "bits_per_byte"} == {"student-compute"}
    assert {label for label, key in best if key == "disk_bytes"} == {"nf4"}
    assert {label for label, key in best if key == "decode_tokens_per_s"} == {
        "student",
        "student-alone",
        "student-compute",
    }
    tied = tables.table(
        group(comparisons=(made.compare("student-compute", "int8", -0.001, 0.002),))
    ).best
    assert {label for label, key in tied if key == "bits_per_byte"} == {"student-compute", "int8"}


def test_unsound_models_are_never_best():
    models = (
        *made.quickstart_models(),
        made.model("leaky", 0.5, audit=made.audit(0.5, causality="no"), disk_bytes=10),
    )
    assert not any(label == "leaky" for label, _ in tables.table(group(models=models)).best)


def test_columns_without_anything_in_them_are_left_out():
    models = (made.model("a", bench=None, audit=None),)
    keys = [column.key for column in tables.table(group(models=models, comparisons=())).columns]
    assert "decode_tokens_per_s" not in keys and "audit" not in keys and "disk_bytes" in keys


def test_markdown_holds_the_same_cells():
    text = tables.markdown(group())
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 6 + 3
    assert len({line.count("|") for line in lines}) == 1
    assert "| int8 | 1.514 (1.500\N{EN DASH}1.528) | 36.2 | 1.33 M | 1.7 MB |" in text
    assert "**1.511** (1.497\N{EN DASH}1.525)" in text
    assert "| bigram | 2.244 | 204 |" in text


@pytest.mark.parametrize(
    "name",
    ["a|b", "<script>alert(1)</script>", "![x](http://x)", "**a** `b`", "a_b _c_ d__e", "a\nb"],
)
def test_markdown_is_not_broken_by_a_name(name):
    written = tables.markdown(group(models=(made.model(name),), comparisons=()))
    tokens = MarkdownIt("commonmark").enable("table").parse(written)
    cell = next(
        token
        for token, _ in zip(tokens, range(1000), strict=False)
        if token.content and token.map == [2, 3]
    )
    assert {child.type for child in cell.children or ()} <= {"text", "text_special"}
    assert "".join(child.content for child in cell.children or ()) == visible(name).replace(
        "\n", "\\n"
    )


def test_csv_is_long_and_complete():
    rows = list(csv.DictReader(io.StringIO(tables.long_csv([group()]))))
    cells = {(row["row"], row["metric"]): row for row in rows}
    one = cells["nf4", "decode_tokens_per_s"]
    assert (one["value"], one["unit"], one["better"], one["kind"], one["standing"]) == (
        "171",
        "tokens/s",
        "higher",
        "model",
        "ok",
    )
    assert (one["run"], one["seed"], one["processor"], one["torch"]) == (
        "quickstart",
        "0",
        "AMD EPYC 7B13",
        "2.13.0+cpu",
    )
    assert float(cells["nf4", "training_flops"]["value"]) == 0
    assert float(cells["nf4", "training_total_flops"]["value"]) == 2.12e14
    assert cells["kn5", "perplexity"]["kind"] == "floor"
    assert {"nll", "word_perplexity", "prefill_tokens_per_s", "weight_bytes"} <= {
        row["metric"] for row in rows
    }
    low, value, high = (
        float(cells["teacher", "bits_per_byte"][key]) for key in ("low", "value", "high")
    )
    assert low < value < high


def test_the_legend_explains_a_sigma_only_where_one_stands():
    sigma = "\N{GREEK CAPITAL LETTER SIGMA}"
    plain = group(models=(made.model("alone"), made.model("other", 1.7)), comparisons=())
    assert sigma not in tables.markdown(plain)
    assert sigma in tables.markdown(group())
    narrow = drawn(60)
    assert "FLOPs" not in narrow.splitlines()[0] and sigma not in narrow


def test_the_legend_is_plain_text():
    json.dumps(tables.LEGEND)
