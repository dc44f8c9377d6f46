from flyweight.records.difference import Difference
from flyweight.records.metric import Metric
from flyweight.records.tuning import Change, Tuning
from flyweight.reports.findings.tuning import tuned_advice


def change(about, metric, before, after, low, high, better="lower"):
    """A change of a metric, with the ends of its paired difference."""
    values = [Metric(each, "nats/token", better, 8, each, each) for each in (before, after)]
    difference = Difference.of(after - before, low, high, "nats/token", better)
    return Change(
        about=about,
        on="rows.jsonl, test, 8 rows",
        metric=metric,
        before=values[0],
        after=values[1],
        difference=difference,
    )


def tuning(*changes):
    """A fine-tuning with these changes."""
    fields = {"name": "tuned", "base": "b", "method": "lora", "trainable": 1, "parameters": 2}
    return Tuning(**fields, changes=changes)


def test_the_verdict_is_that_of_what_was_learned():
    learned = change("learned", "nll", 4.0, 1.0, -3.1, -2.9)
    f1 = change("learned", "f1", 10.0, 10.5, -1.0, 2.0, "higher")
    forgotten = change("forgotten", "nll", 2.0, 2.5, 0.4, 0.6)
    (advice,) = tuned_advice([tuning(learned, f1, forgotten)])
    assert advice.kind == "note"
    assert advice.title.startswith("`tuned` does better on rows.jsonl")
    assert "NLL 4.000 before, 1.000 after" in advice.title
    assert any("undecided" in note and "F1 10.00 before" in note for note in advice.notes)
    assert any("forgotten some of its own text" in note for note in advice.notes)


def test_no_gain_is_said_and_without_a_pair_there_is_no_verdict():
    (worse,) = tuned_advice([tuning(change("learned", "nll", 1.0, 2.0, 0.9, 1.1))])
    assert worse.kind == "warning" and "does worse" in worse.title
    (same,) = tuned_advice([tuning(change("learned", "acc", 0.5, 0.6, -0.1, 0.3, "higher"))])
    assert "as good" in same.title and "acc 0.500 before" in same.title
    unpaired = change("learned", "nll", 1.0, 2.0, 0.9, 1.1).model_copy(update={"difference": None})
    assert tuned_advice([tuning(unpaired), tuning()]) == []


def test_of_many_fine_tunings_none_stands_at_the_top():
    record = tuning(change("learned", "nll", 1.0, 2.0, 0.9, 1.1))
    assert len(tuned_advice([record, record])) == 2
    assert tuned_advice([record, record, record]) == []
