import math

import report_fixture as made

from flyweight.records.metric import Metric
from flyweight.reports.findings.advice import advice
from flyweight.reports.models import groups, ranked_models


def advised(**changes):
    (group,) = groups(ranked_models([made.quickstart(**changes)]))
    return advice(group)


def chosen(found):
    return {role: choice.label for choice in found.choices for role in choice.roles}


def decoding(name, bits, value, low, high, **changes):
    """Return a model whose generation speed was measured five times, from `low` to `high`."""
    rate = Metric(value, "tokens/s", "higher", 5, low, high)
    bench = made.speed(5.9, 11_200, value, 1, 1).model_copy(update={"decode_tokens_per_s": rate})
    return made.model(name, bits, bench=bench, **changes)


def test_the_smallest_close_to_the_best_is_to_be_taken():
    found = advised()
    assert found.title == "Take `int8`: 1.7 MB, 1.514 bits/byte, 402 tokens/s"
    assert chosen(found) == {
        "best": "student-compute",
        "smallest within 1\N{NO-BREAK SPACE}%": "int8",
        "fastest": "student-compute",
    }
    best = found.choices[0]
    assert best.roles == ("best", "fastest")
    assert best.line == "5.64 MB, 1.511 bits/byte, 690 tokens/s"
    assert best.details == (
        "5.64 MB, 1.511 bits/byte (1.497\N{EN DASH}1.525), 690 tokens/s (662\N{EN DASH}718)"
    )
    assert best.command == "flyweight generate quickstart:student-compute 'def '"


def test_within_one_percent_the_whole_interval_counts():
    def pair(half):
        return (made.compare("base", "int8", -0.010, half),)

    models = (made.model("base", 1.5), made.model("int8", 1.510, disk_bytes=1_400_000))
    assert advised(models=models, comparisons=pair(0.004)).title.startswith("Take `int8`")
    assert advised(models=models, comparisons=pair(0.006)).title.startswith("Take `base`")


def test_of_equally_fast_models_the_best_is_the_fastest_and_the_others_are_named():
    models = (
        decoding("good", 1.5, 2_300, 2_250, 2_350),
        decoding("poor", 1.9, 2_355, 1_047, 2_453),
        decoding("small", 1.6, 1_174, 1_100, 1_250, disk_bytes=400_000),
    )
    found = advised(models=models, comparisons=())
    assert found.title.startswith("Take `good`") and chosen(found)["fastest"] == "good"
    assert "Not significantly slower than `good`: `poor`." in found.notes


def test_no_model_is_the_fastest_where_all_speeds_overlap():
    models = (decoding("a", 1.5, 2_300, 1_900, 2_350), decoding("b", 1.9, 2_355, 1_847, 2_453))
    found = advised(models=models, comparisons=())
    assert "fastest" not in chosen(found) and not any("slower" in note for note in found.notes)


def test_a_tie_in_quality_is_said():
    found = advised(comparisons=(made.compare("student-compute", "int8", -0.001, 0.002),))
    assert "Not significantly worse in quality than `student-compute`: `int8`." in found.notes


def test_when_counting_beats_every_model_the_advice_says_so():
    found = advised(models=(made.model("a", 2.1), made.model("b", 2.4)), comparisons=())
    assert found.kind == "warning"
    assert found.notes[0].startswith(
        "No model here beats the 5-gram (Kneser-Ney) floor (1.862 bits/byte)"
    )
    close = advised(models=(made.model("a", 1.87), made.model("b", 2.4)), comparisons=())
    assert "is undecided" in close.notes[0] and "5-gram" in close.notes[0]
    assert not any("floor" in note for note in advised().notes)


def test_a_model_that_is_best_in_everything_is_the_only_choice():
    found = advised(
        models=(made.model("a", 1.7), made.model("b", 1.8, disk_bytes=9_000_000)), comparisons=()
    )
    assert found.title.startswith("Take `a`: ")
    (only,) = found.choices
    assert (only.label, only.roles) == ("a", ("best", "smallest within 1\N{NO-BREAK SPACE}%"))


def test_one_model_is_no_choice():
    found = advised(models=(made.model("mine", 1.8),), comparisons=())
    assert found.title == "`mine`: 5.64 MB, 1.800 bits/byte, 690 tokens/s"
    assert [choice.roles for choice in found.choices] == [("the only model",)]


def test_too_little_training_says_what_was_wrong_and_what_to_do():
    models = (made.model("a", 3.1), made.model("b", 4.0))
    few = made.training(models[0], steps=6)
    models = (models[0].model_copy(update={"training": few}), models[1])
    found = advised(models=models, comparisons=())
    assert found.kind == "warning"
    assert found.title == "No model here has learned enough yet: train longer."
    assert found.notes[0] == (
        "`a`, 6 training steps: 3.100 bits per byte is no better than the unigram floor (2.931)."
    )
    assert found.notes[-1] == "Raise train.steps, or budget.time, and run the same command again."


def test_training_that_diverged_and_checks_that_fail_have_their_own_advice():
    diverged = advised(models=(made.model("a", math.inf),), comparisons=())
    assert "diverged" in diverged.title and "lower train.lr" in diverged.notes[-1]
    leaky = made.model("leaky", 0.4, audit=made.audit(0.4, causality="sees the future"))
    failing = advised(models=(leaky, made.model("b", 3.1)), comparisons=())
    assert "their checks fail" in failing.title and "flyweight audit" in failing.notes[-1]
    assert "sees the future" in failing.notes[0]


def test_what_was_not_measured_has_no_advice():
    assert advised(models=(made.model("a", evaluate=None),), comparisons=()) is None
    sizeless = advised(models=(made.model("a", 1.8, bench=None, disk_bytes=None),), comparisons=())
    assert sizeless.title == "`a`: 1.800 bits/byte"
