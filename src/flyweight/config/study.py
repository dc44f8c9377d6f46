"""A study as its user writes it: models, texts, budgets, seeds, and the findings to test."""

from __future__ import annotations

import copy
import fnmatch
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from flyweight.config import base as strict, load
from flyweight.config.metrics import METRICS, metric_names
from flyweight.config.plugins import load_plugins
from flyweight.config.schema import (
    Count,
    Name,
    PositiveInt,
    Probability,
    Rate,
    Seconds,
    StageName,
    Strict,
    Tokenizer,
)
from flyweight.config.seeds import Seeds
from flyweight.config.units import Steps, Tokens
from flyweight.errors import RequestError

ENTRIES = ("data", "models", "budgets", "protocols")
"""Fields whose entries have names that others refer to."""


def _listed(value: object) -> object:
    return (
        (value,) if isinstance(value, str | int | float) and not isinstance(value, bool) else value
    )


def _said(claim: str) -> str:
    if not claim.strip():
        raise ValueError("is empty; say in a sentence what is claimed")
    return claim


def _as_config(value: object) -> object:
    return {"config": value} if isinstance(value, str) else value


def longhand(raw: Mapping[str, object]) -> dict[str, object]:
    """Return raw YAML data in which every model has fields, which a `path=value` word can reach."""
    models = raw.get("models")
    return (
        {**raw, "models": {name: _as_config(model) for name, model in models.items()}}
        if isinstance(models, dict)
        else {**raw}
    )


Listed = BeforeValidator(_listed)
"""Lets one value stand for a list of one."""

_REF = "x-ref"
"""Stands for `$ref` until its definition is there: pydantic looks every `$ref` up at once."""

TrainFields = Annotated[dict[str, Any], WithJsonSchema({_REF: "#/$defs/TrainFields"})]
ModelFields = Annotated[dict[str, Any], WithJsonSchema({_REF: "#/$defs/ModelFields"})]
GroupName = Annotated[str, Field(min_length=1)]
Some = Field(min_length=1)
"""Of a list that means nothing when it is empty."""


class RunBudget(Strict):
    """How long every run trains: exactly one of tokens, FLOPs, seconds and steps."""

    tokens: Tokens | None = None
    flops: Annotated[Count, Field(gt=0)] | None = None
    time: Annotated[Seconds, Field(gt=0)] | None = None
    steps: Steps | None = None

    def limit(self) -> dict[str, Any]:
        """Return the one limit as a field of `train`, written as its user would."""
        if self.time is not None:
            return {"time": f"{self.time!r}s"}
        return {
            key: value
            for key in ("tokens", "flops", "steps")
            if (value := getattr(self, key)) is not None
        }


Budgets = dict[StageName, RunBudget]


class StudyData(Strict):
    """A text, at one context or several.

    `optional`: left out, and said so, where the text cannot be read.
    """

    corpus: str
    column: str | None = None
    tokenizer: Tokenizer | None = None
    context: Annotated[tuple[PositiveInt, ...], Some, Listed] = (256,)
    validation: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    test: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    budgets: Budgets | None = None
    optional: bool = False


class StudyModel(Strict):
    """A model of the catalogue, or a config written out; vocabulary and context follow the text.

    `fields` are laid over it. `grid` maps paths of fields to the values they take: every
    combination is a model of its own. `train` is for this model alone, and so are the `data`,
    `context` and `budgets` that it is restricted to.
    """

    config: Annotated[str | ModelFields, Field(union_mode="left_to_right")]
    fields: ModelFields = Field(default_factory=dict)
    grid: dict[str, Annotated[tuple[Any, ...], Listed]] = Field(default_factory=dict)
    train: TrainFields = Field(default_factory=dict)
    data: Annotated[tuple[str, ...], Some, Listed] | None = None
    context: Annotated[tuple[PositiveInt, ...], Some, Listed] | None = None
    budgets: Annotated[tuple[str, ...], Some, Listed] | None = None
    family: str | None = None


class Protocol(Strict):
    """How runs are trained.

    `lr` is one rate for all models, or a sweep of which validation chooses; null: each its own.
    """

    lr: Annotated[tuple[strict.LearningRate, ...], Some, Listed] | None = None
    train: TrainFields = Field(default_factory=dict)


