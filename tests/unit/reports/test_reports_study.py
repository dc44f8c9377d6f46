"""Findings on made-up numbers, whose verdicts are known, and the tables, figures and page of a study."""

import csv
import dataclasses
import io
import math
import random
import re

import pytest
from markdown_it import MarkdownIt
from study_fixture import cell, finding, summary

from flyweight.config.metrics import METRICS
from flyweight.errors import FlyweightError, RequestError
from flyweight.records.study_summary import Spread, StudySummary
from flyweight.reports.figures import study as study_plots
from flyweight.reports.findings.study import study_advice
from flyweight.reports.pages import study as study_page
from flyweight.reports.tables import study as study_tables
from flyweight.studies.claims import evaluate_claim, select, written

LOW, HIGH = [1.00, 1.02, 1.01], [2.00, 2.03, 2.01]
NOISY = [0.5, 3.0, 1.4]


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        (LOW, HIGH, "confirmed"),
        (HIGH, LOW, "refuted"),
        (LOW, NOISY, "undecided"),
        (LOW, LOW, "undecided"),
    ],
)
def test_one_comparison(a, b, verdict):
    found = evaluate_claim(finding(), [cell("a", a), cell("b", b)], "nll")
    assert found.verdict == found.contests[0].verdict == verdict
    assert found.contests[0].n == 3


def test_the_test_is_paired_over_seeds():
    shift = [0.0, 1.0, 5.0]  # seeds differ far more than the models do
    a, b = (
        [1.0 + s for s in shift],
        [1.1 + s + e for s, e in zip(shift, (0.01, -0.01, 0.0), strict=True)],
    )
    contest = evaluate_claim(finding(), [cell("a", a), cell("b", b)], "nll").contests[0]
    assert contest.difference == pytest.approx(-0.1)
    assert contest.verdict == "confirmed"
    # t = 0.1 / (0.01 / sqrt(3)) = 17.32 with 2 degrees of freedom
    assert contest.p == pytest.approx(0.003317, rel=1e-3)
    assert contest.high - contest.difference == pytest.approx(
        4.30265 * 0.01 / math.sqrt(3), rel=1e-4
    )


def test_two_seeds_decide_nothing():
    found = evaluate_claim(finding(), [cell("a", LOW[:2]), cell("b", HIGH[:2])], "nll")
    assert found.verdict == "undecided"
    assert "a test needs 3" in found.contests[0].why


def test_a_collapsed_side_decides_nothing():
    bad = cell("b", HIGH, bad=(1, "collapsed", "worse than unigrams"))
    found = evaluate_claim(finding(), [cell("a", LOW), bad], "nll")
    assert found.verdict == "undecided"
    assert "no sound run of b" in found.contests[0].why
    assert bad.spread("nll") is None


def test_validation_chooses_who_speaks_and_test_decides():
    # The first of `a` is best on validation and worst on test.
    cells = [
        cell("a-1", HIGH, validation=0.1),
        cell("a-2", LOW, validation=5.0),
        cell("b", NOISY, validation=1.0),
    ]
    cells += [cell("b-2", [1.5, 1.51, 1.52], validation=0.5)]
    found = evaluate_claim(finding("a-*", "b*"), cells, "nll")
    assert found.contests[0].below.startswith("a-1")
    assert found.contests[0].above.startswith("b-2")
    assert found.verdict == "refuted"


def blind(made):
    return made.model_copy(
        update={"runs": tuple(run.model_copy(update={"validation": None}) for run in made.runs)}
    )


def test_without_validation_nobody_is_chosen():
    several = [blind(cell("a-1", LOW)), blind(cell("a-2", HIGH))]
    (contest,) = evaluate_claim(
        finding("a-*", "b"), [*several, blind(cell("b", NOISY))], "nll"
    ).contests
    assert (contest.verdict, contest.difference, contest.why) == (
        "undecided",
        None,
        "no validation to choose by",
    )
    (contest,) = evaluate_claim(
        finding("a-*", "b", compare="equal_flops"), [*several, cell("b", NOISY)], "nll"
    ).contests
    assert contest.why == "no validation to choose by"
    assert (
        evaluate_claim(finding(), [blind(cell("a", LOW)), blind(cell("b", HIGH))], "nll").verdict
        == "confirmed"
    )  # nothing to choose


