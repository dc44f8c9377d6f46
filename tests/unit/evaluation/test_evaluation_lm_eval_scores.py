"""lm-eval's metrics: what a question adds, the interval over questions, and two models paired."""

import math

import pytest

from flyweight.checkpoints.harness import RawMetric, RawTask
from flyweight.errors import FlyweightError
from flyweight.evaluation import lm_eval_scores
from flyweight.evaluation.lm_eval_scores import QuestionScores, measured, paired
from flyweight.records.lm_eval import LmEvalScores


def metric(value, parts, name="acc", better="higher", stderr=0.1):
    return RawMetric(name, value, stderr, len(parts) or 7, better, tuple(parts))


def task(name="t", few_shot=0, questions=None, members=(), **metrics):
    parts = next(iter(metrics.values())).parts
    hashes = tuple(f"q{at}" for at in range(len(parts))) if questions is None else questions
    return RawTask(name, "1", few_shot, hashes, metrics, members)


def of(*raw, few_shot=None):
    return measured(raw, few_shot, "0.4")


RIGHT = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]


def test_a_mean_of_questions_has_an_interval_over_them():
    (acc,) = of(task(acc=metric(0.7, RIGHT))).record.tasks["t"].metrics.values()
    assert (acc.value, acc.n, acc.unit, acc.better) == (0.7, 10, "share of questions", "higher")
    assert 0.2 < acc.low < 0.7 < acc.high <= 1.0 and acc.stderr == 0.1


def test_perplexities_and_bits_are_read_from_sums_and_weights():
    pairs = [(-3.0, 2), (-5.0, 4), (-1.0, 1)]
    nll = 9 / 7
    raw = task(
        word_perplexity=metric(math.exp(nll), pairs, "word_perplexity", "lower", None),
        bits_per_byte=metric(nll / math.log(2), pairs, "bits_per_byte", "lower", None),
    )
    found = of(raw)
    ppl, bits = found.record.tasks["t"].metrics.values()
    assert (ppl.form, bits.form) == ("log", "mean")
    assert ppl.low < ppl.value < ppl.high and bits.low < bits.value < bits.high
    assert found.questions.ratios["t", "bits_per_byte"].value == pytest.approx(bits.value)


def test_a_metric_of_all_answers_together_has_lm_evals_error_and_is_not_paired():
    raw = task(f1=metric(0.4, RIGHT, "f1"), acc=metric(0.7, RIGHT))
    found = of(raw)
    f1 = found.record.tasks["t"].metrics["f1"]
    assert f1.form is None and (f1.low, f1.high) == pytest.approx((0.4 - 0.196, 0.4 + 0.196))
    changes, faults = paired(found, found)
    assert [change.metric for change in changes] == ["acc"]
    assert faults == ["t: f1 has no parts of single questions to be paired by"]


def test_a_group_pools_the_questions_of_its_tasks():
    one = task("one", acc=metric(0.7, RIGHT))
    two = task("two", acc=metric(1.0, [1.0, 1.0]))
    group = task("both", acc=metric(0.75, []), members=("one", "two"))
    acc = of(one, two, group).record.tasks["both"].metrics["acc"]
    assert (acc.n, acc.form) == (12, "mean") and acc.low < 0.75 < acc.high
    unweighted = task("both", acc=metric(0.85, []), members=("one", "two"))
    assert of(one, two, unweighted).record.tasks["both"].metrics["acc"].form is None


def test_models_are_paired_by_question():
    better = [1.0] * 8 + [0.0, 1.0]
    before, after = of(task(acc=metric(0.7, RIGHT))), of(task(acc=metric(0.9, better)))
    ((change,), faults) = paired(before, after)
    assert not faults
    assert change.difference.value == pytest.approx(0.2)
    assert (change.first.value, change.second.value) == pytest.approx((0.7, 0.9))
    all_right = of(task(acc=metric(1.0, [1.0] * 10)))
    all_wrong = of(task(acc=metric(0.0, [0.0] * 10)))
    ((change,), _) = paired(all_wrong, all_right)
    assert change.difference.verdict == "better"
    ((change,), _) = paired(all_right, all_wrong)
    assert change.difference.verdict == "worse"
    _, faults = paired(before, of(task(acc=metric(0.7, RIGHT), questions=("other",) * 10)))
    assert faults == ["t was not asked with the same questions: its data changed"]


def test_of_a_perplexity_the_logarithm_is_compared():
    def model(nll):
        parts = [(-nll * n, n) for n in (2, 4, 1)]
        return of(task(p=metric(math.exp(nll), parts, "word_perplexity", "lower")))

    ((change,), _) = paired(model(2.0), model(1.5))
    assert change.metric == "log p" and change.difference.verdict == "better"
    assert (change.first.value, change.second.value) == pytest.approx((2.0, 1.5))


def test_examples_that_a_task_file_fixes_are_told():
    assert not of(task(acc=metric(0.7, RIGHT)), few_shot=0).record.notes
    (note,) = of(task(acc=metric(0.7, RIGHT)), few_shot=5).record.notes
    assert note == "t is asked with 0 examples, as its task file says, and not with 5"


def test_files_come_back_as_they_were(tmp_path):
    found = of(task(acc=metric(0.7, RIGHT)))
    file = tmp_path / lm_eval_scores.QUESTIONS
    found.questions.save(file)
    again = QuestionScores.load(file)
    assert again.forms == found.questions.forms and again.questions == found.questions.questions
    assert (again.ratios["t", "acc"].sums == RIGHT).all()
    assert LmEvalScores.from_metrics(found.record.to_metrics()) == found.record
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(FlyweightError, match="measure the model again"):
        QuestionScores.load(file)
