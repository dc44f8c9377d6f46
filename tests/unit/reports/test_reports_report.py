import report_fixture as made

from flyweight.reports.report import RunReport


def test_a_report_is_worked_out_once():
    report = RunReport((made.quickstart(),))
    for name in ("groups", "advice", "findings"):
        assert getattr(report, name) is getattr(report, name)
    assert report.parts == (report,)
    assert len(report.models) == 6 and len(report.advice) == len(report.groups) == 1


def test_each_of_several_runs_has_a_part_with_its_own_names():
    report = RunReport((made.quickstart(), made.quickstart(name="second")))
    assert {model.label for model in report.models} >= {"quickstart:int8", "second:int8"}
    assert [part.advice[0].title[:10] for part in report.parts] == ["Take `int8"] * 2
    assert all("quickstart:" not in part.models[0].label for part in report.parts)
