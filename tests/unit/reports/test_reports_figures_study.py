"""What the figures of a study tell apart."""

from study_fixture import cell, summary

from flyweight.reports.figures import study as study_plots

LOW, HIGH = [1.00, 1.02, 1.01], [2.00, 2.03, 2.01]


def test_markers_tell_apart_what_claims_contrast():
    learned = cell("attention-4", LOW, fields={"position": "learned"})
    rope = cell("attention-4", HIGH, fields={"position": "rope"})
    plain, mlp = cell("attention-1", LOW), cell("mlp-8", HIGH)
    styles = study_plots.Styles(summary(cells=(learned, rope, plain, mlp)))
    assert styles.of(learned).colour == styles.of(rope).colour == styles.of(plain).colour
    assert styles.of(mlp).colour != styles.of(learned).colour
    markers = {styles.of(each).marker for each in (learned, rope, plain)}
    assert len(markers) == 3 and styles.of(mlp).marker == styles.of(plain).marker
    assert styles.of(learned).line != styles.of(rope).line
    assert [text for text, _, _ in styles.key()] == [
        "attention",
        "mlp",
        "no variant",
        "position=learned",
        "position=rope",
    ]


def test_contexts_are_variants_where_there_are_several():
    short, long = cell("lstm", LOW, context=32), cell("lstm", HIGH, context=64)
    styles = study_plots.Styles(summary(cells=(short, long)))
    assert styles.of(short).marker != styles.of(long).marker
    assert [text for text, _, _ in styles.key()][1:] == ["context 32", "context 64"]


def test_without_variants_markers_are_those_of_families():
    a, b = cell("a-1", LOW), cell("b-1", HIGH)
    styles = study_plots.Styles(summary(cells=(a, b)))
    assert styles.of(a).marker != styles.of(b).marker
    assert [(text, bool(marker)) for text, marker, _ in styles.key()] == [("a", True), ("b", True)]


def test_a_figure_has_its_own_key():
    cells = (cell("a-1", LOW, fields={"x": "1"}), cell("a-1", HIGH, flops=2e12, fields={"x": "2"}))
    drawn = study_plots.drawings(summary(cells=cells), "text", "k-")
    assert drawn and all("x=1" in each.svg and "x=2" in each.svg for each in drawn)
