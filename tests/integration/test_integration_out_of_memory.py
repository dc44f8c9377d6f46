"""Trainings whose memory the system really limits, each in a process of its own."""

import json
import os
import subprocess
import sys

import pytest
import yaml

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="RLIMIT_DATA covers all private memory on Linux alone"
)

CHILD = """
import resource, sys
from pathlib import Path
import flyweight.cli

def command(*words):
    sys.argv = ["flyweight", *words]
    try:
        flyweight.cli.main()
    except SystemExit as ended:
        return ended.code or 0
    return 0

recipe, allowed, *words = sys.argv[1:]
assert command("run", f"{recipe}.small", *words) == 0  # what loads at first use is loaded now
status = Path("/proc/self/status").read_text().split()
held = 1024 * int(status[status.index("VmData:") + 1])
resource.setrlimit(resource.RLIMIT_DATA, (held + int(allowed), held + int(allowed)))
sys.exit(command("run", recipe, *words))
"""

RECIPE = {
    "model": {"dim": 128, "layers": 6, "dropout": 0.1},
    "data": {"corpus": "text.txt", "tokenizer": {"kind": "byte"}, "context": 256},
    "train": {"steps": 2, "batch": 16, "precision": "fp32", "validations": 1},
    "report": {"measure": []},
}


def child(tmp_path, allowed, context=256, **train):
    """Run a small recipe, then a larger one with so many bytes more than the process holds."""
    words = " ".join(f"word{n % 97} and {n % 31}" for n in range(4000))
    (tmp_path / "text.txt").write_text(words)
    recipe = {**RECIPE, "name": "large", "train": {**RECIPE["train"], **train}}
    recipe["stages"] = {"model": {"stage": "pretrain"}}
    small = {**recipe, "name": "small", "model": {"dim": 16, "layers": 1, "dropout": 0.1}}
    small["train"] = {**RECIPE["train"], "batch": 1}
    recipe["data"] = {**RECIPE["data"], "context": context}
    for path, content in (("large.yaml", recipe), ("large.yaml.small", small)):
        (tmp_path / path).write_text(yaml.safe_dump(content))
    return subprocess.run(
        [
            sys.executable,
            "-c",
            CHILD,
            "large.yaml",
            str(allowed),
            "--runs",
            "runs",
            "--threads",
            "1",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def facts(tmp_path):
    path = tmp_path / "runs/large/model/manifest.json"
    return json.loads(path.read_text())["facts"]


def test_where_the_system_gives_too_little_steps_are_halved_and_the_run_ends_well(tmp_path):
    done = child(tmp_path, 150_000_000)
    assert done.returncode == 0, done.stderr
    assert "memory ran out at step 1" in done.stderr
    found = facts(tmp_path)
    assert found["accumulate_used"] > 1
    assert found["steps"] == 2
    assert 20e6 < found["memory_used"] < 450e6  # libraries that load at first use among them


def test_where_not_even_a_row_fits_it_ends_with_a_message_and_keeps_what_is_finished(tmp_path):
    done = child(tmp_path, 25_000_000, context=4096)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "model: out of memory." in " ".join(done.stderr.split())
    assert [path.name[:6] for path in (tmp_path / "runs").glob("corpus-*")], "the packed text"


def test_stop_does_not_halve(tmp_path):
    done = child(tmp_path, 150_000_000, on_oom="stop")
    assert done.returncode == 1, done.stderr
    assert "train.accumulate=2" in " ".join(done.stderr.split())
