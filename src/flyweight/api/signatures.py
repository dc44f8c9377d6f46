"""Signatures as they are written in the source, for `help` and notebooks."""

from __future__ import annotations

import inspect
from collections.abc import Callable


class _Bare(str):
    """An annotation as it was written, which signatures show without quotes."""

    def __repr__(self) -> str:
        return str(self)


def readable_signature(function: Callable[..., object]) -> inspect.Signature:
    """Return a function's signature as it is written in the source."""
    signature = inspect.signature(function)
    parameters = [_readable_parameter(parameter) for parameter in signature.parameters.values()]
    returned = signature.return_annotation
    if isinstance(returned, str):
        returned = _Bare(returned)
    return inspect.Signature(parameters, return_annotation=returned)


def _readable_parameter(parameter: inspect.Parameter) -> inspect.Parameter:
    if isinstance(parameter.annotation, str):
        return parameter.replace(annotation=_Bare(parameter.annotation))
    return parameter
