"""The ten mistakes of the LightGPT2 paper, made on purpose: what each does to a number.

    python benchmarks/bench_mistakes.py [--quick] [--only 1 4 ...] [--data-dir ../shared/data]

Models are GPT-2 in a small shape, trained here on lines of WikiText-2. Everything has one thread.
Seconds are those of the process on the processor, and contestants take turns, so that a ratio holds
where other work runs beside it. The tables of docs/lightgpt2.md are written from the same rows;
`--only` with no number writes them from the last run's, and `--quick`, which is for tests, none.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import mistakes_of_cost as cost
import mistakes_of_scores as scores
import torch
from mistakes_lab import PUBLISHED, QUICK, RIGHT, Lab, Size, Table
from rows import RESULTS, ROOT, Rows

NAME = "mistakes"
PAGE = ROOT / "docs" / "lightgpt2.md"
MISTAKES: dict[int, Callable[[Lab, Table], None]] = {
    1: scores.padding,
    2: scores.factor,
    3: scores.distillation,
    4: scores.pruning,
    5: cost.memory,
    6: cost.flash,
    7: cost.precision,
    8: cost.merging,
    9: cost.latency,
    10: scores.selection,
}


def write_page() -> None:
    """Write the tables of docs/lightgpt2.md from results/mistakes.csv."""
    with open(RESULTS / f"{NAME}.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    page = PAGE.read_text(encoding="utf-8")
    for mistake in MISTAKES:
        lines = table_of([row for row in rows if number_of(row) == mistake])
        begin, end = f"<!-- mistake {mistake} -->", "<!-- end -->"
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = "\n".join([before + begin, "", *lines, "", end + after])
    PAGE.write_text(page, encoding="utf-8")


def number_of(row: Mapping[str, str]) -> int:
    """Return which mistake a row is about."""
    return int(row["setting"].split()[0])


def table_of(rows: Sequence[dict[str, str]]) -> list[str]:
    """Return the Markdown table of a mistake: medians, and ranges of what was measured repeatedly."""
    lines = [f"| measured | {PUBLISHED} | {RIGHT} |", "|---|---:|---:|"]
    for metric in dict.fromkeys(row["metric"] for row in rows):
        cells = []
        for who in (PUBLISHED, RIGHT):
            found = [row for row in rows if (row["metric"], row["contestant"]) == (metric, who)]
            cells.append(
                _cell([float(row["value"]) for row in found], found[0]["unit"]) if found else ""
            )
        lines.append(f"| {metric} | {' | '.join(cells)} |")
    return lines


def _cell(values: Sequence[float], unit: str) -> str:
    """Return a median with its unit and, where values differ, their range."""
    text = f"{statistics.median(values):.3g} {unit}".strip()
    if min(values) == max(values):
        return text
    return f"{text} ({min(values):.3g} ... {max(values):.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="*", type=int, choices=MISTAKES, default=list(MISTAKES))
    parser.add_argument("--data-dir", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--worker", type=json.loads)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.worker:
        print(json.dumps(cost.measured(**options.worker)))
        return
    rows = Rows(NAME)
    rows.read()
    rows.found = [row for row in rows.found if number_of(row) not in options.only]
    lab = Lab(QUICK if options.quick else Size(), options.data_dir, rows)
    for mistake in options.only:
        began = time.monotonic()
        make = MISTAKES[mistake]
        make(lab, Table(rows, f"{mistake} {make.__name__}"))
        print(f"{mistake}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    rows.found.sort(key=number_of)
    rows.write()
    if not options.quick:
        write_page()


if __name__ == "__main__":
    main()
