"""List the sentences that are hard to read: `python tools/prose.py [PATH ...]`.

Looks at docstrings, at messages (texts of raised errors) and at Markdown pages. A sentence is long
over 35 words, a message over 200 characters; "is no" should be "is not a". Exit status 1 where
there is any.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WORDS = 35
CHARACTERS = 200
PATHS = ("README.md", "CONTRIBUTING.md", "docs", "src", "examples")
NOT_PROSE = ("docs/log.md", "docs/adr")

_END = re.compile(r"(?<=[.!?:;])\s+|\n\s*\n|\n\s*[-*|#>]|\n\s*\d+\. ")
_ROW_OF_TABLE = re.compile(r"^\s*\|.*$", re.MULTILINE)
_IS_NO = re.compile(r"(?<!there )\b(is|are|was) no\b (?!longer|more|one)")


@dataclass(frozen=True)
class Finding:
    """One sentence or message: where it is, why it is listed, its text."""

    where: str
    why: str
    text: str


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a text, without code and rows of tables."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for sentence in _END.split(_ROW_OF_TABLE.sub("\n", text)):
        words = " ".join(sentence.split())
        if words:
            yield words


def in_markdown(file: Path) -> Iterator[Finding]:
    """Yield the findings of a Markdown page; rows of tables are left out."""
    yield from _long_sentences(str(file), file.read_text(encoding="utf-8"))


def in_python(file: Path) -> Iterator[Finding]:
    """Yield the findings of the docstrings and the raised messages of a module."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            line = getattr(node, "lineno", 1)
            yield from _long_sentences(f"{file}:{line}", ast.get_docstring(node) or "")
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            for argument in node.exc.args[:1]:
                yield from _message(f"{file}:{argument.lineno}", _literal(argument))


def _message(where: str, text: str) -> Iterator[Finding]:
    yield from _long_sentences(where, text)
    if len(text) > CHARACTERS:
        yield Finding(where, f"{len(text)} characters", text)


def _long_sentences(where: str, text: str) -> Iterator[Finding]:
    for sentence in sentences(text):
        count = len(sentence.split())
        if count > WORDS:
            yield Finding(where, f"{count} words", sentence)
        if _IS_NO.search(sentence):
            yield Finding(where, "is no", sentence)


def _literal(node: ast.expr) -> str:
    """Return a message with its fields as `{}`."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else "{}" for part in node.values
        )
    return ""


def findings(paths: list[Path]) -> Iterator[Finding]:
    """Yield every finding below the paths, file by file."""
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if any(str(file).startswith(left_out) for left_out in NOT_PROSE):
                continue
            if file.suffix == ".py":
                yield from in_python(file)
            elif file.suffix == ".md":
                yield from in_markdown(file)


def main() -> int:
    """Print the findings; return 1 where there is any."""
    paths = [Path(name) for name in sys.argv[1:] or PATHS]
    count = 0
    for finding in findings(paths):
        count += 1
        print(f"{finding.where}: {finding.why}: {finding.text}")
    print(f"{count} findings", file=sys.stderr)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
