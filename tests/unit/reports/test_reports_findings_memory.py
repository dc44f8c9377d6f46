import pytest

from flyweight.records.run_summary import StageSummary
from flyweight.records.training_memory import TrainingMemory, format_error
from flyweight.reports.findings.memory import memory_findings


class Run:
    """What the findings read of a summary."""

    class environment:
        device = "cpu"

    def __init__(self, *memories):
        self.stages = [
            StageSummary(
                name=f"s{place}", id="x", stage="pretrain", seconds=1.0, reused=False, memory=memory
            )
            for place, memory in enumerate(memories)
        ]


def training(planned, used, held=True):
    return TrainingMemory(planned=planned, used=used, method="dry-run", held=held)


def test_every_training_has_the_plans_error():
    (finding,) = memory_findings(Run(training(95 * 10**6, 100 * 10**6), None))
    assert finding.text == "`s0` 95 MB planned, 100 MB used (\N{MINUS SIGN}5.0 %)."
    assert not memory_findings(Run(None, training(10, None)))


def test_many_trainings_are_summed_up():
    memories = [training(planned, 100) for planned in (90, 95, 100, 105, 120)]
    (finding,) = memory_findings(Run(*memories))
    assert "5 trainings was off by \N{MINUS SIGN}10.0 % to +20.0 %, +0.0 % in the median" in (
        finding.text
    )


@pytest.mark.parametrize(
    ("planned", "held", "told"), [(90, False, True), (110, False, False), (90, True, False)]
)
def test_freed_blocks_that_are_kept_are_told_where_they_matter(planned, held, told):
    (finding,) = memory_findings(Run(training(planned, 100, held)))
    assert ("budget.memory" in finding.text) is told


def test_errors_have_a_sign():
    assert format_error(0.0341) == "+3.4 %"


def test_a_halved_training_is_not_compared_with_the_plan_of_another():
    halved = training(400 * 10**6, 300 * 10**6).model_copy(update={"pieces": 4})
    assert halved.halved and halved.error is None
    (finding,) = memory_findings(Run(halved))
    assert "`s0` is not compared" in finding.title
    assert "400 MB were planned for 1 pieces" in finding.text and "4 were computed" in finding.text
    assert len(memory_findings(Run(halved, training(95, 100)))) == 2
    as_asked = halved.model_copy(update={"asked_pieces": 4})
    assert not as_asked.halved and as_asked.error is not None
