"""`make bench`: every figure that the README claims, measured anew: long-form CSV in results/, tables in docs/benchmarks.md.

    python benchmarks/run_all.py [--only training objectives startup linear_quant pack hub shared
    collapse shakespeare ...]

Run it on an idle machine. A figure that misses its goal is written down like any other; nothing
here fails because of a number.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from rows import ROOT

HERE = Path(__file__).parent
BENCHMARKS = {
    "startup": ["bench_startup.py"],
    "objectives": ["bench_objectives.py"],
    "training": ["bench_training.py"],
    "linear_quant": ["bench_linear_quant.py"],
    "pack": ["bench_pack.py"],
    "hub": ["bench_hub.py"],
    "shared": ["bench_shared.py"],
    "plan_memory": ["bench_plan_memory.py"],
    "collapse": ["bench_collapse.py"],
    "train_default": ["bench_train_default.py"],
    "shakespeare": ["bench_shakespeare.py"],
    "shakespeare-distilled": ["bench_shakespeare.py", "--recipe", "shakespeare-distilled"],
    "shakespeare-alone": [
        "bench_shakespeare.py",
        "--recipe",
        str(ROOT / "benchmarks" / "shakespeare-alone.yaml"),
    ],
}


def tables() -> str:
    """Return docs/benchmarks.md from the CSV files that are there: the median and the range of every setting."""
    parts = [
        "# Benchmarks",
        "Made by `make bench` from the CSV files in `results/`, which hold every single "
        "measurement with machine, versions and"
        " time. Each line is the median of its repeats, with the lowest and the highest.",
    ]
    for path in sorted((ROOT / "results").glob("*.csv")):
        groups: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
        with open(path, encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if not rows or "contestant" not in rows[0]:
            continue
        for row in rows:
            groups[row["setting"], row["contestant"], row["metric"], row["unit"]].append(
                float(row["value"])
            )
        if rows[0]["benchmark"] in ("crash", "corruption", "fuzz"):
            groups = defaultdict(
                list, {key: values for key, values in groups.items() if key[0] == "all"}
            )
        first = rows[0]
        parts.append(f"## {path.stem}")
        parts.append(
            f"{first['machine']}, {first['cores']} cores, torch {first['torch']}, "
            f"{rows[-1]['time'][:10]}"
        )
        lines = ["| setting | who | metric | median | range | n |", "|---|---|---|---:|---:|---:|"]
        for (setting, who, metric, unit), values in groups.items():
            middle, low, high = statistics.median(values), min(values), max(values)
            lines.append(
                f"| {setting} | {who} | {metric} | {middle:,.4g} {unit} | {low:,.4g} ... "
                f"{high:,.4g} | {len(values)} |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        nargs="*",
        choices=BENCHMARKS,
        default=list(BENCHMARKS),
        help="none: only the tables anew",
    )
    for name in parser.parse_args().only:
        print(f"== {name}", file=sys.stderr)
        script, *words = BENCHMARKS[name]
        subprocess.run([sys.executable, str(HERE / script), *words], check=True, cwd=ROOT)
    (ROOT / "docs" / "benchmarks.md").write_text(tables(), encoding="utf-8")


if __name__ == "__main__":
    main()
