"""The memory of an evaluation, and how many windows it reads at once within a limit."""

import pytest

import flyweight as fw
from flyweight.config.schema import LstmConfig, ModelConfig
from flyweight.planning.evaluating import WINDOWS_AT_ONCE, evaluation_bytes, windows_at_once
from flyweight.spec import flops
from flyweight.spec.chunks import WINDOW
from flyweight.store.budget import LIBRARIES

MODEL = ModelConfig(dim=64, layers=2).resolved(1000, 256)


@pytest.mark.parametrize("model", [MODEL, LstmConfig(dim=64).resolved(1000, 256)])
def test_it_grows_with_what_is_read_at_once_and_not_with_the_layers_activations(model):
    one, many = evaluation_bytes(model, 1), evaluation_bytes(model)
    assert flops.weight_bytes(model) + LIBRARIES < one < many
    assert evaluation_bytes(model, device="cuda") == many - LIBRARIES
    assert evaluation_bytes(model, 1, window=64) < one


def test_layers_add_their_weights_alone():
    deep = ModelConfig(dim=64, layers=8).resolved(1000, 256)
    added = flops.weight_bytes(deep) - flops.weight_bytes(MODEL)
    assert evaluation_bytes(deep) - evaluation_bytes(MODEL) == added


def test_a_long_context_is_read_in_shorter_windows():
    long = ModelConfig(dim=64, layers=2).resolved(1000, 8 * WINDOW)
    same = evaluation_bytes(long, window=WINDOW)
    assert evaluation_bytes(long) == same


def test_a_limit_makes_it_read_fewer_windows_and_never_fewer_than_one():
    assert windows_at_once(MODEL, None) == windows_at_once(MODEL, 1e12) == WINDOWS_AT_ONCE == 16
    assert windows_at_once(MODEL, evaluation_bytes(MODEL, 4)) == 4
    assert windows_at_once(MODEL, evaluation_bytes(MODEL, 4) - 1) == 2
    assert windows_at_once(MODEL, 1) == 1


@pytest.fixture
def fields(text_file):
    model = {"dim": 64, "layers": 2, "attention": {"heads": 2}}
    data = {"corpus": str(text_file), "tokenizer": "byte", "context": 256}
    train = {"steps": 2, "batch": 1, "validations": 0, "precision": "fp32"}
    stage = {"stage": "pretrain", "model": model, "data": data, "train": train}
    return {"name": "held", "stages": {"m": stage}, "report": {"measure": ["evaluate", "audit"]}}


def test_a_plan_counts_evaluations_and_says_what_it_does_not_count(fields):
    planned = fw.plan(fields)
    assert planned.json()["evaluations"] == {"m": planned.evaluated["m"]}
    largest = max(planned.stages[0].memory.total, planned.evaluated["m"])
    assert planned.totals["memory"] == largest
    assert any("evaluating m takes up to" in line for line in planned.remarks())
    assert any("not in the memory: packing, n-gram floors" in line for line in planned.remarks())
    alone = fw.plan({**fields, "report": {"measure": ["audit"]}})
    assert not alone.evaluated and alone.remarks()[-1].startswith(("not in", "assumed"))


def test_an_evaluation_over_the_limit_is_a_fault_with_the_nearest_limit(fields):
    by_hand = {"stage": "evaluate", "input": "m", "batch": 400, "window": 1024}
    fields = {**fields, "stages": {**fields["stages"], "e": by_hand}}
    (fault,) = fw.plan(fields, memory="300MB").faults
    assert "evaluating m takes about" in fault and "batch of an evaluate stage" in fault
    nearest = fault.rpartition("budget.memory=")[2]
    assert not fw.plan(fields, memory=nearest).faults


def test_a_run_reads_as_many_windows_as_were_planned_and_notes_what_they_took(fields, tmp_path):
    whole = fw.plan(fields, memory="1GB")
    limit = max(whole.stages[0].memory.total, whole.evaluated["m"] - 1)
    planned = fw.plan(fields, memory=f"{limit}B")
    (note,) = [each for each in planned.assumed if each.startswith("evaluating m reads")]
    batch = int(note.split()[3])
    assert 1 <= batch < WINDOWS_AT_ONCE and planned.evaluated["m"] <= limit
    session = fw.Session(runs=tmp_path / "runs", threads=1)
    result = fw.run(fields, f"budget.memory={limit}B", "budget.over=warn", session=session)
    manifests = {each.stage: each for each in session.store.artifacts()}
    assert manifests["evaluate"].identity["config"]["batch"] == batch
    for stage in ("evaluate", "audit", "floors", "corpus"):
        assert manifests[stage].facts["memory_used"] >= 0
    (line,) = [each for each in result.summary.budget if each.name == "memory"]
    assert line.planned == planned.totals["memory"]
    used = [each.facts.get("memory_used", 0) for each in manifests.values()]
    assert line.used == max(used)
