"""What a careful tool does: kills, damage and nonsense by the harnesses (a handful here), odd disks, odd clocks, company."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import corrupt  # noqa: E402
import crash  # noqa: E402
import sandbox  # noqa: E402
from rows import Rows  # noqa: E402

from flyweight.store.artifact import Identity, Store  # noqa: E402

THREADS = ("--threads", 1)
TMPFS = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None,
    reason="needs root and mount for a small tmpfs",
)


@contextlib.contextmanager
def tmpfs(folder: Path, options: str):
    folder.mkdir()
    if os.system(f"mount -t tmpfs -o {options} tmpfs {folder} 2>/dev/null"):
        pytest.skip("this machine does not let us mount a tmpfs")
    try:
        yield
    finally:
        os.system(f"umount -l {folder}")


def quick(tmp_path: Path, name: str = "toy", **train) -> Path:
    """Write a recipe of one short training, its quantization and no measurement but likelihood."""
    path = sandbox.write_recipe(tmp_path, name)
    raw = yaml.safe_load(path.read_text())
    del raw["stages"]["student"]
    raw["stages"]["int8"]["input"] = "teacher"
    raw["report"] = {"measure": ["evaluate"], "compare": ["teacher", "int8"]}
    raw["train"].update(train)
    path.write_text(yaml.safe_dump(raw))
    return path


# --- the harnesses, a handful ---


@pytest.mark.parametrize(
    ("script", "options", "said"),
    [
        ("crash.py", ["--kills", "6", "--round", "6"], "6 of 6 kills and 2 of gc in "),
        (
            "corrupt.py",
            ["--every", "60"],
            "commands on damaged files found the damage and named it",
        ),
        ("fuzz.py", ["--inputs", "72"], "72 of 72 malformed inputs refused"),
        ("swap.py", ["--operations", "2"], " 0 files outside the root changed"),
    ],
)
def test_the_harness(script, options, said, tmp_path):
    environment = {**os.environ, "RESULTS": str(tmp_path), "TMPDIR": str(tmp_path)}
    command = [sys.executable, BENCHMARKS / script, *options]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert said in done.stdout
    assert len(list(tmp_path.glob("*.csv"))) == 1


def made(store: Store, seed: int = 0, step: int | None = None):
    """Make a small artifact, or leave it half-made with a checkpoint at `step`."""

    def work(draft):
        if step is not None:
            draft.state.mkdir(parents=True, exist_ok=True)
            (draft.state / "current.json").write_text(json.dumps({"progress": {"step": step}}))
            raise KeyboardInterrupt
        (draft.path / "model").write_bytes(b"12345678")
        return {"took": 1.0}

    with contextlib.suppress(KeyboardInterrupt):
        store.obtain(Identity(stage="toy", version=1, config={}, seed=seed), work)


def test_the_crash_harness_sees_what_is_damaged_made_twice_or_lost(tmp_path):
    store, watched = Store(tmp_path), crash.Watched(tmp_path)
    made(store)
    made(store, seed=1, step=7)
    watched.look("at first")
    assert watched.faults == [] and watched.at_work() == "toy"
    (whole,) = (path for path in tmp_path.glob("toy-*") if path.suffix != ".partial")
    shutil.rmtree(whole)
    made(store)
    made(store, seed=1, step=3)
    watched.look("later")
    assert [fault for fault in watched.faults if "was made twice" in fault]
    assert [fault for fault in watched.faults if "had come to step 7" in fault]
    (whole / "model").write_bytes(b"1234567")
    watched.look("at last")
    assert "published and damaged" in watched.faults[-1]


def test_the_recipe_of_fine_tuning_that_is_killed_can_be_planned(tmp_path):
    recipe = sandbox.write_finetune_recipe(tmp_path)
    answer = sandbox.call("plan", recipe, *THREADS, "--runs", tmp_path / "runs", "--json")
    assert answer.status == 0, answer.err
    stages = json.loads(answer.out)["stages"]
    assert {name: stage["steps"] for name, stage in stages.items()} == dict.fromkeys(
        ("base", "qlora", "full", "lora"), 24
    )


def test_the_corruption_harness_sees_what_is_used_silently(tmp_path, monkeypatch):
    recipe = quick(tmp_path, steps=2)
    harness = corrupt.Harness(tmp_path, recipe, Rows("corruption"))
    assert sandbox.call("run", recipe, *THREADS, "--runs", harness.runs).status == 0
    harness.keep("whole")
    (weights,) = (harness.runs / "toy" / "teacher").resolve().glob("model/model.safetensors")
    run = (("run", recipe, *THREADS), ("generate", "toy:teacher", "Ann ", "--max-new-tokens", 2))
    case = corrupt.Case("flip", "weights", corrupt.flipped(weights, 0.9), run, (str(weights),))
    harness.try_out(case, "whole", harness.expected)
    assert harness.faults == [] and harness.found["flip"] == 2
    monkeypatch.setattr("flyweight.store.artifact.sha256", lambda path: "no checksum")
    monkeypatch.setattr(corrupt.Harness, "done", Counter(), raising=False)
    harness.try_out(case, "whole", harness.expected)
    assert len(harness.faults) == 2


def test_the_fuzz_harness_sees_tracebacks_silence_and_stray_writes(tmp_path):
    import fuzz

    fuzzer = object.__new__(fuzz.Fuzzer)
    fuzzer.elsewhere, fuzzer.strays, fuzzer.marker = (
        tmp_path / "elsewhere",
        [],
        tmp_path / "EXECUTED",
    )
    fuzzer.elsewhere.mkdir()
    (fuzzer.elsewhere / "random.py").write_text(fuzz.SHADOW.format(marker=str(fuzzer.marker)))
    judge = fuzzer._fault
    assert judge(sandbox.Answer(2, "", "flyweight: no such thing")) is None
    assert judge(sandbox.Answer(0, "fine", "")) is None
    assert "traceback" in judge(sandbox.Answer(1, "", "", KeyError("x")))
    assert "no message" in judge(sandbox.Answer(1, "", ""))
    assert "no message" in judge(sandbox.Answer(1, "", "Traceback (most recent call last)"))
    assert "status 3" in judge(sandbox.Answer(3, "", "flyweight: x"))
    assert "lines" in judge(sandbox.Answer(2, "", "x\n" * 100))
    with pytest.raises(ImportError):
        exec((fuzzer.elsewhere / "random.py").read_text(), {"__file__": "random.py"})
    assert "ran: random.py" in judge(sandbox.Answer(0, "fine", ""))
    fuzzer.marker.unlink()
    (fuzzer.elsewhere / "stray").write_text("")
    assert "working folder" in judge(sandbox.Answer(2, "", "flyweight: x"))
    fuzzer.strays = ["open /etc/passwd"]
    assert "outside" in judge(sandbox.Answer(2, "", "flyweight: x"))


# --- disks ---


@TMPFS
def test_a_disk_that_fills_up_at_any_point_loses_nothing(flyweight, tmp_path):
    recipe, small = quick(tmp_path), tmp_path / "small"
    words = ("run", recipe, *THREADS, "--runs")
    assert flyweight(*words, tmp_path / "whole")[0] == 0
    with tmpfs(small, "size=24k"):
        full = 0
        for size in range(64, 3000, 48):
            status, _, err = flyweight(*words, small)
            if status == 0:
                break
            full += 1
            assert status == 1 and "disk is full" in err and "Traceback" not in err, err
            os.system(f"mount -o remount,size={size}k {small}")
        assert full > 3 and status == 0
        assert sandbox.results(small) == sandbox.results(tmp_path / "whole")


@TMPFS
def test_a_read_only_runs_root_is_read_and_not_written(flyweight, tmp_path):
    recipe, root = quick(tmp_path), tmp_path / "mounted"
    with tmpfs(root, "size=50m"):
        assert flyweight("run", recipe, *THREADS, "--runs", root)[0] == 0
        before = sandbox.results(root)
        os.system(f"mount -o remount,ro {root}")
        for words in (
            ("run", recipe),
            ("eval", "toy:int8", "--window", 8),
            ("quantize", "toy:teacher", "--kind", "nf4"),
        ):
            status, _, err = flyweight(*words, *THREADS, "--runs", root)
            assert status == 2 and "choose another folder with --runs" in err, err
        assert (
            flyweight("eval", "toy:int8", *THREADS, "--runs", root)[0] == 0
        )  # measured before: it is only read
        assert (
            flyweight(
                "generate", "toy:int8", "Ann ", "--max-new-tokens", 2, *THREADS, "--runs", root
            )[0]
            == 0
        )
        assert flyweight("ls", "--runs", root)[0] == 0
        status, _, err = flyweight("run", recipe, *THREADS, "--runs", root / "deeper")
        assert status == 2 and "choose another folder with --runs" in err, err
        assert sandbox.results(root) == before


def test_what_cannot_be_written_on_standard_output_is_no_traceback(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "flyweight", "ls", "--recipes"]
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path
        )
    assert done.returncode == 1
    assert "No space left" in done.stderr and "Traceback" not in done.stderr


# --- two at once, and clocks ---


def test_two_processes_on_one_run_share_the_work(tmp_path):
    recipe, plain = (
        quick(tmp_path, steps=60),
        "train.precision=fp32",
    )  # measured in each runs root otherwise
    command = [
        sys.executable,
        "-m",
        "flyweight",
        "run",
        recipe,
        plain,
        "--threads",
        "1",
        "--json",
        "--runs",
    ]
    both = [
        subprocess.Popen(
            [*command, tmp_path / "runs"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    stages = [
        {made["name"]: made["reused"] for made in json.loads(out)["stages"]} for out, _ in told
    ]
    for name in stages[0]:
        assert sorted(each[name] for each in stages) == [False, True], (
            "each artifact is made by one and found by the other"
        )
    assert sandbox.call("run", recipe, plain, *THREADS, "--runs", tmp_path / "alone").status == 0
    assert sandbox.results(tmp_path / "runs") == sandbox.results(tmp_path / "alone")
    assert not list((tmp_path / "runs").rglob("*.partial"))


def test_a_clock_that_jumps_changes_nothing_but_dates(flyweight, tmp_path, monkeypatch):
    recipe = quick(tmp_path, checkpoint="10ms")
    assert (
        flyweight("run", recipe, "budget.time=5min", *THREADS, "--runs", tmp_path / "steady")[0]
        == 0
    )
    draw, real = random.Random(0), time.gmtime
    monkeypatch.setattr(time, "time", lambda: draw.uniform(1e8, 4e9))
    monkeypatch.setattr(
        time, "gmtime", lambda seconds=None: real(time.time() if seconds is None else seconds)
    )
    assert (
        flyweight("run", recipe, "budget.time=5min", *THREADS, "--runs", tmp_path / "jumping")[0]
        == 0
    )
    assert (
        flyweight("run", recipe, "budget.time=5min", *THREADS, "--runs", tmp_path / "jumping")[0]
        == 0
    )
    monkeypatch.undo()
    assert sandbox.results(tmp_path / "steady") == sandbox.results(tmp_path / "jumping")
    status, out, _ = flyweight("ls", "--runs", tmp_path / "jumping", "--json")
    dates = [item["created"] for item in json.loads(out)["items"]]
    assert status == 0 and dates == sorted(dates) and dates[0][:4] != dates[-1][:4]


def test_a_limit_in_seconds_is_kept_by_a_clock_that_jumps(answer, tmp_path, monkeypatch):
    recipe = quick(tmp_path, steps=None, time="2s")
    steps = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: 1e9 + 86_400.0 * (-1) ** next(steps) * 1000)
    began = time.monotonic()
    (teacher,) = (m for m in answer("run", recipe, *THREADS)["models"] if m["name"] == "teacher")
    assert teacher["training"]["stopped_by"] == "time"
    assert 2 <= teacher["training"]["seconds"] < 4 and teacher["training"]["steps"] > 3
    assert time.monotonic() - began < 60


# --- damage that is only looked at ---


def test_a_damaged_artifact_is_listed_as_damaged(flyweight, tmp_path):
    recipe, runs = quick(tmp_path, steps=2), tmp_path / "runs"
    assert flyweight("run", recipe, *THREADS)[0] == 0
    (teacher,) = runs.glob("pretrain-*")
    (teacher / "manifest.json").write_text("{")
    (runs / "toy" / "summary.json").write_text("[]")
    status, out, err = flyweight("ls", "--json")
    found = json.loads(out)
    items = {item["id"]: item for item in found["items"]}
    assert status == 0, err
    assert (
        str(teacher) in items[teacher.name]["damaged"]
        and "summary.json" in found["recipes"][0]["damaged"]
    )
    assert sum(item["damaged"] is None for item in items.values()) == len(items) - 1
    status, out, _ = flyweight("ls")
    assert status == 0 and "damaged" in out and "delete the folder" in out.replace("\n", " ")


def test_a_tokenizer_file_that_changed_makes_another_corpus(flyweight, tmp_path):
    recipe, runs = quick(tmp_path, steps=2), tmp_path / "runs"
    assert flyweight("run", recipe, *THREADS)[0] == 0
    file = tmp_path / "tokenizer.json"
    shutil.copy(next(runs.glob("corpus-*")) / "corpus" / "tokenizer.json", file)
    word = f"data.tokenizer={{kind: file, path: {file}}}"
    assert flyweight("run", recipe, word, *THREADS)[0] == 0
    known = set(runs.glob("corpus-*"))
    file.write_text(
        json.dumps(
            {**json.loads(file.read_text()), "version": "1.0", "truncation": None, "padding": None},
            indent=1,
        )
    )
    assert flyweight("run", recipe, word, *THREADS)[0] == 0
    assert len(set(runs.glob("corpus-*")) - known) == 1