@pytest.mark.parametrize(
    ("second", "holds", "verdict"),
    [
        ((LOW, HIGH), "everywhere", "confirmed"),
        ((LOW, LOW), "everywhere", "undecided"),
        ((HIGH, LOW), "everywhere", "refuted"),
        ((LOW, LOW), "somewhere", "confirmed"),
        ((HIGH, LOW), "somewhere", "confirmed"),
    ],
)
def test_several_conditions(second, holds, verdict):
    cells = [cell("a", LOW), cell("b", HIGH)]
    cells += [cell("a", second[0], data="other"), cell("b", second[1], data="other")]
    found = evaluate_claim(finding(holds=holds), cells, "nll")
    assert [contest.where for contest in found.contests] == [
        "text, context 64, b",
        "other, context 64, b",
    ]
    assert found.verdict == verdict


def test_somewhere_falls_only_where_every_condition_is_against_it():
    cells = [
        each
        for data in ("x", "y")
        for each in (cell("a", HIGH, data=data), cell("b", LOW, data=data))
    ]
    assert evaluate_claim(finding(holds="somewhere"), cells, "nll").verdict == "refuted"


def test_one_of_many_conditions_is_corrected_for_their_number():
    """A p of 0.03 in one of twenty conditions is what chance gives."""
    strong = [0.96, 0.95, 0.94]
    alone = evaluate_claim(finding(), [cell("a", strong), cell("b", [1.0] * 3)], "nll")
    assert alone.verdict == "confirmed"
    cells = [
        each
        for place in range(20)
        for each in (
            cell("a", [1, 1.1, 0.9], data=f"{place}"),
            cell("b", [1, 1, 1], data=f"{place}"),
        )
    ]
    cells += [cell("a", strong, data="last"), cell("b", [1.0] * 3, data="last")]
    assert evaluate_claim(finding(holds="somewhere"), cells, "nll").verdict == "undecided"


def test_false_alarms_are_as_rare_as_the_level():
    draw = random.Random(1)

    def noise():
        return [draw.gauss(1, 0.1) for _ in range(4)]

    verdicts = [
        evaluate_claim(finding(), [cell("a", noise()), cell("b", noise())], "nll").verdict
        for _ in range(1000)
    ]
    assert 0.03 < 1 - verdicts.count("undecided") / 1000 < 0.07


def test_a_field_is_an_axis_where_both_sides_have_it_and_free_elsewhere():
    rope, learned = {"position": "rope"}, {"position": "learned"}
    cells = [
        cell("a", LOW, fields=rope),
        cell("a", HIGH, fields=learned),
        cell("b", HIGH, fields=rope),
        cell("b", LOW, fields=learned),
    ]
    both = evaluate_claim(finding(), cells, "nll")
    assert [contest.verdict for contest in both.contests] == ["confirmed", "refuted"]
    assert [contest.where for contest in both.contests] == [
        f"text, context 64, b, position {each}" for each in ("rope", "learned")
    ]
    free = evaluate_claim(finding(), [*cells[:2], cell("b", HIGH)], "nll")
    assert len(free.contests) == 1
    assert free.contests[0].below.startswith("a {'position': 'rope'}")
    sides = finding({"fields": {"position": "rope"}}, {"fields": {"position": "learned"}})
    assert [
        contest.where.split(", ")[1] for contest in evaluate_claim(sides, cells, "nll").contests
    ] == [
        "a",
        "b",
    ]


def test_nobody_is_dropped_from_a_claim():
    rope, learned = {"position": "rope"}, {"position": "learned"}
    cells = [
        cell(model, values, fields=fields)
        for model, values in (("a", LOW), ("b", HIGH))
        for fields in (rope, learned)
    ]
    (contest,) = evaluate_claim(
        finding("*", "b"), [*cells, cell("c", NOISY, validation=0.1)], "nll"
    ).contests
    assert contest.below.startswith("c")  # it has no such field, and validation prefers it
    found = evaluate_claim(
        finding(), [cell("a", HIGH, budget="long"), cell("a", LOW), cell("b", HIGH)], "nll"
    )
    assert [contest.why for contest in found.contests] == [
        "only below has cells there, above has none",
        "",
    ]
    assert found.method.endswith("1 could not be tested.")


