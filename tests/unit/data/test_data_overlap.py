from __future__ import annotations

import pytest

from flyweight.data.overlap import Overlap, line_hashes

LONG = "a line of more than twenty characters"


def test_share_counts_held_out_lines_with_repeats():
    overlap = Overlap()
    overlap.remember("test", f"{LONG} 1\n{LONG} 1\n{LONG} 2\n{LONG} 3\nshort\n")
    overlap.remember("validation", f"{LONG} 4\n")
    overlap.look(f"    {LONG} 1  \nshort\n")
    overlap.look(f"{LONG} 3\n{LONG} 3\n")
    assert overlap.share("test") == pytest.approx(3 / 4)
    assert overlap.share("validation") == 0.0
    assert overlap.share("train") is None


def test_without_long_lines_there_is_no_share():
    overlap = Overlap()
    overlap.remember("test", "short\nlines\n")
    overlap.look("short\n")
    assert overlap.share("test") is None


def test_only_stripped_lines_of_twenty_characters_count():
    assert len(line_hashes("x" * 20 + "\n" + " " * 30 + "x" * 19 + "\n")) == 1
    assert line_hashes("  " + "x" * 20)[0] == line_hashes("x" * 20 + "\r\n")[0]


def test_memory_is_bounded_by_a_fair_sample():
    overlap = Overlap(limit=500)
    for number in range(0, 20_000, 100):
        overlap.remember("test", "".join(f"held out line number {n}\n" for n in range(number, number + 100)))
    overlap.look("".join(f"held out line number {n}\n" for n in range(0, 20_000, 4)))
    kept = overlap._lines["test"]["keys"]
    assert 100 < len(kept) <= 500
    assert overlap.share("test") == pytest.approx(0.25, abs=0.1)
