from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from flyweight.data.html_text import html_text

PAGE = """<!doctype html>
<html><head><title>Not shown</title><style>p { color: red }</style></head>
<body><h1>A &amp; B</h1>
<p>One <b>bold</b>,
   two.<p>Three<br>four<!-- a note --> five
<script>if (a < b) { x("</p>") }</script>
<ul><li>first<li> second </ul>
<table><tr><td>1</td><td>2</td></tr><tr><td>3</td></tr></table>
<pre>  kept
    as it is</pre> end &lt;tag&gt; caf&eacute;</body></html>
"""
SHOWN = """A & B

One bold, two.

Three
four five

first
second

1 2
3

  kept
    as it is

end <tag> café
"""


def test_a_page_is_read_as_a_reader_sees_it():
    assert "".join(html_text([PAGE])) == SHOWN


@given(st.integers(1, 40))
def test_it_does_not_depend_on_the_blocks(size: int):
    blocks = [PAGE[at : at + size] for at in range(0, len(PAGE), size)]
    assert "".join(html_text(blocks)) == SHOWN


@pytest.mark.parametrize("page", ["", "<html></html>", "<script>x</script>", "<!-- -->"])
def test_a_page_without_text_is_empty(page: str):
    assert "".join(html_text([page])) == ""