def test_perplexities_are_compared_by_their_logarithms():
    cells = [cell("a", [1.0, 2.0, 6.0]), cell("b", [1.1, 2.11, 6.1])]
    plain, logs = (
        evaluate_claim(finding(), cells, "nll"),
        evaluate_claim(finding(metric="perplexity"), cells, "nll"),
    )
    assert (logs.verdict, logs.contests[0].p) == (
        "confirmed",
        pytest.approx(plain.contests[0].p, rel=1e-6),
    )
    assert "by logarithms" in logs.method
    assert (
        evaluate_claim(finding(metric="perplexity", factor=0.95), cells, "nll").verdict
        == "confirmed"
    )  # exp(-0.1) is 0.905
    assert (
        evaluate_claim(finding(metric="perplexity", factor=0.85), cells, "nll").verdict == "refuted"
    )


def test_a_factor_asks_for_more():
    cells = [cell("a", [0.95, 0.951, 0.949]), cell("b", [1.0, 1.0, 1.0])]
    assert evaluate_claim(finding(), cells, "nll").verdict == "confirmed"
    assert evaluate_claim(finding(factor=0.9), cells, "nll").verdict == "refuted"
    assert evaluate_claim(finding(factor=0.96), cells, "nll").verdict == "confirmed"


def curve(model, points, **more):
    return [
        cell(model, [v, v + 0.01, v - 0.01], flops=f, budget=f"{f:g}", **more) for f, v in points
    ]


def test_equal_flops_are_interpolated_in_their_logarithm():
    cells = [*curve("a", [(1e10, 3.0), (1e12, 1.0)]), *curve("b", [(1e11, 2.5)])]
    (contest,) = evaluate_claim(finding(compare="equal_flops"), cells, "nll").contests
    assert contest.how == "interpolated"
    assert contest.below_flops == contest.above_flops == 1e11
    assert contest.difference == pytest.approx(2.0 - 2.5)
    assert contest.verdict == "confirmed"


def test_equal_flops_take_the_nearest_within_the_tolerance_and_say_so():
    cells = [*curve("a", [(1.05e11, 2.0)]), *curve("b", [(1e11, 2.5)])]
    (contest,) = evaluate_claim(finding(compare="equal_flops"), cells, "nll").contests
    assert contest.how == "nearest, 5 % apart"
    (contest,) = evaluate_claim(
        finding(compare="equal_flops", tolerance=0.01), cells, "nll"
    ).contests
    assert contest.verdict == "undecided"
    assert "do not meet" in contest.why


def test_a_share_of_the_flops():
    cells = [*curve("a", [(1e10, 2.0), (1e11, 1.0)]), *curve("b", [(1e11, 2.5)])]
    (contest,) = evaluate_claim(finding(compare="equal_flops", flops=0.1), cells, "nll").contests
    assert (contest.below_flops, contest.above_flops) == (1e10, 1e11)
    assert contest.difference == pytest.approx(-0.5)


def test_equal_flops_at_three_points_at_most_and_never_outside_a_curve():
    cells = [
        *curve("a", [(1e10, 3.0), (1e12, 1.0)]),
        *curve("b", [(10**e, 4 - 0.1 * e) for e in (9, 10, 10.5, 11, 11.5, 12, 13)]),
    ]
    contests = evaluate_claim(finding(compare="equal_flops"), cells, "nll").contests
    assert [contest.above_flops for contest in contests] == [1e10, 1e11, 1e12]


def test_selection():
    cells = [
        cell("mlp-128", LOW),
        cell("mlp-256", LOW, budget="c"),
        cell("attention-1", LOW, fields={"x.y": "{kind: rope}"}),
    ]
    group = finding(
        {"model": "mlp-*"}, {"model": "attention-1", "fields": {"x.y": {"kind": "rope"}}}
    )
    assert [each.model for each in select(group.below, cells)] == ["mlp-128", "mlp-256"]
    assert [each.model for each in select(group.above, cells)] == ["attention-1"]
    assert (written(True), written(None), written(0.5), written([1, "a"])) == (
        "true",
        "null",
        "0.5",
        "[1, a]",
    )


def test_spreads():
    spread = Spread.of([1.0, 2.0, 3.0])
    assert (spread.mean, spread.n) == (2.0, 3)
    assert spread.high - 2.0 == pytest.approx(4.30265 / math.sqrt(3), rel=1e-5)
    assert Spread.of([1.0, 2.0]).low is None
    logarithmic = cell("a", [1.0, 2.0, 3.0]).spread("perplexity")
    assert logarithmic.mean == pytest.approx(math.exp(2.0))
    assert logarithmic.low > 0


