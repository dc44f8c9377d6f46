from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from flyweight.data import overlap as module
from flyweight.data.overlap import PIECE, Overlap, piece_hashes


def letters(count: int, seed: int = 0) -> str:
    return "".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyz ", k=count)).replace(
        "  ", "xy"
    )


def share(test: str | list[str], train: str | list[str]) -> float | None:
    overlap = Overlap()
    for text in [test] if isinstance(test, str) else test:
        overlap.remember("test", text)
    for text in [train] if isinstance(train, str) else train:
        overlap.look(text)
    return overlap.share("test")


def test_hashes_are_equal_where_pieces_are():
    text = letters(500)
    codes = np.frombuffer((text + text).encode("utf-32-le"), "<u4")
    hashes = piece_hashes(codes)
    assert len(hashes) == 1000 - PIECE + 1
    assert np.array_equal(hashes[:400], hashes[500:900])
    assert len(np.unique(hashes)) == 500
    assert np.array_equal(piece_hashes(codes, PIECE), hashes[::PIECE])
    assert len(piece_hashes(codes[: PIECE - 1])) == 0


@pytest.mark.parametrize("shift", [0, 1, 17, 49])
def test_pieces_are_found_at_any_place(shift: int):
    test = letters(1000, seed=1).strip()
    assert share(test, letters(shift, seed=2) + test) == 1.0
    half = share(test, letters(300, seed=3) + test[: len(test) // 2])
    assert half == pytest.approx(0.5, abs=0.05)
    assert share(test, letters(5000, seed=4)) == 0.0


def test_each_split_has_its_share_and_repeated_pieces_count():
    overlap = Overlap()
    known, unknown = (
        letters(PIECE, seed=1).replace(" ", "z"),
        letters(3 * PIECE, seed=2).replace(" ", "z"),
    )
    overlap.remember("test", known * 3 + unknown)
    overlap.remember("validation", unknown)
    overlap.look("z" + known + "z")
    assert overlap.share("test") == pytest.approx(0.5)
    assert overlap.share("validation") == 0.0
    assert overlap.share("train") is None


def test_white_space_counts_as_one_space():
    words = letters(2000, seed=1).split()
    assert share("  " + "\r\n \t".join(words), "\n".join(words)) == 1.0


def test_short_documents_are_compared_whole():
    rows = ["a short row", "another one, still short", "x" * (PIECE - 2), "y"]
    assert share(rows, ["something else", *rows]) == 1.0
    assert share(rows, ["a short row and more", "this is a short row", "x" * PIECE, "yy"]) == 0.0
    assert share(["a short row", "a new row"], rows) == 0.5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=12), st.integers(0, 5))
def test_it_does_not_depend_on_how_the_text_comes(sizes: list[int], seed: int):
    test, train = letters(1500, seed=seed), letters(700, seed=seed) + letters(900, seed=seed + 9)
    overlap = Overlap()
    for remember in (True, False):
        text, at, turn = (test if remember else train), 0, 0
        while at < len(text):
            part = text[at : at + sizes[turn % len(sizes)]]
            if remember:
                overlap.remember("test", part, continues=at > 0)
            else:
                overlap.look(part, continues=at > 0)
            at, turn = at + len(part), turn + 1
    assert overlap.share("test") == share(test, train)


def test_buffers_are_seamless(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_BUFFER", 128)
    rows = [letters(length, seed=length).strip() for length in range(10, 300, 7)]
    assert share(rows, rows[::-1]) == 1.0
    long = letters(5000, seed=1)
    assert share(long, "x" + long) == 1.0


def test_without_text_there_is_no_share():
    assert share("", "some text") is None
    assert share(" \n ", "some text") is None
    assert Overlap().share("test") is None


def test_memory_is_bounded_by_a_fair_sample():
    overlap = Overlap(limit=500)
    text = letters(1_000_000)
    for start in range(0, len(text), 10_000):
        overlap.remember("test", text[start : start + 10_000], continues=start > 0)
    for start in range(0, len(text), 40_000):
        overlap.look(text[start : start + 10_000])
    kept = overlap._splits["test"].keys
    assert 100 < len(kept) <= 500
    assert overlap.share("test") == pytest.approx(0.25, abs=0.1)
