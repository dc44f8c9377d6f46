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

from flyweight.config.units import format_count, format_size, format_time
from flyweight.core.console import Terminal

PLAIN_EVERY = 10.0
"""Seconds between progress lines where there is no terminal."""


class Display:
    """A watcher of run events; use it as a context manager around the run."""

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
            "packing": self._work,
            "scoring": self._work,
            "validation": self._validation,
            "chosen": self._chosen,
            "planned": self._planned,
            "made": self._made,
            "grid": self._grid,
        }

    def __enter__(self) -> Display:
        if self.console.is_terminal and not self.quiet:
            self.live = Live(
                console=self.console,
                get_renderable=self._view,
                refresh_per_second=5,
                transient=True,
            )
            self.live.start()
        return self

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
            self.work += f" {fields['done']:.0%}"
        self._plain(lambda: self.work)

    def _validation(self, fields: dict[str, Any]) -> None:
        self._say(
            f"  {self.stage.get('name', '')}: step {fields['step']}, validation "
            f"{fields['nll']:.4f} nats/token"
        )

    def _chosen(self, fields: dict[str, Any]) -> None:
        for line in fields["lines"]:
            self._say(line)

    def _planned(self, fields: dict[str, Any]) -> None:
        for warning in fields["plan"].warnings:
            self._say(("probably over", "yellow"), f" {warning}")

    def _grid(self, fields: dict[str, Any]) -> None:
        left = format_time(max(1.0, round(fields["left"])))
        self.grid = f"run {fields['run']} of {fields['of']}, {left} left"
        if self.live is None:
            self._say((self.grid, "dim"))

    def _made(self, fields: dict[str, Any]) -> None:
        how = "kept from before" if fields["reused"] else format_time(fields["seconds"])
        stage = self.stage.get("stage", "")
        self._say(("✓", "green"), f" {fields['name']} ", (f"{stage} · {how}", "dim"))

    def _say(self, *parts: str | tuple[str, str]) -> None:
        self.console.print(Text.assemble(*parts), soft_wrap=True)

    def _plain(self, line: Any) -> None:
        if self.live is None and time.monotonic() - self.printed > PLAIN_EVERY:
            self.printed = time.monotonic()
            self._say(f"  {self.stage.get('name', '')}: {line()}")

    def _view(self) -> RenderableType:
        elapsed = format_time(max(1.0, round(time.monotonic() - self.began)))
        head = Text.assemble(
            (str(self.stage.get("name", "starting")), "bold"), f"  {self.stage.get('stage', '')}"
        )
        grid = f"  {self.grid}" if self.grid else ""
        head.append(f"  {elapsed}{grid}", "dim")
        if not self.training:
            return Group(head, Text(f"  {self.work}", "dim"))
        line = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=1.0, completed=self.training["done"], width=28)
        line.add_row(bar, Text(_training_line(self.training)))
        return Group(head, line)


def _training_line(fields: dict[str, Any]) -> str:
    """Return step, loss, speed, time left and memory of a training in one line."""
    of = f"/{fields['of']}" if fields["of"] else f" ({fields['done']:.0%})"
    left = format_time(max(1.0, fields["eta"])) if math.isfinite(fields["eta"]) else "?"
    return (
        f"step {fields['step']}{of} · loss {fields['nll']:.3f} · "
        f"{format_count(fields['tokens_per_s'])} tokens/s"
        f" · {left} left · {format_size(fields['memory'])}"
    )


ALWAYS = ("unknown", "drawing")
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
    "left out": ("left out", "yellow", "{name}: {why}"),
    "diverged": ("diverged", "yellow", "{name}"),
    "unusable": ("left out", "yellow", "{path}: {why}"),
}
"""Events that are shown in one line: a mark, its style, and the line."""
