from __future__ import annotations

import builtins
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from flyweight.data import reading
from flyweight.data.document import Document, Skipped
from flyweight.errors import RequestError


def test_pieces_join_to_the_text(tmp_path: Path):
    text = "one\ntwo ä€😀\n\n" * 40_000
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    parts = list(reading.read_pieces(path))
    assert "".join(parts) == text
    assert len(parts) > 2
    assert max(map(len, parts)) < 3 * reading.BLOCK


@settings(max_examples=60, deadline=None)
@given(st.text("ab\r\n\ufeffé", max_size=30), st.integers(1, 7))
def test_a_byte_order_mark_is_no_character_and_crlf_is_a_line_end(text: str, size: int):
    raw = text.encode()
    blocks = [raw[at : at + size] for at in range(0, len(raw), size)]
    read = "".join(reading.decoded(Path("a.txt"), blocks))
    assert read == text.removeprefix("\ufeff").replace("\r\n", "\n")


def test_a_mark_further_on_stays(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfab\xef\xbb\xbf\r\n")
    assert "".join(reading.read_pieces(path)) == "ab\ufeff\n"
    assert "".join(reading.read_pieces(path, 5)) == "\ufeff\n"


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.text("aé \n", min_size=1, max_size=9), min_size=4, max_size=9), st.floats(0.3, 0.8)
)
def test_a_text_read_once_is_cut_in_three(parts: list[str], first: float):
    whole = "".join(parts)
    cut = list(reading.cut_pieces(iter(parts), len(whole), (first, first + 0.15)))
    numbers = [number for number, _ in cut]
    assert numbers == sorted(numbers)
    assert "".join(text for _, text in cut) == whole
    assert all(text for _, text in cut)
    train = sum(len(text) for number, text in cut if number == 0)
    assert abs(train - first * len(whole)) <= 10


def test_a_byte_range_is_read_exactly(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("abcdefgh")
    assert "".join(reading.read_pieces(path, 2, 5)) == "cde"
    assert "".join(reading.read_pieces(path, 5)) == "fgh"


@pytest.mark.parametrize("offset", [0, 7, reading.BLOCK - 1, reading.BLOCK, 3 * reading.BLOCK + 11])
def test_not_utf8_names_file_and_byte(tmp_path: Path, offset: int):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"a" * offset + b"\xe4bc")
    with pytest.raises(RequestError, match=rf"latin\.txt is not UTF-8: byte {offset} is 0xe4"):
        list(reading.read_pieces(path))


def test_the_advice_for_other_encodings_names_the_file(tmp_path: Path):
    path = tmp_path / "my notes.txt"
    path.write_bytes("Käse".encode("latin-1"))
    with pytest.raises(
        RequestError,
        match=r"iconv -f LATIN1 -t UTF-8 '\S+/my notes\.txt' > '\S+/my notes\.utf8\.txt'",
    ):
        list(reading.read_pieces(path))


def test_a_character_cut_off_at_the_end_is_reported_where_it_starts(tmp_path: Path):
    path = tmp_path / "short.txt"
    path.write_bytes(b"abc\xe2\x82")
    with pytest.raises(RequestError, match="byte 3 is 0xe2"):
        list(reading.read_pieces(path))


def test_a_character_across_blocks_is_no_error(tmp_path: Path):
    path = tmp_path / "wide.txt"
    path.write_bytes(b"a" * (reading.BLOCK - 1) + "€".encode())
    assert "".join(reading.read_pieces(path))[-1] == "€"


def test_binary_files_are_refused(tmp_path: Path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"text\0more")
    with pytest.raises(RequestError, match=r"a\.bin is not text: byte 4 is NUL"):
        list(reading.read_pieces(path))


