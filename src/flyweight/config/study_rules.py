"""What contradicts itself among a study's fields."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flyweight.config import load
from flyweight.config.metrics import metric_names
from flyweight.config.study import Budgets, Finding, Study, StudyModel

LIMITS = ("steps", "tokens", "epochs", "flops", "time", "same_as")


def faults(study: Study) -> list[str]:
    """Return every contradiction between a study's fields, in words."""
    result = [*_seeds(study), *_metrics(study), *_protocol(study)]
    for text, data in study.data.items():
        result += _twice(f"data.{text}.context", data.context)
    if study.only and not any(study.texts_of(name) for name in study.models):
        result.append(
            f"only: no model is called "
            f"{' or '.join(study.only)}{load.nearest(study.only[0], study.models)}"
        )
    for name, model in study.models.items():
        result += [fault for fault in _model(study, name, model) if fault not in result]
    for place, finding in enumerate(study.findings):
        result += _finding(study, f"findings.{place}", finding)
    result += _twice("findings.claim", [finding.claim.strip() for finding in study.findings])
    for where, budgets in _all_budgets(study):
        result += [
            f"{where}.{name}: names {len(budget.model_dump(exclude_none=True))} limits; give "
            f"exactly one of tokens, flops, time"
            " and steps"
            for name, budget in budgets.items()
            if len(budget.model_dump(exclude_none=True)) != 1
        ]
    return result


def _all_budgets(study: Study) -> Iterator[tuple[str, Budgets]]:
    yield "budgets", study.budgets
    yield from (
        (f"data.{name}.budgets", data.budgets)
        for name, data in study.data.items()
        if data.budgets is not None
    )


def _seeds(study: Study) -> list[str]:
    if not study.seeds:
        return [
            "seeds: there are none; name at least three, for example [0, 1, 2]: an interval over "
            "seeds needs them"
        ]
    return _twice("seeds", study.seeds)


def _twice(where: str, values: Sequence[object]) -> list[str]:
    return [
        f"{where}: {value!r} stands {count} times"
        for value, count in Counter(values).items()
        if count > 1
    ]


def _metrics(study: Study) -> list[str]:
    registered = metric_names()
    if not study.metrics:
        return [f"metrics: there are none; choose from {', '.join(registered)}"]
    unknown = [
        f"metrics: unknown metric {name!r}{load.nearest(name, registered)}"
        for name in study.metrics
        if name not in registered
    ]
    return unknown or _twice("metrics", study.metrics)


def _protocol(study: Study) -> list[str]:
    if study.protocol not in study.protocols:
        return [
            f"protocol: there is no protocol "
            f"{study.protocol!r}{load.nearest(study.protocol, study.protocols)}"
        ]
    result = _twice(f"protocols.{study.protocol}.lr", study.rates())
    for where, fields in (
        ("train", study.train),
        (f"protocols.{study.protocol}.train", study.protocols[study.protocol].train),
    ):
        result += _limits(where, fields) + _rate(study, where, fields)
    return result


def _limits(where: str, fields: Mapping[str, object]) -> list[str]:
    return [
        f"{where}.{key}: `budgets` say how long a run trains"
        for key in LIMITS
        if fields.get(key) is not None
    ]


def _rate(study: Study, where: str, fields: Mapping[str, object]) -> list[str]:
    """Find a rate that contradicts the protocol's, which is the same for all models."""
    protocol = study.protocols.get(study.protocol)
    optimizer = fields.get("optimizer")
    if (
        protocol is None
        or protocol.lr is None
        or not isinstance(optimizer, dict)
        or "lr" not in optimizer
    ):
        return []
    return [
        f"{where}.optimizer.lr: protocols.{study.protocol}.lr gives the rate of every model; "
        f"leave one of them out"
        " (protocols....lr=null: each model its own)"
    ]


def _model(study: Study, name: str, model: StudyModel) -> list[str]:
    where = f"models.{name}"
    result = _limits(f"{where}.train", model.train) + _rate(study, f"{where}.train", model.train)
    for path, values in model.grid.items():
        if not values:
            result.append(f"{where}.grid.{path}: has no value")
        if path.split(".")[0] in ("vocab_size", "context"):
            result.append(
                f"{where}.grid.{path}: follows the text; several contexts stand in "
                f"data.<name>.context"
            )
        inner = [other for other in model.grid if other.startswith(f"{path}.")]
        result += [
            f"{where}.grid.{other}: lies within grid.{path}; write its values into those of {path}"
            for other in inner
        ]
        value: Any = model.fields
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            result.append(f"{where}: grid.{path} and fields both set {path}; leave one of them out")
    for text in model.data or ():
        if text not in study.data:
            result.append(
                f"{where}.data: there is no text {text!r}{load.nearest(text, study.data)}"
            )
    result += _twice(f"{where}.context", model.context or ())
    for text in study.texts_of(name):
        of_text = study.data[text].budgets
        budgets = study.budgets if of_text is None else of_text
        unknown = [budget for budget in model.budgets or () if budget not in budgets]
        result += [
            f"{where}.budgets: {text} has no budget {budget!r}{load.nearest(budget, budgets)}"
            for budget in unknown
        ]
        if not budgets:
            result.append(f"data.{text}: has no budget; name one in budgets or data.{text}.budgets")
    return result


def _finding(study: Study, where: str, finding: Finding) -> list[str]:
    result = []
    if finding.metric is not None and finding.metric not in study.metrics:
        near = load.nearest(finding.metric, study.metrics)
        result.append(f"{where}.metric: {finding.metric!r} is none of this study's metrics{near}")
    if finding.flops != 1 and finding.compare != "equal_flops":
        result.append(f"{where}.flops: belongs to compare: equal_flops")
    if finding.below == finding.above:
        result.append(f"{where}: below and above name the same cells")
    return result
