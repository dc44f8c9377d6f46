import layout_fixture as light
import pytest
import report_fixture as made

from flyweight.records.run_summary import BudgetLine
from flyweight.reports.findings import run as words
from flyweight.reports.pages import run as page


def said(**changes):
    return words.findings(made.quickstart(**changes))


def titled(findings, start):
    found = [each for each in findings if start in each.title]
    assert len(found) == 1, [each.title for each in findings]
    return found[0]


def pairs(**verdicts):
    """Return comparisons of `student` with other models: student minus other."""
    return tuple(
        made.compare("student", other.replace("_", "-"), value) for other, value in verdicts.items()
    )


def test_the_sketch_of_the_quickstart_is_said_plainly():
    first = said()[0]
    assert first.kind == "not paid"
    assert first.title == (
        "Distillation did not pay here: trained alone for the same total compute, "
        "`student-compute` reaches 1.511 bits per"
        " byte; distilled, `student` reaches 1.960."
    )
    assert "worse by 0.449 (95 % interval 0.436 to 0.462)" in first.text
    assert (
        "A teacher pays only if you have it already: then the distilled one is better by 0.086"
        in first.text
    )
    assert (
        "`student-compute` even beats `teacher` (1.674), the teacher itself, which has 4.4 times "
        "its parameters"
    ) in first.text


def test_distillation_that_paid_with_everything_counted():
    first = said(comparisons=pairs(student_compute=-0.2, student_alone=-0.3))[0]
    assert first.kind == "paid"
    assert first.title.startswith("Distillation paid, its teacher's training included:")
    assert "A teacher pays only if" not in first.text


def test_distillation_that_pays_not_even_with_the_teacher_for_free():
    first = said(comparisons=pairs(student_compute=0.2, student_alone=0.1))[0]
    assert first.kind == "not paid"
    assert "Not even a teacher that is there already pays" in first.text
    assert "pays only if" not in first.text


@pytest.mark.parametrize(
    ("better", "says"),
    [
        (-0.2, "The teacher teaches more than how sure to be: it is better by 0.200"),
        (0.2, "The teacher may teach only how sure to be: it is worse by 0.200"),
    ],
)
def test_a_shuffled_teacher_is_a_control_and_no_student(better, says):
    models = made.quickstart_models()
    student = next(each for each in models if each.name == "student")
    shuffled = student.model_copy(update={"name": "student-shuffled", "shuffled": True})
    compared = (
        *pairs(student_compute=-0.2, student_alone=-0.3),
        made.compare("student", "student-shuffled", better),
    )
    found = said(models=(*models, shuffled), comparisons=compared)
    assert (
        says in found[0].text and "`student-shuffled`, whose teacher was shuffled" in found[0].text
    )
    assert len([each for each in found if "istillation" in each.title]) == 1


def test_undecided_is_called_undecided():
    first = said(comparisons=pairs(student_compute=0.005, student_alone=-0.002))[0]
    assert first.kind == "undecided"
    assert first.title.startswith(
        "Whether distillation paid is undecided, its teacher's training included"
    )
    assert (
        "undecided: the difference is +0.005 (95 % interval \N{MINUS SIGN}0.007 to +0.017)"
        in first.text
    )
    assert "better" not in first.text.replace("even beats", "")


def test_an_undecided_free_control_is_not_a_gain():
    first = said(comparisons=pairs(student_compute=0.4, student_alone=-0.002))[0]
    assert first.kind == "not paid"
    assert "With a teacher that is there already the distilled one is undecided" in first.text


def without(*names):
    models = [
        each
        for each in made.quickstart_models()
        if each.name not in names and each.input not in names
    ]
    return {"models": tuple(models), "comparisons": ()}


def test_with_the_free_control_alone_the_teacher_is_not_judged():
    first = said(**without("student-compute"))[0]
    assert first.kind == "paid"
    assert first.title.startswith(
        "Distillation paid, with the teacher for free: trained alone on the same tokens,"
    )
    assert "no control for the same total compute" in first.text
    assert "unpaired" in first.text


def test_with_the_full_control_alone():
    first = said(**without("student-alone"))[0]
    assert first.kind == "not paid"
    assert "There is no control on the same tokens" in first.text


def test_without_any_control_nothing_is_claimed():
    first = said(**without("student-alone", "student-compute"))[0]
    assert first.kind == "undecided"
    assert first.title == "Whether distillation paid is undecided."
    assert "no sound control" in first.text


def test_a_collapsed_control_is_no_control():
    models = [
        made.model("student-alone", 3.4) if each.name == "student-alone" else each
        for each in made.quickstart_models()
    ]
    first = said(models=tuple(models))[0]
    assert "`student-alone` is collapsed and cannot serve as a control" in first.text
    assert "pays only if" not in first.text


def test_a_collapsed_student_cannot_be_judged():
    models = [each for each in made.quickstart_models() if each.name != "student"]
    bad = made.model("student", 3.2, "distill", teacher="teacher")
    first = said(models=(*models, bad), comparisons=())[0]
    assert first.kind == "warning"
    assert "no better than the unigram floor (2.931)" in first.text


