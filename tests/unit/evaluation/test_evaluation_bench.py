import json
import os
import subprocess
import sys
import time
from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from flyweight.config import schema
from flyweight.core.events import Events, ignore
from flyweight.core.files import read_json
from flyweight.core.pinned import PinnedFolder
from flyweight.core.runtime import Runtime
from flyweight.errors import FlyweightError, RequestError
from flyweight.evaluation import bench as bench_module, bench_worker, speed_choices
from flyweight.evaluation.bench import bench, median
from flyweight.evaluation.stages import BenchStage
from flyweight.model import folder
from flyweight.model.build import build
from flyweight.model.decoder import Decoder
from flyweight.store.artifact import Artifact, Draft, Identity, Store
from flyweight.store.budget import Meter
from flyweight.store.stage import Context, Inputs

ASKED = schema.Bench(stage="bench", input="model", prompt=8, new_tokens=4, repeats=3)
LINUX = sys.platform == "linux" and os.access("/proc/self/clear_refs", os.W_OK)


def saved(place: Path, **changes) -> Path:
    fields = {"vocab_size": 64, "context": 16, "dim": 16, "layers": 1, "attention": {"heads": 1}}
    folder.save(Decoder(schema.ModelConfig.model_validate({**fields, **changes})), place)
    return place


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def result(place):
    return bench(place, ASKED, threads=1)


def test_rates_follow_from_the_seconds(result):
    seconds = result.seconds
    assert result.forward_ms.value == pytest.approx(1e3 * np.median(seconds.forward))
    assert result.prefill_tokens_per_s.value == pytest.approx(
        np.median([8 / s for s in seconds.prefill])
    )
    assert result.decode_tokens_per_s.value == pytest.approx(
        np.median([4 / s for s in seconds.decode])
    )
    assert len(seconds.forward) == len(seconds.prefill) == len(seconds.decode) == 3
    assert 0 < result.p95["decode_tokens_per_s"] <= result.decode_tokens_per_s.value
    assert result.forward_ms.value <= result.p95["forward_ms"]


def test_bytes_are_those_of_the_tensors_and_the_folder(place, result):
    model = folder.load(place)
    assert result.weight_bytes.value == sum(p.nbytes for p in model.parameters())
    files = place.iterdir()
    assert (
        result.disk_bytes.value
        == sum(file.stat().st_size for file in files)
        > result.weight_bytes.value
    )
    assert result.kernels == {"dense": 8}
    assert (result.threads, result.context) == (1, 16)


def test_json_has_plain_numbers_and_their_intervals(result):
    found = json.loads(json.dumps(result.to_metrics(), allow_nan=False))
    for name in (
        "forward_ms",
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
        "peak_bytes",
        "weight_bytes",
    ):
        assert found[name] == found["metrics"][name]["value"] > 0
        assert found["metrics"][name]["low"] <= found[name] <= found["metrics"][name]["high"]
    assert (found["batch"], found["prompt"], found["new_tokens"], found["precision"]) == (
        1,
        8,
        4,
        "fp32",
    )


@pytest.mark.skipif(not LINUX, reason="needs a resettable high-water mark of resident memory")
def test_peak_is_the_models_and_not_the_interpreters(tmp_path):
    # 4 M parameters, 16 MB: the interpreter with torch alone would be hundreds.
    measured = bench(saved(tmp_path, vocab_size=16_384, dim=256), ASKED, threads=1)
    assert measured.memory == "resident" and measured.baseline_bytes > 100e6
    assert (
        0.9 * measured.weight_bytes.value
        < measured.peak_bytes.value
        < measured.weight_bytes.value + 40e6
    )


@pytest.mark.skipif(not LINUX, reason="needs a resettable high-water mark of resident memory")
def test_a_peak_that_has_passed_is_still_seen():
    # In a process of its own, as the bench has it: one that has freed as much before would get the
    # same pages again.
    code = """
import torch
from pydantic import TypeAdapter
from flyweight.evaluation import bench_worker
memory = bench_worker.MemoryProbe(torch.device("cpu"))
memory.start()
torch.ones(20_000_000)  # 80 MB, gone at once
print(memory.peak())
"""
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert 70e6 < int(printed) < 120e6


