"""Run the module named on the command line with this very copy of flyweight.

`core.process` starts this script. The package is loaded from where this file is, without a search.
An installed flyweight, or one in the working folder, does not take its place. Nothing else that
lies beside the package becomes importable.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from importlib.machinery import PathFinder
from pathlib import Path


def main() -> None:
    """Load the package and run the module as `python -m` does."""
    module = sys.argv.pop(1)
    spec = PathFinder.find_spec("flyweight", [str(Path(__file__).absolute().parents[2])])
    assert spec is not None and spec.loader is not None
    package = sys.modules["flyweight"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
