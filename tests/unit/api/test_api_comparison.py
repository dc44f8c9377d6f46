import numpy as np
import pytest

from flyweight.api.comparison import Compared, Size
from flyweight.evaluation.compare import compare_models
from flyweight.evaluation.resampling import UnitScores


def scores(level=0.0, noise=0.0, seed=0, tokenizer="t") -> UnitScores:
    counts = np.full(40, 100)
    hard = (
        np.random.default_rng(7).normal(3, 0.5, 40)
        + level
        + np.random.default_rng(seed).normal(0, noise, 40)
    )
    return UnitScores("document", counts * hard, counts, counts * 4.0, "test", "c", tokenizer)


def compared(models, reference=None) -> Compared:
    same = len({score.tokenizer for score in models.values()}) == 1
    return Compared(
        compare_models(models, reference),
        {name: Size(1, 1, None, None) for name in models},
        same,
        "test",
    )


def test_a_verdict_is_one_plain_sentence():
    found = compared({"a": scores(0.0, 0.01, 1), "b": scores(0.1, 0.01, 2)})
    (sentence,) = found.verdicts()
    bits = found.comparison.rows[1].paired.bits_per_byte
    assert sentence == (
        f"b is worse than a by {bits.value:.3f} bits/byte (95 % interval {bits.low:.3f} to "
        f"{bits.high:.3f} over 40 documents of the text)."
    )
    (other,) = compared({"a": scores(0.0, 0.01, 1), "b": scores(0.1, 0.01, 2)}, "b").verdicts()
    assert other == sentence.replace("b is worse than a", "a is better than b")


def test_undecided_says_what_would_decide():
    (sentence,) = compared({"a": scores(0.004, 0.02, 1), "b": scores(0.0, 0.02, 2)}, "b").verdicts()
    assert (
        "is undecided: the 95 % interval" in sentence
        and "contains 0. About" in sentence
        and "as much text would decide it, if the difference is really" in sentence
    )
    (sentence,) = compared({"a": scores(), "b": scores()}, "b").verdicts()
    assert "no text of a usual size" in sentence


def test_tiny_differences_keep_their_figures():
    (sentence,) = compared({"a": scores(), "b": scores(3e-5, 1e-5, 3)}, "a").verdicts()
    assert "by 0.0000 " not in sentence and "interval 0.0000 " not in sentence


@pytest.mark.parametrize(("reference", "count"), [(None, "3 comparisons"), ("a", "2 comparisons")])
def test_several_models_and_tokenizers_are_noted(reference, count):
    models = {"a": scores(), "b": scores(0.1), "c": scores(0.2, tokenizer="u")}
    notes = " ".join(compared(models, reference).notes())
    assert (
        count in notes
        and "only bits per byte" in notes
        and ("--against" in notes) == (reference is None)
    )


def test_the_headline_is_the_verdict_in_a_sentence():
    models = {"a": scores(0.0, 0.01, 1), "b": scores(0.1, 0.01, 2), "c": scores(0.0, 0.01, 3)}
    assert compared({"a": models["a"], "b": models["b"]}).headline() == (
        "a is the best of 2 models on the test split."
    )
    alike = compared(models).headline()
    assert "comes first on the test split, but is not significantly better than" in alike
    assert compared(models, "b").headline() == "Against b on the test split: 2 are better."


def test_a_notebook_shows_the_table_of_the_terminal():
    page = compared({"a<b": scores(0.0, 0.01, 1), "b": scores(0.1, 0.01, 2)})._repr_html_()
    assert page.startswith("<p>a&lt;b is the best of 2 models")
    assert "<th>difference</th>" in page and "a&lt;b</td>" in page and "a<b" not in page
