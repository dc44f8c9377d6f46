"""Packages that are verbs as well: `flyweight.evaluate` holds modules, and `flyweight.evaluate(model)` measures one."""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any


class _Bare(str):
    """An annotation as it was written, which signatures show without quotes."""

    def __repr__(self) -> str:
        return str(self)


def readable(function: Callable[..., Any]) -> inspect.Signature:
    """Return a function's signature as it stands in the source."""
    signature = inspect.signature(function)
    given = [
        parameter.replace(annotation=_Bare(parameter.annotation)) if isinstance(parameter.annotation, str) else parameter
        for parameter in signature.parameters.values()
    ]
    result = signature.return_annotation
    return inspect.Signature(given, return_annotation=_Bare(result) if isinstance(result, str) else result)


class _Verb(types.ModuleType):
    """A package that is called as a function, with that function's signature and documentation."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return _function(self)(*arguments, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        return readable(_function(self))

    @property
    def __doc__(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        function = _function(self)
        return f"{function.__name__}{readable(function)}\n\n{inspect.getdoc(function)}"


def _function(package: types.ModuleType) -> Callable[..., Any]:
    # By name: the interface stands above every package, and a package must not import upwards.
    interface = importlib.import_module("flyweight.api")
    return getattr(interface, package.__name__.rpartition(".")[2])


def make_verb(package: str) -> None:
    """Let a package be called as the function of its name in `flyweight.api`."""
    sys.modules[package].__class__ = _Verb
