"""The stage `memory`: the first steps of a training, measured in a fresh process."""

import pytest
from toy_recipe import toy

import flyweight as fw
from flyweight.api.session import Session
from flyweight.errors import RequestError
from flyweight.records.training_cost import TrainingCost
from flyweight.store.artifact import Artifact


@pytest.fixture(scope="module")
def run(text_file, tmp_path_factory):
    """A run with a small and a larger training, both measured, and a quantized model."""
    session = Session(runs=tmp_path_factory.mktemp("runs"))
    raw = toy(text_file)
    raw["stages"] = {
        "small": {"stage": "pretrain"},
        "large": {"stage": "pretrain", "model": {"dim": 256, "layers": 4}, "train": {"steps": 2}},
        "int8": {"stage": "quantize", "input": "small", "kind": "int8"},
    }
    raw["report"] = {"compare": ["small", "large", "int8"], "measure": ["evaluate", "memory"]}
    return fw.run(raw, session=session)


def test_a_larger_training_takes_more_memory(run):
    small, large, packed = (run.summary.model(name).training for name in ("small", "large", "int8"))
    weights = 4 * run.summary.model("large").parameters.unique
    assert packed is None
    # Weights, gradients and two moments of each parameter are held at once.
    assert 3 * weights < large.peak_bytes
    assert small.peak_bytes < large.peak_bytes
    assert large.seconds_per_step > 0


def test_the_measurement_is_an_artifact_of_its_own(run):
    folders = list(run.folder.parent.glob("memory-*"))
    costs = [TrainingCost.from_metrics(Artifact.open(folder).metrics()) for folder in folders]
    assert [cost.steps for cost in costs] == [4, 4]


def test_a_model_that_no_training_made_is_refused(run, text_file):
    raw = toy(text_file, cost={"stage": "memory", "input": "int8"})
    with pytest.raises(RequestError, match="stage of kind quantize made it, which trains nothing"):
        fw.run(raw, session=Session(runs=run.folder.parent))
