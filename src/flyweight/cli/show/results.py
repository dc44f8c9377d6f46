"""Answers as people read them in a terminal.

With `--json` the command line prints plain data instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from rich.text import Text

from flyweight.api import Run, StudyRun, TuningStudyRun
from flyweight.api.listing import ListedModel
from flyweight.api.model_references import ListedArtifact, ListedRecipe, RunsListing
from flyweight.cli.show import advice, tuning
from flyweight.cli.show.console import prose, say
from flyweight.cli.show.tables import drawn
from flyweight.config.units import (
    format_bits,
    format_number,
    format_perplexity,
    format_short,
    format_size,
    format_time,
)
from flyweight.core.console import Terminal
from flyweight.records.audit import AuditResult
from flyweight.records.floors import NgramFloors
from flyweight.records.run_summary import Evaluation
from flyweight.reports.findings.phrases import and_list, floor_name
from flyweight.reports.findings.run import plain
from flyweight.reports.findings.study import study_advice
from flyweight.reports.findings.tuning import tuned_advice
from flyweight.reports.findings.tuning_study import tuning_advice
from flyweight.reports.report import RunReport
from flyweight.reports.tables import (
    run as run_tables,
    study as study_tables,
    tuning_study as tuning_tables,
)
from flyweight.store.gc import Garbage
from flyweight.tables import engine
from flyweight.tables.engine import Cell, Tone
from flyweight.tables.plain import Cells


def run(result: Run) -> None:
    """Print a finished run: which model to take, its table, its findings, where the report is."""
    report = RunReport((result.summary,))
    advice.show([*tuned_advice(result.summary.tuning), *report.advice])
    for group in report.groups:
        say("", run_tables.terminal(group, Terminal().width))
    for task in report.tasks:
        say("", engine.terminal(task.table, Terminal().width, task.title))
    for table in report.lm_eval:
        say("", engine.terminal(table.table, Terminal().width, table.title))
        prose(*(Text(f"note: {note}", "yellow") for note in table.notes))
    for record in result.summary.tuning:
        tuning.show(record)
    for stage in result.summary.stages:
        if stage.evaluate is not None:
            say(f"{stage.name}: {_in_words(stage.evaluate)}")
    prose("", *plain(report.findings))
    say("", f"report: {result.report}")


def any_study(result: StudyRun | TuningStudyRun) -> None:
    """Print a finished study of either kind."""
    if isinstance(result, TuningStudyRun):
        tuning_study(result)
    else:
        study(result)


def tuning_study(result: TuningStudyRun) -> None:
    """Print a finished study of fine-tuning: its verdict, its tables, and where the report is."""
    advice.show([tuning_advice(result.summary)])
    for table in tuning_tables.terminal(result.summary, Terminal().width):
        say("", table)
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


def task_templates(items: list[dict[str, str]]) -> None:
    """Print each task's fixed texts, the fields of its rows, and where its files are looked for."""
    for item in items:
        lines = [
            Text(item["task"], "bold"),
            f"  prompt: {json.dumps(item['prompt'])}",
            f"  completion: {json.dumps(item['completion'])}",
            f"  a row: {item['fields']}",
        ]
        if item["folder"]:
            lines.append(f"  files: DIR/{item['folder']}/{item['files']}, else hf:{item['hub']}")
        say(*lines)
    prose(
        "",
        "Only the beginning of a prompt may be cut, from the left: the context, the article, what "
        "was said before. A separator token ends a completion. "
        "DIR is given with --data-dir or FLYWEIGHT_DATA.",
    )


def _in_words(evaluation: Evaluation) -> str:
    nll = evaluation.nll
    where = f"{evaluation.split}, window {evaluation.window}, stride {evaluation.stride}"
    value, low, high = map(format_bits, (nll.value, nll.low, nll.high))
    return f"{value} nats/token ({low} to {high}) on {where}"


