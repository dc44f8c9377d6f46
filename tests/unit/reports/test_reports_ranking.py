import math

import pytest
import report_fixture as made
from hypothesis import given, strategies as st

from flyweight.records.audit import Check
from flyweight.records.metric import Metric
from flyweight.reports.findings.phrases import change
from flyweight.reports.findings.run import across, findings, plain
from flyweight.reports.models import groups, ranked_models
from flyweight.reports.ranking import (
    AXES,
    bold,
    decide,
    paired_difference,
    pareto,
    picks,
    strongest_floor,
    tied_best,
    tied_best_in,
    winner_in,
)
from flyweight.reports.tables import run as tables

POINTS = st.lists(
    st.tuples(st.integers(0, 6).map(float), st.integers(0, 6).map(float)), min_size=1, max_size=12
)


def ranked(found, name):
    return next(each for each in found if each.label == name)


@given(POINTS, st.booleans())
def test_a_front_holds_exactly_what_nothing_beats(points, more_is_better):
    def cost(point):
        return (-point[0] if more_is_better else point[0], point[1])

    def beats(a, b):
        return cost(a)[0] <= cost(b)[0] and a[1] <= b[1] and cost(a) != cost(b)

    expected = {
        index
        for index, point in enumerate(points)
        if not any(beats(other, point) for other in points)
    }
    front = pareto(points, more_is_better)
    assert set(front) == expected
    assert [points[index][0] for index in front] == sorted(points[index][0] for index in front)


def test_a_front_knows_its_direction():
    points = [(1.0, 3.0), (2.0, 2.0), (3.0, 2.5)]
    assert pareto(points) == [0, 1]
    assert pareto(points, more_is_better=True) == [1, 2]
    assert pareto([(1.0, math.inf), (2.0, 2.0)]) == [1]


def test_the_quickstart_fronts():
    group = groups(ranked_models([made.quickstart()]))[0]
    fronts = {
        key: [each.label for each in axis.front(group.rankable)] for key, axis in AXES.items()
    }
    assert fronts == {
        "disk": ["nf4", "int8", "student-compute"],
        "speed": ["student-compute"],
        "flops": ["student-alone", "teacher", "student-compute"],
    }


def test_a_contrast_turns_with_its_sides():
    found = ranked_models([made.quickstart()])
    gap = paired_difference(ranked(found, "student"), ranked(found, "teacher"))
    back = paired_difference(ranked(found, "teacher"), ranked(found, "student"))
    assert gap and back and gap.paired
    assert (gap.verdict, back.verdict) == ("worse", "better")
    assert (gap.low, gap.high) == pytest.approx((-back.high, -back.low))
    assert gap.difference == pytest.approx(0.286)


@pytest.mark.parametrize(
    ("bits", "verdict"),
    [(1.50, "undecided"), (1.52, "undecided"), (1.60, "worse"), (1.40, "better")],
)
def test_without_a_pairing_intervals_must_lie_apart(bits, verdict):
    models = (made.model("a", bits), made.model("b", 1.5))
    found = ranked_models([made.quickstart(models=models, comparisons=())])
    gap = paired_difference(*found)
    assert gap and gap.verdict == verdict and not gap.paired


def test_different_texts_are_never_compared():
    other = made.corpus(name="another", fingerprint="other")
    first = made.quickstart(models=(made.model("a"),), comparisons=(), corpus=(made.corpus(),))
    changed = made.evaluation(1.2).model_copy(update={"corpus": "other"})
    second = made.quickstart(
        models=(made.model("a", evaluate=changed),), comparisons=(), corpus=(other,)
    )
    found = ranked_models([first, second])
    assert paired_difference(*found) is None
    assert [(group.text.name, group.text.split) for group in groups(found)] == [
        ("python-stdlib", "test"),
        ("another", "test"),
    ]


