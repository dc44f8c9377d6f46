import csv
import io

from flyweight.reports.tables.csv_text import csv_text


def test_cells_are_visible_one_row_a_line_and_no_formula():
    rows = [
        ["a,b", 'x"y', "line\nend\u2028", "\x1b[31m\u202e"],
        ["=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", " =x"],
        ["-x", -1, "-1.5", "+3e-5"],
    ]
    text = csv_text(rows)
    assert text.count("\n") == 3
    assert list(csv.reader(io.StringIO(text))) == [
        ["a,b", 'x"y', "line\\nend\\u2028", "\\x1b[31m\\u202e"],
        ["'=1+1", "'@SUM(A1)", "'+cmd|' /C calc'!A0", "' =x"],
        ["'-x", "-1", "-1.5", "+3e-5"],
    ]
