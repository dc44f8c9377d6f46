"""The recipe of DistilQwen3: planned at full size, nothing of it allocated, and measured at toy size."""

import sys
from pathlib import Path

import pytest
import yaml

from flyweight.core.machine import resident_bytes
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


def test_the_poster_s_student_and_its_teacher_are_planned_within_20_gb(flyweight, tmp_path):
    before = resident_bytes()
    status, out, err = flyweight("plan", "distilqwen3-poster", "--memory", "20GB", "--json")
    assert status == 0, err
    planned = yaml.safe_load(out)
    memory = planned["stages"]["student"]["memory"]
    assert planned["stages"]["student"]["method"] == "dry-run"
    assert planned["stages"]["student"]["parameters"]["unique"] == 497_501_376
    assert 4.7e9 < memory["teacher"] < 5.0e9
    assert 12e9 < memory["total"] < 20e9
    assert resident_bytes() - before < 1e9


def test_without_what_saves_memory_it_does_not_fit_and_is_told_what_would(flyweight):
    words = ["stages.student.train.memory.recompute=none"]
    status, out, err = flyweight("plan", "distilqwen3", *words, "--memory", "20GB", "--json")
    assert status == 1, err
    student = yaml.safe_load(out)["stages"]["student"]
    assert student["memory"]["total"] > 20e9
    assert student["changes"][0]["field"] == "train.accumulate"
    status, out, err = flyweight("plan", "distilqwen3-poster", *words, "--memory", "20GB", "--fit")
    assert status == 0, err
    assert yaml.safe_load(out)["stages"]["student"]["train"]["accumulate"] in (16, 32)


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
