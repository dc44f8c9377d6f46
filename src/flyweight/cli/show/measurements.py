"""Measurements as people read them in a terminal: an evaluation, a bench."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from flyweight.cli.show.console import prose, say
from flyweight.cli.show.tables import drawn
from flyweight.config.metrics import metric_kind
from flyweight.config.units import format_rate, format_short, format_size
from flyweight.records.bench import BenchResult
from flyweight.records.likelihood import MeasuredLikelihood
from flyweight.records.metric import Metric
from flyweight.records.profile import ProfileResult
from flyweight.records.verification import Verification
from flyweight.tables.engine import Cell, Tone
from flyweight.tables.plain import Cells

SHOWN_OPERATORS = 12

_LIKELIHOOD = {
    "bits_per_byte": "bits per byte",
    "nll": "nats per token",
    "perplexity": "perplexity per token",
    "word_perplexity": "perplexity per word",
}


def evaluation(
    measured: MeasuredLikelihood, model: str, corpus: str, notes: Sequence[str] = ()
) -> None:
    """Print a model's likelihood on a text, then what else was measured."""
    bits = _number("bits_per_byte", measured.bits_per_byte.value)
    where = f"on the {measured.split} split of {corpus}"
    prose(Text(f"{model}: {bits} bits per byte {where}", "bold"), "")
    rows: list[tuple[str, Cells]] = []
    for key, title in _LIKELIHOOD.items():
        metric = measured.metric(key)
        if metric is not None:
            rows.append((title, _with_interval(key, metric)))
    for name, metric in measured.metrics.items():
        rows.append((name.replace("_", " "), _with_interval(name, metric)))
    over = f"intervals over {measured.interval.units:,} {measured.interval.over}s"
    note = f"window {measured.window:,}, stride {measured.stride:,} tokens; {over}"
    say(drawn(("measure", "value", "95 % interval", "better"), rows), "", Text(note, "dim"))
    prose(*(Text(f"note: {each}", "yellow") for each in notes))


def verification(verified: Verification, model: str) -> None:
    """Print whether each export of a model is that model, and by how much they differ."""
    tones: dict[str, Tone] = {"pass": "pass", "fail": "fail", "not run": "quiet"}
    rows: list[tuple[str, Cells]] = []
    for each in verified.exports:
        numbers: tuple[Cell | str, ...] = ("",) * 5
        if (found := each.agreement) is not None:
            numbers = (
                f"{found.nll.value:.5g}",
                f"{found.difference.value:+.2g}",
                f"{found.kl.value:.2g}",
                f"{found.kl_999:.2g}",
                f"{found.top_1.value:.2%}",
            )
        program = f"{each.program} (weaker)" if each.weaker else each.program
        verdict = Cell(each.verdict, tone=tones[each.verdict])
        rows.append((each.export, (program, verdict, *numbers, each.why)))
    said = Text(f"Passed: the exports are {model}", "bold green")
    if not verified.passed:
        failed = [each.export for each in verified.exports if each.verdict == "fail"]
        said = Text(f"Failed: {', '.join(failed) or 'no export could be read'}", "bold red")
    prose(said, "")
    about = {
        "NLL": "of the export, nats per token",
        "change": "from the model's",
        "KL": "from the model to the export, mean over tokens",
        "99.9 %": "of the tokens have less KL than this",
        "top 1": "tokens at which both find the same one most probable",
    }
    heads = ("export", "program", "verdict", *about, "why")
    say(drawn(heads, rows, about=about, wraps=("why", "export", "program")))
    measured = [each.agreement for each in verified.exports if each.agreement is not None]
    if measured:
        prose(Text(f"on {measured[0].tokens:,} tokens of held-out text", "dim"))
    if any(each.weaker for each in verified.exports):
        prose("weaker: read by flyweight itself, in place of the program that will use the file")


