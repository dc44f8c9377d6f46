"""Measurements as people read them in a terminal: an evaluation, a bench."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from flyweight.cli.show.console import say
from flyweight.config.units import format_number, format_rate, format_size

_LIKELIHOOD = {
    "bits_per_byte": "bits per byte",
    "nll": "nats per token",
    "perplexity": "perplexity per token",
    "word_perplexity": "perplexity per word",
}


def evaluation(values: Mapping[str, Any], model: str, corpus: str) -> None:
    """Print a model's likelihood on a text, then what else was measured."""
    say(Text(f"{model} on the {values['split']} split of {corpus}", "bold"))
    table = _table("measure", "value", "95 % interval")
    for key, title in _LIKELIHOOD.items():
        metric = values.get(key)
        if metric is not None:
            low, high = (_number(metric[end]) for end in ("low", "high"))
            table.add_row(title, _number(metric["value"]), f"{low} to {high}")
    others = values.get("metrics", {})
    for name, metric in others.items():
        low, high = (_number(metric[end]) for end in ("low", "high"))
        title = f"{name.replace('_', ' ')}, {metric['better']} is better"
        table.add_row(title, _number(metric["value"]), f"{low} to {high}")
    units = values["interval"]
    over = f"intervals over {units['units']:,} {units['over']}s"
    note = f"window {values['window']}, stride {values['stride']} tokens; {over}; lower is better"
    if others:
        note += " but where the line says otherwise"
    say(table, Text(note, "dim"))
    say(*(Text(f"note: {each}", "yellow") for each in values.get("notes", ())))


def bench(values: Mapping[str, Any], model: str) -> None:
    """Print a model's speed and memory, every figure with its unit."""
    say(Text(model, "bold"))
    table = _table("measure", "median", "95 % interval")
    metrics = values["metrics"]
    tokens = values["context"] * values["batch"]
    for key, title in (
        ("forward_ms", f"forward pass of {tokens:,} tokens"),
        ("prefill_tokens_per_s", "reading a prompt"),
        ("decode_tokens_per_s", "generating"),
    ):
        metric = metrics[key]
        low, high = (_timed(metric[end], metric["unit"]) for end in ("low", "high"))
        table.add_row(title, _timed(metric["value"], metric["unit"]), f"{low} to {high}")
    for key, title in (
        ("peak_bytes", "peak memory, beside Python's own"),
        ("weight_bytes", "weights in memory"),
        ("disk_bytes", "size on disk"),
    ):
        table.add_row(title, format_size(metrics[key]["value"]), "")
    runs = metrics["decode_tokens_per_s"]["n"]
    asked = (
        f"batch {values['batch']}, {values['prompt']} prompt tokens, {values['new_tokens']} new "
        f"ones,"
        f" {runs} run{'s' * (runs != 1)}"
    )
    threads = values["threads"]
    machine = f"{values['device']}, {values['precision']}, {threads} thread{'s' * (threads != 1)}"
    say(table, Text(f"{asked}; {machine}, torch {values['torch']}", "dim"))


def _number(value: float | str) -> str:
    if isinstance(value, str):  # JSON has no number for it
        return "infinite"
    return format_number(value)


def _timed(value: float, unit: str) -> str:
    return f"{value:.3g} ms" if unit == "ms" else f"{format_rate(value)} {unit}"


def _table(*heads: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for head in heads:
        table.add_column(head, justify="left" if head == heads[0] else "right")
    return table
