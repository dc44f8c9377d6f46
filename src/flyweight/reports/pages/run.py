"""The report of finished runs as one self-contained HTML page, with its table in Markdown and CSV beside it.

The page has no script and refers to nothing outside itself; its own content policy forbids it to
load anything. Text is escaped by the template engine, after what is invisible in it has been made
visible.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyweight.config.units import format_count, format_size, format_time
from flyweight.core.files import write_text
from flyweight.errors import RequestError
from flyweight.records.run_summary import AuditCheck, BudgetLine, Sample, Summary
from flyweight.reports.figures import run as plots
from flyweight.reports.findings import run as words
from flyweight.reports.findings.advice import Advice, advice
from flyweight.reports.findings.distillation import other_shape
from flyweight.reports.models import Group, RankedModel, groups, ranked_models
from flyweight.reports.tables import run as tables
from flyweight.visible import visible

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

PAGE, MARKDOWN, CSV = "report.html", "table.md", "table.csv"

GLYPHS: dict[str, str] = dict(zip(plots.SHAPES, "●■▲◆▼✚✖⬟★⬢◀▶", strict=True))
_CHIPS = {
    "paid": "paid",
    "not paid": "did not pay",
    "undecided": "undecided",
    "warning": "caution",
    "note": "note",
}


def write(run_folder: Path) -> Path:
    """Write `report.html`, `table.md` and `table.csv` into a finished run's folder and return the page's path.

    Raises RequestError where the folder has no summary, FlyweightError where it is damaged or the
    files cannot be written.
    """
    return _write_folder([Summary.read(run_folder)], run_folder)


def write_many(run_folders: Sequence[Path], out: Path) -> Path:
    """Write the same three files about one or several finished runs into the folder `out` and return the page's path.

    Where `out` ends in `.html` it is the page, and nothing else is written.
    """
    folders = list({folder.resolve(): folder for folder in run_folders}.values())
    if not folders:
        raise RequestError(
            "a report needs at least one run: name a finished run's folder, such as runs/quickstart"
        )
    refuse_place(out)
    summaries = [Summary.read(folder) for folder in folders]
    if not is_page(out):
        return _write_folder(summaries, out)
    write_text(out, render(summaries))
    return out


def is_page(out: Path) -> bool:
    """Whether a place for a report names the page itself rather than a folder."""
    return out.suffix.lower() in (".html", ".htm")


def refuse_place(out: Path) -> None:
    """Raise RequestError where no report can be written: a page that is a folder already, a folder that is a file."""
    if is_page(out) and out.is_dir():
        raise RequestError(
            f"--out {out}: this is a folder; name a file for the page, or a folder that does not "
            f"end in {out.suffix}"
        )
    if not is_page(out) and out.exists() and not out.is_dir():
        raise RequestError(
            f"--out {out}: this is a file; name a folder for the report, or a page that ends in "
            f".html"
        )


def _write_folder(summaries: Sequence[Summary], out: Path) -> Path:
    grouped = groups(ranked_models(summaries))
    write_text(out / MARKDOWN, "\n".join(tables.markdown(group) for group in grouped))
    write_text(out / CSV, tables.long_csv(grouped))
    write_text(out / PAGE, render(summaries, grouped))
    return out / PAGE


# --- what the template is given ---


@dataclass(frozen=True)
class Section:
    """Everything about the models of one text: which to take, figures and table."""

    group: Group
    advice: Advice | None
    table: tables.Table
    ranking: plots.Drawing | None
    quality: list[plots.Drawing]
    curves: list[tuple[plots.Drawing, ...]]
    """Each training figure against compute and against time: one is shown, a switch shows the other."""


@dataclass(frozen=True)
class AuditRow:
    """One check over all models, in their order.

    None where a model was not audited or lacks the check.
    """

    name: str
    bound: float | None
    cells: tuple[AuditCheck | None, ...]


@dataclass(frozen=True)
class Bar:
    """One line of a budget as a bar: shares of its limit, in percent, at most 100."""

    line: BudgetLine
    used: float
    planned: float | None
    text: str


def render(summaries: Sequence[Summary], grouped: Sequence[Group] | None = None) -> str:
    """Return the page about one or several runs.

    `grouped` are their models, where known already.
    """
    grouped = groups(ranked_models(summaries)) if grouped is None else grouped
    found = [each for group in grouped for each in group.models]
    single = len(summaries) == 1
    sections = [_section(group, f"g{index}-") for index, group in enumerate(grouped)]
    audited = [each for each in found if each.model.audit]
    parts = [grouped] if single else [groups(ranked_models([summary])) for summary in summaries]
    return (
        environment({each.label: each.colour % 8 for each in found})
        .from_string(resource("page.html"))
        .render(
            css=markup(resource("page.css")),
            title=" and ".join(summary.name for summary in summaries[:3])
            + (" and others" if len(summaries) > 3 else ""),
            summaries=summaries,
            single=single,
            findings=words.findings(summaries[0], grouped)
            if single
            else words.across(summaries, grouped),
            sections=sections,
            other_shapes={each.label for each in found if other_shape(each, found)},
            samples=_samples(grouped),
            audited=audited,
            audit=_audit(audited),
            reasons=_reasons(audited),
            bars=[[_bar(line) for line in summary.budget] for summary in summaries],
            headlines=[[] if single else _headlines(part) for part in parts],
            commands=[
                _commands(summary, part) for summary, part in zip(summaries, parts, strict=True)
            ],
            legend=list(dict.fromkeys(text for s in sections for text in tables.legend(s.table))),
            glossary=dict(line for s in sections for line in tables.glossary(s.table)),
            chips=_CHIPS,
        )
    )


def _section(group: Group, prefix: str) -> Section:
    ranking, quality = plots.ranking(group, prefix), plots.quality(group, prefix)
    table, curves = tables.table(group), plots.curves(group, prefix)
    pairs = [tuple(curves[at : at + 2]) for at in range(0, len(curves), 2)]
    return Section(group, advice(group), table, ranking, quality, pairs)


def _headlines(part: Sequence[Group]) -> list[str]:
    """Return which models to take from one of several runs."""
    return [found.title for group in part if (found := advice(group)) is not None]


SHOWN_SAMPLES = 3
"""Models whose samples stand open on the page; those of the others are folded."""


@dataclass(frozen=True)
class Samples:
    """Continuations of one prompt: those of the best models, and those of all others."""

    prompt: str
    best: list[tuple[RankedModel, Sample]]
    rest: list[tuple[RankedModel, Sample]]


def _samples(grouped: Sequence[Group]) -> list[Samples]:
    """Return the continuations of every prompt, best model first; the unranked come last."""
    by_prompt: dict[str, list[tuple[RankedModel, Sample]]] = {}
    for group in grouped:
        unranked = [each for each in group.models if each.standing != "ok"]
        for each in (*group.rankable, *unranked):
            for sample in each.model.samples:
                by_prompt.setdefault(sample.prompt, []).append((each, sample))
    return [
        Samples(prompt, texts[:SHOWN_SAMPLES], texts[SHOWN_SAMPLES:])
        for prompt, texts in by_prompt.items()
    ]


def _audit(audited: Sequence[RankedModel]) -> list[AuditRow]:
    checks = [
        {check.name: check for check in each.model.audit.checks} if each.model.audit else {}
        for each in audited
    ]
    rows = []
    for name in dict.fromkeys(name for one in checks for name in one):
        cells = tuple(one.get(name) for one in checks)
        bounds = [cell.bound for cell in cells if cell and cell.bound is not None]
        rows.append(AuditRow(name, bounds[0] if bounds else None, cells))
    return rows


def _reasons(audited: Sequence[RankedModel]) -> list[tuple[str, str, str, list[str]]]:
    """Return (verdict, check, reason, models) for every check that failed or did not apply, alike ones together."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for each in audited:
        for check in each.model.audit.checks if each.model.audit else ():
            if check.verdict != "pass":
                found.setdefault((check.verdict, check.name, check.why), []).append(each.label)
    return [
        (*key, names) for key, names in sorted(found.items(), key=lambda item: item[0][0] != "fail")
    ]


