"""Count what makes the source hard to read: `python tools/reading.py [FOLDER]`, one line a count.

The counts are for the eye, not limits; docs/architecture.md tells them before and after.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path

LONG_LINE = 110


def count(folder: Path) -> dict[str, float]:
    """Return the counts for every Python file below `folder`."""
    trees: list[ast.Module] = []
    lines: list[str] = []
    for file in sorted(folder.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        trees.append(ast.parse(text))
        lines += text.splitlines()
    nodes = [node for tree in trees for node in ast.walk(tree)]
    classes = Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))
    conditionals = [node for node in nodes if isinstance(node, ast.IfExp)]
    thousands = max(1, len(lines)) / 1000
    top = [file for file in folder.glob("*.py") if not file.name.startswith("__")]
    return {
        "modules at the top": len(top),
        "packages at the top": sum((child / "__init__.py").is_file() for child in folder.iterdir()),
        "lines": len(lines),
        "class names defined more than once": sum(times > 1 for times in classes.values()),
        "uses of Any": sum(isinstance(node, ast.Name) and node.id == "Any" for node in nodes),
        "conditional expressions per 1,000 lines": round(len(conditionals) / thousands, 1),
        "nested conditional expressions": sum(_nested(node) for node in conditionals),
        f"lines over {LONG_LINE} characters per 1,000": round(
            sum(len(line) > LONG_LINE for line in lines) / thousands, 1
        ),
    }


def _nested(node: ast.IfExp) -> bool:
    return any(isinstance(child, ast.IfExp) for child in ast.walk(node) if child is not node)


def main() -> None:
    """Print the counts."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "src/flyweight")
    for name, value in count(folder).items():
        print(f"{value:>10,}  {name}")


if __name__ == "__main__":
    main()
