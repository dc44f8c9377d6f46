"""What a run's artifacts become in its summary."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from flyweight.evaluate.compare import paired, table
from flyweight.evaluate.intervals import UNITS, UnitScores
from flyweight.report import gather


def scored(level: float, seed: int, corpus: str = "c") -> UnitScores:
    counts = np.full(40, 100)
    nll = counts * np.random.default_rng(seed).normal(3 + level, 0.05, 40)
    return UnitScores("document", nll, counts, counts * 4.0, "test", corpus, "t")


def test_a_report_decides_pairs_as_compare_does(tmp_path):
    models = {f"m{place}": scored(0.02 * place, place) for place in range(6)}
    sources: list[Any] = []
    for name, scores in {**models, "elsewhere": scored(0.0, 9, "another text")}.items():
        (tmp_path / name).mkdir()
        scores.save(tmp_path / name / UNITS)
        sources.append(SimpleNamespace(name=name, measured={"evaluate": SimpleNamespace(path=tmp_path / name, facts={})}))
    found, stood = gather.comparisons(sources), table(models)
    assert {(pair.a, pair.b): pair.verdict for pair in found} == {pair: stood.verdict(*pair) for pair in stood.pairs}
    assert {pair.comparisons for pair in found} == {15}
    alone = [pair for pair in found if pair.verdict != paired(models[pair.a], models[pair.b]).verdict]
    assert alone and all(pair.verdict == "undecided" and pair.p_corrected > pair.p for pair in alone)
    assert any(pair.verdict != "undecided" for pair in found)
