"""The work of every kind of stage, by name: what plans ask and recipes run."""

from __future__ import annotations

from typing import Any

from flyweight.compression import stages as compression
from flyweight.evaluation import stages as evaluation
from flyweight.formats import stages as formats
from flyweight.store.stage import Stage
from flyweight.store.stage_registry import REGISTERED
from flyweight.training import stages as training


def stage_of(name: str) -> Stage[Any]:
    """Return the work of a kind of stage, shipped or registered."""
    return STAGES[name] if name in STAGES else REGISTERED[name]


STAGES: dict[str, Stage[Any]] = {
    **training.STAGES,
    **compression.STAGES,
    **evaluation.STAGES,
    **formats.STAGES,
}
