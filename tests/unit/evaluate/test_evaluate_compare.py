import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from flyweight.errors import RequestError
from flyweight.evaluate.compare import paired, table
from flyweight.evaluate.intervals import UnitScores


def scores(level=0.0, noise=0.0, kind="document", units=40, seed=0, tokenizer="t") -> UnitScores:
    rng = np.random.default_rng(7)
    counts = rng.integers(50, 150, units)
    hardness = rng.normal(3, 0.6, units)  # shared by all models: what pairing removes
    own = np.random.default_rng(seed).normal(0, noise, units) if noise else 0.0
    return UnitScores(kind, counts * (hardness + level + own), counts, counts * 4.0, "test", "c", tokenizer)


def test_a_small_real_difference_is_found_by_pairing():
    result = paired(scores(-0.01, 0.01, seed=1), scores(0, 0.01, seed=2))
    assert result.nll is not None and result.nll.verdict == "better" == result.verdict
    assert result.nll.low < -0.01 < result.nll.high < 0
    assert result.n_units == 40
    back = paired(scores(0, 0.01, seed=2), scores(-0.01, 0.01, seed=1))
    assert back.verdict == "worse" and back.nll.value == -result.nll.value


def test_noise_alone_is_undecided():
    verdicts = [paired(scores(0, 0.1, seed=s), scores(0, 0.1, seed=s + 500), seed=s).verdict for s in range(40)]
    assert verdicts.count("undecided") >= 34


def test_bits_per_byte_is_nats_over_bytes_and_ln_2():
    result = paired(scores(0.2), scores())
    assert result.nll.value == pytest.approx(0.2)
    assert result.bits_per_byte.value == pytest.approx(0.2 / 4 / math.log(2))


def test_equal_models_are_undecided():
    assert paired(scores(), scores()).verdict == "undecided"


@pytest.mark.parametrize("change", [{"corpus": "other"}, {"split": "validation"}])
def test_different_texts_are_refused(change):
    with pytest.raises(RequestError, match="different texts"):
        paired(scores(), replace(scores(), **change))


def test_two_tokenizers_compare_per_byte_over_documents_only():
    result = paired(scores(-0.1), replace(scores(), tokenizer="u", counts=scores().counts + 7))
    assert result.nll is None and "tokenizers" in result.why
    assert result.verdict == "better"
    with pytest.raises(RequestError, match="tokenizers"):
        paired(scores(kind="block"), scores(kind="block", tokenizer="u"))


def test_different_units_are_refused():
    with pytest.raises(RequestError, match="same window"):
        paired(scores(units=40), scores(units=41))
    with pytest.raises(RequestError, match="same window"):
        paired(scores(), replace(scores(), counts=scores().counts[::-1].copy()))


def test_table_is_ordered_and_paired_with_the_best():
    rows = table({"big": scores(0.0), "small": scores(0.3), "middle": scores(0.1)})
    assert [row.name for row in rows] == ["big", "middle", "small"]
    assert rows[0].paired is None and [row.paired.verdict for row in rows[1:]] == ["worse", "worse"]
    assert table({"a": scores(0.1), "b": scores()}, reference="a")[0].paired.verdict == "better"
    assert rows[1].json()["paired"]["bits_per_byte"]["verdict"] == "worse"


def test_table_refuses_an_unknown_reference_and_a_single_model():
    with pytest.raises(RequestError, match="nobody"):
        table({"a": scores(), "b": scores()}, reference="nobody")
    with pytest.raises(RequestError, match="at least two"):
        table({"a": scores()})


def test_comparing_needs_no_torch():
    code = "import sys, flyweight.evaluate.compare, flyweight.evaluate.floors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
