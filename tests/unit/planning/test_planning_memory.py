"""A plan's memory against what training takes in a fresh process.

Benchmarks/bench_plan_memory.py has the other configs.
"""

import sys
from pathlib import Path

import pytest

from flyweight.config.schema import ModelConfig, Train
from flyweight.planning import memory

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
MODEL = {"dim": 64, "layers": 2}


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench_plan_memory

    return bench_plan_memory


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux can reset the high-water mark of a process"
)
@pytest.mark.parametrize("name", ["50 k", "4 x 128, dropout, bf16", "lstm, bf16, dropout"])
def test_the_plan_is_within_a_factor_of_two_of_what_is_used(bench, tmp_path, name):
    found = bench.compared(bench.CONFIGS[name], tmp_path, steps=2)
    assert 0.5 < found["planned"] / found["used"] < 2


def kept(context=64, itemsize=4, **fields):
    config = ModelConfig.model_validate({**MODEL, **fields}).resolved(1000, context)
    return memory.kept_bytes(config, context, itemsize, cpu=True)


def test_what_autograd_keeps_follows_the_config():
    plain = kept()
    assert kept(dropout={"residual": 0.1}) - plain == 2 * 2 * 64 * 4
    assert (
        kept(dropout={"attention": 0.1}) - plain == 2 * 3 * 2 * 64 * 4
    )  # two heads in two layers, 64 scores, three times
    assert kept(layers=4) - plain == plain - kept(layers=0)
    assert kept(layers=1, sharing={"kind": "all", "times": 12}) - kept(layers=1) == 11 * (
        kept(layers=2) - kept(layers=1)
    )
    assert kept(mlp="relu") < kept(mlp="gelu") < kept(mlp="swiglu")
    assert kept(thinking={"passes": 2}) > 2.5 * plain


def test_in_bfloat16_attention_keeps_its_scores_on_short_windows():
    long, short = kept(context=1024, itemsize=2), kept(context=512, itemsize=2)
    assert short - long == 2 * 2 * 512 * 2
    assert (
        memory.kept_bytes(ModelConfig(dim=64, layers=2).resolved(1000, 512), 512, 2, cpu=False)
        == long
    )


def test_libraries_are_a_processors_alone():
    model = ModelConfig(dim=64, layers=2).resolved(1000, 64)
    here, there = (memory.training(model, Train(), 64, device=device) for device in ("cpu", "cuda"))
    assert (here.libraries, there.libraries) == (memory.LIBRARIES, 0)
    assert here.total - there.total == memory.LIBRARIES
    assert here.total == sum(vars(here).values())
    assert memory.training(model, Train(), 64, itemsize=2).copies == 2 * here.weights // 4