def test_quantized_layers_are_counted_with_their_kernels(tmp_path):
    found = bench(saved(tmp_path, dim=64, linears={"blocks": "int8"}), ASKED, threads=1).kernels
    assert sum(found.values()) == 8 and found["dense"] == 1
    assert all(name == "dense" or name.startswith("int8 ") for name in found)


def test_a_bench_is_measured_after_the_budgets_time(tmp_path):
    (tmp_path / "a").mkdir()
    saved(tmp_path / "a" / "model")
    limits = schema.Budget.model_validate({"time": "100ms", "over": "stop"})
    context = Context(Store(tmp_path), Runtime("cpu", 1), Meter(limits), ignore)
    draft = Draft(
        PinnedFolder(tmp_path), Identity("bench", 1, {}), Events(tmp_path / "events.jsonl")
    )
    BenchStage().run(
        ASKED, Inputs("toy", {"input": Artifact(tmp_path / "a", {"id": "a"})}), context, draft
    )
    assert read_json(tmp_path / "metrics.json")["decode_tokens_per_s"] > 0


def test_a_folder_without_a_model_is_the_users_error(tmp_path):
    with pytest.raises(RequestError, match=r"config\.json"):
        bench(tmp_path, ASKED)


def test_prompts_beyond_learned_positions_are_the_users_error(tmp_path):
    with pytest.raises(RequestError, match="context"):
        bench(
            saved(tmp_path, position="learned"),
            ASKED.model_copy(update={"new_tokens": 9}),
            threads=1,
        )


