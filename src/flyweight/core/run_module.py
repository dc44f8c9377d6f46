"""The script that `core.process` starts: it runs the module named on its command line, with this very copy of flyweight.

The package is loaded from where this file is, and no folder is searched for it: neither an
installed flyweight nor one in the working folder takes its place, and nothing else beside the
package becomes importable.
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