# --- tables, figures, page ---


@pytest.fixture
def study():
    cells = [
        *curve("a-1", [(1e11, 2.0), (1e12, 1.8)]),
        *curve("b-1", [(1e11, 2.4), (1e12, 1.7)]),
        cell("c|x", [9.0, 2.0, 2.0], flops=2e11, bad=(0, "collapsed", "worse than unigrams")),
    ]
    return summary(cells, left_out=("wikitext-2 is left out: no file",))


def test_the_table_shows_what_collapsed_and_no_mean_of_it(study):
    text = study_tables.markdown(study)
    row = next(line for line in text.splitlines() if line.startswith("| c"))
    assert row.startswith("| c&#124;x (collapsed) |") and row.count("collapsed") == 1
    assert "4.33" not in text  # the mean of 9, 2 and 2
    assert "1 of 3 runs: worse than unigrams" in text
    assert "**1.700** (1.675" in text
    assert "| unigram |" in text
    assert "wikitext-2 is left out" in text
    assert row.count(" | ") == text.splitlines()[2].count(" | ")


def test_no_name_or_reason_means_anything_to_markdown(study):
    evil = "<script>x</script> ![p](http://x) **b** a|b \x1b[31m"
    cells = [
        cell("c", [9.0, 2.0, 2.0], bad=(0, "collapsed", evil)),
        *curve(evil, [(1e11, 2.0), (1e12, 1.8)]),
    ]
    cells = [each.model_copy(update={"data": evil}) for each in cells]
    corpus = {evil: next(iter(study.corpus.values()))}
    found = study.findings[0].model_copy(update={"claim": evil})
    changed = {"cells": tuple(cells), "corpus": corpus, "left_out": (evil,), "findings": (found,)}
    written = study_tables.markdown(study.model_copy(update=changed))
    assert not set("<[\x1b") & set(written)
    assert written.count("**b**") == 0
    inner = [
        child
        for token in MarkdownIt("commonmark").enable("table").parse(written)
        for child in token.children or ()
    ]
    assert {child.type for child in inner} <= {
        "text",
        "text_special",
        "strong_open",
        "strong_close",
        "softbreak",
    }


def test_the_front_is_of_the_metric_against_flops(study):
    (table,) = study_tables.tables(study).values()
    (column,) = [column for column in table.columns if column.key == "front"]
    on_front = [row.key for row in table.rows if column.cell(row.of)]
    assert {name.split(",")[0] + name.split(",")[-1] for name in on_front} == {
        "a-1  1e+11",
        "b-1  1e+12",
    }


def bold(cells, metric="nll", **more):
    (table,) = study_tables.tables(summary(cells, **more)).values()
    return {key.split()[0] for key, column in table.best if column == metric}


def test_bold_is_the_best_mean_and_what_is_not_significantly_worse():
    steady = [1.0, 1.1, 1.2]
    near, far = [1.2, 0.9, 1.3], [1.3, 1.4, 1.5]
    cells = [cell("best", steady), cell("near", near), cell("far", far)]
    assert bold(cells) == {"best", "near"}, "paired by seed, far is worse by 0.3 every time"
    assert bold(cells, "perplexity") == {"best", "near"}
    assert bold([cell("a", steady[:2]), cell("b", far[:2])]) == set(), "two seeds decide nothing"
    assert bold([cell("alone", steady)]) == set()


def test_a_metric_of_which_more_is_better_turns_every_judgement(monkeypatch):
    more = dataclasses.replace(METRICS["nll"], better="higher")
    cells = [cell("low", LOW, flops=2e11), cell("high", HIGH, flops=1e11)]
    assert bold(cells) == {"low"}
    monkeypatch.setitem(METRICS, "nll", more)
    assert bold(cells) == {"high"}
    (best, *_) = study_advice(summary(cells)).choices
    assert best.label == "high, b"
    (table,) = study_tables.tables(summary(cells)).values()
    (column,) = [column for column in table.columns if column.key == "front"]
    assert [row.label for row in table.rows if column.cell(row.of)] == ["high"]
    assert ("NLL", "nats per token of the test split, higher is better") in table.glossary()


