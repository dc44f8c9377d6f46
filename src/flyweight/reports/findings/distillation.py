"""Whether a teacher paid, against two controls: its training free, and its training counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from flyweight.config.units import format_percent, format_times
from flyweight.reports.findings.phrases import Kind, RunFinding, bits, change, name
from flyweight.reports.models import RankedModel
from flyweight.reports.ranking import PairedDifference, paired_difference

Quantity = Literal["tokens", "flops", "seconds", "total_flops", "total_seconds"]

# What a student trained alone has to be given for a fair comparison: where the teacher is there
# anyway, and where it had to be trained for this. The first that a run has is its main control.
_FREE: dict[Quantity, str] = {
    "tokens": "on the same tokens",
    "flops": "for the same compute, the teacher's training not counted",
    "seconds": "in the same time, the teacher's training not counted",
}
_FULL: dict[Quantity, str] = {
    "total_flops": "for the same total compute",
    "total_seconds": "in the same total time",
}
# How far apart two trainings may be and still count as equal, where the recipe does not tie them to
# each other.
_EQUAL: dict[Quantity, float] = {"tokens": 0.01, "total_flops": 0.03}
SHORT = 0.95
"""The least share of what it is due with which a control still counts."""


@dataclass(frozen=True)
class Control:
    """A student trained alone, what it was given as much of, and how the distilled one compares."""

    ranked: RankedModel
    quantity: Quantity
    given: str
    gap: PairedDifference


def distillations(models: Sequence[RankedModel]) -> list[RunFinding]:
    """Return one finding for every distilled model of a run."""
    students = [
        each for each in models if each.model.stage == "distill" and not each.model.shuffled
    ]
    return [_distillation(each, models) for each in students]


def _distillation(student: RankedModel, models: Sequence[RankedModel]) -> RunFinding:
    if student.standing != "ok":
        reasons = "; ".join(fault.text for fault in student.faults) or "it was not evaluated"
        return RunFinding(
            "warning",
            "Whether distillation paid is undecided.",
            f"{name(student)} cannot show it: {reasons}.",
        )
    free, not_free = _controls(student, models, _FREE)
    full, not_full = _controls(student, models, _FULL)
    text = [*_text(free, full), *_other_shapes(student, [*full, *free]), *not_full, *not_free]
    text += _shuffled(student, models)
    text += _teacher(student, [*full, *free], models)
    if not (free or full):
        why = (
            "The run has no sound control: the same student trained alone, on the same tokens "
            "or for the same total compute."
        )
        return RunFinding(
            "undecided", "Whether distillation paid is undecided.", " ".join([why, *text])
        )
    kind, title = _title(student, free, full)
    return RunFinding(kind, title, " ".join(text))


def _controls(
    student: RankedModel, models: Sequence[RankedModel], given: dict[Quantity, str]
) -> tuple[list[Control], list[str]]:
    """Return the rankable controls of one family, the main one first, and the other controls."""
    rankable, unsound = [], []
    for quantity, phrase in given.items():
        for each in (each for each in models if _is_control(each, student, quantity)):
            gap = paired_difference(student, each)
            if each.standing != "ok" or gap is None:
                unsound.append(f"{name(each)} is {each.standing} and cannot serve as a control.")
            elif short := _shortfall(each, student, quantity):
                unsound.append(
                    f"{name(each)}, alone {phrase}, {short} and cannot serve as a control."
                )
            else:
                rankable.append(Control(each, quantity, phrase, gap))
    return rankable, unsound


def _is_control(other: RankedModel, student: RankedModel, quantity: Quantity) -> bool:
    """Whether `other` was trained alone with as much of `quantity` as the student.

    The recipe ties them, or they are equal as measured.
    """
    alone, distilled = other.model.training, student.model.training
    if (
        other is student
        or alone is None
        or distilled is None
        or other.model.teacher
        or other.model.stage != "pretrain"
    ):
        return False
    if alone.same_as is not None:
        return (alone.same_as.stage, alone.same_as.of) == (student.model.name, quantity)
    if (
        quantity not in _EQUAL
        or other.model.config_line != student.model.config_line
        or other.model.input
    ):
        return False
    return math.isclose(
        getattr(alone, quantity), getattr(distilled, quantity), rel_tol=_EQUAL[quantity]
    )


def _title(
    student: RankedModel, free: Sequence[Control], full: Sequence[Control]
) -> tuple[Kind, str]:
    """Return the verdict, against the control that counts the teacher's training if any."""
    main = (full or free)[0]
    counted = ", its teacher's training included" if full else ", with the teacher for free"
    alone = (
        f"trained alone {main.given}, {name(main.ranked)} reaches {bits(main.ranked)} bits per byte"
    )
    distilled = f"distilled, {name(student)} reaches {bits(student)}"
    if main.gap.verdict == "better":
        return "paid", f"Distillation paid{counted}: {alone}; {distilled}."
    if main.gap.verdict == "worse":
        here = " here" if full else ", not even with the teacher for free"
        return "not paid", f"Distillation did not pay{here}: {alone}; {distilled}."
    return "undecided", f"Whether distillation paid is undecided{counted}: {alone}; {distilled}."