def test_halved_micro_batches_are_told():
    def halved(each):
        if each.name != "student":
            return each
        training = made.training(each, pieces=8, asked_pieces=2)
        return each.model_copy(update={"training": training})

    titles = [each.title for each in said(models=tuple(map(halved, made.quickstart_models())))]
    assert (
        "`student` was computed in 8 pieces a step instead of 2, because memory ran out." in titles
    )
    assert not any("pieces" in each.title for each in said())


def test_adapters_of_which_nothing_is_left_are_told():
    summary = light.lightgpt2()
    title = titled(words.findings(summary), "adapters whole").title
    assert title == "`pruned` has pruned 2 of 3 adapters whole: they add nothing any more."
    assert not any("adapters whole" in each.title for each in said())


def test_a_control_that_was_cut_short_is_told():
    def cut(each):
        if each.name != "student-compute":
            return each
        return each.model_copy(
            update={"training": made.training(each, total_flops=1.3e14, stopped_by="time")}
        )

    first = said(models=tuple(map(cut, made.quickstart_models())))[0]
    assert (
        "stopped early by its limit (time), at 61 % of what it was due, and cannot serve as a "
        "control"
    ) in first.text
    assert "same total compute" not in first.title, "no verdict rests on it"
    assert first.title.startswith("Distillation paid, with the teacher for free")
    assert "stopped early" not in said()[0].text


def test_another_shape_is_no_control():
    models = [
        each.model_copy(update={"config_line": "9 x 512"}) if each.name == "student-alone" else each
        for each in made.quickstart_models()
    ]
    assert "There is no control on the same tokens" in said(models=tuple(models))[0].text


def test_a_tied_control_of_another_shape_carries_a_caution():
    models = [
        each.model_copy(update={"config_line": "9 x 512"})
        if each.name == "student-compute"
        else each
        for each in made.quickstart_models()
    ]
    first = said(models=tuple(models))[0]
    caution = (
        "Caution: `student-compute` has another shape than `student` (9 x 512 against 4 x 128, "
    )
    assert caution in first.text and "not the teacher's alone" in first.text
    shown = page.render([made.quickstart(models=tuple(models))])
    assert shown.count("another shape than its student") == 1
    assert "another shape" not in said()[0].text + page.render([made.quickstart()])


def test_quantization_says_bytes_quality_and_speed():
    found = titled(said(), "`int8` is 3.3 times smaller than `student-compute`, and slower.")
    assert found.kind == "paid"
    assert "1.7 MB on disk instead of 5.64 MB" in found.text
    assert "1.514 against 1.511, worse by 0.0030 (95 % interval 0.0009 to 0.0051)" in found.text
    assert "Generation is slower: 402 tokens/s against 690, 0.58 times as fast." in found.text


def quantized(**changes):
    base = made.model("base", 1.5)
    fields = {
        "stage": "quantize",
        "input": "base",
        "training": None,
        "disk_bytes": 1_400_000,
        **changes,
    }
    return (base, made.model("int8", **{"bits": 1.51, **fields}))


def test_faster_and_undecided_speed():
    fast = said(models=quantized(bench=made.speed(3.0, 1, 900, 1, 1)), comparisons=())
    assert (
        titled(fast, "and faster").text.count(
            "Generation is faster: 900 tokens/s against 690, 1.3 times as fast."
        )
        == 1
    )
    same = titled(
        said(models=quantized(bench=made.speed(3.0, 1, 700, 1, 1)), comparisons=()), "times smaller"
    )
    assert (
        "Whether generation became faster or slower is undecided: 700 tokens/s against 690."
        in same.text
    )
    assert "slower." not in same.title


def test_a_quantized_model_that_is_not_smaller_did_not_pay():
    found = titled(
        said(models=quantized(disk_bytes=6_000_000), comparisons=()),
        "`int8` is not smaller than `base`",
    )
    assert found.kind == "not paid"


def test_a_quantized_model_that_a_smaller_one_beats_did_not_pay():
    models = (*quantized(bits=2.2), made.model("tiny", 1.7, disk_bytes=900_000))
    found = titled(said(models=models, comparisons=()), "`int8` is 4 times smaller")
    assert found.kind == "not paid"
    assert "`tiny` is both smaller and better" in found.text


def test_collapsed_models_are_named_and_never_ranked():
    findings = said(
        models=(*quantized(), made.model("nf4", 2.99, "quantize", input="base", training=None)),
        comparisons=(),
    )
    found = titled(findings, "`nf4` collapsed and is not ranked.")
    assert found.kind == "warning"
    assert "2.990 bits per byte is no better than the unigram floor (2.931)" in found.text
    assert not any("`nf4`" in each.title + each.text for each in findings if each is not found)


