"""No process that the package starts imports anything from the working folder."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import flyweight
from flyweight.core import process

SOURCE = Path(flyweight.__file__).parent
STARTERS = {
    "subprocess",
    "multiprocessing",
    "concurrent",
    "pty",
    "asyncio",
    "_posixsubprocess",
    "pexpect",
}
OF_OS = ("system", "popen", "fork", "exec", "spawn", "posix_spawn", "startfile")
OTHERS = {
    "executable",
    "_base_executable",
    "ProcessPoolExecutor",
    "num_proc",
    "num_workers",
    "multiprocessing",
}
HOSTILE = (
    "import "
    "pathlib\npathlib.Path(__file__).with_name('EXECUTED').write_text(__name__)\nraise "
    "ImportError('shadowed')\n"
)


def starts(file: Path) -> list[str]:
    """Return what a file does that could start a process."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [each.name for each in node.names if each.name.split(".")[0] in STARTERS]
        if isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".")
            named = {each.name for each in node.names}
            found += (
                [f"from {node.module}"]
                if parts[0] in STARTERS or named & (STARTERS | OTHERS)
                else []
            )
            found += [
                f"from os import {name}"
                for name in named
                if parts == ["os"] and name.startswith(OF_OS)
            ]
        if isinstance(node, ast.Attribute):
            of_os = (
                isinstance(node.value, ast.Name)
                and node.value.id == "os"
                and node.attr.startswith(OF_OS)
            )
            found += [node.attr] if of_os or node.attr in OTHERS else []
        if isinstance(node, ast.keyword) and node.arg in OTHERS:
            found.append(str(node.arg))
    return found


def test_processes_are_started_in_one_place_alone():
    found = {
        file.relative_to(SOURCE).as_posix(): words
        for file in SOURCE.rglob("*.py")
        if (words := starts(file))
    }
    assert found == {"core/process.py": ["subprocess", "executable"]}


def test_a_start_elsewhere_would_be_seen(tmp_path: Path):
    for line in (
        "import subprocess",
        "from multiprocessing import Pool",
        "import os; os.execv('a', [])",
        "from os import spawnv",
        "from torch import multiprocessing",
        "import sys; run(sys.executable)",
        "load(num_proc=2)",
    ):
        (tmp_path / "module.py").write_text(line)
        assert starts(tmp_path / "module.py"), line


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder where every module of the standard library and every dependency is shadowed."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    dependencies = {
        "torch",
        "numpy",
        "pydantic",
        "yaml",
        "typer",
        "rich",
        "click",
        "safetensors",
        "tokenizers",
        "filelock",
    }
    for name in {*sys.stdlib_module_names, *dependencies, "sitecustomize", "usercustomize"} - {
        "__main__"
    }:
        (folder / f"{name}.py").write_text(HOSTILE)
    monkeypatch.chdir(folder)
    return folder


def unharmed(folder: Path) -> bool:
    return not (folder / "EXECUTED").exists()


@pytest.mark.parametrize("shadow", ["flyweight.py", "flyweight/__init__.py", None])
@pytest.mark.parametrize("before", ["", os.pathsep])
def test_a_child_runs_nothing_of_the_working_folder(hostile, monkeypatch, tmp_path, shadow, before):
    if shadow is not None:
        (hostile / shadow).parent.mkdir(exist_ok=True)
        (hostile / shadow).write_text(HOSTILE)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "probe.py").write_text(
        "import sys, os, random, subprocess, flyweight\n"
        "from flyweight.core import files\n"
        "assert __name__ == '__main__' and sys.stdin.read() == 'asked'\n"
        "again = subprocess.run([sys.executable, '-c', 'import random'])\n"
        "print(flyweight.__file__, again.returncode, os.environ['KEY'])\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{before}{tools}")
    done = process.run("probe", "asked", 60, {"KEY": "value"})
    assert done.stderr == "" and done.stdout.split() == [flyweight.__file__, "0", "value"]
    assert unharmed(hostile)


def test_the_bench_worker_runs_nothing_of_the_working_folder(hostile: Path):
    done = process.run("flyweight.evaluation.bench_worker", "{}", 120)
    assert done.returncode == 1 and "missing 8 required" in done.stderr
    assert unharmed(hostile)


@pytest.mark.parametrize("words", [["-m", "flyweight"], ["-mflyweight"], ["-Bm", "flyweight"]])
def test_the_command_line_runs_nothing_of_the_working_folder(hostile: Path, words: list[str]):
    listing = [sys.executable, "-I", "-c", "import runpy, sys; print(*sys.modules)"]
    for name in subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split():
        (hostile / f"{name}.py").unlink(
            missing_ok=True
        )  # Python imports it before it runs anything of ours
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    done = subprocess.run(
        [sys.executable, *words, "--version"], env=environment, capture_output=True, text=True
    )
    assert (hostile / "random.py").exists()
    assert (done.stdout, done.stderr) == (f"flyweight {flyweight.__version__}\n", "")
    assert unharmed(hostile)


def test_the_search_path_of_other_programs_stays(hostile: Path):
    (hostile / "tool").mkdir()
    (hostile / "tool" / "__init__.py").write_text("import flyweight")
    (hostile / "tool" / "__main__.py").write_text(
        "import sys, os; print(sys.path[0] == os.getcwd())"
    )
    for shadowing in hostile.glob("*.py"):
        shadowing.unlink()
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    command = [sys.executable, "-m", "tool", "-m", "flyweight"]
    assert (
        subprocess.run(command, env=environment, capture_output=True, text=True).stdout == "True\n"
    )
