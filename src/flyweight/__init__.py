"""flyweight: small language models under a budget.

The names below are those of `flyweight.api`, imported when first used: `import flyweight` itself is
quick.
"""

import os
import sys

from flyweight.core.search_path import leave_out_the_working_folder

if sys.argv[:1] == [
    "-m"
]:  # before anything else is imported: even `from __future__` would look there
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
    "LinearKind",
    "LinearLayer",
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
    "register_linear",
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
    from flyweight.config.linear_kinds import LinearKind
    from flyweight.errors import FlyweightError, RequestError
    from flyweight.model.linear import register_linear
    from flyweight.model.linear_layer import LinearLayer

register_when_imported()


_ELSEWHERE = {
    "FlyweightError": "flyweight.errors",
    "LinearKind": "flyweight.config.linear_kinds",
    "LinearLayer": "flyweight.model.linear_layer",
    "RequestError": "flyweight.errors",
    "register_linear": "flyweight.model.linear",
}
"""Names that are not part of `flyweight.api`: errors, and what a package derives from."""


def __getattr__(name: str) -> Any:
    import importlib

    if name in _ELSEWHERE:
        return getattr(importlib.import_module(_ELSEWHERE[name]), name)
    if name in __all__:
        return getattr(importlib.import_module("flyweight.api"), name)
    raise AttributeError(f"module 'flyweight' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