def other_text(**changes):
    """Two runs of one model each; the second one's text differs in these fields of its corpus."""
    first = made.quickstart(
        models=(made.model("a"),), comparisons=(), corpus=(made.corpus(source="5" * 64),)
    )
    evaluated = made.evaluation(1.2).model_copy(update={"corpus": "other"})
    corpus = made.corpus(**{"fingerprint": "other", "source": "5" * 64, **changes})
    return first, made.quickstart(
        models=(made.model("a", evaluate=evaluated),), comparisons=(), corpus=(corpus,)
    )


def test_texts_are_the_same_by_content_whatever_they_are_called():
    found = ranked_models(other_text(name="a copy of it"))
    assert len(groups(found)) == 1 and paired_difference(*found) is not None
    found = ranked_models(other_text(source="6" * 64))
    assert paired_difference(*found) is None
    assert [group.text.name for group in groups(found)] == [
        "python-stdlib (55555555)",
        "python-stdlib (66666666)",
    ]
    said = [each.title for each in across(other_text(source="6" * 64))]
    assert "Different texts are called python-stdlib." in said


def test_summaries_without_a_source_tell_texts_by_name_and_sizes():
    old = made.corpus().splits
    for splits, count in (
        (old, 1),
        ({**old, "test": old["test"].model_copy(update={"bytes": 5})}, 2),
    ):
        runs = other_text(source=None, splits=splits)
        runs = (runs[0].model_copy(update={"corpus": (made.corpus(),)}), runs[1])
        assert len(groups(ranked_models(runs))) == count


def test_a_lossy_tokenizer_can_lose_but_not_win_by_bits_per_byte():
    splits = made.corpus().splits
    lossy = {**splits, "test": splits["test"].model_copy(update={"lost": 7})}
    found = ranked_models(other_text(tokenizer="word (900)", splits=lossy))
    gap = paired_difference(*found)
    assert (
        gap and gap.high > gap.low > 0 and gap.verdict == "undecided" and "too good" in change(gap)
    )
    (group,) = groups(found)
    assert len(tied_best(group.rankable)) == 2
    assert group.flattered == {f"{name}, word (900)" for name in ("unigram", "bigram", "kn5")}
    turned = ranked_models(
        other_text(
            tokenizer="word (900)",
            splits=splits | {"test": splits["test"].model_copy(update={"lost": 0})},
        )
    )
    assert paired_difference(*turned).verdict == "worse"
    said = across(other_text(tokenizer="word (900)", splits=lossy))
    assert any(
        "do not give the text back" in each.title and "7 lines of the test split" in each.text
        for each in said
    )


def test_what_many_comparisons_explain_is_undecided_and_says_so():
    pair = made.compare("teacher", "student", -0.1, 0.05).model_copy(
        update={"verdict": "undecided", "p": 0.02, "p_corrected": 0.2, "comparisons": 10}
    )
    found = ranked_models([made.quickstart(comparisons=(pair,))])
    gap = paired_difference(ranked(found, "student"), ranked(found, "teacher"))
    assert gap.verdict == "undecided" and "10 comparisons" in change(gap)


def test_leaders_are_what_cannot_be_told_from_the_best():
    summary = made.quickstart(comparisons=(made.compare("student-compute", "int8", -0.001, 0.002),))
    group = groups(ranked_models([summary]))[0]
    assert [each.label for each in tied_best(group.rankable)] == ["student-compute", "int8"]


# Generation speeds of a quickstart on a busy machine: median, least and most of five runs. The
# fastest model had one slow run, so that its interval reaches below the slowest ones.
NOISY = {
    "student": (2_355, 1_047, 2_453),
    "student-alone": (2_301, 2_180, 2_390),
    "student-compute": (2_290, 2_210, 2_350),
    "int8": (1_174, 1_101, 1_242),
    "nf4": (1_390, 1_310, 1_450),
    "teacher": (1_062, 990, 1_110),
}