class Group(Strict):
    """Cells of the study by what they are; what is not named is any.

    `model` takes patterns such as `mlp-*`.
    """

    model: Annotated[tuple[GroupName, ...], Listed] = ()
    data: Annotated[tuple[GroupName, ...], Listed] = ()
    context: Annotated[tuple[PositiveInt, ...], Listed] = ()
    budget: Annotated[tuple[GroupName, ...], Listed] = ()
    fields: dict[str, Any] = Field(default_factory=dict)


class Finding(Strict):
    """A claim that the cells of `below` reach a lower metric than `factor` times those of `above`.

    `compare: cells` sets cells of equal text, context and budget against each other, `equal_flops`
    points of equal training FLOPs (`flops`: those of `below` as a share of those of `above`).
    `holds: somewhere` claims it of some condition only. `better` and `worse` may stand for `below`
    and `above`: which is which follows the metric's direction.
    """

    claim: Annotated[str, AfterValidator(_said)]
    below: Group
    above: Group
    compare: Literal["cells", "equal_flops"] = "cells"
    metric: str | None = None
    factor: Rate = 1.0
    flops: Rate = 1.0
    tolerance: Probability = 0.1
    holds: Literal["everywhere", "somewhere"] = "everywhere"


def _by_number(finding: object, first: object) -> object:
    """Return a raw finding with `below` and `above` for `better` and `worse`."""
    if not isinstance(finding, dict) or not {"better", "worse"} & finding.keys():
        return finding
    kind = METRICS.get(str(finding.get("metric") or first))
    higher = kind is not None and kind.better == "higher"
    names = (
        {"better": "above", "worse": "below"} if higher else {"better": "below", "worse": "above"}
    )
    if set(names.values()) & finding.keys():
        raise ValueError("a finding names below and above, or better and worse, not both")
    return {names.get(key, key): value for key, value in finding.items()}


class Limit(Strict):
    """The largest grid that starts without --yes: runs, and hours as planned for this machine."""

    runs: PositiveInt = 200
    time: Annotated[Seconds, Field(gt=0)] = 43_200.0


class Study(Strict):
    """Every combination of model, text, context and budget under one protocol, once for each seed.

    `only` takes patterns of models' names: a large study runs in pieces, and a later piece or the
    whole finds what is done.
    """

    name: Name
    about: str = ""
    data: Annotated[dict[StageName, StudyData], Field(min_length=1)]
    models: Annotated[
        dict[StageName, Annotated[StudyModel, BeforeValidator(_as_config)]], Field(min_length=1)
    ]
    budgets: Budgets = Field(default_factory=dict)
    train: TrainFields = Field(default_factory=dict)
    protocol: str = "own"
    protocols: dict[str, Protocol] = Field(default_factory=lambda: {"own": Protocol()})
    seeds: Seeds = ()
    metrics: Annotated[tuple[str, ...], Listed] = (
        "nll",
        "bits_per_byte",
        "perplexity",
    )
    findings: tuple[Finding, ...] = ()
    only: Annotated[tuple[GroupName, ...], Listed] = ()
    limit: Limit = Limit()

    @model_validator(mode="before")
    @classmethod
    def _sides(cls, raw: Any) -> object:
        """Write `better` and `worse` of a finding as `below` and `above`."""
        findings = raw.get("findings") if isinstance(raw, dict) else None
        if not isinstance(findings, list | tuple):
            return raw
        metrics = raw.get("metrics", cls.model_fields["metrics"].default)
        first = metrics if isinstance(metrics, str) else next(iter(metrics or ()), "nll")
        return {**raw, "findings": [_by_number(finding, first) for finding in findings]}

    def rates(self) -> tuple[float | None, ...]:
        """Return the learning rates that every cell is tried with.

        (None,) where each model has its own.
        """
        return self.protocols[self.protocol].lr or (None,)

    def texts_of(self, model: str) -> dict[str, StudyData]:
        """Return the texts that a model is trained on; none for one that `only` leaves out."""
        if self.only and not any(fnmatch.fnmatchcase(model, pattern) for pattern in self.only):
            return {}
        names = self.models[model].data
        return {name: data for name, data in self.data.items() if names is None or name in names}

    def contexts_of(self, model: str, data: str) -> tuple[int, ...]:
        """Return the contexts of a model on a text: its own, else the text's."""
        return self.models[model].context or self.data[data].context

    def budgets_of(self, model: str, data: str) -> Budgets:
        """Return the budgets of a model on a text.

        They are the text's, else the study's, and of them those that the model names.
        """
        of_text, names = self.data[data].budgets, self.models[model].budgets
        of_text = self.budgets if of_text is None else of_text
        return (
            of_text
            if names is None
            else {name: budget for name, budget in of_text.items() if name in names}
        )


