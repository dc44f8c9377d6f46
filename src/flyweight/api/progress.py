"""What a run shows while it works: a live line on a terminal, plain lines elsewhere.

Always on standard error.
"""

from __future__ import annotations

import math
import time
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
    """A watcher of run events. Use it as a context manager around the run."""

    def __init__(self, console: Terminal, quiet: bool = False) -> None:
        self.console, self.quiet = console, quiet
        self.live: Live | None = None
        self.stage: dict[str, Any] = {}
        self.training: dict[str, Any] = {}
        self.work = self.grid = ""
        self.printed = 0.0
        self.began = time.monotonic()

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
        if kind == "stage":
            self.stage, self.training, self.work, self.printed = fields, {}, "", time.monotonic()
            if self.live is None:
                self._say(f"{fields['name']}: {fields['stage']}")
        elif kind == "training":
            self.training = fields
            self._plain(lambda: _training_line(fields))
        elif kind in ("packing", "scoring"):
            self.work = (
                f"{fields['what']} {fields['done']:.0%}" if fields["done"] else fields["what"]
            )
            self._plain(lambda: self.work)
        elif kind == "validation":
            self._say(
                f"  {self.stage.get('name', '')}: step {fields['step']}, validation "
                f"{fields['nll']:.4f} nats/token"
            )
        elif kind in NOTES:
            mark, style, note = NOTES[kind]
            self._say((mark, style), f"{' ' * bool(mark)}{note.format(**fields)}")
        elif kind == "chosen":
            for line in fields["lines"]:
                self._say(line)
        elif kind == "planned":
            for warning in fields["plan"].warnings:
                self._say(("probably over", "yellow"), f" {warning}")
        elif kind == "made":
            self._made(fields)
        elif kind == "grid":
            self.grid = (
                f"run {fields['run']} of {fields['of']}, "
                f"{format_time(max(1.0, round(fields['left'])))} left"
            )
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
        head.append(f"  {elapsed}{f'  {self.grid}' if self.grid else ''}", "dim")
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
"""Events that are told where progress is not."""

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
        "budget.time: {limit} had passed after {name}; what is left is measured all the same",
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
"""Events that are told in one line: a mark, its style, and the line."""
