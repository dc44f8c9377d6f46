"""What of a student and of its teacher has to fit: the parts it begins with, hidden states."""

from __future__ import annotations

from collections.abc import Iterator

from flyweight.config.schema import Architecture, Distill, HiddenMatching, ModelConfig
from flyweight.spec.teacher_start import start_faults
from flyweight.spec.visits import stack_size


def part_faults(
    stage: Distill, student: Architecture, teacher: Architecture | None
) -> Iterator[str]:
    """Yield why parts of two models do not fit as a distillation asks, below the stage.

    A teacher that is not one of our decoders has no config here.
    """
    if stage.objective.hidden is not None:
        yield from matching_faults(stage.objective.hidden, student, teacher)
    if stage.start != "random":
        yield from start_faults(stage.start, student, teacher)


def matching_faults(
    hidden: HiddenMatching, student: Architecture, teacher: Architecture | None
) -> Iterator[str]:
    """Yield why the hidden states of two models cannot be compared so, below `objective.hidden`.

    A teacher that is not one of our decoders has no config here.
    """
    for role, model, places in (
        ("student", student, hidden.places.keys()),
        ("teacher", teacher, hidden.places.values()),
    ):
        if not isinstance(model, ModelConfig):
            yield (
                f"objective.hidden: the {role} is not a decoder of ours, and only these show their "
                f"hidden states; import it, or leave hidden out"
            )
            continue
        for place in sorted(set(places)):
            if place >= stack_size(model):
                yield (
                    f"objective.hidden.places: the {role} has no place {place}; its "
                    f"{stack_size(model)} places are counted from 0"
                )
    if not (isinstance(student, ModelConfig) and isinstance(teacher, ModelConfig)):
        return
    if hidden.by == "values" and student.dim != teacher.dim:
        yield (
            f"objective.hidden.by: values of {student.dim} and {teacher.dim} numbers a token "
            f"cannot be compared; use by: relations"
        )