def _text(free: Sequence[Control], full: Sequence[Control]) -> list[str]:
    sentences = []
    for index, control in enumerate(full):
        start = (
            "The distilled one"
            if index == 0
            else f"Against {name(control.ranked)}, alone {control.given}, it"
        )
        sentences.append(f"{start} is {change(control.gap)}.")
    for index, control in enumerate(free):
        verdict, charged = control.gap.verdict, full[0].gap.verdict if full else None
        lead = "With a teacher that is there already"
        if index == 0 and verdict == "better" and charged in ("worse", "undecided"):
            lead = "A teacher pays only if you have it already: then"
        elif index == 0 and verdict == "worse" and charged == "worse":
            lead = "Not even a teacher that is there already pays:"
        against = (
            f"{lead} the distilled one is {change(control.gap)} against "
            f"{name(control.ranked)} ({bits(control.ranked)})"
        )
        sentences.append(f"{against}, trained alone {control.given}.")
    if full and not free:
        sentences.append(
            "There is no control on the same tokens, so what a teacher that is there already "
            "would bring is not known."
        )
    if free and not full:
        sentences.append(
            "There is no control for the same total compute, so the teacher's own training is "
            "not judged here."
        )
    return sentences


def other_shape(control: RankedModel, models: Sequence[RankedModel]) -> bool:
    """Whether a model is a control that the recipe ties to a student of another shape."""
    training = control.model.training
    if training is None or training.same_as is None:
        return False
    tied_to = training.same_as.stage
    student = next(
        (e for e in models if e.summary is control.summary and e.model.name == tied_to), None
    )
    return student is not None and student.model.config_line != control.model.config_line


def _other_shapes(student: RankedModel, controls: Sequence[Control]) -> list[str]:
    """Caution where a control has another shape: the difference is then not the teacher's alone."""
    sentences = []
    for ranked in (control.ranked for control in controls):
        if ranked.model.config_line != student.model.config_line:
            shapes = f"{ranked.model.config_line} against {student.model.config_line}"
            sentences.append(
                f"Caution: {name(ranked)} has another shape than {name(student)} ({shapes}), so the"
                " difference is not the teacher's alone."
            )
    return sentences


def _shortfall(other: RankedModel, student: RankedModel, quantity: Quantity) -> str:
    """Say so where a control ended before it had spent what the distilled student did."""
    alone, distilled = other.model.training, student.model.training
    if alone is None or distilled is None:
        return ""
    share = getattr(alone, quantity) / getattr(distilled, quantity)
    return (
        ""
        if share >= SHORT
        else (
            f"was stopped early by its limit ({alone.stopped_by}), at {format_percent(share)} of "
            f"what it was due,"
        )
    )


def _shuffled(student: RankedModel, models: Sequence[RankedModel]) -> list[str]:
    """Set the student beside one whose teacher was shuffled, who taught only how sure to be."""
    sentences = []
    for other in models:
        alike = other.model.teacher == student.model.teacher and other.model.shuffled
        if not alike or other.model.config_line != student.model.config_line:
            continue
        gap = paired_difference(student, other)
        if gap is None or other.standing != "ok":
            continue
        against = f"it is {change(gap)} against {name(other)}, whose teacher was shuffled"
        if gap.verdict == "better":
            sentences.append(f"The teacher teaches more than how sure to be: {against}.")
        else:
            sentences.append(f"The teacher may teach only how sure to be: {against}.")
    return sentences


def _teacher(
    student: RankedModel, controls: Sequence[Control], models: Sequence[RankedModel]
) -> list[str]:
    """Set the teacher beside the students: alone, one may even beat it."""
    teacher = next((each for each in models if each.model.name == student.model.teacher), None)
    if teacher is None or teacher.standing != "ok":
        return (
            [f"The teacher {name(teacher)} is itself {teacher.standing}."]
            if teacher and teacher.faults
            else []
        )
    for control in controls:
        gap = paired_difference(control.ranked, teacher)
        if gap and gap.verdict == "better":
            ratio = format_times(
                teacher.model.parameters.total / control.ranked.model.parameters.total
            )
            own = f"{name(teacher)} ({bits(teacher)})"
            beats = f"Trained alone, {name(control.ranked)} even beats {own}"
            return [f"{beats}, the teacher itself, which has {ratio} its parameters."]
    return [f"{name(teacher)}, the teacher, reaches {bits(teacher)}."]
