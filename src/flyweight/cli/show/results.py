"""Answers as people read them in a terminal.

With `--json` the command line prints plain data instead.
"""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from flyweight.api import Run, StudyRun
from flyweight.cli.show import advice
from flyweight.cli.show.console import prose, say
from flyweight.config.units import format_size, format_time
from flyweight.core.console import Terminal
from flyweight.reports.findings.phrases import floor_name
from flyweight.reports.findings.run import plain
from flyweight.reports.findings.study import study_advice
from flyweight.reports.report import RunReport
from flyweight.reports.tables import run as run_tables, study as study_tables


def run(result: Run) -> None:
    """Print a finished run: which model to take, its table, its findings, where the report is."""
    report = RunReport((result.summary,))
    advice.show(report.advice)
    for group in report.groups:
        say("", run_tables.terminal(group, Terminal().width))
    for stage in result.summary.stages:
        if stage.evaluate is not None:
            say(f"{stage.name}: {_in_words(stage.evaluate)}")
    prose("", *plain(report.findings))
    say("", f"report: {result.report}")


def study(result: StudyRun) -> None:
    """Print a finished study: its verdict, its claims, its tables, and where the report is."""
    advice.show([study_advice(result.summary)])
    colours = {"confirmed": "green", "refuted": "red", "undecided": "yellow"}
    claims = [
        Text.assemble((each.verdict, colours[each.verdict]), f" {each.claim}")
        for each in result.summary.findings
    ]
    prose(*(["", *claims] if claims else []))
    for table in study_tables.terminal(result.summary, Terminal().width):
        say("", table)
    prose(*result.summary.left_out)
    say("", f"report: {result.report}")


def _in_words(evaluation: Any) -> str:
    nll = evaluation.nll
    where = f"{evaluation.split}, window {evaluation.window}, stride {evaluation.stride}"
    return f"{nll.value:.4f} nats/token ({nll.low:.4f} ... {nll.high:.4f}) on {where}"


def _notes(values: dict[str, Any]) -> list[Text]:
    return [Text(f"note: {note}", "yellow") for note in values.get("notes", ())]


_FLOOR_NUMBERS = {"perplexity": ",.2f", "nll": ".4f", "bits_per_byte": ".4f", "stored": ","}


def floors(values: dict[str, Any]) -> None:
    """Print n-gram floors with what they cost."""
    table = Table(box=None, header_style="dim")
    for head in ("floor", "perplexity", "nats", "bits/byte", "n-grams", "training", "size", "peak"):
        table.add_column(
            head, justify="left" if head == "floor" else "right", no_wrap=head == "floor"
        )
    for name, floor in values["details"].items():
        numbers = [f"{floor[key]:{form}}" for key, form in _FLOOR_NUMBERS.items()]
        costs = (
            format_time(floor["seconds"]),
            format_size(floor["bytes"]),
            format_size(floor["peak_bytes"]),
        )
        table.add_row(floor_name(name).replace(" (", "\n("), *numbers, *costs)
    seen, there = values["train_tokens"], values["train_tokens_available"]
    part = "" if seen == there else f", the first of {there:,}"
    say(
        table,
        f"{values['tokens']:,} tokens of {values['split']}, after {seen:,} tokens of train{part}",
        *_notes(values),
    )


def tasks(values: dict[str, Any]) -> None:
    """Print lm-eval's metrics with their standard errors."""
    table = Table(box=None, header_style="dim")
    for head in ("task", "metric", "value", "standard error", "n"):
        table.add_column(head, justify="left" if head in ("task", "metric") else "right")
    for task, found in values["tasks"].items():
        for name, metric in found.items():
            numbers = [
                "" if metric[key] is None else f"{metric[key]:,.4g}"
                for key in ("value", "stderr", "n")
            ]
            table.add_row(task, name, *numbers)
    say(table)


def checks(values: dict[str, Any]) -> None:
    """Print an audit."""
    table = Table(box=None, header_style="dim")
    for head in ("check", "verdict", "measured", "bound", "why"):
        table.add_column(head)
    colours = {"pass": "green", "fail": "red", "n/a": "dim"}
    for check in values["checks"]:
        numbers = [_checked(check[key]) for key in ("measured", "bound")]
        table.add_row(
            check["name"], Text(check["verdict"], colours[check["verdict"]]), *numbers, check["why"]
        )
    say(table, Text("passed", "green") if values["passed"] else Text("failed", "red"))


def _checked(value: float | str | None) -> str:
    if value is None:
        return ""
    return "infinite" if isinstance(value, str) else f"{value:.3g}"  # JSON has no number for it


LONGEST = 30
"""Lines of a list in a terminal; the older ones are counted, and `--all` shows them."""


def _newest(items: list[Any], everything: bool) -> tuple[list[Any], list[Text]]:
    """Return the items to list, oldest first, and a line about those left out of a terminal."""
    left = 0 if everything or not Terminal().is_terminal else max(0, len(items) - LONGEST)
    note = f"{left} older one{'s' * (left != 1)} not shown; `flyweight ls --all` lists everything"
    return items[left:], [Text(note, "dim")] if left else []