def combinations(grid: Mapping[str, Sequence[object]]) -> Iterator[dict[str, object]]:
    """Yield every combination of a grid's values by path."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def cell_count(study: Study) -> int:
    """Return how many cells a study has, without making any of them."""
    count = 0
    for name, model in study.models.items():
        variants = 1
        for values in model.grid.values():
            variants *= len(values)
        for text in study.texts_of(name):
            count += (
                variants * len(study.contexts_of(name, text)) * len(study.budgets_of(name, text))
            )
    return count


def run_count(study: Study) -> int:
    """Return how many trainings a study takes.

    Every cell is trained once for each seed, and the rest of its sweep with the first one.
    """
    return cell_count(study) * (max(1, len(study.seeds)) + len(_rates(study)) - 1)


def _rates(study: Study) -> tuple[float | None, ...]:
    return study.rates() if study.protocol in study.protocols else (None,)


def parse(raw: Mapping[str, object], where: str) -> Study:
    """Return a study's fields, not checked against each other yet.

    Raises RequestError with every fault found.
    """
    load_plugins()
    try:
        return Study.model_validate(raw)
    except ValidationError as error:
        raise RequestError(load.explain(error, where, Study)) from error


def readable(raw: Mapping[str, object]) -> tuple[Study | None, list[str]]:
    """Return what can be read of a study that is refused, and the places left out of it.

    Left out is only what has a default: where a whole text, model, budget or protocol would have to
    go, nothing is returned, because what refers to it would seem wrong as well.
    """
    rest, gone = copy.deepcopy(dict(raw)), list[str]()
    for _ in range(len(raw) + 1):
        try:
            return Study.model_validate(rest), gone
        except ValidationError as error:
            places = [_deepest(rest, fault["loc"]) for fault in error.errors()]
        for place in dict.fromkeys(places):
            if not place or (place[0] in ENTRIES and len(place) <= 2):
                return None, gone
            holder: Any = rest
            for key in place[:-1]:
                holder = holder.get(key, {})
            holder.pop(place[-1], None)
            gone.append(".".join(map(str, place)))
    return None, gone


def _deepest(raw: Mapping[str, object], location: Sequence[int | str]) -> tuple[object, ...]:
    """Return the keys of the field at fault that is there, or of the one that holds it.

    A list counts as one field.
    """
    keys: list[Any] = []
    holder: Any = raw
    for key in location:
        if not isinstance(holder, dict) or key not in holder:
            break
        keys.append(key)
        holder = holder[key]
    return tuple(keys)


def _either_sides(finding: dict[str, Any]) -> dict[str, Any]:
    """Return a finding's schema in which `better` and `worse` may stand for `below` and `above`."""
    properties = finding["properties"]
    required = [name for name in finding["required"] if name not in ("below", "above")]
    sides = {"better": properties["below"], "worse": properties["above"]}
    either = [{"required": ["below", "above"]}, {"required": ["better", "worse"]}]
    return {
        **finding,
        "properties": {**properties, **sides},
        "required": required,
        "anyOf": either,
    }


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a study file, with partial fields of models and training."""
    result, recipe = Study.model_json_schema(), load.json_schema()
    definitions = result["$defs"] = recipe["$defs"] | result["$defs"]
    for name, part in (("ModelFields", "model"), ("TrainFields", "train")):
        definitions[name] = {
            key: value for key, value in recipe["properties"][part].items() if key != "description"
        }
    result["properties"]["metrics"]["items"] = {"enum": metric_names()}
    definitions["Finding"] = _either_sides(definitions["Finding"])
    models = result["properties"]["models"]
    for key in ("additionalProperties", "patternProperties"):
        if isinstance(entry := models.get(key), dict):
            named = {"anyOf": [{"$ref": "#/$defs/StudyModel"}, {"type": "string"}]}
            models[key] = named if "$ref" in entry else dict.fromkeys(entry, named)
    whole = json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **result})
    return json.loads(whole.replace(json.dumps(_REF), '"$ref"'))