def _commands(summary: Summary, part: Sequence[Group]) -> list[str]:
    """Return what made this run, and how to try its best model."""
    ranked = [each for group in part for each in group.rankable]
    model = ranked[0].model if ranked else summary.models[0]
    prompt = model.samples[0].prompt if model.samples else "Once"
    return [
        summary.command,
        f"flyweight generate {summary.name}:{model.name} {shlex.quote(prompt)}",
    ]


def _bar(line: BudgetLine) -> Bar:
    whole = line.limit or max(line.used or 0.0, line.planned or 0.0) or 1.0
    planned = None if line.planned is None else min(100.0, 100 * line.planned / whole)
    return Bar(
        line,
        min(100.0, 100 * (line.used or 0.0) / whole),
        planned,
        words.budget_line(line).partition(": ")[2],
    )


# --- the template's tools ---


def resource(name: str) -> str:
    """Return a file of this package."""
    return resources.files("flyweight.reports.pages").joinpath(name).read_text(encoding="utf-8")


def markup(text: str) -> Markup:
    """Return text of our own that the page takes as it is."""
    from markupsafe import Markup

    return Markup(text)  # our own style sheet and figures, whose texts are escaped already


def _measured(value: float | None) -> str:
    return "" if value is None else re.sub(r"e([+-])0", r"e\1", f"{value:.2g}").replace("e+", "e")


def environment(colours: Mapping[str, int]) -> Environment:
    """Return the template engine: it escapes everything, and undefined names are errors.

    `colours` are those of names.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    def seen(value: Any) -> Any:
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    def name(match: re.Match[str]) -> str:
        colour = colours.get(match[1])
        return match[1] if colour is None else f'<span class="name s{colour}">{match[1]}</span>'

    def prose(text: str) -> Markup:
        text = re.sub(
            r"(?<=\d) (?=%|[kMGT]?B\b|ms\b|s\b|min\b|h\b|times\b)",
            "\N{NO-BREAK SPACE}",
            visible(text),
        )
        return Markup(re.sub(r"`([^`]*)`", name, str(escape(text))))

    made = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=seen,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "prose": prose,
        "svg": lambda drawing: markup(drawing.svg),
        "size": format_size,
        "count": format_count,
        "time": format_time,
        "glyph": lambda ranked: GLYPHS[plots.SHAPES[ranked.shape % len(plots.SHAPES)]],
        "colour": lambda ranked: ranked.colour % 8,
        "measured": _measured,
        "percent": words.percent,
    }
    return made
