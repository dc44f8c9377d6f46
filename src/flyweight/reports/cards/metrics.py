"""The measured part of a model card: metrics with their intervals, and in words what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from flyweight.config.metrics import metric_kind
from flyweight.config.units import (
    format_bits,
    format_number,
    format_percent,
    format_rate,
    format_short,
    format_size,
)
from flyweight.errors import FlyweightError
from flyweight.records.audit import AuditResult
from flyweight.records.bench import Speed
from flyweight.records.floors import NgramFloors
from flyweight.records.likelihood import MeasuredLikelihood
from flyweight.records.lm_eval import LmEvalMetric, LmEvalScores
from flyweight.records.metric import Metric
from flyweight.records.sample import samples_of
from flyweight.records.scores import TaskScores
from flyweight.records.verification import Verification
from flyweight.reports import gather, unit_scores
from flyweight.reports.findings.phrases import floor_name
from flyweight.store.artifact import Artifact
from flyweight.store.measurements import Measurements
from flyweight.tables.markdown import block, code, table, text

LIKELIHOOD = ("nll", "perplexity", "bits_per_byte", "word_perplexity")


def share(value: float | None) -> str:
    """Return a share in percent; nothing where it is not known."""
    return "" if value is None else format_percent(value)


def section(
    measured: Measurements,
    texts: Mapping[str, str],
    before: Mapping[str, Artifact] = MappingProxyType({}),
) -> list[str]:
    """Return the section on metrics; `texts` names the text of each evaluation, by its id.

    `before` has the scores on tasks of the model that was fine-tuned, by those of this one.
    """
    lines = ["## Metrics", ""]
    if not any(measured.all()):
        return [*lines, "None: nothing was measured.", ""]
    for evaluation in measured.evaluations:
        with _readable(evaluation):
            lines += _likelihood(evaluation, texts[evaluation.id], measured)
    for score in measured.tasks:
        with _readable(score):
            lines += _answers(score, before.get(score.id))
    for bench in measured.benches:
        with _readable(bench):
            lines += _speed(bench)
    for audit in measured.audits:
        with _readable(audit):
            lines += _audit(audit)
    for sample in measured.samples:
        with _readable(sample):
            lines += _continuations(sample)
    for other in measured.others:
        with _readable(other):
            lines += _OTHERS.get(other.stage, _registered)(other)
    return lines


@contextmanager
def _readable(artifact: Artifact) -> Iterator[None]:
    """Raise FlyweightError where an artifact's numbers are not those of its measurement."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FlyweightError(
            f"{artifact.path / 'metrics.json'}: not the numbers of {artifact.stage} "
            f"({type(error).__name__}: {error});"
            f" delete {artifact.path} and measure again"
        ) from error


def _continuations(artifact: Artifact) -> list[str]:
    lines = []
    for sample in samples_of(artifact.metrics()):
        lines += [
            f"Its continuation of {code(sample.prompt)}, one draw, not chosen:",
            "",
            *block(sample.text),
            "",
        ]
    return lines


def _lm_eval(artifact: Artifact) -> list[str]:
    """Return what lm-eval measured: every task's metrics with their intervals."""
    scores = LmEvalScores.from_metrics(artifact.metrics())
    rows = [
        (
            text(task),
            text(name),
            "" if metric.value is None else format_number(metric.value),
            _ends(metric),
            metric.better or "",
            "" if metric.n is None else f"{metric.n:,}",
        )
        for task, each in scores.tasks.items()
        for name, metric in each.metrics.items()
    ]
    head = ("task", "metric", "value", "95 % interval", "better", "n")
    shots = {str(each.few_shot) for each in scores.tasks.values() if each.few_shot is not None}
    return [
        f"On tasks of lm-eval {text(scores.lm_eval)} with {' or '.join(sorted(shots))} examples "
        f"before each question ({code(artifact.id)}):",
        "",
        *table(head, rows, right=("value", head[3], "n")),
        "",
    ]


def _verification(artifact: Artifact) -> list[str]:
    """Return whether exports of the model are the model, as the programs that use them read it."""
    verified = Verification.from_metrics(artifact.metrics())
    rows = []
    for each in verified.exports:
        program = f"{each.program} (weaker: a reader of ours)" if each.weaker else each.program
        numbers = ("", "", "", "")
        if (found := each.agreement) is not None:
            numbers = (
                f"{found.difference.value:+.2g}",
                f"{found.kl.value:.2g}",
                f"{found.kl_999:.2g}",
                f"{found.top_1.value:.2%}",
            )
        rows.append((text(each.export), text(program), each.verdict, *numbers, text(each.why)))
    head = ("export", "read by", "verdict", "NLL", "KL", "KL, 99.9 %", "top 1", "why")
    passed = "passed" if verified.passed else "did not pass"
    return [
        f"Exports, compared with the model on held-out text, {passed} ({code(artifact.id)}). NLL "
        f"is the change in nats per token, KL the divergence per token, top 1 the share of tokens "
        f"on which both agree:",
        "",
        *table(head, rows),
        "",
    ]


