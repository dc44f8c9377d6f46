"""Escapes, against an independent reader of CommonMark and tables."""

import pytest
import yaml
from markdown_it import MarkdownIt

from flyweight.tables.markdown import block, code, front_matter, table, text

NASTY = [
    "plain words",
    "a|b",
    "back`tick`",
    "``",
    "`|`",
    r"a\|b",
    "<script>alert(1)</script>",
    "[link](http://x)",
    "![image](x.png)",
    "*bold* _it_ **b** ~~s~~",
    "&amp; &#35;",
    "# not a head",
    "trailing \\",
    " lead and trail ",
    "https://www.example.org/x_y",
    "$x$ @name ^a",
    "---",
]


def read(lines):
    return MarkdownIt("commonmark").enable("table").parse("\n".join(lines))


def shown(token):
    """Return what a reader sees of a paragraph or cell, and the kinds of its parts."""
    parts = []
    for child in token.children:
        parts.append(child.content)
    return "".join(parts), {child.type for child in token.children}


@pytest.mark.parametrize("nasty", NASTY)
def test_text_and_code_are_seen_as_they_stand_in_a_sentence_and_in_a_cell(nasty):
    for written in (text(nasty), code(nasty)):
        cells = [t for t in read(table(("a", "b"), [(written, "end")])) if t.type == "inline"]
        assert len(cells) == 4, "a cell was split"
        for token in (cells[2], read([f"So {written}."])[1]):
            seen, kinds = shown(token)
            seen = seen.replace("<code>", "").replace("</code>", "")
            assert nasty.strip() in seen
            assert kinds <= {"text", "code_inline", "html_inline", "text_special"}
            tags = [child.content for child in token.children if child.type == "html_inline"]
            assert set(tags) <= {"<code>", "</code>"}


def test_a_name_of_ours_is_written_as_it_is():
    assert text("weight_decay=0.1 a_b_c") == "weight_decay=0.1 a_b_c"
    assert text("_a_ b__c") == "&#95;a&#95; b&#95;&#95;c"


def test_line_ends_and_what_is_invisible_do_not_leave_the_line():
    for written in (text("a\nb\t\x1b\u202e"), code("a\nb\t\x1b\u202e")):
        assert "\n" not in written and "\x1b" not in written and "\u202e" not in written
        assert "b" in written


@pytest.mark.parametrize("inside", ["x", "```\nout\n```", "````", "~~~", "a\n\n# b", ""])
def test_a_block_ends_where_it_should(inside):
    tokens = read([*block(inside, "sh"), "", "after"])
    assert [t.type for t in tokens] == ["fence", "paragraph_open", "inline", "paragraph_close"]
    assert tokens[0].content.rstrip("\n") == inside.rstrip("\n")


def test_front_matter_is_yaml_with_its_remarks():
    lines = front_matter({"tags": ["a: b", "- c"], "datasets": ["x/y"]}, "license: yours")
    assert lines[0] == lines[-2] == "---"
    assert yaml.safe_load("\n".join(lines[1:-2])) == {"tags": ["a: b", "- c"], "datasets": ["x/y"]}
