from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from flyweight.data import rows as rows_module
from flyweight.data.file_kinds import kind_of
from flyweight.data.rows import choose_column, read_rows
from flyweight.errors import RequestError


def rows(path: Path, content: str | bytes, column: str | None = None) -> list[str | None]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_rows(path, kind_of(path), column))


def json_lines(*objects: Any) -> str:
    return "".join(json.dumps(each) + "\n" for each in objects)


def test_json_lines(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    lines = json_lines({"text": "one\nline"}, {"text": None}, {"id": 1}, {"text": "ä\u2028b"})
    assert rows(path, lines) == ["one\nline", None, None, "ä\u2028b"]
    assert rows(path, "\ufeff" + lines.replace("\n", "\r\n") + "\r\n") == [
        "one\nline",
        None,
        None,
        "ä\u2028b",
    ]
    assert rows(path, json_lines({"id": 1, "body": "b", "title": "t"}), "body") == ["b"]
    assert rows(path, json_lines({"id": 1, "body": "b"})) == ["b"], "the only column of text"
    assert rows(path, json_lines("a", "b")) == ["a", "b"], "a line may be the text itself"
    assert rows(path, json_lines({"text": "last"}).rstrip("\n")) == ["last"]


@pytest.mark.parametrize(
    "content, column, message",
    [
        ('{"text": "a"}\n{"text": \n', None, r"a\.jsonl, line 2 is not JSON \(.*jq -c"),
        (
            json_lines({"text": ["a"]}),
            None,
            r"which column.*text \(a list\): none of them is text.*data\.column=NAME",
        ),
        (
            json_lines({"text": "a"}, {"text": 5}) * 200,
            "text",
            r"'text' is not text; the columns are text \(a number\)",
        ),
        (
            json_lines(*[{"text": "a"}] * 100, {"text": 5}),
            None,
            r"line 101: 'text' is a number, not text",
        ),
        (
            json_lines({"title": "a", "n": 5}),
            "body",
            r"no column 'body', only title, n \(a number\)",
        ),
        (
            json_lines({"a": "x", "b": "y"}),
            None,
            r"It has a, b: several are text and none is called `text`",
        ),
        ('{"text": "\\ud800"}\n', None, "line 1: 'text' holds half a surrogate pair"),
        ("[" * 100_000 + "\n", None, "line 1 is not JSON"),
    ],
)
def test_json_lines_that_cannot_be_read(
    tmp_path: Path, content: str, column: str | None, message: str
):
    with pytest.raises(RequestError, match=message):
        rows(tmp_path / "a.jsonl", content, column)


def test_tables(tmp_path: Path):
    table = 'id,text\n1,"one, ""two""\nthree"\n2,four\n\n3\n'
    assert rows(tmp_path / "a.csv", table) == ['one, "two"\nthree', "four", None]
    assert rows(tmp_path / "a.csv", "\ufeff" + table.replace("\n", "\r\n")) == [
        'one, "two"\nthree',
        "four",
        None,
    ]
    assert rows(tmp_path / "a.csv", "id;body\n1;a, b\n", "body") == ["a, b"]
    assert rows(tmp_path / "a.tsv", "id\ttext\n1\ta, b\n") == ["a, b"]
    assert rows(tmp_path / "a.csv", "Quote\nTo be\nor not\n") == ["To be", "or not"], (
        "one column needs no name"
    )
    assert rows(tmp_path / "a.csv.gz", gzip.compress(table.encode()))[1] == "four"
    long = "x" * 300_000
    assert rows(tmp_path / "a.csv", f"text\n{long}\n") == [long]


@pytest.mark.parametrize(
    "content, message",
    [
        (
            "id,text\n1,a,b\n",
            r"a\.csv, line 2: 3 fields under 2 columns; put fields that hold commas in double "
            r"quotes",
        ),
        (
            "id,body,title\n1,a,b\n",
            r"It has id, body, title: several are text and none is called `text`",
        ),
        ('text\n"never closed\nand on\n', r"a\.csv, line 3: unexpected end of data"),
        ('text\n"a"b\n', r"a\.csv, line 2: "),
        (b"text\n\xe4\n", r"a\.csv is not UTF-8: byte 5"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, content: str | bytes, message: str):
    with pytest.raises(RequestError, match=message):
        rows(tmp_path / "a.csv", content)


def test_parquet(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    texts = [*(f"row {number}" for number in range(1000)), None]
    table = pyarrow.table({"id": list(range(1001)), "text": texts, "label": ["a"] * 1001})
    parquet.write_table(table, path, row_group_size=100)
    assert list(read_rows(path, kind_of(path), None)) == texts
    dictionary = pyarrow.table({"body": pyarrow.array(["a", "b", "a"]).dictionary_encode()})
    parquet.write_table(dictionary, path)
    assert list(read_rows(path, kind_of(path), "body")) == ["a", "b", "a"]
    with pytest.raises(RequestError, match=r"has no column 'text', only body"):
        list(read_rows(path, kind_of(path), "text"))
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(RequestError, match=r"a\.parquet is damaged or not Parquet"):
        list(read_rows(path, kind_of(path), "body"))


def test_a_packed_file_cut_off_is_refused(tmp_path: Path):
    path = tmp_path / "a.jsonl.gz"
    raw = gzip.compress(
        json_lines(*({"text": f"row {number} {number * 7919}"} for number in range(3000))).encode()
    )
    with pytest.raises(RequestError, match=r"a\.jsonl\.gz is damaged or cut off"):
        rows(path, raw[: len(raw) // 2])


def test_columns_are_chosen_by_name_then_by_kind():
    assert choose_column("x", {"text": None, "other": None}, None) == "text"
    assert choose_column("x", {"n": "int64", "body": None}, None) == "body"
    assert choose_column("x", {"text": None, "other": None}, "other") == "other"


def test_rows_are_read_in_bounded_memory(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text(json_lines({"text": "word " * 200}) * 20_000)
    assert path.stat().st_size > 20_000_000
    kind = kind_of(path)
    tracemalloc.start()
    assert sum(1 for _ in read_rows(path, kind, None)) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000


def test_a_row_that_is_too_long_is_refused_before_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rows_module, "_LONGEST_ROW", 1 << 20)
    bomb = gzip.compress(b'{"text": "a"}\n{"text": "' + b"a" * (100 << 20))
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(bomb)
    tracemalloc.start()
    with pytest.raises(
        RequestError, match=r"a\.jsonl\.gz, line 2: a row of more than 1,048,576 characters.*split"
    ):
        list(read_rows(path, kind_of(path), None))
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "table, line",
    [
        ("text\na\n" + "b" * 3000, 3),
        ('text\na\n"' + "b\n" * 3000 + '"', 3),
        ("text\na\n\n" + '"b\nb",' * 3000, 4),
        ('"text' + "\n" * 3000, 1),
    ],
)
def test_rows_of_tables_are_limited_over_all_their_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, line: int
):
    monkeypatch.setattr(rows_module, "_LONGEST_ROW", 2000)
    with pytest.raises(RequestError, match=f"line {line}: a row of more than 2,000 characters"):
        rows(tmp_path / "a.csv", table)
    assert rows(tmp_path / "a.csv", "text\n" + "b" * 1900 + "\n" + "c\n" * 3000)[:2] == [
        "b" * 1900,
        "c",
    ]
