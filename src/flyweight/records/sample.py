"""A continuation of a prompt: what the stage `sample` writes, and what summaries and cards read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flyweight.records.sealed import Record


class Continuation(Record):
    """A prompt and its continuation; `text` does not repeat the prompt."""

    prompt: str
    text: str


def samples_json(samples: Sequence[Continuation]) -> dict[str, object]:
    """Return continuations as plain data, the content of a `metrics.json`."""
    return {"samples": [sample.model_dump() for sample in samples]}


def samples_of(metrics: Mapping[str, Any]) -> tuple[Continuation, ...]:
    """Return the continuations that a `metrics.json` holds.

    Raises KeyError, TypeError or ValueError where it does not hold any.
    """
    return tuple(Continuation(**sample) for sample in metrics["samples"])