def test_utf16_is_named(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_bytes("hello".encode("utf-16"))
    with pytest.raises(
        RequestError,
        match=r"UTF-16; convert it first: iconv -f UTF-16 -t UTF-8 \S+/a\.txt > \S+a\.utf8\.txt",
    ):
        list(reading.read_pieces(path))


def test_unreadable_missing_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(RequestError, match=r"gone\.txt does not exist"):
        reading.open_text(tmp_path / "gone.txt")
    with pytest.raises(RequestError, match="is a folder, not a file"):
        reading.open_text(tmp_path)

    (tmp_path / "secret.txt").write_text("a")

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(RequestError, match=r"secret\.txt cannot be read: permission denied"):
        reading.open_text(tmp_path / "secret.txt")


@pytest.mark.parametrize(
    "text, left",
    [
        ("a b\nc d\ne f", "a b\nc d\n"),
        ("def f():\n    return 1\n\n\nx = 1\n    y", "def f():\n    return 1\n\n\nx = 1\n"),
        (" one \n two \n three", " one \n two \n"),
        ("one two three", "one two"),
        ("unbroken", "unbroken"),
    ],
)
def test_safe_cut(text: str, left: str):
    assert text[: reading.safe_cut(text)] == left


def test_tokens_do_not_depend_on_the_pieces():
    from flyweight.config.schema import BpeTokenizer
    from flyweight.data.tokenizer_training import train

    code = Path(reading.__file__).read_text() * 3
    wiki = " \n = Title = \n \n Some words , and more . \n" * 50
    bpe = train(
        BpeTokenizer(vocab=400),
        lambda: iter([code, wiki]),
        lambda: iter([]),
        len(code),
        separated=False,
    )
    for text in (code, wiki):
        cut = reading.safe_cut(text[: len(text) // 2])
        assert bpe.encode(text[:cut]) + bpe.encode(text[cut:]) == bpe.encode(text)


def test_split_text_joins_and_is_bounded():
    text = "some words here\n" * 50_000
    parts = list(reading.split_text(text))
    assert "".join(parts) == text
    assert max(map(len, parts)) <= 2 * reading.BLOCK < len(text)


def test_pieces_mark_continuations_and_drop_empty_ones():
    assert list(reading.pieces("d", iter(["", "a", "", "b"]))) == [
        Document("d", "a"),
        Document("d", "b", True),
    ]


def test_cuts_are_at_paragraph_then_line_ends(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"line {n}\n" + ("\n" if n % 10 == 9 else "") for n in range(1000)))
    raw = path.read_bytes()
    first, second = reading.cut_file(path, (0.9, 0.95))
    assert raw[first - 2 : first] == b"\n\n" == raw[second - 2 : second]
    assert first == pytest.approx(0.9 * len(raw), abs=100)
    assert second == pytest.approx(0.95 * len(raw), abs=100)


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=3, max_size=60), st.floats(0.1, 0.8), st.floats(0.05, 0.15))
def test_cut_text_and_file_keep_characters_whole(text: str, start: float, width: float):
    first, second = reading.cut_text(text, (start, start + width))
    assert 0 < first <= second <= len(text)


@settings(max_examples=100, deadline=None)
@given(st.text("aé€😀 \n", min_size=4, max_size=40))
def test_cut_file_parts_are_valid_utf8(tmp_path_factory: pytest.TempPathFactory, text: str):
    path = tmp_path_factory.mktemp("cut") / "a.txt"
    path.write_bytes(text.encode())
    first, second = reading.cut_file(path, (0.9, 0.95))
    raw = path.read_bytes()
    parts = [raw[:first], raw[first:second], raw[second:]]
    assert "".join(part.decode() for part in parts) == text
    assert parts[0]


def test_cut_file_leaves_no_part_empty(tmp_path: Path):
    path = tmp_path / "a.txt"
    for text in ("abc", "a\nb\nc\n", "one line without an end", "x" * 200_000):
        path.write_text(text)
        first, second = reading.cut_file(path, (0.9, 0.95))
        assert 0 < first < second < len(text)


def test_python_files_in_their_own_encoding(tmp_path: Path):
    path = tmp_path / "a.py"
    path.write_bytes("# -*- coding: latin-1 -*-\ns = 'ä'\n".encode("latin-1"))
    assert list(reading.read_python(path, "a.py")) == [
        Document("a.py", "# -*- coding: latin-1 -*-\ns = 'ä'\n")
    ]
    path.write_bytes(b"s = '\xe4'\n")
    assert isinstance(next(reading.read_python(path, "a.py")), Skipped)
    path.write_bytes(b"# coding: no-such-codec\n")
    assert isinstance(next(reading.read_python(path, "a.py")), Skipped)
    path.write_bytes(b"x\0")
    assert list(reading.read_python(path, "a.py")) == [Skipped("a.py", "NUL bytes")]
    path.write_bytes(b"")
    assert list(reading.read_python(path, "a.py")) == []
