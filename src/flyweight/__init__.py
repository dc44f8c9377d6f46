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

from typing import TYPE_CHECKING

if "torch" not in sys.modules:
    # GNU OpenMP's threads spin for long at every barrier. With another busy process on the machine,
    # small models then train ten times slower; a short spin costs nothing measurable on idle cores
    # (docs/adr/0006). The user's own setting wins.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"

__all__ = [
    "Draft",
    "FlyweightError",
    "Inputs",
    "LinearKind",
    "LinearLayer",
    "MetricKind",
    "Origin",
    "Outline",
    "PlannedInputs",
    "RequestError",
    "Run",
    "Session",
    "Stage",
    "StageConfig",
    "StageContext",
    "StudyRun",
    "TrainingStage",
    "TuningStudyRun",
    "artifacts",
    "audit",
    "bench",
    "chat",
    "compare",
    "compress",
    "distill",
    "doctor",
    "evaluate",
    "export",
    "finetune",
    "floors",
    "gc",
    "generate",
    "import_",
    "load",
    "measure_memory",
    "merge",
    "pack",
    "plan",
    "profile",
    "prune",
    "quantize",
    "register",
    "register_linear",
    "register_metric",
    "register_stage",
    "report",
    "run",
    "study",
    "tasks",
    "train",
    "verify",
]

from flyweight.checkpoints.register import register, register_when_imported

if TYPE_CHECKING:
    from flyweight.api import (
        Run,
        Session,
        StudyRun,
        TuningStudyRun,
        artifacts,
        audit,
        bench,
        chat,
        compare,
        compress,
        distill,
        doctor,
        evaluate,
        export,
        finetune,
        floors,
        gc,
        generate,
        import_,
        load,
        measure_memory,
        merge,
        pack,
        plan,
        profile,
        prune,
        quantize,
        report,
        run,
        study,
        tasks,
        train,
        verify,
    )
    from flyweight.config.linear_kinds import LinearKind
    from flyweight.config.metrics import MetricKind, register_metric
    from flyweight.config.schema import TrainingStage
    from flyweight.config.stage import Origin, StageConfig
    from flyweight.errors import FlyweightError, RequestError
    from flyweight.model.linear import register_linear
    from flyweight.model.linear_layer import LinearLayer
    from flyweight.store.artifact import Draft
    from flyweight.store.stage import (
        Context as StageContext,
        Inputs,
        Outline,
        PlannedInputs,
        Stage,
    )
    from flyweight.store.stage_registry import register_stage

register_when_imported()


_HOMES = {
    "Draft": "flyweight.store.artifact",
    "FlyweightError": "flyweight.errors",
    "Inputs": "flyweight.store.stage",
    "LinearKind": "flyweight.config.linear_kinds",
    "LinearLayer": "flyweight.model.linear_layer",
    "MetricKind": "flyweight.config.metrics",
    "Origin": "flyweight.config.stage",
    "Outline": "flyweight.store.stage",
    "PlannedInputs": "flyweight.store.stage",
    "RequestError": "flyweight.errors",
    "Stage": "flyweight.store.stage",
    "StageConfig": "flyweight.config.stage",
    "StageContext": "flyweight.store.stage:Context",
    "TrainingStage": "flyweight.config.schema",
    "register_linear": "flyweight.model.linear",
    "register_metric": "flyweight.config.metrics",
    "register_stage": "flyweight.store.stage_registry",
}
"""Homes of the names outside `flyweight.api`: plug-ins need them before anything is run."""


def __getattr__(name: str) -> object:
    import importlib

    if name in _HOMES:
        module, _, attribute = _HOMES[name].partition(":")
        return getattr(importlib.import_module(module), attribute or name)
    if name in __all__:
        return getattr(importlib.import_module("flyweight.api"), name)
    raise AttributeError(f"module 'flyweight' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