def noisy(speeds):
    def rated(each):
        if each.name not in speeds:
            return each
        value, low, high = speeds[each.name]
        rate = Metric(value, "tokens/s", "higher", 5, low, high)
        bench = each.bench.model_copy(update={"decode_tokens_per_s": rate})
        return each.model_copy(update={"bench": bench})

    summary = made.quickstart(models=tuple(map(rated, made.quickstart_models())))
    return summary, groups(ranked_models([summary]))[0]


def test_one_noisy_measurement_does_not_make_slow_models_fast():
    summary, group = noisy(NOISY)
    speed = AXES["speed"].metric
    fast = {"student", "student-alone", "student-compute"}
    assert {each.label for each in tied_best_in(group.rankable, speed)} == fast
    best = tables.table(group).best
    bold = {label for label, key in best if key == "decode_tokens_per_s"}
    assert bold == {"student-compute"}, "the steadiest of the fast ones, of the verdict too"
    titles = [each.title for each in findings(summary)]
    assert any("`int8`" in title and "and slower" in title for title in titles)
    picked = picks(group)
    assert picked.fastest.label == "student-compute", "the steadiest of the equally fast"
    assert {each.label for each in picked.alike} == fast - {"student-compute"}
    assert [each.label for each in AXES["speed"].front(group.rankable)] == ["student-compute"]


@pytest.mark.parametrize(
    ("speeds", "fastest"),
    [
        ({"teacher": (100, 50, 300), "int8": (120, 118, 122), "nf4": (90, 85, 95)}, "int8"),
        ({"teacher": (100, 50, 300), "int8": (120, 40, 122), "nf4": (90, 45, 95)}, None),
        ({"teacher": (200, 130, 300), "int8": (150, 90, 160), "nf4": (110, 100, 120)}, "teacher"),
        ({"teacher": (200, 190, 210)}, None),
    ],
    ids=["the steadiest of a tie", "all overlap", "it has to beat the rest", "one alone"],
)
def test_the_fastest_is_the_steadiest_that_wins_or_none(speeds, fastest):
    absent = {each.name for each in made.quickstart_models()} - set(speeds)
    _, group = noisy(speeds)
    measured = [each for each in group.rankable if each.label not in absent]
    winner = winner_in(measured, AXES["speed"].metric)
    assert (winner and winner.label) == fastest


def test_what_measured_exactly_the_same_is_bold_together():
    bench = made.speed(5.9, 11_200, 690, 19_400_000, 5_313_024)
    slow = made.speed(9.9, 11_200, 90, 19_400_000, 5_313_024)
    models = [made.model(name, bits, bench=bench) for name, bits in (("a", 1.5), ("b", 1.6))]
    models.append(made.model("slow", 1.7, bench=slow))
    (group,) = groups(ranked_models([made.quickstart(models=tuple(models), comparisons=())]))
    assert {each.label for each in bold(group.rankable, AXES["speed"].metric)} == {"a", "b"}


def test_where_every_speed_is_noisy_nothing_is_called_faster():
    wide = {name: (value, 900, 2_500) for name, (value, _, _) in NOISY.items()}
    summary, group = noisy(wide)
    assert not any(key == "decode_tokens_per_s" for _, key in tables.table(group).best)
    assert not any("faster" in each.title or "slower" in each.title for each in findings(summary))


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ((5, 4, 6), (8, 7, 9), "worse"),
        ((8, 7, 9), (5, 4, 6), "better"),
        ((5, 4, 6), (6, 5, 7), "undecided"),
    ],
)
def test_a_quantity_is_decided_by_intervals_that_lie_apart(first, second, verdict):
    one, other = (
        Metric(*numbers[:1], "tokens/s", "higher", 5, *numbers[1:]) for numbers in (first, second)
    )
    assert decide(one, other) == verdict
    opposite = {"better": "worse", "worse": "better", "undecided": "undecided"}
    less = [Metric(m.value, "ms", "lower", 5, m.low, m.high) for m in (one, other)]
    assert decide(*less) == opposite[verdict]


