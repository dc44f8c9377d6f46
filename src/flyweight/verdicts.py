"""Comparisons and the doctor's findings as people read them in a terminal."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flyweight.answers import say
from flyweight.config.units import format_count, format_size
from flyweight.plan.compared import digits

COLOURS = {
    **{"ok": "green", "missing": "yellow", "slow": "yellow", "broken": "red"},
    **{"better": "green", "worse": "red", "undecided": "yellow"},
}


def comparison(found: Any) -> None:
    """Print a comparison, best first, and what it means."""
    reference, same = found.comparison.reference, found.same_tokenizer
    table = Table(box=None, header_style="dim", pad_edge=False)
    heads = ("model", "bits/byte", *(("nats/token",) if same else ()), "difference", "95 % interval", "verdict")
    for head in (*heads, "parameters", "bytes", "FLOPs/token", "FLOPs to make"):
        table.add_column(head, justify="left" if head in ("model", "verdict") else "right")
    for row in found:
        size = found.sizes[row.name]
        if row.paired is None:
            apart = ("", "", Text("the reference", "dim"))
        else:
            bits, n = row.paired.bits_per_byte, digits(row.paired.bits_per_byte)
            apart = (
                f"{bits.value:+.{n}f}",
                f"{bits.low:+.{n}f} ... {bits.high:+.{n}f}",
                Text(row.verdict, COLOURS[row.verdict]),
            )
        table.add_row(
            escape(row.name),
            f"{row.bits_per_byte:.4f}",
            *((f"{row.nll:.4f}",) if same else ()),
            *apart,
            format_count(size.parameters),
            format_size(size.bytes),
            *("" if value is None else format_count(value) for value in (size.forward_per_token, size.training_flops)),
        )
    say(table, "")
    for row, sentence in zip((row for row in found if row.name != reference), found.verdicts(), strict=True):
        say(Text.assemble(("● ", COLOURS[row.verdict]), sentence))
    say(*(Text(f"note: {note}", "dim") for note in found.notes()))


def doctor(found: Any) -> None:
    """Print what a machine can do, group by group, and what to do about what it cannot."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name in ("what", "verdict", "measured", "do"):
        table.add_column(name, overflow="fold", no_wrap=name in ("what", "verdict"), ratio=None if name != "measured" else 1)
    for group, lines in groupby(found.lines, key=lambda line: line.group):
        table.add_row(Text(group, "bold"))
        for line in lines:
            told = Text(line.found)
            if line.remedy:
                told.append(f"\n→ {line.remedy}", "cyan")
            table.add_row(f"  {line.name}", Text(line.verdict, COLOURS[line.verdict]), told)
    broken = [line for line in found.lines if line.verdict == "broken"]
    end = ("everything needed works", "green") if found.ok else ("something needed is broken", "red")
    say(table, "", Text.assemble(end, (f"; {len(broken)} broken in all, measured in {found.seconds:.1f} s", "dim")))
