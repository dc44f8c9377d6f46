import pytest
from hypothesis import given, settings, strategies as st

from flyweight.reports.figures.labels import Box, extent, place

BOUNDS = Box(0, 0, 400, 290)
POINTS = st.lists(st.tuples(st.floats(20, 380), st.floats(20, 270)), min_size=1, max_size=12)


def markers(points):
    return [Box(x - 5, y - 5, x + 5, y + 5) for x, y in points]


@settings(max_examples=60, deadline=None)
@given(POINTS, st.integers(2, 18))
def test_labels_cover_neither_points_nor_each_other(points, letters):
    sizes = [extent("m" * letters, 10.5)] * len(points)
    found = [each.box for each in place(points, sizes, markers(points), BOUNDS) if each]
    for index, box in enumerate(found):
        assert BOUNDS.holds(box)
        assert not any(box.covered(other) for other in found[:index])
        assert not any(box.covered(marker) for marker in markers(points))


def test_a_lone_point_is_named_at_its_right():
    (found,) = place([(200, 100)], [(50, 12)], markers([(200, 100)]), BOUNDS)
    assert found and not found.far
    assert found.box.left > 200 and found.box.bottom < 100 < found.box.top


@pytest.mark.parametrize(("point", "side"), [((395, 100), "right"), ((200, 286), "top")])
def test_a_label_turns_away_from_the_edge(point, side):
    (found,) = place([point], [(50, 12)], markers([point]), BOUNDS)
    assert found and getattr(found.box, side) <= getattr(BOUNDS, side)


def test_the_first_to_choose_keeps_its_name_where_there_is_room_for_one():
    room, points = Box(195, 93, 262, 107), [(200, 100)] * 2
    first, second = place(points, [(50, 12)] * 2, markers(points), room)
    assert first is not None and second is None
