from __future__ import annotations

import time

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


@pytest.mark.parametrize(
    "page, shown",
    [
        ("a<!-->b<!--->c<!-- > -- x --!>d<!-- <p> -->e", "abcde"),
        (
            "a<? x ?>b<!x>c<!doctype html>d<![CDATA[ > ]]>e<![if x]>f<![endif]>g<![none of these[h",
            "abcdefg",
        ),
        ("a</>b</ x>c<>d< e<1 &lt;i>", "abc<>d< e<1 <i>"),
        ('a<br/>b<br / >c<hr class=x/>d<i a = \'>\' b=">" c=>e<i =">f', "a\nb\nc\n\ndef"),
        ("<script>a</scripty></script >b<SCRIPT>if (a</b)</SCRIPT>c<style>x<!--</style>d", "bcd"),
        ("a<script/>b", "ab"),
        (
            "&notit; &amp;amp; &#65;&#x42;&#00000000067; &#x0000000044; & &; &#; &#x;",
            "¬it; &amp; ABC D & &; &#; &#x;",
        ),
        ("&#99999999999;&#xfffffffffff;&#55296;|", "\ufffd\ufffd\ufffd|"),
        ("a <" + "b" * 1000 + ">c", "a c"),
        ("a<!-- never closed <p>b</p>", "a"),
        ("a<b title='never closed>b", "a"),
        ("a<script>b", "a"),
        ("a<", "a<"),
        ("a&am", "a&am"),
    ],
)
def test_pages_are_taken_apart_as_browsers_do(page: str, shown: str):
    for size in (1, 2, 3, 7, 100_000):
        blocks = [page[at : at + size] for at in range(0, len(page), size)]
        assert "".join(html_text(blocks)) == shown + "\n", size


@pytest.mark.parametrize(
    "part",
    [
        *(
            "<!--",
            "<!-",
            "<!",
            "<![",
            "<![CDATA[",
            "<![if",
            "<?",
            "</",
            "</a",
            "<a",
            "<a'",
            "<a b=",
            "<a b='",
            '<a b="',
        ),
        *("<script>", "<script> </script", "&", "&#", "&#x", "<", "&a;", "&#9"),
    ],
)
def test_what_is_never_closed_takes_no_longer(part: str):
    page = part * (200_000 // len(part))
    began = time.process_time()
    for _ in html_text(page[at : at + 4096] for at in range(0, len(page), 4096)):
        pass
    assert time.process_time() - began < 10


def test_numbers_of_thousands_of_digits_are_no_characters():
    page = "&#" + "9" * 9000 + ";|&#x" + "0" * 9000 + "41;|&#" + "0" * 9000
    assert "".join(html_text([page])) == "\ufffd|A|\ufffd\n"
