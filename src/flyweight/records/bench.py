"""Speed and memory of a model: what the stage `bench` writes and summaries and cards read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import JsonValue

from flyweight.records.metric import Metric
from flyweight.records.sealed import Record


class Speed(Record):
    """Speed and memory in a fresh process: medians over the repeats with 95 % intervals.

    The intervals are order statistics. `peak_bytes` is over the interpreter's own memory;
    `weight_bytes` are those of parameters and buffers in memory, shared ones once.
    """

    forward_ms: Metric
    prefill_tokens_per_s: Metric
    decode_tokens_per_s: Metric
    peak_bytes: Metric
    weight_bytes: Metric

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, object]) -> Self:
        """Return the figures that a `metrics.json` holds.

        Raises KeyError, TypeError or ValueError where it does not hold them.
        """
        figures = metrics["metrics"]
        if not isinstance(figures, Mapping):
            raise TypeError("metrics is not a mapping")
        content = {**metrics, **figures}
        return cls.model_validate({name: content[name] for name in cls.model_fields})


class PassSeconds(Record):
    """Seconds of every repeat: a forward pass, reading the prompts, new tokens, a whole answer."""

    forward: tuple[float, ...]
    prefill: tuple[float, ...]
    decode: tuple[float, ...]
    generate: tuple[float, ...]


class BenchResult(Speed):
    """Speed and memory as their stage writes them, and how everything was measured.

    `disk_bytes` are those of the model folder's files; `p95` the 95th percentiles, a rate's being
    that of its slow runs; `kernels` counts the linear layers by kind and kernel. `memory` names the
    way in which the memory was read, `baseline_bytes` what the process held before the model.
    `generate_ms` is an answer of `generate_tokens`, its prompt included, and `samples_per_s` how
    many of them there are in a second. `kernel` is the attention that a profiler saw, `attention`
    the one that was asked for; `engine` is what multiplied a few rows.
    """

    generate_ms: Metric
    samples_per_s: Metric
    disk_bytes: Metric
    p95: dict[str, float]
    batch: int
    prompt: int
    new_tokens: int
    repeats: int | None
    device: str
    precision: str
    generate_tokens: int
    attention: str
    kernel: str
    engine: str
    context: int
    memory: str
    baseline_bytes: int
    kernels: dict[str, int]
    threads: int
    torch: str
    seconds: PassSeconds

    def figures(self) -> dict[str, Metric]:
        """Return the figures by name, with their intervals."""
        own = ("generate_ms", "samples_per_s", "disk_bytes")
        return {name: getattr(self, name) for name in (*Speed.model_fields, *own)}

    def to_metrics(self) -> dict[str, JsonValue]:
        """Return the figures as plain numbers under their names.

        Intervals, 95th percentiles and raw seconds follow under keys of their own.
        """
        figures = self.figures()
        return {
            **{name: metric.value for name, metric in figures.items()},
            "metrics": {name: metric.json() for name, metric in figures.items()},
            **self.model_dump(mode="json", exclude=set(figures)),
        }
