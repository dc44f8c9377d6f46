"""Distilling Qwen3-8B as NF4 within 20 GB: planned at full width, and real steps measured at toy size."""

import sys
from pathlib import Path

import pytest

from flyweight.planning import dry_run
from flyweight.spec import flops


@pytest.fixture
def bench(monkeypatch):
    """The benchmark that `make gpu` runs at full width."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import bench_distilqwen3_memory

    yield bench_distilqwen3_memory
    for name in ("bench_distilqwen3_memory", "rows"):
        sys.modules.pop(name, None)


def test_the_24_independent_layers_fit_with_everything_that_saves_memory(bench):
    planned = bench.training("independent", 1)
    assert flops.parameters(planned.model).unique == 1_372_872_192
    memory = dry_run.training_memory(planned)
    assert memory.teacher == pytest.approx(4.83e9, rel=0.01) and memory.total < 20e9


@pytest.mark.parametrize("student", ["poster", "independent"])
def test_real_steps_are_measured_at_toy_size(bench, student):
    planned = bench.training(student, 64, batch=2, context=16)
    found = bench.measured(planned, "toy", "cpu", limit=None, steps=1)
    assert 0 < found["used"] < 5e8 and found["seconds"] > 0
    assert found["planned teacher"] == flops.weight_bytes(planned.teacher)
