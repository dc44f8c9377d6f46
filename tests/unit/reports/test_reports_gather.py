"""What a run's artifacts become in its summary."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flyweight.config import schema
from flyweight.errors import FlyweightError
from flyweight.evaluation.compare import compare_models, paired
from flyweight.evaluation.resampling import UNITS, UnitScores
from flyweight.planning.memory import PlannedMemory
from flyweight.reports import comparisons, gather


def scored(level: float, seed: int, corpus: str = "c") -> UnitScores:
    counts = np.full(40, 100)
    nll = counts * np.random.default_rng(seed).normal(3 + level, 0.05, 40)
    return UnitScores("document", nll, counts, counts * 4.0, "test", corpus, "t")


def test_a_report_decides_pairs_as_compare_does(tmp_path):
    models = {f"m{place}": scored(0.02 * place, place) for place in range(6)}
    sources: list[Any] = []
    for name, scores in {**models, "elsewhere": scored(0.0, 9, "another text")}.items():
        (tmp_path / name).mkdir()
        scores.save(tmp_path / name / UNITS)
        sources.append(
            SimpleNamespace(
                name=name,
                measured={
                    "evaluate": SimpleNamespace(stage="evaluate", path=tmp_path / name, facts={})
                },
            )
        )
    found, stood = comparisons.on_test(sources), compare_models(models)
    assert {(pair.a, pair.b): pair.verdict for pair in found} == {
        pair: stood.verdict(*pair) for pair in stood.pairs
    }
    assert {pair.comparisons for pair in found} == {15}
    alone = [
        pair for pair in found if pair.verdict != paired(models[pair.a], models[pair.b]).verdict
    ]
    assert alone and all(
        pair.verdict == "undecided" and pair.p_corrected > pair.p for pair in alone
    )
    assert any(pair.verdict != "undecided" for pair in found)


def role(of, limit, spent):
    train = {"same_as": {"stage": "student", "of": of}, **limit}
    config = schema.Pretrain.model_validate(
        {"stage": "pretrain", "data": {"corpus": "x"}, "train": train}
    )
    return gather._role(
        config, {"tokens": 0, "flops": 0, "seconds": 0.0, "total_flops": 9e9, **spent}
    )


def test_a_control_that_ended_early_is_called_what_it_had():
    assert role("total_flops", {"flops": 1000}, {"flops": 1003}) == "alone, total FLOPs of student"
    assert (
        role("total_flops", {"flops": 1000}, {"flops": 180})
        == "alone, 18 % of the total FLOPs of student"
    )
    assert (
        role("tokens", {"tokens": 1000}, {"tokens": 940}) == "alone, 94 % of the tokens of student"
    )
    assert role("seconds", {"time": "10s"}, {"seconds": 10.2}) == "alone, seconds of student"


def test_the_memory_of_a_training_says_which_pieces_ran():
    planned = PlannedMemory(100, 0, 0, 0, 0)
    artifact: Any = SimpleNamespace(
        facts={"memory_used": 80, "accumulate_used": 2},
        identity={"config": {"train": {"accumulate": 1}}},
    )
    memory = gather.memory(planned, artifact, held=False)
    assert memory is not None and memory.halved and memory.error is None
    artifact.identity = {"config": {"train": {"accumulate": 2}}}
    memory = gather.memory(planned, artifact, held=False)
    assert memory is not None and memory.error == 0.25


def test_a_snapshot_that_was_not_validated_is_part_of_a_log(tmp_path):
    log = tmp_path / "events.jsonl"
    step = {"event": "step", "step": 1, "nll": 3.0, "lr": 0.1, "seconds": 1.0, "flops": 2.0}
    snapshot = {"event": "snapshot", "at": 0.5, "step": 1, "nll": None}
    log.write_text("".join(json.dumps(each) + "\n" for each in (step, snapshot)))
    assert gather.training_curve(log).train_nll == (3.0,)
    log.write_text(json.dumps({**step, "nll": None}) + "\n")
    with pytest.raises(FlyweightError, match="not the log of a training"):
        gather.training_curve(log)
