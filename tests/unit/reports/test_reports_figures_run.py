import re
from xml.etree import ElementTree

import pytest
import report_fixture as made

from flyweight.reports.figures import canvas, run as plots
from flyweight.reports.figures.svg import figure_style, inline
from flyweight.reports.models import groups, ranked_models


def group(**changes):
    return groups(ranked_models([made.quickstart(**changes)]))[0]


@pytest.fixture(scope="module")
def drawings():
    whole = group()
    ranking = plots.ranking(whole)
    assert ranking
    return [ranking, *plots.quality(whole), *plots.curves(whole)]


def texts(svg):
    return ["".join(each.itertext()) for each in ElementTree.fromstring(svg).iter("text")]


def test_all_figures_are_drawn(drawings):
    keys = [each.key for each in drawings]
    assert keys == [
        "ranking",
        "quality-disk",
        "quality-speed",
        "quality-flops",
        "curve-flops",
        "curve-seconds",
    ]


def test_the_front_is_the_right_one(drawings):
    captions = {each.key: each.caption for each in drawings}
    assert captions["quality-disk"].startswith("On the front: nf4, int8 and student-compute.")
    assert captions["quality-speed"].startswith("On the front: student-compute.")
    assert captions["quality-flops"].startswith(
        "On the front: student-alone, teacher and student-compute."
    )


def marker(svg, gid):
    """Return the style of the marker drawn under a gid."""
    (found,) = (
        each
        for each in ElementTree.fromstring(svg).iter("g")
        if each.get("id", "").endswith(f"-{gid}")
    )
    return next(found.iter("use")).get("style", "")


def test_points_on_the_front_are_filled_and_others_hollow(drawings):
    disk = next(each for each in drawings if each.key == "quality-disk")
    order = ["teacher", "student", "student-alone", "student-compute", "int8", "nf4"]
    hollow = {
        name
        for index, name in enumerate(order)
        if "fill: var(--paper)" in marker(disk.svg, f"p{index}")
    }
    assert hollow == {"teacher", "student", "student-alone"}


def test_every_model_is_named_once_in_every_quality_figure(drawings):
    for each in drawings[1:4]:
        found = texts(each.svg)
        for model in made.quickstart_models():
            assert found.count(model.name) == 1, (each.key, model.name)


def test_floors_are_drawn_or_named_at_the_edge(drawings):
    found = texts(drawings[1].svg)
    assert "5-gram 1.862" in found and "bigram 2.244" in found
    assert "\N{UPWARDS ARROW} unigram 2.931" in found


def test_floors_that_beat_every_model_are_named_as_well():
    with figure_style():
        sheet = canvas.canvas()
        canvas.vertical(sheet, 2.0, 3.0, "nats per token")
        canvas.draw_floors(sheet, [("unigram", 3.362), ("bigram", 2.504), ("kn5", 1.62)])
        found = texts(inline(sheet.figure, "floors", "", sheet.tips))
    assert "\N{UPWARDS ARROW} unigram 3.362   \N{DOWNWARDS ARROW} kn5 1.620" in found
    assert "bigram 2.504" in found


def test_figures_take_the_colours_of_the_page_and_nothing_from_outside(drawings):
    for each in drawings:
        assert not re.search(r"https?:|xmlns|#01fe|font-family|<style|<metadata", each.svg)
        # Whatever is coloured is so by a variable that the style sheet sets for both schemes.
        assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", each.svg)) <= {"none"} | {
            f"var(--{role})"
            for role in (
                "ink",
                "muted",
                "grid",
                "paper",
                "front",
                *(f"series-{index}" for index in range(8)),
            )
        }


def test_ids_are_unique_over_all_figures(drawings):
    ids = re.findall(r'\bid="([^"]+)"', "".join(each.svg for each in drawings))
    assert len(ids) == len(set(ids))
    for each in drawings:
        for reference in re.findall(r'(?:href="#|url\(#)([^")]+)', each.svg):
            assert f'id="{reference}"' in each.svg


def test_alternative_texts_tell_the_numbers(drawings):
    alt = ElementTree.fromstring(drawings[1].svg).get("aria-label")
    assert (
        alt
        and "nf4 1.549 at 1.32 MB" in alt
        and "Pareto front: nf4, int8 and student-compute" in alt
    )
    alt = ElementTree.fromstring(drawings[4].svg).get("aria-label")
    assert alt and "student reaches" in alt and "212 T" in alt


def test_names_are_escaped_and_cannot_break_the_figure():
    hostile = "<b>&\x1b[31m\x00\u202e$x^2$"
    drawn = plots.quality(
        group(models=(made.model(hostile, disk_bytes=1), made.model("b", 1.7)), comparisons=())
    )
    for each in drawn:
        assert "<b>" not in each.svg and "\x1b" not in each.svg and "\u202e" not in each.svg
        assert "<b>&\\x1b[31m\\x00\\u202e$x^2$" in texts(each.svg)


def test_collapsed_models_are_crosses_out_of_the_front():
    models = (*made.quickstart_models(), made.model("bad", 6.0, disk_bytes=10_000))
    disk = plots.quality(group(models=models))[0]
    assert "bad" not in disk.caption
    assert "bad (collapsed \N{UPWARDS ARROW} 6.000)" in texts(disk.svg)
    low, high = plots.span(group(models=models))
    assert high < 2.6, "a collapsed model squeezes the others together"
    assert low < 1.5


def test_fewer_than_two_points_are_no_plot():
    assert plots.quality(group(models=(made.model("a"),), comparisons=())) == []
    assert plots.ranking(group(models=(made.model("a", evaluate=None),), comparisons=())) is None


def test_a_distilled_curve_starts_where_its_teacher_ended():
    ranked = next(each for each in group().models if each.label == "student")
    line = plots._validation(ranked.model.curve, ranked.model.training, "flops")
    assert line[0][0] == pytest.approx(1.41e14 + 7.1e13 / 8)
    assert line[-1][0] == pytest.approx(2.12e14)
    faint = plots._training(ranked.model.curve, ranked.model.training, "flops")
    assert faint[0][0] == pytest.approx(1.41e14)
    assert faint[-1][0] == pytest.approx(2.12e14)


@pytest.mark.parametrize(
    ("low", "high", "log"),
    [
        (1.41, 2.32, False),
        (0, 2.2e14, False),
        (0, 7e21, False),
        (1e6, 3e7, True),
        (2e13, 3e14, True),
        (1.0, 1e9, True),
        (9, 31, True),
    ],
)
def test_ticks_are_few_round_and_inside(low, high, log):
    marks = canvas.ticks(low, high, log)
    assert 2 <= len(marks) <= 7
    assert all(isinstance(mark, float) for mark in marks)  # numpy has no whole numbers above 1e19
    assert all(low <= mark <= high * (1 + 1e-12) for mark in marks)
    for mark in marks:
        assert (
            len(f"{mark:.6g}".rstrip("0").replace(".", "").lstrip("0").split("e")[0].rstrip("0"))
            <= 2
        )


def test_the_users_settings_of_matplotlib_decide_nothing(monkeypatch):
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)  # would start latex
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 33.0)
    with figure_style():
        assert not matplotlib.rcParams["text.usetex"]
        assert (
            matplotlib.rcParams["lines.linewidth"] == matplotlib.rcParamsDefault["lines.linewidth"]
        )
        assert matplotlib.rcParams["svg.hashsalt"] == "flyweight"
    assert matplotlib.rcParams["text.usetex"] and matplotlib.rcParams["lines.linewidth"] == 33.0