def _ends(metric: LmEvalMetric) -> str:
    if metric.low is None or metric.high is None:
        return ""
    return f"{format_number(metric.low)} to {format_number(metric.high)}"


def _registered(artifact: Artifact) -> list[str]:
    """Return what a stage of another package measured: its metrics, then its plain numbers."""
    rows = []
    for name, value in artifact.metrics().items():
        if isinstance(value, dict) and set(value) == set(Metric.__dataclass_fields__):
            metric = Metric(**value)
            shown = format_number(metric.value)
            rows.append(
                (
                    text(name),
                    shown,
                    _interval(metric, format_number),
                    text(metric.unit),
                    f"{metric.n:,}",
                )
            )
        elif isinstance(value, int | float) and not isinstance(value, bool):
            rows.append((text(name), format_number(value), "", "", ""))
    head = ("metric", "value", "95 % interval", "unit", "n")
    return [
        f"Measured by the stage {code(artifact.stage)} ({code(artifact.id)}):",
        "",
        *table(head, rows, right=("value", head[2], "n")),
        "",
    ]


def missing(measured: Measurements) -> list[str]:
    """Return what was not measured, and what it showed that a reader must not miss."""
    lines = []
    splits = {each.identity["config"]["split"] for each in measured.evaluations}
    if not measured.evaluations:
        lines.append("Not measured: likelihood on any text (`flyweight eval`).")
    elif not splits & {"test", "validation+test"}:
        lines.append(
            f"Not measured: likelihood on a test split; the figures above are of "
            f"{', '.join(sorted(splits))}."
        )
    if measured.evaluations and not measured.floors:
        lines.append(
            "Not measured: what n-gram models reach on the same text (`flyweight floors`)."
        )
    if not measured.benches:
        lines.append("Not measured: speed and memory (`flyweight bench`).")
    if not measured.audits:
        lines.append(
            "Not measured: the audit for leaks, padding, caches and sizes (`flyweight audit`)."
        )
    lines += [f"Left out: {code(each)}." for each in measured.damaged]
    for audit in measured.audits:
        lines += [f"It fails the audit's check {code(name)}." for name in _named(audit, "fail")]
    lines += _below_floors(measured)
    tasks = "other tasks" if measured.tasks else "tasks"
    lines.append(
        f"Not measured: {tasks}, other texts than those named, and other machines than those named."
    )
    return lines


def _likelihood(artifact: Artifact, name: str, measured: Measurements) -> list[str]:
    result = MeasuredLikelihood.from_metrics(artifact.metrics())
    interval = result.interval
    rows = []
    for key in (*LIKELIHOOD, *result.metrics):
        if (metric := result.metric(key)) is not None:
            write = metric_kind(key).written
            shown = (key, write(metric.value), _interval(metric, write), text(metric.unit))
            rows.append((*shown, f"{metric.n:,}"))
    for kind, value in _floors(artifact, measured).items():
        named = f"bits_per_byte of {code(kind)}, a floor"
        rows.append((named, format_bits(value), "", "bits/byte", ""))
    head = ("metric", "value", f"{format_percent(interval.level)} interval", "unit", "n")
    over = f"{interval.units:,} {interval.over}s"
    losses = unit_scores.losses(artifact)
    return [
        f"Likelihood on the {result.split} split of {code(name)}, window {result.window:,}, "
        f"stride {result.stride:,}; intervals"
        f" by bootstrap over {over} ({code(artifact.id)}):",
        "",
        *table(head, rows, right=("value", head[2], "n")),
        "",
        *((text(f"To be known: {losses}."), "") if losses else ()),
    ]