def test_the_verdict_counts_claims_and_names_the_best_cell(study):
    advice = study_advice(study)
    assert advice.title == "1 claim: 1 refuted."
    best, *others = advice.choices
    assert (best.label, best.roles) == ("b-1, 1e+12", ("best",)) and not others
    assert best.line == "1.700 nats/token, 1 TFLOPs, 1 k parameters"
    assert best.command == "flyweight generate pretrain-00000002 Once"
    plain = study_advice(study.model_copy(update={"findings": ()}))
    assert plain.title == f"Take `b-1, 1e+12`: {best.line}"
    few = study_advice(summary([cell("a", LOW[:1]), cell("b", HIGH[:1])], findings=()))
    assert (
        few.notes[-1]
        == "Which cell is best is not decided: fewer than three seeds give no interval."
    )
    bad = cell("a", LOW, bad=(0, "collapsed", "no better than unigrams"))
    none = study_advice(summary([bad], findings=()))
    assert (none.kind, none.choices) == ("warning", ())
    assert "No cell of this study is a result" in none.title and "unigrams" in none.notes[0]


def test_the_cheapest_of_a_tie_is_a_choice_of_its_own():
    cells = [
        cell("best", [1.0, 1.1, 1.2], flops=1e13),
        cell("near", [1.2, 0.9, 1.3], flops=1e11),
        cell("far", [2.0, 2.1, 2.2], flops=1e10),
    ]
    advice = study_advice(summary(cells))
    assert [(each.label, *each.roles) for each in advice.choices] == [
        ("best, b", "best"),
        ("near, b", "cheapest of those not significantly worse"),
    ]
    assert advice.notes == ("Not significantly worse than `best, b`: `near, b`.",)


def test_a_study_says_so_when_counting_beats_every_cell():
    def notes(*values):
        return study_advice(summary([cell("a", list(values))], findings=())).notes

    (worse,) = notes(1.8, 1.81, 1.82)
    assert worse.startswith("No cell here beats the 5-gram (Kneser-Ney) floor (1.500 nats/token)")
    assert "is undecided" in notes(1.4, 1.5, 1.6)[0] and "is undecided" in notes(1.4)[0]
    assert notes(1.1, 1.11, 1.12) == ()


def test_the_page_begins_with_the_verdict_then_the_table_then_figures(study):
    page = study_page.render(study)
    order = ["1 claim: 1 refuted.", "b-1, 1e+12</a>", 'class="models"', "<svg", 'id="findings"']
    places = [page.index(part) for part in order]
    assert places == sorted(places)
    assert page.count('href="#claim-1"') == 1 and page.count('id="claim-1"') == 1
    for target in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{target}"' in page, target
    assert 'title="training FLOPs of a run' in page and "What the columns mean" in page
    assert page.count('type="radio"') == 2, "one figure with a switch of its x axis"


def test_csv_has_every_run_and_every_mean(study):
    lines = study_tables.long_csv(study).splitlines()
    assert len({line.count(",") for line in lines}) == 1
    assert sum(",mean," in line for line in lines) == 4 * 2
    assert sum(",collapsed,nll," in line for line in lines) == 1
    assert sum(",floor," in line for line in lines) == 4


def test_figures_and_page(study, tmp_path):
    study.write(tmp_path)
    page = study_page.write(tmp_path).read_text()
    assert StudySummary.read(tmp_path) == study
    assert "What &lt;b&gt;is&lt;/b&gt; found." in page
    assert "<script" not in page
    assert page.count("<svg") == 2
    assert not re.search(r'(src|href)="http', page)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert {path.name for path in tmp_path.glob("*.svg")} == {
        "text-flops.svg",
        "text-parameters.svg",
    }
    alone = (tmp_path / "text-flops.svg").read_text()
    assert alone.startswith("<svg")
    assert "--series-0: #" in alone
    assert "<title>c|x" in alone  # the cross says what it is


def test_the_page_names_the_difference_that_it_prints(study, tmp_path):
    cells = [cell("a", [0.95, 0.951, 0.949]), cell("b", [1.0, 1.0, 1.0])]
    summary(cells, findings=(evaluate_claim(finding(factor=0.9), cells, "nll"),)).write(tmp_path)
    assert re.search(r"minus 0\.9 times b [^:]*: \+0\.050 ", study_page.write(tmp_path).read_text())
    certain = [cell("a", [1.0 + 1e-9 * s for s in range(7)]), cell("b", [2.0] * 7)]
    assert 0 <= evaluate_claim(finding(), certain, "nll").contests[0].p < 1e-12