def floors(measured: NgramFloors, notes: Sequence[str] = ()) -> None:
    """Print n-gram floors with what they cost: first the strongest, which a model has to beat."""
    named = measured.named()
    strongest = min(named, key=lambda name: named[name].bits_per_byte)
    reached = format_bits(named[strongest].bits_per_byte)
    title = f"A model has to beat {reached} bits per byte: the {floor_name(strongest)} floor"
    prose(Text(title, "bold"), "")
    rows: list[tuple[str, Cells]] = []
    for name, floor in named.items():
        numbers = (
            format_bits(floor.bits_per_byte),
            format_bits(floor.nll),
            format_perplexity(floor.perplexity),
            f"{floor.stored:,}",
        )
        sizes = [
            "" if size is None else format_size(size) for size in (floor.bytes, floor.peak_bytes)
        ]
        rows.append((floor_name(name), (*numbers, format_time(floor.seconds), *sizes)))
    table = drawn(
        ("floor", "bits/byte", "nats", "ppl", "n-grams", "training", "size", "peak"),
        rows,
        about={
            "nats": "nats per token",
            "ppl": "perplexity per token",
            "n-grams": "sequences counted",
            "peak": "memory of the counting",
        },
        priorities={"n-grams": 3, "peak": 2},
    )
    seen, there = measured.train_tokens, measured.train_tokens_available
    part = "" if seen == there else f", the first of {there:,}"
    say(table, "")
    prose(
        f"{measured.tokens:,} tokens of {measured.split}, after {seen:,} tokens of train{part}",
        *(Text(f"note: {note}", "yellow") for note in notes),
    )


def tasks(values: Mapping[str, Mapping[str, Any]]) -> None:
    """Print lm-eval's metrics by task, with their 95 % intervals and standard errors."""
    rows: list[tuple[str, Cells]] = []
    for task, metrics in values["tasks"].items():
        for name, metric in metrics.items():
            interval = ""
            if metric["low"] is not None:
                interval = f"{format_number(metric['low'])} to {format_number(metric['high'])}"
            value, error, n = (
                "" if metric[key] is None else format_number(metric[key])
                for key in ("value", "stderr", "n")
            )
            better = metric["better"] or ""
            rows.append((task, (name, value, interval, better, error, n)))
    heads = ("task", "metric", "value", "95 % interval", "better", "standard error", "n")
    priorities = {"standard error": 3, "better": 2}
    say(drawn(heads, rows, wraps=("metric",), priorities=priorities))


def checks(audit: AuditResult) -> None:
    """Print an audit: whether it passed, then every check."""
    tones: dict[str, Tone] = {"pass": "pass", "fail": "fail", "n/a": "quiet"}
    rows: list[tuple[str, Cells]] = []
    for check in audit.checks:
        verdict = Cell(check.verdict, tone=tones[check.verdict])
        numbers = (_checked(check.measured), _checked(check.bound))
        rows.append((check.name, (verdict, *numbers, check.why)))
    failed = [check.name for check in audit.checks if check.verdict == "fail"]
    applied = sum(check.verdict != "n/a" for check in audit.checks)
    verdict = Text(f"Passed: {applied} of {applied} checks", "bold green")
    if not audit.passed:
        counted = f"Failed: {len(failed)} of {applied} checks ({', '.join(failed)})"
        verdict = Text(counted, "bold red")
    prose(verdict, "")
    about = {"verdict": "n/a where a check does not apply", "bound": "where it would fail"}
    heads = ("check", "verdict", "measured", "bound", "found")
    say(drawn(heads, rows, about=about, wraps=("found",)))
    for check in audit.checks:
        if check.verdict == "fail" and check.catches:
            prose(f"{check.name} looks for {check.catches}.")


def _checked(value: float | None) -> Cell:
    return Cell("" if value is None else format_short(value))


T = TypeVar("T")

LONGEST = 30
"""Lines of a list in a terminal; the older ones are counted, and `--all` shows them."""


def _newest(items: list[T], everything: bool) -> tuple[list[T], list[Text]]:
    """Return the items to list, oldest first, and a line about those left out of a terminal."""
    left = 0 if everything or not Terminal().is_terminal else max(0, len(items) - LONGEST)
    note = f"{left} older one{'s' * (left != 1)} not shown; `flyweight ls --all` lists everything"
    return items[left:], [Text(note, "dim")] if left else []


def models(items: list[ListedModel], everything: bool) -> None:
    """Print models by the name to give as MODEL, with their size and newest quality."""
    if not items:
        say(
            "no models yet: `flyweight quickstart` trains some, `flyweight train FILE` one on "
            "your text"
        )
        return
    shown, note = _newest(items, everything)
    rows: list[tuple[str, Cells]] = []
    for item in shown:
        bits = "" if item["bits_per_byte"] is None else format_bits(item["bits_per_byte"])
        where = "" if item["split"] is None else f"{item['corpus'] or 'its text'}, {item['split']}"
        share = item["sparsity"]
        zeros = "" if share is None else f"{100 * share:.1f} %"
        rows.append((item["name"], (bits, format_size(item["bytes"]), where, zeros)))
    heads = ("model", "bits/byte", "size", "measured on", "zeros")
    if all(item["sparsity"] is None for item in shown):  # no model here was pruned
        heads, rows = heads[:-1], [(name, cells[:-1]) for name, cells in rows]
    say(*note, drawn(heads, rows, wraps=("measured on",)))