def _answers(artifact: Artifact, base: Artifact | None) -> list[str]:
    """Return a model's scores on a task beside the task's floor and, if known, its base's."""
    scores = TaskScores.from_metrics(artifact.metrics())
    before = {} if base is None else TaskScores.from_metrics(base.metrics()).metrics
    rows: list[tuple[str, ...]] = []
    for name, metric in scores.metrics.items():
        others = (before.get(name), scores.floor_metrics.get(name))
        cells = [_with_interval(name, each) for each in (metric, *others)]
        rows.append((name, *cells, text(metric.unit), metric_kind(name).better))
    head = ["metric", "this model", "before", "floor", "unit", "better"]
    if base is None:
        head.remove("before")
        rows = [(*row[:2], *row[3:]) for row in rows]
    rated = metric_kind(scores.decides).title
    standing = {
        "above": f"It is above its floor in {rated}.",
        "below": f"It is below its floor in {rated}.",
        "undecided": f"It is not shown to be above its floor in {rated}.",
    }[scores.standing]
    known = "" if base is None else f"; before: those of its base ({code(base.id)})"
    return [
        f"Answers to {code(scores.task)}, {scores.split} split, {scores.rows:,} rows; 95 % "
        f"intervals over {scores.contexts:,} contexts ({code(artifact.id)}){known}. Its floor, "
        f"{code(scores.floor)}: {text(scores.floor_about)}. {text(standing)}",
        "",
        *table(tuple(head), rows),
        "",
    ]


def _with_interval(name: str, metric: Metric | None) -> str:
    if metric is None:
        return ""
    write = metric_kind(name).written
    interval = _interval(metric, write)
    return write(metric.value) + (f" ({interval})" if interval else "")


def _floors(evaluation: Artifact, measured: Measurements) -> dict[str, float]:
    """Return what n-gram models reach in bits per byte on the split of an evaluation."""
    values = {}
    for each in measured.floors:
        if _text(each) == _text(evaluation) and _split(each) == _split(evaluation):
            floors = NgramFloors.from_metrics(each.metrics())
            values |= {kind: floor.bits_per_byte for kind, floor in floors.named().items()}
    return values


def _below_floors(measured: Measurements) -> list[str]:
    """Return where counting n-grams does better than the model."""
    lines = []
    for evaluation in measured.evaluations:
        result = gather.evaluation(evaluation)
        floors = _floors(evaluation, measured)
        if result and floors and min(floors.values()) <= result.bits_per_byte.value:
            kind = min(floors, key=lambda name: floors[name])
            reached = (
                f"{format_bits(floors[kind])} bits/byte against its "
                f"{format_bits(result.bits_per_byte.value)}"
            )
            floor = text(floor_name(kind))
            lines.append(
                f"Counting does better on the {result.split} split: {floor} reaches {reached}."
            )
    return lines


def _speed(artifact: Artifact) -> list[str]:
    speed, identity = Speed.from_metrics(artifact.metrics()), artifact.identity
    rows = []
    for key, metric in speed:
        show = _SHOWN.get(metric.unit, format_rate)
        shown = (key, show(metric.value), _interval(metric, show), text(metric.unit))
        rows.append((*shown, f"{metric.n:,}"))
    head = ("metric", "value", "95 % interval", "unit", "n")
    where = f"{code(identity['machine'])}, {identity['device']}, threads {identity['threads']}"
    batch = identity["config"]["batch"]
    return [
        f"Speed and memory in a fresh process on {where}, batch {batch} ({code(artifact.id)}):",
        "",
        *table(head, rows, right=("value", head[2], "n")),
        "",
    ]


def _audit(artifact: Artifact) -> list[str]:
    checks = AuditResult.from_metrics(artifact.metrics()).checks
    passed = sum(check.verdict == "pass" for check in checks)
    apply = sum(check.verdict != "n/a" for check in checks)
    rest = len(checks) - apply
    verb = "does" if rest == 1 else "do"
    others = f", {rest} {verb} not apply" if rest else ""
    lines = [f"Audit: {passed} of {apply} checks passed{others} ({code(artifact.id)}).", ""]
    reasons = [
        f"- {check.verdict}: {code(check.name)}: {text(check.why)}"
        for check in checks
        if check.verdict != "pass"
    ]
    return [*lines, *reasons, ""] if reasons else lines


def _named(audit: Artifact, verdict: str) -> list[str]:
    checks = AuditResult.from_metrics(audit.metrics()).checks
    return [check.name for check in checks if check.verdict == verdict]


def _text(artifact: Artifact) -> str | None:
    return artifact.identity["parents"].get("corpus")


def _split(artifact: Artifact) -> str:
    return artifact.identity["config"]["split"]


_OTHERS: Mapping[str, Callable[[Artifact], list[str]]] = {
    "lm_eval": _lm_eval,
    "verify": _verification,
}

_SHOWN: Mapping[str, Callable[[float], str]] = {"bytes": format_size, "ms": format_short}
"""How measurements of speed are written, by their unit."""


def _interval(metric: Metric, write: Callable[[float], str]) -> str:
    return "" if metric.low == metric.high else f"{write(metric.low)} to {write(metric.high)}"