def bench(measured: BenchResult, model: str) -> None:
    """Print a model's speed and memory, every figure with its unit."""
    speed = measured.decode_tokens_per_s
    speed_reached = f"generates {_timed(speed.value, speed.unit)}"
    taken = f"takes {format_size(measured.peak_bytes.value)} of memory"
    prose(Text(f"{model} {speed_reached} and {taken}", "bold"), "")
    rows: list[tuple[str, Cells]] = []
    tokens = measured.context * measured.batch
    for metric, title in (
        (measured.forward_ms, f"forward pass of {tokens:,} tokens"),
        (measured.prefill_tokens_per_s, "reading a prompt"),
        (measured.decode_tokens_per_s, "generating"),
        (measured.generate_ms, f"an answer of {measured.generate_tokens} tokens"),
        (measured.samples_per_s, "such answers"),
    ):
        low, high = _amount(metric.low, metric.unit), _timed(metric.high, metric.unit)
        rows.append((title, (_timed(metric.value, metric.unit), f"{low} to {high}")))
    for metric, title in (
        (measured.peak_bytes, "peak memory, beside Python's own"),
        (measured.weight_bytes, "weights in memory"),
        (measured.disk_bytes, "size on disk"),
    ):
        rows.append((title, (format_size(metric.value), Cell(""))))
    runs = measured.decode_tokens_per_s.n
    asked = (
        f"batch {measured.batch}, {measured.prompt} prompt tokens, {measured.new_tokens} new ones, "
        f"{runs} run{'s' * (runs != 1)}"
    )
    threads = f"{measured.threads} thread{'s' * (measured.threads != 1)}"
    machine = (
        f"{measured.device}, {measured.precision}, attention {measured.kernel}, "
        f"engine {measured.engine}, {threads}"
    )
    table = drawn(("measure", "median", "95 % interval"), rows)
    say(table, "")
    prose(Text(f"{asked}; {machine}, torch {measured.torch}", "dim"))


def profile(measured: ProfileResult, model: str) -> None:
    """Print where the time of a generation goes: the most expensive operators."""
    where, total = "on the processor", measured.cpu_ms
    if measured.device_ms:
        where, total = f"on {measured.device}", measured.device_ms
    tokens = f"{measured.tokens} tokens after {measured.prompt}"
    prose(Text(f"{model}: {tokens} take {total:,.1f} ms {where}", "bold"), "")
    rows: list[tuple[str, Cells]] = []
    for each in measured.operators[:SHOWN_OPERATORS]:
        spent = each.device_ms if measured.device_ms else each.self_ms
        share = f"{spent / total:.1%}" if total else ""
        rows.append((each.name, (f"{each.calls:,}", f"{spent:,.2f} ms", share)))
    say(drawn(("operator", "calls", "itself", "share"), rows), "")
    groups = ", ".join(
        f"{name} {spent:,.1f} ms" for name, spent in measured.groups.model_dump().items()
    )
    memory = f"peak memory {format_size(measured.peak_bytes)}"
    threads = f"{measured.threads} thread{'s' * (measured.threads != 1)}"
    chosen = f"attention {measured.kernel}, engine {measured.engine}, {measured.precision}"
    clock = f"{measured.generate_ms:,.1f} ms by the clock without a profiler"
    prose(
        Text(f"{groups}", "dim"),
        Text(f"{clock}; {memory}; {chosen}; {threads}, torch {measured.torch}", "dim"),
    )


def _with_interval(name: str, metric: Metric) -> Cells:
    """Return a metric's value, its interval, and the direction in which it is better."""
    value, low, high = (_number(name, each) for each in (metric.value, metric.low, metric.high))
    return value, f"{low} to {high}", metric.better


def _number(name: str, value: float) -> str:
    return metric_kind(name).written(value)


def _timed(value: float, unit: str) -> str:
    return f"{_amount(value, unit)} {unit}"


def _amount(value: float, unit: str) -> str:
    return format_short(value) if unit == "ms" else format_rate(value)
