"""Register our model type with transformers' Auto classes when they are imported, not before."""

from __future__ import annotations

import importlib.abc
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


def register() -> None:
    """Register our config and model with transformers' Auto classes now.

    Doing so twice is harmless.
    """
    for hook in HOOKS.values():
        hook()


def register_when_imported() -> None:
    """Register when transformers' Auto classes are imported, or now where they are already."""
    if any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        return
    for name, hook in HOOKS.items():
        if name in sys.modules:
            hook()
    sys.meta_path.insert(0, _AfterImport())


def _config() -> None:
    from transformers.models.auto.configuration_auto import AutoConfig

    from flyweight.checkpoints.auto_config import FlyweightConfig

    AutoConfig.register(FlyweightConfig.model_type, FlyweightConfig, exist_ok=True)


def _model() -> None:
    _config()
    from transformers.models.auto.modeling_auto import AutoModelForCausalLM

    from flyweight.checkpoints.auto import FlyweightForCausalLM
    from flyweight.checkpoints.auto_config import FlyweightConfig

    AutoModelForCausalLM.register(FlyweightConfig, FlyweightForCausalLM, exist_ok=True)


class _AfterImport(importlib.abc.MetaPathFinder):
    """Runs a hook once a module of transformers has been executed; finds nothing itself."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec that the other finders give; its loader then runs the hook."""
        hook = HOOKS.get(fullname)
        if hook is None:
            return None
        others = (
            finder
            for finder in sys.meta_path
            if finder is not self and hasattr(finder, "find_spec")
        )
        spec = next(
            (spec for finder in others if (spec := finder.find_spec(fullname, path, target))),
            None,
        )
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            try:
                hook()
            except Exception as error:  # importing transformers must not fail because of us
                warnings.warn(
                    f"flyweight models are unknown to transformers' Auto classes: {error!r}",
                    stacklevel=2,
                )

        spec.loader.exec_module = exec_module
        return spec


HOOKS: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": _config,
    "transformers.models.auto.modeling_auto": _model,
}