def listing(found: RunsListing, everything: bool = False) -> None:
    """Print a runs root: artifacts, what is half-made, recipes, and what all of it takes."""
    if not found["items"] and not found["recipes"]:
        say("nothing yet")
        return
    counted = f"{len(found['items'])} artifact{'s' * (len(found['items']) != 1)}"
    recipes_counted = f"{len(found['recipes'])} recipe{'s' * (len(found['recipes']) != 1)}"
    prose(Text(f"{counted}, {recipes_counted}, {format_size(found['bytes'])} in all", "bold"))
    harmed = [each["damaged"] for each in (*found["items"], *found["recipes"]) if each["damaged"]]
    prose(*(Text(each, "red") for each in harmed), "")
    items, note = _newest(found["items"], everything)
    artifacts: list[tuple[str, Cells]] = []
    for item in items:
        took = "" if item["seconds"] is None else format_time(item["seconds"])
        users = _shortly(item["used_by"]) if item["used_by"] else Cell("no recipe", tone="quiet")
        shown = users if item["state"] != "half-made" else ""
        artifacts.append((item["id"], (_state(item), took, format_size(item["bytes"]), shown)))
    heads = ("artifact", "made (UTC)", "took", "size", "used by")
    if artifacts:
        say(*note, drawn(heads, artifacts, wraps=("used by",), priorities={"took": 2}))
    recipes: list[tuple[str, Cells]] = []
    for recipe in found["recipes"]:
        size = format_size(recipe["bytes"])
        recipes.append((recipe["name"], (_finished(recipe), str(recipe["stages"]), size)))
    if recipes:
        say("", drawn(("recipe", "finished (UTC)", "stages", "size"), recipes))
    for recipe in found["recipes"]:
        unfinished = len(recipe["unfinished"]) if recipe["created"] else 0
        counts = (("unfinished", unfinished), ("earlier", len(recipe["earlier"])))
        runs = " and ".join(
            f"{count} {kind} run{'s' * (count != 1)}" for kind, count in counts if count
        )
        if runs:
            prose(
                f"{recipe['name']}: results of {runs} are kept as well; see `flyweight gc "
                f"--dry-run`"
            )


def garbage(found: Garbage) -> None:
    """Print what would be removed and why, and what cannot be."""
    if not found.items:
        say(Text("Nothing to remove: recipes refer to everything here", "bold"), *found.kept)
        return
    rows: list[tuple[str, Cells]] = [
        (item.path.name, (_minute(item.created), format_size(item.bytes), item.why))
        for item in found.items
        if item.kind != "lock"
    ]
    things = _counted(len(rows), len(found.items) - len(rows))
    say(Text(f"{things} can be removed, {format_size(found.bytes)} in all", "bold"))
    if rows:
        heads = ("what", "made (UTC)", "size", "why it can go")
        say("", drawn(heads, rows, wraps=("why it can go",)), "")
    prose(*found.kept)


def _counted(folders: int, locks: int) -> str:
    """Return how many folders and lock files there are: `2 folders and 1 lock file`."""
    counted = ((folders, "folder"), (locks, "lock file"))
    return and_list([f"{count} {name}{'s' * (count != 1)}" for count, name in counted if count])


def removed(done: Garbage) -> None:
    """Print what has been removed."""
    if not done.items:
        garbage(done)
        return
    locks = sum(item.kind == "lock" for item in done.items)
    things = _counted(len(done.items) - locks, locks)
    say(Text(f"Removed {things}, {format_size(done.bytes)}", "bold"))
    prose(*done.kept)


def _minute(date: str | None) -> str:
    return (date or "")[:16].replace("T", " ")


def _state(item: ListedArtifact) -> Cell:
    """Return when an artifact was made, or why it is not one yet."""
    if item["damaged"]:
        return Cell("damaged", tone="fail")
    if item["state"] != "half-made":
        return Cell(_minute(item["created"]))
    step = "" if item["step"] is None else f"step {item['step']}"
    return Cell("being made" if item["being_made"] else "half-made", step, tone="open")


def _finished(recipe: ListedRecipe) -> Cell:
    """Return when a recipe was finished, or why it is not."""
    if recipe["damaged"]:
        return Cell("damaged", tone="fail")
    if not recipe["created"]:
        return Cell("unfinished", tone="open")
    return Cell(_minute(recipe["created"]))


def _shortly(users: list[str]) -> str:
    """Return the first users of an artifact: `quickstart:teacher, quickstart`."""
    return ", ".join(users[:3]) + (f" and {len(users) - 3} more" if len(users) > 3 else "")