def models(items: list[dict[str, Any]], everything: bool) -> None:
    """Print models by the name to give as MODEL, with their size and newest quality."""
    if not items:
        say(
            "no models yet: `flyweight quickstart` trains some, `flyweight train FILE` one on "
            "your text"
        )
        return
    shown, note = _newest(items, everything)
    table = _plain_table(("model", "bits/byte", "size", "measured on"), ("bits/byte", "size"))
    for item in shown:
        bits = "" if item["bits_per_byte"] is None else f"{item['bits_per_byte']:.3f}"
        where = "" if item["split"] is None else f"{item['corpus'] or 'its text'}, {item['split']}"
        table.add_row(item["name"], bits, format_size(item["bytes"]), where)
    say(*note, table)


def listing(found: dict[str, Any], everything: bool = False) -> None:
    """Print a runs root: artifacts, what is half-made, recipes, and what all of it takes."""
    if not found["items"] and not found["recipes"]:
        say("nothing yet")
        return
    items, note = _newest(found["items"], everything)
    table = _plain_table(
        ("artifact", "made (UTC)", "took", "size", "used by"), right=("took", "size")
    )
    for item in items:
        took = "" if item["seconds"] is None else format_time(item["seconds"])
        users = _shortly(item["used_by"]) if item["used_by"] else Text("no recipe", "dim")
        shown = users if item["state"] != "half-made" else ""
        table.add_row(item["id"], _minute(_state(item)), took, format_size(item["bytes"]), shown)
    say(*note, table)
    recipes = _plain_table(("recipe", "finished (UTC)", "stages", "size"), right=("stages", "size"))
    for recipe in found["recipes"]:
        state = (
            Text("damaged", "red")
            if recipe["damaged"]
            else recipe["created"] or Text("unfinished", "yellow")
        )
        recipes.add_row(
            recipe["name"], _minute(state), str(recipe["stages"]), format_size(recipe["bytes"])
        )
    say(*(("", recipes) if found["recipes"] else ()))
    for recipe in found["recipes"]:
        unfinished = len(recipe["unfinished"]) if recipe["created"] else 0
        counts = (("unfinished", unfinished), ("earlier", len(recipe["earlier"])))
        runs = " and ".join(
            f"{count} {kind} run{'s' * (count != 1)}" for kind, count in counts if count
        )
        if runs:
            say(
                f"{recipe['name']}: results of {runs} are kept as well; see `flyweight gc "
                f"--dry-run`"
            )
    harmed = [each["damaged"] for each in (*found["items"], *found["recipes"]) if each["damaged"]]
    say("", *harmed, *([""] if harmed else []))
    artifacts = f"{len(found['items'])} artifact{'s' * (len(found['items']) != 1)}"
    say(
        f"{artifacts}, {len(found['recipes'])} recipe{'s' * (len(found['recipes']) != 1)}, "
        f"{format_size(found['bytes'])} in all"
    )


def garbage(found: Any) -> None:
    """Print what would be removed and why, and what cannot be."""
    locks = [item for item in found.items if item.kind == "lock"]
    table = _plain_table(("what", "made (UTC)", "size", "why it can go"), right=("size",))
    for item in found.items:
        if item.kind != "lock":
            table.add_row(item.path.name, _minute(item.created), format_size(item.bytes), item.why)
    say(*((table,) if len(locks) < len(found.items) else ()), *found.kept)
    if locks:
        say(f"and {len(locks)} lock file{'s' * (len(locks) != 1)} that nobody holds")
    say(
        f"{format_size(found.bytes)} in all"
        if found.items
        else "nothing to remove: recipes refer to everything here"
    )


def removed(done: Any) -> None:
    """Print what has been removed."""
    if not done.items:
        garbage(done)
        return
    locks = sum(item.kind == "lock" for item in done.items)
    counted = ((len(done.items) - locks, "folder"), (locks, "lock file"))
    things = [f"{count} {name}{'s' * (count != 1)}" for count, name in counted if count]
    say(*done.kept, f"removed {' and '.join(things)}, {format_size(done.bytes)}")


def _plain_table(heads: tuple[str, ...], right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for head in heads:
        last = head == heads[-1]
        table.add_column(
            head, justify="right" if head in right else "left", no_wrap=not last, overflow="fold"
        )
    return table


def _minute(date: str | Text) -> str | Text:
    return date if isinstance(date, Text) else date[:16].replace("T", " ")


def _state(item: dict[str, Any]) -> str | Text:
    """Return when an artifact was made, or why it is not one yet."""
    if item["damaged"]:
        return Text("damaged", "red")
    return _half_made(item) if item["state"] == "half-made" else item["created"]


def _half_made(item: dict[str, Any]) -> Text:
    at = "" if item["step"] is None else f", step {item['step']}"
    return (
        Text(f"being made{at}", "cyan") if item["being_made"] else Text(f"half-made{at}", "yellow")
    )


def _shortly(users: list[str]) -> str:
    """Return the first users of an artifact: `quickstart:teacher, quickstart`."""
    return ", ".join(users[:3]) + (f" and {len(users) - 3} more" if len(users) > 3 else "")
