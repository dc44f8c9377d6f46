"""From raw data to a checked Recipe: every fault at once, with its place and the nearest name.

The steps have files of their own beside this one: `yaml`, `overrides`, `defaults`, `graph`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from flyweight.config.defaults import (
    DEFAULTS,
    default_faults,
    laid_out,
    merge as merge,
    with_defaults,
)
from flyweight.config.expansions import stand_for, with_controls, with_snapshots
from flyweight.config.explain import Fault, explain as explain, faults
from flyweight.config.graph import is_external as is_external, leave_out, order as order
from flyweight.config.messages import nearest as nearest
from flyweight.config.overrides import override as override, put as put
from flyweight.config.plugins import load_plugins
from flyweight.config.recipe_rules import recipe_faults
from flyweight.config.schema import (
    ARCHITECTURES,
    STAGE_CONFIGS,
    Architecture,
    Recipe,
    StageConfig,
    read_stage,
)
from flyweight.config.schema_json import json_schema as json_schema
from flyweight.config.yaml import parse_yaml as parse_yaml, read_yaml as read_yaml
from flyweight.errors import RequestError


def recipe(
    raw: Mapping[str, object], where: str = "the recipe", without: Sequence[str] = ()
) -> Recipe:
    """Return the checked recipe of raw YAML data; raise RequestError with every fault found.

    A recipe is checked whole before the stages `without` are left out: what is malformed cannot be
    searched for them. Stages that words stand for, such as controls, go with the stage that has the
    words, or alone by their own names.
    """
    if isinstance(without, str):
        raise RequestError(f"without={without!r}: name stages in a list, without=[{without!r}]")
    if (strange := next((each for each in without if not isinstance(each, str)), "")) != "":
        raise RequestError(f"without: {strange!r} is not the name of a stage")
    load_plugins()
    checked = _checked(raw, where)
    if not without:
        return checked
    return _checked(without_stages(raw, without), where)


def without_stages(raw: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return a raw recipe, which was checked before, without the named stages.

    First go those that it has written, then those that words stand for, then those that lists of a
    measurement stand for: so the lists can drop what went before.
    """
    beside = stand_for(laid_out(raw))
    written = [name for name in names if name in raw["stages"]]
    rest = leave_out(raw, written, beside)
    gone = {each for name in written for each in (name, *beside[name])}
    if not (made := [name for name in names if name not in gone]):
        return rest
    rest = with_controls(with_snapshots(laid_out(rest)))
    of_words = [name for name in made if name in rest["stages"]]
    rest = leave_out(rest, of_words, {})
    if measured := [name for name in made if name not in of_words]:
        rest = leave_out(with_defaults(rest), measured, {})
    return rest


def _checked(raw: Mapping[str, object], where: str) -> Recipe:
    in_defaults = default_faults(raw)
    try:
        checked = Recipe.model_validate(with_defaults(raw))
    except ValidationError as error:
        lines = _told_once(raw, in_defaults, faults(error, Recipe, around=Recipe))
        raise RequestError("\n".join([f"{where}:", *(f"  {line}" for line in lines)])) from error
    if in_defaults:
        raise RequestError(
            "\n".join([f"{where}:", *(f"  {fault.line()}" for fault in in_defaults)])
        )
    if contradictions := recipe_faults(checked):
        raise RequestError("\n".join([f"{where}:", *(f"  {fault}" for fault in contradictions)]))
    return checked


def _told_once(
    raw: Mapping[str, object], defaults: Sequence[Fault], stages: Sequence[Fault]
) -> list[str]:
    """Return the lines of all faults; one that several stages share is told once."""
    of_defaults = {(fault.path, fault.text) for fault in defaults}
    lines = [fault.line() for fault in defaults]
    shared = dict[tuple[Any, ...], list[Fault]]()
    for fault in stages:
        inside = fault.path[:1] == ("stages",) and len(fault.path) > 2
        place = fault.path[2:] if inside else fault.path
        if (place, fault.text) not in of_defaults:
            shared.setdefault((place, fault.text), []).append(fault)
    for (place, _), (first, *others) in shared.items():
        line = first.line()
        if first.kind == "missing" and place != first.path and place[0] in DEFAULTS:
            line += f"; name it here{_or_for_all(raw, place)}"
        if others:
            line += f" (and the same in {', '.join(fault.path[1] for fault in others)})"
        lines.append(line)
    return lines


def _or_for_all(raw: Mapping[str, object], place: Sequence[str]) -> str:
    """Return how else to name a field: once for every stage, unless that is done and unused."""
    field = ".".join(place)
    section: object = raw
    for key in place:
        section = section.get(key) if isinstance(section, dict) else None
    if section is None:
        return f", or as {field} for every stage"
    return f", because {field} is that of another kind of {place[0]}, which this one replaces"


def model_config(raw: Mapping[str, object], where: str) -> Architecture:
    """Return the checked model config of raw YAML data.

    Raises RequestError with every fault found.
    """
    try:
        return TypeAdapter(Architecture).validate_python(raw)
    except ValidationError as error:
        raise RequestError(explain(error, where, *ARCHITECTURES)) from error


def resolved(
    config: Architecture, where: str, vocab_size: int | None = None, context: int | None = None
) -> Architecture:
    """Return a model config with every derived number written out.

    Raises RequestError where that shows a fault.
    """
    try:
        return config.resolved(vocab_size, context)
    except ValidationError as error:
        raise RequestError(
            explain(error, where, type(config)).replace("(top level): ", "")
        ) from error
    except ValueError as error:
        raise RequestError(f"{where}: {error}") from error


def check_stage(raw: Mapping[str, object]) -> StageConfig:
    """Return one checked stage config; raise RequestError with every fault found."""
    load_plugins()
    try:
        return read_stage(raw)
    except ValidationError as error:
        raise RequestError(
            explain(error, f"{raw.get('stage')}", *STAGE_CONFIGS.values())
        ) from error