def test_an_unbelievable_model_is_never_the_best():
    leaky = made.model("leaky", 0.4, audit=made.audit(0.4, causality="sees the future"))
    findings = said(models=(*quantized(), leaky), comparisons=())
    assert titled(findings, "The numbers of `leaky` cannot be believed").kind == "warning"
    assert not any(
        "`leaky`" in each.title
        for each in findings
        if "best" in each.title or "choice" in each.title
    )


def test_the_best_model_stands_beside_the_strongest_floor():
    found = titled(said(), "is the best model here")
    assert found.title == (
        "`student-compute` is the best model here: 1.511 bits per byte, 19 % below the 5-gram "
        "(Kneser-Ney) floor (1.862)."
    )


def test_one_model_above_the_strongest_floor_is_not_flattered():
    findings = said(models=(made.model("mine", 2.1),), comparisons=())
    assert (
        findings[0].title
        == "`mine` reaches 2.100 bits per byte, 13 % above the 5-gram (Kneser-Ney) floor (1.862)."
    )
    assert titled(findings, "Counting does better").kind == "warning"


def test_a_model_alone_is_described():
    first = said(models=(made.model("mine", 1.8),), comparisons=())[0]
    assert first.text == (
        "The 95 % interval on the test split of python-stdlib is 1.786 to 1.814. It was trained "
        "for 38 s on 3.28 M tokens."
        " It has 1.33 M parameters and takes 5.64 MB."
    )


def test_a_tie_is_undecided():
    findings = said(comparisons=(made.compare("student-compute", "int8", -0.001, 0.002),))
    found = titled(
        findings,
        "Which model is best is undecided between `student-compute` (1.511) and `int8` (1.514).",
    )
    assert found.kind == "undecided"


def test_the_choice_by_bytes():
    found = titled(said(), "against bytes on disk")
    assert (
        "`nf4` (1.32 MB, 1.549), `int8` (1.7 MB, 1.514) or `student-compute` (5.64 MB, 1.511)"
        in found.title
    )
    assert (
        "`teacher` (23.8 MB, 1.674), `student` (5.64 MB, 1.960) and `student-alone`" in found.text
    )


@pytest.mark.parametrize(("share", "warned"), [(0.093, True), (0.002, False)])
def test_overlap_is_warned_of(share, warned):
    findings = said(corpus=(made.corpus(overlap={"test": share}, overlap_unit="pieces"),))
    title = (
        "9.3 % of the test text of python-stdlib, in pieces of 50 characters, also occurs in "
        "its training text."
    )
    assert any(each.title == title for each in findings) == warned
    lines = said(corpus=(made.corpus(overlap={"test": share}),))
    assert (
        any("9.3 % of the test lines of python-stdlib also" in each.title for each in lines)
        == warned
    )


def line(used: float, limit: float | None = 360.0):
    return BudgetLine(
        name="time",
        unit="s",
        planned=284.0,
        used=used,
        limit=limit,
        ok=limit is None or used <= limit,
    )


def test_budget():
    kept = titled(said(), "The budget was kept.")
    assert kept.text == "Time: 5 min 18 s used of 6 min (planned 4 min 44 s)."
    over = titled(said(budget=(line(400.0),)), "The budget was exceeded.")
    assert over.kind == "warning" and "6 min 40 s used of 6 min" in over.text
    assert not any("budget" in each.title for each in said(budget=(line(400.0, None),)))
    assert words.budget_line(line(5.0, None)) == "time: 5 s used, no limit (planned 4 min 44 s)"


def test_units_survive_the_start_of_a_sentence():
    memory = BudgetLine(name="memory", unit="bytes", planned=None, used=4e8, limit=5e8, ok=True)
    assert titled(said(budget=(memory,)), "kept").text == "Memory: 400 MB used of 500 MB."


def test_several_runs():
    findings = words.across([made.quickstart(), made.quickstart(name="again")])
    assert findings[0].kind == "undecided"
    assert "`quickstart:student-compute` (1.511)" in findings[0].title
    assert "`again:student-compute` (1.511)" in findings[0].title
    assert "int8" not in findings[0].title, "within its own run it is decidedly worse"
    assert sum("of the test lines" in each.title for each in findings) == 1


def test_plain_lines_for_a_terminal():
    lines = words.plain(said())
    assert lines[0].startswith("- Distillation did not pay here:")
    assert "`" not in "".join(lines)


@pytest.mark.parametrize(("bits", "kind"), [(1.5, "paid"), (1.9, "not paid")])
def test_a_mixture_is_told_with_what_it_brought_and_cost(bits, kind):
    network = made.model("network", 1.8)
    mixture = made.model("mixed", bits, stage="mix", input="network", disk_bytes=9_000_000)
    found = said(
        models=(network, mixture), comparisons=(made.compare("mixed", "network", bits - 1.8),)
    )
    (finding,) = [each for each in found if "counts and a pointer" in each.title]
    assert finding.kind == kind
    assert f"{bits:.3f}" in finding.text and "9 MB on disk" in finding.text
