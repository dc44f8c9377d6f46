"""Find modules that import each other in a circle: `python tools/circles.py [FOLDER]`.

Imports count wherever they stand: in functions, and for type checkers alone.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Container, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path


def circle(package: Path) -> list[str]:
    """Return the modules of one circle, each importing the next; none where there is no circle."""
    files = {_name(package, file): file for file in sorted(package.rglob("*.py"))}
    graph = {name: set(_imports(file, files)) - {name} for name, file in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def _name(package: Path, file: Path) -> str:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(file: Path, modules: Container[str]) -> Iterator[str]:
    """Yield those of `modules` that a file imports."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else node.module for name in inner]
        else:
            continue
        yield from (name for name in names if name in modules)


def main() -> int:
    """Print a circle; return 1 where there is one."""
    modules = circle(Path(sys.argv[1] if len(sys.argv) > 1 else "src/flyweight"))
    if modules:
        print(" imports ".join(modules))
    return int(bool(modules))


if __name__ == "__main__":
    sys.exit(main())
