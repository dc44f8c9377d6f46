"""flyweight: small language models under a budget.

The names below are those of `flyweight.api`, imported when first used: `import flyweight` itself is
quick.
"""

import os
import sys

from flyweight.core.search_path import leave_out_the_working_folder

# Before anything else is imported: even `from __future__` would look there.
if sys.argv[:1] == ["-m"]:
    leave_out_the_working_folder()

from typing import TYPE_CHECKING, Any

if "torch" not in sys.modules:
    # GNU OpenMP's threads spin for long at every barrier. With another busy process on the machine,
    # small models then train ten times slower; a short spin costs nothing measurable on idle cores
    # (docs/adr/0006). The user's own setting wins.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"

__all__ = [
    "FlyweightError",
    "RequestError",
    "Run",
    "Session",
    "StudyRun",
    "artifacts",
    "audit",
    "bench",
    "chat",
    "compare",
    "distill",
    "doctor",
    "evaluate",
    "export",
    "floors",
    "gc",
    "generate",
    "import_",
    "load",
    "plan",
    "quantize",
    "register",
    "report",
    "run",
    "study",
    "tasks",
    "train",
]

from flyweight.checkpoints.register import register, register_when_imported

if TYPE_CHECKING:
    from flyweight.api import (
        Run,
        Session,
        StudyRun,
        artifacts,
        audit,
        bench,
        chat,
        compare,
        distill,
        doctor,
        evaluate,
        export,
        floors,
        gc,
        generate,
        import_,
        load,
        plan,
        quantize,
        report,
        run,
        study,
        tasks,
        train,
    )
    from flyweight.errors import FlyweightError, RequestError

register_when_imported()


def __getattr__(name: str) -> Any:
    import importlib

    if name in ("FlyweightError", "RequestError"):
        return getattr(importlib.import_module("flyweight.errors"), name)
    if name in __all__:
        return getattr(importlib.import_module("flyweight.api"), name)
    raise AttributeError(f"module 'flyweight' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
