import layout_fixture as light
import report_fixture as made

from flyweight.api.tracked_results import numbers, plain_tables
from flyweight.reports.report import RunReport


def test_tables_are_those_of_the_report():
    summary = made.quickstart()
    (table,) = plain_tables(RunReport((summary,)))
    assert table.title == "comparison"
    assert [row[0] for row in table.rows][: len(summary.models)] == [
        model.name for model in summary.models
    ]
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_numbers_are_named_by_model_and_column_with_their_intervals():
    summary = made.quickstart()
    found = numbers(RunReport((summary,)))
    for model in summary.models:
        assert model.evaluate is not None
        bits = model.evaluate.bits_per_byte
        assert found[f"{model.name}/bits_per_byte"] == bits.value
        assert found[f"{model.name}/bits_per_byte_low"] == bits.low
        assert f"{model.name}/parameters_low" not in found
    assert any(name.startswith("floor:") for name in found)


def test_a_papers_tables_and_targets_are_told_too():
    report = RunReport((light.lightgpt2(),))
    tables = {table.title: table for table in plain_tables(report)}
    assert {"table_1", "table_6", "targets"} <= tables.keys()
    assert "figure_1" not in tables
    assert tables["targets"].columns[-1] == "verdict"
    assert all(len(row) == len(table.columns) for table in tables.values() for row in table.rows)
    assert any(name.startswith("table_5/") for name in numbers(report))