def test_a_broken_model_is_reported_with_the_childs_last_words(tmp_path):
    (saved(tmp_path) / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(FlyweightError, match="damaged") as caught:
        bench(tmp_path, ASKED)
    assert not isinstance(caught.value, RequestError) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit('first\\nlast words')", "last words"),
        ("raise ValueError('odd')", "ValueError: odd"),
        ("import os; os.kill(os.getpid(), 9)", "signal 9"),
        ("import sys; sys.exit(3)", "said nothing"),
    ],
)
def test_a_child_that_fails_is_an_error_and_no_result(tmp_path, monkeypatch, code, message):
    (tmp_path / "failing_worker.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(bench_module, "WORKER", "failing_worker")
    with pytest.raises(FlyweightError, match=message):
        bench(tmp_path, ASKED)


def test_a_child_that_hangs_is_stopped(tmp_path, monkeypatch):
    (tmp_path / "hanging_worker.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(bench_module, "WORKER", "hanging_worker")
    began = time.monotonic()
    with pytest.raises(FlyweightError, match="no result after"):
        bench(tmp_path, ASKED, timeout=0.5)
    assert time.monotonic() - began < 20


def test_what_libraries_print_does_not_reach_the_answer(tmp_path, monkeypatch):
    (tmp_path / "noisy_worker.py").write_text(
        "from flyweight.evaluation import bench_worker\n"
        "measure = bench_worker.measure\n"
        "bench_worker.measure = lambda request: print('noise') or measure(request)\n"
        "bench_worker.main()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(bench_module, "WORKER", "noisy_worker")
    assert bench(saved(tmp_path / "model"), ASKED, threads=1).weight_bytes.value > 0


def test_seconds_are_those_of_one_pass():
    found = bench_worker.seconds(lambda: time.sleep(0.05), torch.device("cpu"), passes=4)
    assert 0.05 <= found < 0.2


@pytest.mark.parametrize("n", [1, 2, 5, 6, 9, 10, 15, 30])
def test_the_medians_interval_holds_it_with_95_percent_where_that_is_possible(n):
    samples = list(range(n))
    metric = median(samples[::-1], "ms", "lower")
    assert metric.value == np.median(samples)
    low, high = int(metric.low), int(metric.high)
    assert low == n - 1 - high
    # P(fewer than or exactly `low` samples below the median), at either end.
    outside = 2 * sum(comb(n, k) for k in range(low + 1)) / 2**n
    if n >= 6:
        assert outside <= 0.05
        assert 2 * sum(comb(n, k) for k in range(low + 2)) / 2**n > 0.05
    else:
        assert (low, high) == (0, n - 1)


@pytest.mark.parametrize(
    ("fields", "kernels"),
    [
        ({"kind": "linear", "history": 3}, {"dense": 2}),
        ({"kind": "mlp", "hidden": 8, "linears": {"blocks": "int8"}}, {"dense": 2, "int8": 2}),
        ({"kind": "lstm", "hidden": 8, "tied": False, "linears": {"*": "int8"}}, {"int8": 4}),
    ],
)
def test_baselines_are_timed_like_decoders(fields, kernels, tmp_path):
    config = TypeAdapter(schema.Architecture).validate_python(
        {"vocab_size": 64, "context": 16, "dim": 16, **fields}
    )
    folder.save(build(config), tmp_path)
    found = bench_worker.measure(
        bench_module.Request(str(tmp_path), 1, 8, 4, 1, "cpu", "fp32", None)
    )
    assert min(*found.forward_s, *found.prefill_s, *found.decode_s) > 0 and found.context == 16
    assert found.weight_bytes == sum(
        tensor.nbytes for tensor in build(config).state_dict().values()
    )
    counted = {
        kind: sum(n for name, n in found.kernels.items() if name.split()[0] == kind)
        for kind in kernels
    }
    assert counted == kernels and sum(found.kernels.values()) == sum(kernels.values())


@pytest.mark.parametrize(
    ("done", "asked", "spent", "more"),
    [
        (4, None, 60.0, True),
        (5, None, 2.1, False),
        (14, None, 1.9, True),
        (15, None, 0.1, False),
        (2, 3, 60.0, True),
        (3, 3, 0.0, False),
    ],
)
def test_how_many_runs_are_timed(done, asked, spent, more):
    assert bench_worker._more(done, asked, spent) == more


def test_an_answer_is_timed_with_its_prompt(result):
    assert result.generate_tokens == 5
    assert result.generate_ms.value == pytest.approx(1e3 * np.median(result.seconds.generate))
    assert result.samples_per_s.value == pytest.approx(1e3 / result.generate_ms.value)
    assert result.engine in ("eager", "compiled")


@pytest.mark.parametrize("asked", ["auto", "eager", "math", "flash"])
def test_the_kernel_that_was_asked_for_is_seen(asked, place):
    request = bench_module.Request(
        str(place), 1, 8, 4, 1, "cpu", "fp32", None, attention=asked, engine="eager"
    )
    found = bench_worker.measure(request)
    assert found.kernel == ("flash" if asked == "auto" else asked)
    assert found.engine == "eager"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention": "efficient"}, "attention: efficient does not run here .*; use auto"),
        ({"precision": "fp16"}, "precision: fp16 needs a GPU; on a CPU use fp32 or bf16"),
        ({"precision": "bf16", "engine": "compiled"}, "autocast chooses the dtype of products"),
    ],
)
def test_kernels_that_are_not_there_are_refused(fields, message, place):
    with pytest.raises(RequestError, match=message):
        bench(place, ASKED.model_copy(update=fields), threads=1)


def test_a_model_without_attention_has_no_kernel_to_choose(tmp_path):
    config = schema.LinearConfig(vocab_size=64, context=16, dim=16, history=3)
    folder.save(build(config), tmp_path)
    with pytest.raises(RequestError, match="math cannot be chosen; this model has no attention"):
        bench_worker.measure(
            bench_module.Request(str(tmp_path), 1, 8, 4, 1, "cpu", "fp32", None, attention="math")
        )


def test_another_kernel_than_the_one_asked_for_is_an_error():
    speed_choices.check_attention("flash", "flash")
    with pytest.raises(FlyweightError, match="math was asked for, and the profiler saw flash"):
        speed_choices.check_attention("math", "flash")


def test_later_fields_leave_ids_at_their_defaults():
    later = {"precision", "attention", "engine", "generate_tokens"}
    assert not later & set(ASKED.model_dump(mode="json"))
    changed = ASKED.model_copy(update={"attention": "math", "generate_tokens": 6})
    assert changed.model_dump(mode="json")["attention"] == "math"
    assert changed.model_dump(mode="json")["generate_tokens"] == 6


def test_slow_outliers_among_many_runs_stay_out_of_the_interval():
    rates = [100 + step for step in range(12)] + [40, 45, 50]
    found = median(rates, "tokens/s", "higher")
    assert found.low == 100, "three of fifteen"
    assert median(rates[-5:], "tokens/s", "higher").low == 40, "five runs cannot leave one out"
