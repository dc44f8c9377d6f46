"""The measured part of a model card: metrics with their intervals, and in words what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from flyweight.config.units import format_number, format_size
from flyweight.errors import FlyweightError
from flyweight.records.metric import Metric
from flyweight.reports import gather
from flyweight.reports.findings.phrases import floor_name
from flyweight.reports.tables.markdown import block, code, table, text
from flyweight.store.artifact import Artifact
from flyweight.store.measurements import Measured

LIKELIHOOD = ("nll", "perplexity", "bits_per_byte", "word_perplexity")
SPEED = ("forward_ms", "prefill_tokens_per_s", "decode_tokens_per_s", "peak_bytes", "weight_bytes")


def share(value: float | None) -> str:
    """Return a share in percent; nothing where it is not known."""
    return "" if value is None else f"{value:.1%}"


def section(measured: Measured, texts: Mapping[str, str]) -> list[str]:
    """Return the section on metrics; `texts` names the text of each evaluation, by its id."""
    lines = ["## Metrics", ""]
    if not any(measured.all()):
        return [*lines, "None: nothing was measured.", ""]
    for evaluation in measured.evaluations:
        with _readable(evaluation):
            lines += _likelihood(evaluation, texts[evaluation.id], measured)
    for bench in measured.benches:
        with _readable(bench):
            lines += _speed(bench)
    for audit in measured.audits:
        with _readable(audit):
            lines += _audit(audit)
    for sample in measured.samples:
        with _readable(sample):
            lines += _continuations(sample)
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
    for continuation in artifact.metrics()["samples"]:
        lines += [
            f"Its continuation of {code(continuation['prompt'])}, one draw, not chosen:",
            "",
            *block(continuation["text"]),
            "",
        ]
    return lines


def missing(measured: Measured) -> list[str]:
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
    lines.append(
        "Not measured: tasks, other texts than those named, and other machines than those named."
    )
    return lines


def _likelihood(artifact: Artifact, name: str, measured: Measured) -> list[str]:
    result, interval = gather.evaluation(artifact), artifact.metrics()["interval"]
    assert result is not None
    rows = []
    for key in (*LIKELIHOOD, *result.metrics):
        if (metric := result.metric(key)) is not None:
            rows.append(
                (
                    key,
                    format_number(metric.value),
                    _interval(metric),
                    text(metric.unit),
                    f"{metric.n:,}",
                )
            )
    for kind, value in _floors(artifact, measured).items():
        rows.append(
            (f"bits_per_byte of {code(kind)}, a floor", format_number(value), "", "bits/byte", "")
        )
    head = ("metric", "value", f"{interval['level']:.0%} interval", "unit", "n")
    over = f"{interval['units']:,} {interval['over']}s"
    losses = gather.losses(artifact)
    return [
        f"Likelihood on the {result.split} split of {code(name)}, window {result.window:,}, "
        f"stride {result.stride:,}; intervals"
        f" by bootstrap over {over} ({code(artifact.id)}):",
        "",
        *table(head, rows, right=("value", head[2], "n")),
        "",
        *((text(f"To be known: {losses}."), "") if losses else ()),
    ]


def _floors(evaluation: Artifact, measured: Measured) -> dict[str, float]:
    """Return what n-gram models reach in bits per byte on the split of an evaluation."""
    values = {}
    for each in measured.floors:
        if _text(each) == _text(evaluation) and _split(each) == _split(evaluation):
            details = each.metrics()["details"]
            values |= {
                kind: float(details[kind]["bits_per_byte"]) for kind in ("unigram", "bigram", "kn5")
            }
    return values


def _below_floors(measured: Measured) -> list[str]:
    """Return where counting n-grams does better than the model."""
    lines = []
    for evaluation in measured.evaluations:
        result = gather.evaluation(evaluation)
        floors = _floors(evaluation, measured)
        if result and floors and min(floors.values()) <= result.bits_per_byte.value:
            kind = min(floors, key=lambda name: floors[name])
            reached = (
                f"{format_number(floors[kind])} bits/byte against its "
                f"{format_number(result.bits_per_byte.value)}"
            )
            floor = text(floor_name(kind))
            lines.append(
                f"Counting does better on the {result.split} split: {floor} reaches {reached}."
            )
    return lines


def _speed(artifact: Artifact) -> list[str]:
    raw, identity = artifact.metrics()["metrics"], artifact.identity
    rows = []
    for key in SPEED:
        metric = Metric(**raw[key])
        show = format_size if metric.unit == "bytes" else format_number
        apart = "" if metric.low == metric.high else f"{show(metric.low)} ... {show(metric.high)}"
        rows.append((key, show(metric.value), apart, text(metric.unit), f"{metric.n:,}"))
    head = ("metric", "value", "95% interval", "unit", "n")
    where = f"{code(identity['machine'])}, {identity['device']}, threads {identity['threads']}"
    batch = identity["config"]["batch"]
    return [
        f"Speed and memory in a fresh process on {where}, batch {batch} ({code(artifact.id)}):",
        "",
        *table(head, rows, right=("value", head[2], "n")),
        "",
    ]


def _audit(artifact: Artifact) -> list[str]:
    checks = artifact.metrics()["checks"]
    passed = sum(check["verdict"] == "pass" for check in checks)
    apply = sum(check["verdict"] != "n/a" for check in checks)
    rest = len(checks) - apply
    verb = "does" if rest == 1 else "do"
    others = f", {rest} {verb} not apply" if rest else ""
    lines = [f"Audit: {passed} of {apply} checks passed{others} ({code(artifact.id)}).", ""]
    reasons = [
        f"- {check['verdict']}: {code(check['name'])}: {text(check['why'])}"
        for check in checks
        if check["verdict"] != "pass"
    ]
    return [*lines, *reasons, ""] if reasons else lines


def _named(audit: Artifact, verdict: str) -> list[str]:
    return [check["name"] for check in audit.metrics()["checks"] if check["verdict"] == verdict]


def _text(artifact: Artifact) -> str | None:
    return artifact.identity["parents"].get("corpus")


def _split(artifact: Artifact) -> str:
    return artifact.identity["config"]["split"]


def _interval(metric: Metric) -> str:
    return (
        ""
        if metric.low == metric.high
        else f"{format_number(metric.low)} ... {format_number(metric.high)}"
    )
