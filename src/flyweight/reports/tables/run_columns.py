"""The columns of a run's table: what each shows of a model, or of a floor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from flyweight.config.metrics import metric_kind
from flyweight.config.units import (
    format_bits,
    format_count,
    format_perplexity,
    format_rate,
    format_short,
    format_short_time,
    format_size,
)
from flyweight.records.floors import Floor
from flyweight.records.metric import Metric
from flyweight.reports.models import ModelGroup, RankedModel
from flyweight.reports.ranking import AXES
from flyweight.tables.engine import Cell, Column

ASKED_AT = 2
"""The place of the metrics that a recipe asked for: after the likelihood's own columns."""

SIGMA = "\N{GREEK CAPITAL LETTER SIGMA}"

QUALITY = "bits_per_byte"
"""Key of the column whose differences are compared in pairs."""


@dataclass(frozen=True)
class RunSubject:
    """What one row is about: a model, or a floor."""

    ranked: RankedModel | None = None
    floor: Floor | None = None


def columns_of(group: ModelGroup) -> list[Column[RunSubject]]:
    """Return the columns of a group: the usual ones, and a metric's where a recipe asked for it."""
    evaluations = [each.model.evaluate for each in group.models if each.model.evaluate]
    names = dict.fromkeys(name for evaluation in evaluations for name in evaluation.metrics)
    asked = [_metric_column(name) for name in names]
    return [*COLUMNS[:ASKED_AT], *asked, *COLUMNS[ASKED_AT:]]


def _metric_column(name: str) -> Column[RunSubject]:
    kind = metric_kind(name)
    return Column(
        key=name,
        title=kind.title,
        about=kind.about,
        value=_asked(name),
        better=kind.better,
        ranked=True,
        priority=4,
    )


def _bits_per_byte(line: RunSubject) -> Cell | None:
    if line.floor:
        bits = line.floor.bits_per_byte
        return Cell(format_bits(bits), metric=Metric.exact(bits, "bits/byte"))
    metric = line.ranked.bits if line.ranked else None
    return _written(QUALITY, metric)


def _written(name: str, metric: Metric | None) -> Cell | None:
    """Return a metric as a cell: its value over its interval."""
    if metric is None:
        return None
    kind = metric_kind(name)
    return Cell(kind.written(metric.value), kind.interval(metric.low, metric.high), metric)


def _evaluated(name: str, unit: str) -> Callable[[RunSubject], Metric | None]:
    """Return how to read a likelihood by its name, which floors have too."""

    def value(line: RunSubject) -> Metric | None:
        if line.floor:
            number = getattr(line.floor, name, None)
            return None if number is None else Metric.exact(number, unit)
        evaluate = line.ranked.model.evaluate if line.ranked else None
        return getattr(evaluate, name) if evaluate else None

    return value


def _asked(name: str) -> Callable[[RunSubject], Cell | None]:
    """Return how to read a metric that a recipe asked for."""

    def value(line: RunSubject) -> Cell | None:
        evaluate = line.ranked.model.evaluate if line.ranked else None
        return _written(name, evaluate.metric(name) if evaluate else None)

    return value


def _parameters(line: RunSubject) -> Metric | None:
    count = line.ranked.model.parameters.unique if line.ranked else None
    return None if count is None else Metric.exact(count, "parameters")


def _zeros(name: Literal["sparsity", "adapter_sparsity"]) -> Callable[[RunSubject], Metric | None]:
    def value(line: RunSubject) -> Metric | None:
        share = getattr(line.ranked.model, name) if line.ranked else None
        return None if share is None else Metric.exact(share, "share of numbers")

    return value


def _written_share(share: float) -> str:
    """Return a share in percent with one digit: 99.5 % of zeros are not all."""
    return f"{100 * share:.1f} %"


def _disk(line: RunSubject) -> Metric | None:
    return AXES["disk"].metric(line.ranked) if line.ranked else None


def _measured(name: str) -> Callable[[RunSubject], Metric | None]:
    """Return how to read a measurement of speed or memory by its name."""

    def value(line: RunSubject) -> Metric | None:
        bench = line.ranked.model.bench if line.ranked else None
        return getattr(bench, name) if bench else None

    return value


def _trained(
    own: Literal["flops", "seconds"], unit: str, form: Callable[[float], str]
) -> Callable[[RunSubject], Cell | None]:
    """Return a training's own cost over the total one.

    A model made without training cost nothing itself.
    """

    def value(line: RunSubject) -> Cell | None:
        total = line.ranked.total(own) if line.ranked else None
        if line.ranked is None or total is None:
            return None
        spent = _own(line.ranked, own)
        sub = "" if total == spent else f"{SIGMA} {form(total)}"
        return Cell(form(spent) if spent else "none", sub, Metric.exact(spent, unit))

    return value


def _training_peak(line: RunSubject) -> Metric | None:
    training = line.ranked.model.training if line.ranked else None
    if training is None or training.peak_bytes is None:
        return None
    return Metric.exact(training.peak_bytes, "bytes")


def _own(ranked: RankedModel, what: str) -> float:
    return 0.0 if ranked.model.training is None else getattr(ranked.model.training, what)


