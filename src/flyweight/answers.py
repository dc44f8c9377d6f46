"""Answers as people read them in a terminal; with `--json` the command line prints plain data instead."""

from __future__ import annotations

import shutil
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flyweight.api import Run, StudyRun
from flyweight.config.units import format_size, format_time
from flyweight.report import standing, study_tables, tables, words


def say(*lines: Any) -> None:
    """Print text lines and tables on standard output."""
    console = Console(highlight=False)
    for line in lines:
        console.print(line, soft_wrap=isinstance(line, str | Text), markup=False)


def run(result: Run) -> None:
    """Print a finished run: its findings, its table, and where the report is."""
    for group in standing.groups(standing.entries([result.summary])):
        say("", tables.terminal(group, shutil.get_terminal_size((100, 40)).columns))
    for stage in result.summary.stages:
        if stage.evaluate is not None:
            say(f"{stage.name}: {_in_words(stage.evaluate)}")
    say("", *words.plain(words.findings(result.summary)), "", f"report: {result.report}")


def study(result: StudyRun) -> None:
    """Print a finished study: its tables, its findings, and where the report is."""
    for table in study_tables.terminal(result.summary):
        say("", table)
    colours = {"confirmed": "green", "refuted": "red", "undecided": "yellow"}
    say("", *(Text.assemble((each.verdict, colours[each.verdict]), f" {each.claim}") for each in result.summary.findings))
    say(*result.summary.left_out, "", f"report: {result.report}")


def _in_words(evaluation: Any) -> str:
    nll = evaluation.nll
    where = f"{evaluation.split}, window {evaluation.window}, stride {evaluation.stride}"
    return f"{nll.value:.4f} nats/token ({nll.low:.4f} ... {nll.high:.4f}) on {where}"


def metrics(values: dict[str, Any]) -> None:
    """Print a measurement's numbers with their intervals."""
    table = Table(box=None, header_style="dim")
    for head in ("metric", "value", "95 % interval", "unit"):
        table.add_column(head, justify="left" if head in ("metric", "unit") else "right")
    for name, value in values.items():
        if isinstance(value, dict) and "value" in value:
            middle, low, high = (float(value[key]) for key in ("value", "low", "high"))
            table.add_row(name, f"{middle:,.5g}", "" if low == high else f"{low:,.5g} ... {high:,.5g}", value["unit"])
        elif isinstance(value, int | float | str):
            table.add_row(name, str(value) if not isinstance(value, float) else f"{value:,.5g}", "", "")
    say(table)


_FLOOR_NUMBERS = {"perplexity": ",.2f", "nll": ".4f", "bits_per_byte": ".4f", "stored": ","}


def floors(values: dict[str, Any]) -> None:
    """Print n-gram floors with what they cost."""
    table = Table(box=None, header_style="dim")
    for head in ("floor", "perplexity", "nats", "bits/byte", "n-grams", "training", "size", "peak"):
        table.add_column(head, justify="left" if head == "floor" else "right")
    for name, floor in values["details"].items():
        numbers = [f"{floor[key]:{form}}" for key, form in _FLOOR_NUMBERS.items()]
        costs = (format_time(floor["seconds"]), format_size(floor["bytes"]), format_size(floor["peak_bytes"]))
        table.add_row(name, *numbers, *costs)
    seen, there = values["train_tokens"], values["train_tokens_available"]
    part = "" if seen == there else f", the first of {there:,}"
    say(table, f"{values['tokens']:,} tokens of {values['split']}, after {seen:,} tokens of train{part}")


def tasks(values: dict[str, Any]) -> None:
    """Print lm-eval's metrics with their standard errors."""
    table = Table(box=None, header_style="dim")
    for head in ("task", "metric", "value", "standard error", "n"):
        table.add_column(head, justify="left" if head in ("task", "metric") else "right")
    for task, found in values["tasks"].items():
        for name, metric in found.items():
            numbers = ["" if metric[key] is None else f"{metric[key]:,.4g}" for key in ("value", "stderr", "n")]
            table.add_row(task, name, *numbers)
    say(table)


def checks(values: dict[str, Any]) -> None:
    """Print an audit."""
    table = Table(box=None, header_style="dim")
    for head in ("check", "verdict", "measured", "bound", "why"):
        table.add_column(head)
    colours = {"pass": "green", "fail": "red", "n/a": "dim"}
    for check in values["checks"]:
        numbers = ["" if check[key] is None else f"{check[key]:.3g}" for key in ("measured", "bound")]
        table.add_row(check["name"], Text(check["verdict"], colours[check["verdict"]]), *numbers, escape(check["why"]))
    say(table, Text("passed", "green") if values["passed"] else Text("failed", "red"))


def rows(found: list[Any]) -> None:
    """Print a comparison, best first."""
    table = Table(box=None, header_style="dim")
    for head in ("model", "bits/byte", "nats/token", "above the best", "95 % interval", "verdict"):
        table.add_column(head, justify="left" if head in ("model", "verdict") else "right")
    for row in found:
        pair = row.paired
        apart = ("", "", "the best") if pair is None else _apart(pair)
        table.add_row(escape(row.name), f"{row.bits_per_byte:.4f}", f"{row.nll:.4f}", *apart)
    say(table)


def _apart(pair: Any) -> tuple[str, str, str]:
    bits = pair.bits_per_byte
    return f"{bits.value:+.4f}", f"{bits.low:+.4f} ... {bits.high:+.4f}", pair.verdict


def items(found: list[Any]) -> None:
    """Print names, or artifacts with their size and users."""
    if not found:
        say("nothing yet")
    elif isinstance(found[0], str):
        say(*found)
    else:
        table = Table(box=None, header_style="dim")
        for head in ("artifact", "made", "took", "size", "used by"):
            table.add_column(head)
        for item in found:
            users = ", ".join(item["used_by"])
            if item["damaged"]:
                table.add_row(item["id"], Text("damaged", "red"), "", "", users)
            else:
                table.add_row(item["id"], item["created"], format_time(item["seconds"]), format_size(item["bytes"]), users)
        say(table, *(item["damaged"] for item in found if item["damaged"]))
