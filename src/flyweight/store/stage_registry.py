"""Where other packages register stages."""

from __future__ import annotations

import re
from typing import Any

from flyweight.config.schema import OTHER_ARTIFACTS, STAGE_CONFIGS
from flyweight.config.stage import StageConfig
from flyweight.errors import RequestError
from flyweight.store.stage import Stage

REGISTERED: dict[str, Stage[Any]] = {}
"""The stages of other packages by name."""


def register_stage(config: type[StageConfig], stage: Stage[Any]) -> None:
    """Add a kind of stage: recipes, plans, runs, cards and `--without` know it from then on.

    `config` is a subclass of `flyweight.StageConfig` with `stage: Literal["name"]`, `stage` an
    instance of a subclass of `flyweight.Stage`. Raises RequestError where either is something else,
    and for a name that is taken. Registering the same pair again changes nothing.
    """
    if not (isinstance(config, type) and issubclass(config, StageConfig)):
        raise RequestError(f"register_stage: {config!r} is not a subclass of StageConfig")
    if not isinstance(stage, Stage):
        raise RequestError(
            f"register_stage: {stage!r} is not an instance of a subclass of flyweight.Stage"
        )
    name = config.stage_name()
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name):
        raise RequestError(
            f"register_stage: {config.__name__}.stage has to be a Literal of small letters, digits "
            f"and _ (32 at most), not {name!r}"
        )
    registered = STAGE_CONFIGS.get(name)
    if name in OTHER_ARTIFACTS or (registered is not None and registered is not config):
        raise RequestError(f"register_stage: the name {name!r} is taken")
    alike = [other for other in STAGE_CONFIGS.values() if other.__name__ == config.__name__]
    if registered is None and alike:
        raise RequestError(
            f"register_stage: another stage's config class is called {config.__name__}; choose "
            f"another name for the class"
        )
    STAGE_CONFIGS[name], REGISTERED[name] = config, stage
