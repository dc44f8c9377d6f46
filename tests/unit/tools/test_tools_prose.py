"""The tools that list hard sentences and count hard lines find what they are made for."""

import importlib.util
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[3] / "tools"


def tool(name):
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (f'"""{"word " * 35}end."""\n', "36 words"),
        ('"""This is no sentence."""\n', "is no"),
        (f'raise ValueError("{"x" * 201}")\n', "201 characters"),
        (f'raise ValueError(f"{{name}} {"word " * 40}")\n', "words"),
    ],
)
def test_long_sentences_and_messages_are_listed(tmp_path, source, why):
    file = tmp_path / "module.py"
    file.write_text(source)
    assert [finding for finding in tool("prose").in_python(file) if why in finding.why]


def test_short_sentences_pass(tmp_path):
    file = tmp_path / "page.md"
    file.write_text(
        "# Title\n\nOne idea. It is no longer there.\n\n```\n" + "word " * 50 + "\n```\n"
        "\n| " + "word " * 40 + "| is no word |\n| " + "word " * 40 + "|\n"
    )
    assert list(tool("prose").in_markdown(file)) == []


def test_what_is_hard_to_read_is_counted(tmp_path):
    package = tmp_path / "room"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (tmp_path / "alone.py").write_text("class A: ...\nx = 1 if a else 2 if b else 3\n")
    (package / "b.py").write_text(f"class A: ...\ny: Any = '{'x' * 120}'\n")
    counts = tool("reading").count(tmp_path)
    assert counts["modules at the top"] == 1
    assert counts["packages at the top"] == 1
    assert counts["class names defined more than once"] == 1
    assert counts["uses of Any"] == 1
    assert counts["nested conditional expressions"] == 1
    assert counts["lines over 110 characters per 1,000"] == 250