def test_the_front_leaves_out_what_is_dearer_and_no_better():
    pair = made.compare("base", "int8", -0.0001, 0.002)
    models = (made.model("base", 1.5), made.model("int8", 1.5001, disk_bytes=1_400_000))
    (group,) = groups(ranked_models([made.quickstart(models=models, comparisons=(pair,))]))
    assert [each.label for each in AXES["disk"].front(group.rankable)] == ["int8"]
    assert [each.label for each in tied_best(group.rankable)] == ["base", "int8"]


def test_the_strongest_floor_is_judged_by_the_interval_of_the_best():
    def verdict(bits):
        (group,) = groups(
            ranked_models([made.quickstart(models=(made.model("a", bits),), comparisons=())])
        )
        return strongest_floor(group).verdict

    assert [verdict(bits) for bits in (1.80, 1.86, 1.90)] == ["better", "undecided", "worse"]


def test_standing():
    failing = made.audit(1.2, causality="logits change with the future")
    sensitivity = Check(name="initial_token_sensitivity", measured=0.01, bound=0.2, verdict="fail")
    overlap = Check(name="train_overlap", measured=0.7, bound=0.5, verdict="fail")
    sound = made.audit(1.9)
    models = (
        made.model("good"),
        made.model("above", 2.95),
        made.model("endless", math.inf),
        made.model("leaky", 1.2, audit=failing),
        made.model(
            "dull",
            audit=sound.model_copy(
                update={"checks": (*sound.checks, sensitivity), "passed": False}
            ),
        ),
        made.model(
            "overlapping",
            audit=sound.model_copy(update={"checks": (*sound.checks, overlap), "passed": False}),
        ),
        made.model("unmeasured", evaluate=None, audit=None),
    )
    found = ranked_models([made.quickstart(models=models, comparisons=())])
    assert {each.label: each.standing for each in found} == {
        "good": "ok",
        "above": "collapsed",
        "endless": "collapsed",
        "leaky": "invalid",
        "dull": "collapsed",
        "overlapping": "ok",
        "unmeasured": "unmeasured",
    }
    assert [each.label for each in groups(found)[0].rankable] == ["good", "overlapping"]


def test_what_had_no_time_to_learn_is_too_short_and_not_collapsed():
    bad, falling = made.model("bad", 2.95), made.model("falling", 2.95)
    few = bad.model_copy(
        update={"name": "few", "training": made.training(bad, steps=38, seconds=22.0)}
    )
    losses = [each._replace(nll=9.0 - place) for place, each in enumerate(falling.curve.validation)]
    falling = falling.model_copy(
        update={"curve": falling.curve.model_copy(update={"validation": tuple(losses)})}
    )
    summary = made.quickstart(models=(bad, few, falling), comparisons=())
    assert [each.standing for each in ranked_models([summary])] == [
        "collapsed",
        "too short",
        "too short",
    ]
    said = " ".join(plain(findings(summary)))
    assert "few was not trained long enough to be ranked" in said
    assert "after 38 steps in 22 s. Give it more time" in said


def test_lineages_share_a_colour_and_differ_in_shape():
    found = ranked_models([made.quickstart()])
    marks = {each.label: (each.colour, each.shape) for each in found}
    assert marks["int8"][0] == marks["nf4"][0] == marks["student-compute"][0]
    assert len(set(marks.values())) == len(marks)
    assert marks["student"][0] != marks["teacher"][0]


def test_labels_of_several_runs_are_unique():
    found = ranked_models([made.quickstart(), made.quickstart(), made.quickstart(name="other")])
    labels = [each.label for each in found]
    assert len(set(labels)) == len(labels)
    assert {"quickstart:int8", "quickstart#2:int8", "other:int8"} <= set(labels)


def test_a_quantized_model_inherits_what_training_took():
    found = ranked_models([made.quickstart()])
    training = ranked(found, "nf4").training
    assert training is not None and training.total_flops == 2.12e14
