import json
import math

import layout_fixture as light
import pytest
import report_fixture as made

from flyweight.core.machine import describe
from flyweight.errors import FlyweightError, RequestError
from flyweight.evaluation.compare import Paired
from flyweight.records.run_summary import Curve, Difference, Environment, PairedComparison, Summary


def test_what_is_written_is_read_back(tmp_path):
    folder = made.write(tmp_path)
    assert Summary.read(folder) == made.quickstart()


def test_a_run_without_summary_is_a_wrong_request(tmp_path):
    with pytest.raises(RequestError, match=r"not a finished run.*summary\.json.*flyweight run"):
        Summary.read(tmp_path)


def test_every_fault_of_a_damaged_summary_is_named(tmp_path):
    folder = made.write(tmp_path)
    content = json.loads((folder / "summary.json").read_text())
    content["colour"] = "blue"
    content["models"][0]["evaluate"]["nll"]["extra"] = 1
    del content["seed"]
    (folder / "summary.json").write_text(json.dumps(content))
    with pytest.raises(FlyweightError) as caught:
        Summary.read(folder)
    assert not isinstance(caught.value, RequestError)
    for fault in ("colour", "models.0.evaluate.nll.extra", "seed"):
        assert fault in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 2}'])
def test_what_is_no_summary_is_refused(tmp_path, content):
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(FlyweightError, match="cannot be read"):
        Summary.read(tmp_path)


def test_references_must_exist():
    models = made.quickstart_models()
    with pytest.raises(ValueError, match="student: no model 'teacher'"):
        made.quickstart(models=tuple(models[1:]), comparisons=())
    with pytest.raises(ValueError, match="comparisons: no model 'nobody'"):
        made.quickstart(comparisons=(made.compare("teacher", "nobody", 0.1),))
    with pytest.raises(ValueError, match="which is not in corpus"):
        made.quickstart(corpus=(made.corpus(fingerprint="another"),))
    with pytest.raises(ValueError, match="int8 is listed twice"):
        made.quickstart(models=(*models, models[4]))


def test_infinite_numbers_survive(tmp_path):
    broken = made.model("broken", math.inf)
    folder = made.write(tmp_path, models=(broken,), comparisons=())
    assert "Infinity" in (folder / "summary.json").read_text()
    json.loads(
        (folder / "summary.json").read_text(),
        parse_constant=lambda name: pytest.fail(f"{name} is not JSON"),
    )
    assert made.bits(Summary.read(folder).models[0]) == math.inf


def test_a_summary_of_an_earlier_version_is_read():
    whole = light.lightgpt2()
    plain = json.loads(whole.model_dump_json())
    for name in ("layout", "unmade", "validation"):
        del plain[name]
    for model in plain["models"]:
        del model["measured"]
        model["bench"] = json.loads(made.speed(5.9, 11_200, 690, 1e7, 1e6).model_dump_json())
    for stage in plain["stages"]:
        for name in ("input", "bench", "profile", "pruning"):
            del stage[name]
    early = Summary.model_validate_json(json.dumps(plain))
    assert early.layout is None and early.stages[0].input is None
    bench = early.models[0].bench
    assert bench is not None and bench.forward_ms.value == 5.9


def test_a_curve_has_one_length():
    with pytest.raises(ValueError, match="differ in length"):
        Curve(step=(1, 2), train_nll=(3.0,), lr=(0.1, 0.1), validation=())


def test_the_parts_take_what_measures_write():
    Environment(**describe("cpu", 2))
    difference = Difference.of(-0.1, -0.2, 0.0, "bits/byte")
    pair = Paired(None, difference, 36, "document", "different tokenizers")
    assert PairedComparison(a="x", b="y", **pair.json()).bits_per_byte.low == -0.2


@pytest.mark.parametrize(
    ("low", "high", "better", "verdict"),
    [
        (-0.2, -0.1, "lower", "better"),
        (0.1, 0.2, "lower", "worse"),
        (-0.2, -0.1, "higher", "worse"),
        (0.1, 0.2, "higher", "better"),
        (-0.1, 0.1, "higher", "undecided"),
        (0.0, 0.1, "lower", "undecided"),
        (float("nan"), float("nan"), "lower", "undecided"),
    ],
)
def test_a_difference_is_decided_by_its_interval_and_direction(low, high, better, verdict):
    assert Difference.of((low + high) / 2, low, high, "unit", better).verdict == verdict
