"""The examples and the cookbook: scripts and the notebook run to their end, recipes fit, words are options."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import chat_fixture
import pytest
import typer

import flyweight as fw

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "cookbook").glob("*.md"))


@pytest.fixture
def folder(tmp_path, text_file, monkeypatch):
    """An empty folder with `notes.txt` in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_bytes(text_file.read_bytes())
    return tmp_path


def run_script(folder, *words):
    environment = {**os.environ, "FLYWEIGHT_RUNS": str(folder / "runs"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_notebook_runs_from_its_first_cell_to_its_last(folder):
    notebook = json.loads((ROOT / "examples" / "own_text.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in notebook["cells"] if cell["cell_type"] == "code")
    script = folder / "notebook.py"
    script.write_text("\n\n".join(cells).replace('"20s"', '"8s"'), encoding="utf-8")
    run_script(folder, script)
    assert (folder / "mine-hf" / "config.json").is_file()


def test_an_imported_model_is_finetuned_and_exported(folder):
    model = chat_fixture.save(folder / "model")
    shown = run_script(folder, ROOT / "examples" / "finetune_imported.py", model, "notes.txt", 3)
    assert "tuned" in shown
    assert (folder / "tuned-hf" / "model.safetensors").is_file()


def test_the_study_says_what_it_found(folder):
    shown = run_script(folder, ROOT / "examples" / "study.py", "notes.txt", 3)
    assert re.search(r"rotary below learned -> (confirmed|refuted|undecided)", shown)


def blocks(page, language):
    """Return the fenced blocks of one language."""
    fenced = re.findall(r"```(\w*)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return [text for kind, text in fenced if kind == language]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_recipes_of_the_cookbook_fit_their_budgets(page, folder):
    if page.stem == "fine-tune":
        fw.import_(chat_fixture.save(folder / "elsewhere"), out="my-gpt2")
    for source in blocks(page, "yaml"):
        file = folder / f"{page.stem}.yaml"
        file.write_text(source, encoding="utf-8")
        # A fixed rate: whether a recipe fits must not depend on what else this machine does.
        plan = fw.plan(file, *(["budget.rate=2e11"] if "stages:" in source else []))
        assert not getattr(plan, "faults", ())
        assert not plan.warnings


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_words_of_the_cookbook_are_those_of_the_command_line(page):
    from flyweight.cli.app import app

    group = typer.main.get_command(app)
    lines = [line for block in blocks(page, "") for line in block.splitlines() if line.strip()]
    assert lines or page.stem == "index"
    for line in lines:
        program, verb, *words = shlex.split(line, comments=True)
        assert program == "flyweight"
        group.commands[verb].make_context(verb, words)
