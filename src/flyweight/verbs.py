"""Packages that are verbs as well: `flyweight.evaluate` holds modules, and `flyweight.evaluate(model)` measures one."""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any


class _Verb(types.ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        # By name: the interface stands above every package, and a package must not import upwards.
        return getattr(importlib.import_module("flyweight.api"), self.__name__.rpartition(".")[2])(*arguments, **options)


def make_verb(package: str) -> None:
    """Let a package be called as the function of its name in `flyweight.api`."""
    sys.modules[package].__class__ = _Verb
