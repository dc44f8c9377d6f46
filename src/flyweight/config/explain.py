"""What is wrong with a config: lines with the place, the fault, and the nearest name."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ValidationError

from flyweight.config import catalogue
from flyweight.config.baselines import DECODER
from flyweight.config.messages import nearest, shown
from flyweight.config.places import config_classes, places
from flyweight.config.schema import ModelConfig


@dataclass(frozen=True)
class Fault:
    """One fault of a config: its place as the user wrote it, what is wrong, and pydantic's kind."""

    path: tuple[str, ...]
    text: str
    kind: str

    def line(self) -> str:
        """Return `path: what is wrong`."""
        return f"{'.'.join(self.path) or '(top level)'}: {self.text}"


def explain(error: ValidationError, where: str, *roots: type[BaseModel]) -> str:
    """Return a validation error as lines `path: what is wrong (the nearest name)`.

    `roots` are the kinds it could have been.
    """
    return "\n".join([f"{where}:", *(f"  {fault.line()}" for fault in faults(error, *roots))])


def faults(
    error: ValidationError, *roots: type[BaseModel], around: type[BaseModel] | None = None
) -> list[Fault]:
    """Return every fault of a validation error.

    `roots` are the kinds of config that it could have been, `around` is the one that it is part of.
    """
    result = []
    top = set(around.model_fields) if around else set[str]()
    for fault in error.errors():
        named = fault["type"] in ("extra_forbidden", "missing")  # the last part is a field's name
        place = _place(roots, fault["loc"], named)
        text = _text(fault, place.names, place.configs)
        if fault["type"] == "extra_forbidden" and place.names[-1] in top:
            text = f"unknown name (did you mean {place.names[-1]}, at the top of the recipe?)"
        result.append((place, Fault(tuple(place.names), text, fault["type"])))
    return _of_unions(result)


def _of_unions(found: list[tuple[_Place, Fault]]) -> list[Fault]:
    """Return one fault for a value that fits no form of a plain union, such as a word or a list.

    Where a fault lies within a value, the value has the form that it is told for, and what other
    forms say of it is left out.
    """
    result = list[Fault]()
    within = {place.union for place, fault in found if place.union and fault.path != place.union}
    forms = dict[tuple[str, ...], int]()
    for place, fault in found:
        whole = place.union == fault.path
        if whole and fault.path in within:
            continue
        if whole and fault.path in forms:
            at = forms[fault.path]
            result[at] = replace(result[at], text=f"{result[at].text}; otherwise {fault.text}")
            continue
        if whole:
            forms[fault.path] = len(result)
        result.append(fault)
    return result


_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "finite": "a finite number",
}


def _text(fault: Any, names: Sequence[str], configs: Sequence[type[BaseModel]]) -> str:
    """Return what is wrong in the words of a user; rare faults keep pydantic's own."""
    kind, context, value = fault["type"], fault.get("ctx", {}), shown(fault["input"])
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"has to be {words} {context[key]:g}, and is {value}"
    match kind:
        case "extra_forbidden":
            return f"unknown name{_meant(names, configs)}"
        case "missing":
            return "is missing"
        case "union_tag_invalid":
            return _unknown_kind(context)
        case "union_tag_not_found":
            return f"needs {context['discriminator']}: to say which it is"
        case "value_error":
            return str(context["error"])
        case "literal_error":
            of = "one of " if " or " in context["expected"] else ""
            return f"{value} is not {of}{context['expected']}"
        case "model_type" | "dict_type" | "model_attributes_type":
            return f"expected fields (key: value), found {value}"
        case "too_short" | "too_long":
            return _wrong_length(kind, context, value)
        case "string_pattern_mismatch":
            return (
                f"{value} is not a possible name: letters and digits, then also `-`, `_` and "
                f"in names of runs `.`; 64 at most"
            )
    expected = _KINDS.get(kind.partition("_")[0])
    return f"expected {expected}, found {value}" if expected else f"{fault['msg']} (found {value})"


def _meant(names: Sequence[str], configs: Sequence[type[BaseModel]]) -> str:
    """Return what an unknown name may have meant: the same name in its place, or a name alike."""
    if paths := places(names[-1], configs):
        return f" (did you mean {' or '.join('.'.join([*names[:-1], path]) for path in paths)}?)"
    return nearest(names[-1], _fields(configs))


def _unknown_kind(context: Any) -> str:
    tags = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
    text = f"unknown kind {context['tag']!r}"
    if DECODER not in tags:  # not a kind of model
        return text + nearest(context["tag"], tags)
    if close := difflib.get_close_matches(context["tag"], [*tags, *catalogue.names()], 1, 0.5):
        return f"{text} (did you mean {close[0]}?)"
    return f"{text} (known: {', '.join(tags)}, and what `flyweight ls --catalogue` lists)"


def _wrong_length(kind: str, context: Any, value: str) -> str:
    if kind == "too_short":
        least = context["min_length"]
        entries = "entry" if least == 1 else "entries"
        return f"needs at least {least} {entries}, found {context['actual_length']}: {value}"
    return (
        f"takes at most {context['max_length']} entries, found {context['actual_length']}: {value}"
    )


def _tag(model: type[BaseModel]) -> str | None:
    if model is ModelConfig:
        return DECODER
    if tag := getattr(model, "union_tag", None):
        return str(tag)
    for name in ("stage", "kind"):
        if name in model.model_fields and (
            names := typing.get_args(model.model_fields[name].annotation)
        ):
            return names[0]
    return None


@dataclass
class _Place:
    """A fault's path without the names of union members, and the configs that it may be of.

    `union` is the path of the value that may have several plain forms, such as a word or a list.
    """

    names: list[str] = field(default_factory=list[str])
    configs: list[type[BaseModel]] = field(default_factory=list[type[BaseModel]])
    union: tuple[str, ...] | None = None


_FORM = re.compile(r"(literal|tuple|list)\[|(constrained|function)-|(int|float|bool|str)$")
"""The names of plain members of unions, as pydantic has them in the place of a fault."""


def _place(
    roots: Sequence[type[BaseModel]], location: tuple[int | str, ...], named: bool
) -> _Place:
    """Return what a fault's location stands for; `named` where it ends with a field's name."""
    place = _Place(configs=list(roots))
    mapping: Any = None
    for step, part in enumerate(location):
        last, known = step == len(location) - 1, _fields(place.configs)
        tagged = [model for model in place.configs if _tag(model) == part]
        # Where there are several kinds a tag comes first, even one that is also a field of another
        # kind (mlp).
        if tagged and mapping is None and (len(place.configs) > 1 or not (last or part in known)):
            place.configs = tagged
            continue
        field_name = part in known or mapping is not None or (named and last)
        if not field_name and _FORM.match(str(part)):
            place.union = tuple(place.names)
            continue
        place.names.append(str(part))
        if last:
            break
        if mapping is not None:
            place.configs, mapping = config_classes(mapping), None
            continue
        annotations = [
            model.model_fields[str(part)].annotation
            for model in place.configs
            if str(part) in model.model_fields
        ]
        if annotations and typing.get_origin(annotations[0]) is dict:
            mapping = typing.get_args(annotations[0])[1]
        elif annotations:
            place.configs = [each for one in annotations for each in config_classes(one)]
    return place


def _fields(models: Sequence[type[BaseModel]]) -> list[str]:
    return list(dict.fromkeys(name for model in models for name in model.model_fields))
