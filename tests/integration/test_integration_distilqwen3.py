"""The recipe of DistilQwen3: planned at full size, nothing of it allocated."""

import yaml

from flyweight.core.machine import resident_bytes


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