def test_a_claim_about_nobody_opens_nothing(study, tmp_path):
    found = evaluate_claim(finding("nobody", "none"), study.cells, "nll")
    assert (found.verdict, found.contests) == ("undecided", ())
    study.model_copy(update={"findings": (found,)}).write(tmp_path)
    page = study_page.write(tmp_path).read_text()
    assert "has no cells to compare" in page
    assert "0 comparisons" not in page


def test_no_figure_of_an_earlier_result_stays(study, tmp_path):
    study.write(tmp_path)
    study_page.write(tmp_path)
    summary([cell("a", LOW)], findings=()).write(tmp_path)
    study_page.write(tmp_path)
    assert not list(tmp_path.glob("*.svg"))


def diverged(made, *seeds):
    gone = {
        "id": None,
        "standing": "collapsed",
        "why": "diverged",
        "metrics": {},
        "validation": None,
        "flops": 0,
        "seconds": 0,
    }
    runs = tuple(run.model_copy(update=gone) if run.seed in seeds else run for run in made.runs)
    return made.model_copy(update={"runs": runs})


def test_what_diverged_has_its_lines_and_counts_in_no_mean():
    some, every = diverged(cell("b-1", HIGH, flops=4e11), 1), diverged(cell("c", HIGH), 0, 1, 2)
    assert (some.flops, some.seconds) == (4e11, 10.0)
    made = summary([cell("a-1", LOW), some, every])
    lines = list(csv.DictReader(io.StringIO(study_tables.long_csv(made))))
    lost = [line for line in lines if line["model"] in ("b-1", "c") and not line["value"]]
    assert [
        (line["model"], line["seed"], line["metric"]) for line in lost if line["metric"] == "nll"
    ] == [
        ("b-1", "1", "nll"),
        ("c", "0", "nll"),
        ("c", "1", "nll"),
        ("c", "2", "nll"),
    ]
    assert {(line["flops"], line["standing"], line["n"]) for line in lost} == {
        ("", "collapsed", "0")
    }
    row = next(line for line in study_tables.markdown(made).splitlines() if line.startswith("| c "))
    assert " 0 " not in row


def test_every_cell_is_in_the_figure():
    sound = [*curve("a-1", [(1e11, 2.0), (1e12, 1.8)])]
    bad = [
        cell("far", LOW, flops=1e14, parameters=10**9, bad=(0, "collapsed", "why")),
        cell("near", LOW, flops=1e8, parameters=10, bad=(0, "collapsed", "why")),
        diverged(cell("gone", LOW), 0, 1, 2),
    ]
    for drawing in study_plots.drawings(summary([*sound, *bad]), "text", "x"):
        assert all(f"<title>{name}" in drawing.svg for name in ("far", "near", "gone"))


def test_a_figure_needs_two_results():
    one = summary([cell("a", LOW), cell("b", LOW, bad=(0, "collapsed", "why"))])
    assert study_plots.drawings(one, "text", "x") == []
    assert "collapsed" in study_page.render(one)


def test_a_damaged_summary_is_refused(study, tmp_path):
    path = study.write(tmp_path)
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 7', 1))
    with pytest.raises(FlyweightError, match="run the study again"):
        StudySummary.read(tmp_path)
    with pytest.raises(RequestError, match="is not a finished study"):
        StudySummary.read(tmp_path / "nowhere")


def test_cells_have_the_memory_planned_and_used():
    runs = [run.model_copy(update={"memory_used": 150 + run.seed}) for run in cell("a", LOW).runs]
    known = cell("a", LOW, memory_planned=140).model_copy(update={"runs": tuple(runs)})
    assert known.memory_used == 152 and cell("b", HIGH).memory_used is None
    studied = summary([known, cell("b", HIGH)])
    titles = [column.title for column in study_tables.table(studied, "text").columns]
    assert "planned" in titles and "memory" in titles
    lines = list(csv.DictReader(io.StringIO(study_tables.long_csv(studied))))
    mine = [line for line in lines if line["model"] == "a" and line["seed"] == "0"]
    assert {(line["memory_planned"], line["memory_used"]) for line in mine} == {("140", "150")}
    unknown = study_tables.table(summary([cell("b", HIGH)]), "text").columns
    assert not {"planned", "memory"} & {column.title for column in unknown}
