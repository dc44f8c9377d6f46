import math

import numpy as np
import pytest

from flyweight.evaluation.answers import distinct
from flyweight.evaluation.task_floors import FLOORS, first_sentence, last_turn, lead_3, sentences
from flyweight.evaluation.task_scores import (
    answer_metrics,
    contexts_of,
    distinct_metric,
    mean_metric,
    perplexity_metric,
    row_scores,
)


def test_rows_of_one_context_widen_the_interval():
    rng = np.random.default_rng(0)
    by_context = rng.integers(0, 2, 50) * 100.0
    scores = np.repeat(by_context, 8)  # eight questions on each context, all right or all wrong
    alone = mean_metric("exact_match", scores, np.arange(400))
    together = mean_metric("exact_match", scores, contexts_of(np.repeat(np.arange(50), 8)))
    assert alone.value == together.value == scores.mean() and together.n == 400
    # As wide as that of 50 rows: the root of eight wider, and some more for few units.
    assert 2.6 < (together.high - together.low) / (alone.high - alone.low) < 3.2


def test_the_interval_covers_the_truth_where_contexts_differ():
    covered = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        hard = np.repeat(rng.random(40), 5)
        metric = mean_metric(
            "exact_match", 100.0 * (rng.random(200) < hard), np.repeat(np.arange(40), 5)
        )
        covered += metric.low <= 50 <= metric.high
    assert covered >= 88


def test_equal_keys_are_one_context():
    assert contexts_of(["b", "a", "b", "c"]).tolist() == [0, 1, 0, 2]


def test_completion_perplexity_is_over_tokens_of_all_completions():
    nll, tokens = np.array([2.0, 9.0, 4.0]), np.array([1, 3, 2])
    metric = perplexity_metric(nll, tokens, np.arange(3))
    assert metric.value == pytest.approx(math.exp(15 / 6))
    assert metric.better == "lower" and metric.n == 6 and metric.low < metric.value < metric.high
    assert perplexity_metric(nll * 1e4, tokens, np.arange(3)).value == math.inf


def test_distincts_interval_is_around_its_value():
    rng = np.random.default_rng(1)
    answers = [" ".join(f"w{n}" for n in rng.zipf(1.5, 12)) for _ in range(60)]
    metric = distinct_metric("distinct_1", answers, np.arange(60))
    assert metric.value == pytest.approx(distinct(answers, 1)) and metric.n == 720
    # Drawing answers twice, as a bootstrap does, would put the whole interval below the value.
    assert metric.low < metric.value < metric.high
    assert metric.high - metric.low < 0.2


def test_distinct_without_each_context_is_counted_not_recomputed():
    answers, contexts = ["a b", "b c", "a d d", "e", "f f f g", "a"], np.array([0, 0, 1, 2, 3, 4])
    by_hand = [
        distinct([answer for answer, at in zip(answers, contexts, strict=True) if at != out], 1)
        for out in range(5)
    ]
    metric = distinct_metric("distinct_1", answers, contexts)
    spread = math.sqrt(4 / 5 * sum((v - sum(by_hand) / 5) ** 2 for v in by_hand))
    assert metric.value - metric.low == pytest.approx(2.776 * spread, rel=0.03)


def test_metrics_come_in_the_order_asked_for():
    rows = row_scores(["a cat", "dogs"], [("the cat",), ("dogs", "hens")], ["f1", "exact_match"])
    metrics = answer_metrics(
        ["a cat", "dogs"], rows, np.arange(2), ["f1", "completion_perplexity", "distinct_1"]
    )
    assert list(metrics) == ["f1", "distinct_1"]
    assert metrics["f1"].value == 100 and metrics["f1"].unit == "%"


def test_sentences_end_where_a_reader_ends_them():
    text = 'Mr. Li met J. Doe in the U.S. Senate. "Is it late?" he asked. Yes.\nThe end'
    assert sentences(text) == [
        "Mr. Li met J. Doe in the U.S. Senate.",
        '"Is it late?" he asked.',
        "Yes.",
        "The end",
    ]
    assert sentences('He said "no." Then left.') == ['He said "no."', "Then left."]
    assert sentences("  \n ") == []


def test_floors_copy_the_part_of_the_prompt_they_are_named_after():
    assert first_sentence("One is here. Two is there.\n\nQuestion: Who?\nAnswer:") == "One is here."
    assert lead_3("One. Two. Three. Four.\n\nSummary:") == "One. Two. Three."
    assert last_turn("Hi .\nHow are you ?\n") == "How are you ?"
    assert first_sentence("") == lead_3("") == last_turn("") == ""
    names = {task: FLOORS[task].name for task in ("squad", "summarize", "dialogue")}
    assert names == {
        "squad": "first_sentence",
        "summarize": "lead_3",
        "dialogue": "last_turn",
    }
