"""Files and functions are as short as CONTRIBUTING.md says."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
SAID = re.search(
    r"files under (\d+) lines, functions of at most (\d+)", (ROOT / "CONTRIBUTING.md").read_text()
)


def lines(function):
    """Lines of a function without its docstring."""
    docstring = ast.get_docstring(function, clean=False)
    told = len(docstring.splitlines()) if docstring else 0
    return function.end_lineno - function.lineno + 1 - told


def test_files_and_functions_are_short():
    assert SAID is not None
    longest, most = map(int, SAID.groups())
    long = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(ROOT)
        if (count := len(text.splitlines())) >= longest:
            long.append(f"{name}: {count}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (count := lines(node)) > most:
                long.append(f"{name}, {node.name}: {count}")
    assert not long
