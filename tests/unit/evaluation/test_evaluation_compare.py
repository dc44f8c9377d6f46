import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from flyweight.errors import RequestError
from flyweight.evaluation.compare import (
    comparable_groups,
    compare_models,
    holm,
    needed_text,
    paired,
)
from flyweight.evaluation.resampling import Ratio, UnitScores, interval, p_value


def scores(level=0.0, noise=0.0, kind="document", units=40, seed=0, tokenizer="t") -> UnitScores:
    rng = np.random.default_rng(7)
    counts = rng.integers(50, 150, units)
    hardness = rng.normal(3, 0.6, units)  # shared by all models: what pairing removes
    own = np.random.default_rng(seed).normal(0, noise, units) if noise else 0.0
    return UnitScores(
        kind, counts * (hardness + level + own), counts, counts * 4.0, "test", "c", tokenizer
    )


def test_a_small_real_difference_is_found_by_pairing():
    result = paired(scores(-0.01, 0.01, seed=1), scores(0, 0.01, seed=2))
    assert result.nll is not None and result.nll.verdict == "better" == result.verdict
    assert result.nll.low < -0.01 < result.nll.high < 0
    assert result.n_units == 40
    back = paired(scores(0, 0.01, seed=2), scores(-0.01, 0.01, seed=1))
    assert back.verdict == "worse" and back.nll.value == -result.nll.value


def test_noise_alone_is_undecided():
    verdicts = [
        paired(scores(0, 0.1, seed=s), scores(0, 0.1, seed=s + 500), seed=s).verdict
        for s in range(40)
    ]
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


def test_texts_are_called_by_their_names():
    ours, other = (
        replace(scores(), name="ptb"),
        replace(scores(), corpus="9f" * 20, name="novel.txt"),
    )
    with pytest.raises(
        RequestError, match=r"the test split of ptb and the test split of novel\.txt:"
    ):
        paired(ours, other)
    with pytest.raises(RequestError, match=r"the test split of ptb \(9f9f9f9f\)"):
        paired(ours, replace(other, name="ptb"))


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
    rows = compare_models({"big": scores(0.0), "small": scores(0.3), "middle": scores(0.1)}).rows
    assert [row.name for row in rows] == ["big", "middle", "small"]
    assert rows[0].paired is None and [row.paired.verdict for row in rows[1:]] == ["worse", "worse"]
    assert (
        compare_models({"a": scores(0.1), "b": scores()}, reference="a").rows[0].paired.verdict
        == "better"
    )
    assert rows[1].json()["paired"]["bits_per_byte"]["verdict"] == "worse"


def test_a_bootstrap_by_brute_force_says_the_same():
    a, b = scores(0.004, 0.02, seed=1, units=60), scores(0, 0.02, seed=2, units=60)
    found = paired(a, b, tested=1)
    change, size = a.nll - b.nll, a.bytes * math.log(2)
    draws = np.random.default_rng(123)
    ratios = []
    for _ in range(4000):
        sample = [int(draws.integers(60)) for _ in range(60)]
        ratios.append(sum(change[i] for i in sample) / sum(size[i] for i in sample))
    low, high = np.quantile(ratios, [0.025, 0.975])
    width = high - low
    assert found.bits_per_byte.value == pytest.approx(sum(change) / sum(size))
    assert found.bits_per_byte.low == pytest.approx(low, abs=0.08 * width)
    assert found.bits_per_byte.high == pytest.approx(high, abs=0.08 * width)
    beyond = min(np.mean(np.array(ratios) <= 0), np.mean(np.array(ratios) >= 0))
    assert found.p == pytest.approx(2 * beyond, abs=0.03 + 0.3 * beyond)


def test_p_values_agree_with_intervals_and_are_honest():
    rng = np.random.default_rng(5)
    units, level = np.ones(30), []
    for shift in np.linspace(0, 0.9, 12):
        change = rng.normal(shift, 1, 30)
        low, high = interval(change, units, resamples=10_000)
        p = p_value(change, units)
        assert 0 < p <= 1
        if abs(p - 0.05) > 0.01:
            assert (p < 0.05) == (low > 0 or high < 0)
    for _ in range(400):  # without a difference 5 % are found, not more
        level.append(p_value(rng.normal(0, 1, 12), np.ones(12), resamples=1000) < 0.05)
    assert 0.02 <= np.mean(level) <= 0.09


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02] and holm([]) == []


def test_large_differences_are_decided_among_many_models():
    models = {f"m{n:02}": scores(0.05 * n, 0.01, seed=n, units=60) for n in range(16)}
    found = compare_models(models)
    assert found.family == 120
    assert all(found.verdict(a, b) != "undecided" for a, b in found.pairs)


