import os
from importlib import metadata

import pytest
import torch

from flyweight.core import bfloat16
from flyweight.core.runtime import Runtime
from flyweight.diagnosis import examine, probes
from flyweight.model.linear_quant import Int8Linear
from flyweight.model.packed import DeviceKernel, Kernel

RUNTIME = Runtime("cpu", 1)


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr(probes, "TRIAL_SECONDS", 0.0)


def by_name(lines):
    return {line.name: line for line in lines}


def test_products_are_timed_and_checked(monkeypatch):
    lines = by_name(probes.products(RUNTIME))
    assert set(lines) == {"cpu fp32", "cpu bf16", "cpu fp16", "training"}
    assert all(line.values["gflops"] > 0 for name, line in lines.items() if name != "training")
    monkeypatch.setattr(probes, "_product_error", lambda device, dtype: 0.5)
    assert [line.needed for line in probes.products(RUNTIME) if line.verdict == "broken"] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(("speedup", "chosen"), [(0.6, "fp32"), (2.0, "bf16")])
def test_doctor_says_of_bfloat16_what_training_does(monkeypatch, tmp_path, speedup, chosen):
    """Fast products alone are no reason to take bfloat16, and nothing else in the output advises for or against it."""
    measured = bfloat16.Speedups(tuple((width, speedup) for width in bfloat16.WIDTHS))
    monkeypatch.setattr(bfloat16, "_measure", lambda threads: measured)
    monkeypatch.setattr(
        probes, "_gflops", lambda size, device, dtype: 300.0 if dtype is torch.bfloat16 else 100.0
    )
    health = examine.examine(RUNTIME, tmp_path / "runs", None, quick=True)
    lines = by_name(health.lines)
    assert RUNTIME.precision("auto", 128) == chosen
    assert lines["training"].found.endswith(f"train.precision: auto takes {chosen}")
    assert set(health.environment["precision"].values()) == {chosen}
    advice = [line for line in health.lines if "precision" in line.found + line.remedy]
    assert [line.name for line in advice] == ["training"]


def test_a_wrong_kernel_is_found(monkeypatch):
    right = by_name(probes.kernels(RUNTIME))
    assert "broken" not in {line.verdict for line in right.values()}
    assert right["attention math"].verdict == "ok"
    monkeypatch.setattr(
        Int8Linear,
        "reference",
        lambda self, x: torch.nn.functional.linear(x, self.dense().to(x.dtype)) * 1.1,
    )
    wrong = by_name(probes.kernels(RUNTIME))
    assert wrong["int8 fp32"].verdict == "broken" and wrong["int8 fp32"].needed
    assert wrong["nf4 fp32"].verdict != "broken"


def test_a_kernel_that_is_not_there_is_missing(monkeypatch):
    def gone(x, layer):
        raise NotImplementedError("no such operator")

    monkeypatch.setattr(
        Int8Linear, "fast", {"cpu": DeviceKernel(Kernel("k", "", gone), lambda dtype: None)}
    )
    line = probes._trial("x", "k", Int8Linear, torch.bfloat16, "cpu")
    assert (line.verdict, line.needed) == ("missing", False) and "no such operator" in line.found


def test_libraries_that_are_missing_name_their_command(monkeypatch):
    monkeypatch.setattr(
        examine, "_version", lambda name: None if name in ("peft", "pydantic") else "99.0"
    )
    extras = by_name(examine._extras())
    assert (extras["peft"].verdict, extras["peft"].remedy) == (
        "missing",
        "pip install 'flyweight[peft]'",
    )
    assert extras["gguf"].verdict == "ok" and "test" not in extras
    versions = by_name(examine._versions())
    assert (versions["pydantic"].verdict, versions["pydantic"].needed) == ("broken", True)
    monkeypatch.setattr(examine, "_version", lambda name: "2.9.1" if name == "torch" else "99.0")
    assert "older than 2.11" in by_name(examine._versions())["torch"].found
    assert set(extras) | {"test"} == set(metadata.metadata("flyweight").get_all("Provides-Extra"))


def test_folders(tmp_path, monkeypatch):
    (line,) = examine._writable("runs root", tmp_path / "a" / "runs", needed=True)
    assert line.verdict == "ok" and "will be made" in line.found and os.listdir(tmp_path) == []
    (tmp_path / "file").write_text("")
    (line,) = examine._writable("runs root", tmp_path / "file", needed=True)
    assert line.verdict == "broken" and "--runs" in line.remedy
    usage = type("Usage", (), {"free": 5_000_000})
    monkeypatch.setattr(examine.shutil, "disk_usage", lambda path: usage)
    (line,) = examine._writable("runs root", tmp_path, needed=True)
    assert line.verdict == "broken" and line.needed


def test_corpora(tmp_path, monkeypatch):
    monkeypatch.delenv("FLYWEIGHT_DATA", raising=False)
    assert by_name(examine._corpora(None))["data folder"].verdict == "missing"
    assert by_name(examine._corpora(tmp_path / "nowhere"))["data folder"].verdict == "broken"
    (tmp_path / "tiny-shakespeare").mkdir()
    (tmp_path / "tiny-shakespeare" / "input.txt").write_text("To be")
    (tmp_path / "ptb").mkdir()
    lines = by_name(examine._corpora(tmp_path))
    assert lines["tiny-shakespeare"].verdict == lines["python-stdlib"].verdict == "ok"
    assert lines["ptb"].verdict == "broken" and "ptb.train.txt" in lines["ptb"].found
    assert lines["wikitext-2"].verdict == "missing"


def test_a_quota_and_a_busy_machine_are_told(monkeypatch):
    monkeypatch.setattr(examine, "_quota", lambda: 0.5)
    monkeypatch.setattr(examine.machine, "usable_cores", lambda: 4)
    monkeypatch.setattr(examine.machine, "load", lambda: 9.0)
    lines = by_name(examine._machine(Runtime("cpu", 4)))
    assert (
        lines["processor"].verdict == lines["load"].verdict == "slow"
        and "--threads 1" in lines["processor"].remedy
    )


def test_only_what_is_needed_makes_a_machine_unfit():
    lines = [
        examine.Line("g", "a", "broken", ""),
        examine.Line("g", "b", "missing", "", needed=True),
    ]
    assert examine.Health(tuple(lines), {}, 0.0).ok
    assert not examine.Health(
        (*lines, examine.Line("g", "c", "broken", "", needed=True)), {}, 0.0
    ).ok
