"""Comparisons in terminals of any width."""

import numpy as np
import pytest

from flyweight.api.comparison import Compared, Size
from flyweight.cli.show import verdicts
from flyweight.evaluation.compare import compare_models
from flyweight.evaluation.resampling import UnitScores


def scores(level: float) -> UnitScores:
    counts = np.full(40, 100)
    noise = np.random.default_rng(int(1000 * level)).normal(3 + level, 0.01, 40)
    return UnitScores("document", counts * noise, counts, counts * 4.0, "test", "c", "t")


@pytest.mark.parametrize("width", [55, 80, 100, 160])
def test_a_comparison_can_be_read_at_any_width(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    names = ("quickstart:student", "quickstart:student-alone")
    sizes = {name: Size(1_330_000, 5_640_000, 2.66e6, 2.12e14) for name in names}
    verdicts.comparison(
        Compared(
            compare_models(dict(zip(names, (scores(0.0), scores(0.1)), strict=True))),
            sizes,
            True,
            "test",
        )
    )
    verdict, sentences, shown, _ = capsys.readouterr().out.split("\n\n", 3)
    assert verdict == "quickstart:student is the best of 2 models on the test split."
    assert " ".join(sentences.split()).startswith(
        "\N{BLACK CIRCLE} quickstart:student-alone is worse"
    )
    flat = " ".join(shown.split())
    assert all(len(line.rstrip()) <= width for line in shown.splitlines())
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert all(
        name in shown for name in (*names, "difference", "verdict", "the reference", "worse")
    )
    assert ("Not shown at this width" in flat) == (width < 140)
    assert "difference: from the reference" in flat
    assert ("95 % interval" in shown.splitlines()[0]) == (width >= 80)
    if width == 80:
        assert "bits/byte" in shown.splitlines()[0] and "FLOPs to make" not in shown.splitlines()[0]
