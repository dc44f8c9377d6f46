"""Show the progress of a run on standard error: a live line on a terminal, else plain lines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flyweight.config.units import (
    format_bits,
    format_percent,
    format_rate,
    format_size,
    format_time,
)
from flyweight.core.console import Terminal

PLAIN_EVERY = 10.0
"""Seconds between progress lines where there is no terminal."""

WIDEST_BAR, NARROWEST_BAR = 28, 8
"""Columns of the progress bar; a terminal without room for the narrowest shows the words alone."""


PATIENCE = 2.0
"""Seconds after which a `quiet` display says what is being counted or measured."""


class Display:
    """A watcher of run events; use it as a context manager around the run.

    A `quiet` one shows notes that matter and, once it takes long, what a plan is working on.
    """

    def __init__(self, console: Terminal, quiet: bool = False) -> None:
        self.console = console
        self.quiet = quiet
        self.live: Live | None = None
        self.stage: dict[str, Any] = {}
        self.training: dict[str, Any] = {}
        self.work = ""
        self.grid = ""
        self.printed = 0.0
        self.began = time.monotonic()
        self._events: dict[str, Callable[[dict[str, Any]], None]] = {
            "stage": self._stage,
            "training": self._training,
            "counting": self._counting,
            "packing": self._work,
            "scoring": self._work,
            "validation": self._validation,
            "chosen": self._chosen,
            "planned": self._planned,
            "made": self._made,
            "grid": self._grid,
        }

    def __enter__(self) -> Display:
        if not self.quiet:
            self._start()
        return self

    def _start(self) -> None:
        """Show a live line where there is a terminal."""
        if self.console.is_terminal and self.live is None:
            self.live = Live(
                console=self.console,
                get_renderable=self._view,
                refresh_per_second=5,
                transient=True,
            )
            self.live.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def __call__(self, kind: str, fields: dict[str, Any]) -> None:
        """Take one event."""
        if self.quiet and kind not in ALWAYS:
            return
        if kind in NOTES:
            mark, style, note = NOTES[kind]
            self._say((mark, style), f"{' ' * bool(mark)}{note.format(**fields)}")
        elif kind in self._events:
            self._events[kind](fields)

    def _stage(self, fields: dict[str, Any]) -> None:
        self.stage = fields
        self.training = {}
        self.work = ""
        self.printed = time.monotonic()
        if self.live is None:
            self._say(f"{fields['name']}: {fields['stage']}")

    def _training(self, fields: dict[str, Any]) -> None:
        self.training = fields
        self._plain(lambda: _training_line(fields))

    def _work(self, fields: dict[str, Any]) -> None:
        self.work = fields["what"]
        if fields["done"]:
            self.work += f" {format_percent(fields['done'])}"
        self._plain(lambda: self.work)

    def _counting(self, fields: dict[str, Any]) -> None:
        """Show what is quick as a rule, where it takes longer."""
        new, self.work = fields["what"] != self.work, fields["what"]
        self._start()
        if self.live is None and new and self._is_slow:
            self._say(f"  {self.work}")

    @property
    def _is_slow(self) -> bool:
        return time.monotonic() - self.began > PATIENCE

    def _validation(self, fields: dict[str, Any]) -> None:
        self._say(
            f"  {self.stage.get('name', '')}: step {fields['step']:,}, validation "
            f"{format_bits(fields['nll'])} nats/token"
        )

    def _chosen(self, fields: dict[str, Any]) -> None:
        for line in fields["lines"]:
            self._say(line)

    def _planned(self, fields: dict[str, Any]) -> None:
        for warning in fields["plan"].warnings:
            self._say(("probably over", "yellow"), f" {warning}")

    def _grid(self, fields: dict[str, Any]) -> None:
        remaining = format_time(max(1.0, round(fields["left"])))
        self.grid = f"run {fields['run']} of {fields['of']}, {remaining} left"
        if self.live is None:
            self._say((self.grid, "dim"))

    def _made(self, fields: dict[str, Any]) -> None:
        how = "kept from before" if fields["reused"] else format_time(fields["seconds"])
        stage = self.stage.get("stage", "")
        self._say(("✓", "green"), f" {fields['name']} ", (f"{stage} · {how}", "dim"))

    def _say(self, *parts: str | tuple[str, str]) -> None:
        self.console.print(Text.assemble(*parts), soft_wrap=not self.console.is_terminal)

    def _plain(self, line: Any) -> None:
        if self.live is None and time.monotonic() - self.printed > PLAIN_EVERY:
            self.printed = time.monotonic()
            self._say(f"  {self.stage.get('name', '')}: {line()}")

    def _view(self) -> RenderableType:
        if self.quiet and not self._is_slow:
            return Text()
        elapsed = format_time(max(1.0, round(time.monotonic() - self.began)))
        head = Text.assemble(
            (str(self.stage.get("name", "planning" if self.quiet else "starting")), "bold"),
            f"  {self.stage.get('stage', '')}",
        )
        grid = f"  {self.grid}" if self.grid else ""
        head.append(f"  {elapsed}{grid}", "dim")
        if not self.training:
            return Group(head, Text(f"  {self.work}", "dim"))
        words = Text(_training_line(self.training))
        room = self.console.width - words.cell_len - 2
        if room < NARROWEST_BAR:
            return Group(head, words)
        line = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=1.0, completed=self.training["done"], width=min(room, WIDEST_BAR))
        line.add_row(bar, words)
        return Group(head, line)


def _training_line(fields: dict[str, Any]) -> str:
    """Return step, loss, speed, time left and memory of a training in one line."""
    of = f"/{fields['of']:,}" if fields["of"] else f" ({format_percent(fields['done'])})"
    remaining = format_time(max(1.0, fields["eta"])) if math.isfinite(fields["eta"]) else "?"
    return (
        f"step {fields['step']:,}{of} · loss {format_bits(fields['nll'])} · "
        f"{format_rate(fields['tokens_per_s'])} tokens/s"
        f" · {remaining} left · {format_size(fields['memory'])}"
    )


ALWAYS = ("unknown", "drawing", "counting")
"""Events that are shown even where progress is not."""

NOTES = {
    "all kept": (
        "",
        "",
        "nothing was left to do for {name}: every stage was there already (`flyweight run` and"
        " `train` make a run anew with --fresh)",
    ),
    "measuring": ("", "", "measuring this machine, once ({what})"),
    "late": (
        "over",
        "yellow",
        "budget.time: {limit} had passed after {name}; the rest is measured all the same",
    ),
    "large": (
        "over",
        "yellow",
        "budget.memory: {what} of {name} took {used}, and {limit} are allowed; it was not planned",
    ),
    "unknown": ("note", "yellow", "{note}"),
    "drawing": ("note", "dim", "{note}"),
    "unscored": (
        "note",
        "yellow",
        "{model} came without its corpus: name a text with --data to have its likelihood measured",
    ),
    "measured": ("measured", "cyan", "{what}"),
    "unkept": ("note", "yellow", "{what} could not be read or kept and was measured anew: {why}"),
    "replacing": (
        "note",
        "yellow",
        "the results of another run called {name} will be replaced ({command});"
        " its models are kept. To keep both results, give this run another name",
    ),
    "waiting": ("waiting", "yellow", "for {id}: {why}"),
    "resumed": ("going on", "cyan", "from step {step}"),
    "halved": (
        "note",
        "yellow",
        "{name}: {why} at step {step}; from here on steps are computed in {accumulate} pieces of"
        " {rows} rows, and make the same updates",
    ),
    "left out": ("left out", "yellow", "{name}: {why}"),
    "shard_retried": ("tried again", "yellow", "row {row} of {why}"),
    "shard_skipped": ("left out", "yellow", "from row {row} on: {why}"),
    "remark": ("note", "yellow", "{name}: {remark}"),
    "tracked": ("tracked", "cyan", "{tracker}: {where}"),
    "untracked": (
        "note",
        "yellow",
        "trackers: {tracker} failed and is told nothing more ({why}); the run goes on, and the same"
        " command tells the rest later",
    ),
    "diverged": ("diverged", "yellow", "{name}"),
    "unusable": ("left out", "yellow", "{path}: {why}"),
}
"""Events that are shown in one line: a mark, its style, and the line."""