def _total(name: Literal["flops", "seconds"], unit: str) -> Callable[[RunSubject], Metric | None]:
    """Return how to read what a model cost with its teachers and parents."""

    def value(line: RunSubject) -> Metric | None:
        total = line.ranked.total(name) if line.ranked else None
        return None if total is None else Metric.exact(total, unit)

    return value


def _audit(line: RunSubject) -> Cell | None:
    audit = line.ranked.model.audit if line.ranked else None
    if audit is None:
        return None
    failed = sum(check.verdict == "fail" for check in audit.checks)
    passed = sum(check.verdict == "pass" for check in audit.checks)
    if failed:
        return Cell(f"{failed} fail", f"of {failed + passed}", tone="fail")
    return Cell("pass", f"{passed} of {passed}", tone="pass")


def _exports(line: RunSubject) -> Cell | None:
    verified = line.ranked.model.verification if line.ranked else None
    if verified is None:
        return None
    verdicts = [each.verdict for each in verified.exports]
    failed, passed = verdicts.count("fail"), verdicts.count("pass")
    if failed:
        return Cell(f"{failed} fail", f"of {failed + passed}", tone="fail")
    if not passed:
        return Cell("not run", tone="quiet")
    return Cell("pass", f"{passed} of {passed}", tone="pass")


COLUMNS: tuple[Column[RunSubject], ...] = (
    Column(
        key=QUALITY,
        title="bits/byte",
        about="bits to code a byte of the text",
        value=_bits_per_byte,
        better="lower",
        ranked=True,
        priority=1,
    ),
    Column(
        key="perplexity",
        title="ppl",
        about="perplexity per token",
        value=_evaluated("perplexity", "1/token"),
        format=format_perplexity,
        better="lower",
        priority=4,
    ),
    Column(
        key="parameters",
        title="params",
        about="parameters stored",
        value=_parameters,
        format=format_count,
        priority=5,
    ),
    Column(
        key="sparsity",
        title="zeros",
        about="share of the pruned matrices that is zero, with their adapters",
        value=_zeros("sparsity"),
        format=_written_share,
        priority=6,
    ),
    Column(
        key="adapter_sparsity",
        title="adapter zeros",
        about="share of the pruned adapters' numbers that is zero",
        value=_zeros("adapter_sparsity"),
        format=_written_share,
        priority=6,
    ),
    Column(
        key="disk_bytes",
        title="on disk",
        about="size of the model's files",
        value=_disk,
        format=format_size,
        better="lower",
        ranked=True,
        priority=2,
    ),
    Column(
        key="forward_ms",
        title="fwd ms",
        about="milliseconds of a forward pass over the whole context, median",
        value=_measured("forward_ms"),
        format=format_short,
        better="lower",
        ranked=True,
        priority=9,
    ),
    Column(
        key="decode_tokens_per_s",
        title="tok/s",
        about="tokens generated per second, median",
        value=_measured("decode_tokens_per_s"),
        format=format_rate,
        better="higher",
        ranked=True,
        priority=3,
    ),
    Column(
        key="peak_bytes",
        title="memory",
        about="peak memory in use, beside Python's own",
        value=_measured("peak_bytes"),
        format=format_size,
        better="lower",
        ranked=True,
        priority=8,
    ),
    Column(
        key="training_flops",
        title="FLOPs",
        about="floating-point operations of training (T: 10^12, P: 10^15)",
        value=_trained("flops", "FLOPs", format_count),
        priority=7,
    ),
    Column(
        key="training_seconds",
        title="time",
        about="training time",
        value=_trained("seconds", "s", format_short_time),
        priority=10,
    ),
    Column(
        key="training_peak_bytes",
        title="train mem",
        about="peak memory of training in a fresh process, beside Python's own",
        value=_training_peak,
        format=format_size,
        better="lower",
        priority=8,
    ),
    Column(
        key="audit",
        title="audit",
        about="checks passed, such as: no token sees the future, saving changes nothing",
        value=_audit,
        priority=6,
    ),
    Column(
        key="exports",
        title="exports",
        about="exports that are the model, in the program that will use them",
        value=_exports,
        priority=7,
    ),
    Column(
        key="nll",
        title="NLL",
        about="nats per token",
        value=_evaluated("nll", "nats/token"),
        format=format_bits,
        better="lower",
        priority=0,
    ),
    Column(
        key="word_perplexity",
        title="word ppl",
        about="perplexity per word of the corpus",
        value=_evaluated("word_perplexity", "1/word"),
        format=format_perplexity,
        better="lower",
        priority=0,
    ),
    Column(
        key="prefill_tokens_per_s",
        title="prefill",
        about="prompt tokens read per second",
        value=_measured("prefill_tokens_per_s"),
        format=format_rate,
        better="higher",
        priority=0,
    ),
    Column(
        key="weight_bytes",
        title="weights",
        about="bytes of the weights in memory",
        value=_measured("weight_bytes"),
        format=format_size,
        better="lower",
        priority=0,
    ),
    Column(
        key="training_total_flops",
        title="total FLOPs",
        about="training FLOPs with teachers and parents",
        value=_total("flops", "FLOPs"),
        format=format_count,
        priority=0,
    ),
    Column(
        key="training_total_seconds",
        title="total time",
        about="training seconds with teachers and parents",
        value=_total("seconds", "s"),
        format=format_short_time,
        priority=0,
    ),
)