def test_several_comparisons_are_corrected_for():
    models = {
        "a": scores(0.0, 0.03, seed=1),
        **{f"m{n}": scores(0.011, 0.03, seed=n) for n in range(2, 8)},
    }
    alone = [
        compare_models({"a": models["a"], name: models[name]}, "a").rows
        for name in list(models)[1:]
    ]
    single = {row.name: row.verdict for rows in alone for row in rows}
    fixed, free = compare_models(models, "a"), compare_models(models)
    assert (fixed.family, free.family) == (6, 21)
    decided = [name for name in single if single[name] == "worse"]
    kept = {row.name: row for row in fixed.rows}
    assert any(
        kept[name].verdict == "undecided" for name in decided
    )  # alone it was decided, among six it is not
    for row in fixed.rows:
        if row.paired is not None:
            assert row.p >= row.paired.p
            assert row.verdict == "undecided" or row.paired.verdict == row.verdict
    assert set(free.pairs) >= {(row.name, free.reference) for row in free.rows if row.paired}
    assert len(free.json()["pairs"]) == 21


def test_the_text_that_would_decide():
    few = paired(scores(0.005, 0.03, seed=1), scores(0, 0.03, seed=2))
    assert few.verdict == "undecided"
    times = needed_text(few)
    assert times > 1
    # Simulated: with that many times the units, a difference of that size is found in about four
    # cases of five.
    bits = few.bits_per_byte
    spread = (bits.high - bits.low) / 3.92 * math.sqrt(40)
    rng, units = np.random.default_rng(0), round(40 * times)
    found = [
        abs(rng.normal(bits.value, spread, units).mean()) > 1.96 * spread / math.sqrt(units)
        for _ in range(2000)
    ]
    assert 0.75 < np.mean(found) < 0.85
    assert needed_text(few, 6) > times
    assert needed_text(paired(scores(), scores())) == math.inf


def test_table_refuses_an_unknown_reference_and_a_single_model():
    with pytest.raises(RequestError, match="nobody"):
        compare_models({"a": scores(), "b": scores()}, reference="nobody")
    with pytest.raises(RequestError, match="at least two"):
        compare_models({"a": scores()})


def test_comparing_needs_no_torch():
    code = (
        "import sys, flyweight.evaluation.compare, flyweight.evaluation.floors; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_model_whose_tokens_lose_text_can_lose_but_not_win():
    lossy = {"a": replace(scores(-0.1), tokenizer="u", lossy=True), "b": scores()}
    pair = paired(lossy["a"], lossy["b"])
    assert (
        pair.bits_per_byte.verdict == "better"
        and pair.verdict == "undecided"
        and "too good" in pair.why
    )
    found = compare_models(lossy)
    assert [row.verdict for row in found.rows] == [None, "undecided"]
    assert found.json()["pairs"][0]["verdict"] == "undecided"
    assert paired(lossy["b"], replace(lossy["a"], nll=scores(0.1).nll)).verdict == "better"
    assert paired(lossy["a"], replace(scores(), tokenizer="u", lossy=True)).verdict == "better", (
        "one tokenizer: nothing to flatter"
    )


def test_families_hold_what_can_be_paired():
    models = {
        "a": scores(),
        "b": replace(scores(), corpus="another"),
        "c": scores(0.1),
        "d": scores(kind="block"),
    }
    assert [list(family) for family in comparable_groups(models)] == [["a", "c"], ["b"], ["d"]]


def test_what_falls_on_tokens_without_bytes_decides_nothing():
    """A model that also predicts the ends of documents is no worse for it: its text is what counts."""
    plain, marks = scores(), np.full(40, 30.0)
    also_ends = replace(
        scores(-0.05), tokenizer="other", nll=scores(-0.05).nll + marks, marks=marks
    )
    assert also_ends.nll.sum() > plain.nll.sum()
    assert paired(also_ends, plain).verdict == "better"
    assert compare_models({"plain": plain, "ends": also_ends}).rows[0].name == "ends"
    same = paired(replace(also_ends, tokenizer="t"), plain)
    assert same.nll.verdict == "worse" and same.bits_per_byte.verdict == "better"


def accurate(share, seed):
    """Unit scores whose accuracy is about `share`."""
    plain = scores(seed=seed)
    right = np.random.default_rng(seed).binomial(plain.counts, share)
    ratio = Ratio(right.astype(float), plain.counts.astype(float))
    return replace(plain, metrics={"accuracy": ratio})


def test_higher_is_better_where_the_metric_says_so():
    high, low = accurate(0.6, 1), accurate(0.4, 2)
    pair = paired(high, low, tested=1, by="accuracy")
    assert pair.decisive.value == pytest.approx(0.2, abs=0.05)
    assert pair.decisive.low > 0
    assert pair.verdict == "better"
    assert pair.p < 0.01
    assert paired(low, high, by="accuracy").verdict == "worse"
    stood = compare_models({"low": low, "high": high}, metric="accuracy")
    assert [row.name for row in stood.rows] == ["high", "low"]
    assert stood.rows[1].verdict == "worse"
    assert paired(high, low).by == "bits_per_byte"


def test_a_metric_that_was_not_measured_or_means_other_tokens_decides_nothing():
    with pytest.raises(RequestError, match="accuracy was not measured"):
        compare_models({"a": accurate(0.5, 1), "b": scores()}, metric="accuracy")
    other = replace(accurate(0.5, 2), tokenizer="u")
    with pytest.raises(RequestError, match="different tokenizers: compare them by bits per byte"):
        paired(accurate(0.5, 1), other, by="accuracy")
    assert not paired(accurate(0.5, 1), other).metrics
