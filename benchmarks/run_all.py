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
from collections.abc import Callable
from pathlib import Path

from rows import ROOT

HERE = Path(__file__).parent
BENCHMARKS = {
    "startup": ["bench_startup.py"],
    "objectives": ["bench_objectives.py"],
    "training": ["bench_training.py"],
    "finetuning": ["bench_finetuning.py"],
    "generate": ["bench_generate.py"],
    "controls": ["bench_controls.py"],
    "linear_quant": ["bench_linear_quant.py"],
    "compress": ["bench_compress.py"],
    "pack": ["bench_pack.py"],
    "hub": ["bench_hub.py"],
    "shared": ["bench_shared.py"],
    "plan_memory": ["bench_plan_memory.py"],
    "memory": ["bench_memory.py"],
    "import_packed": ["bench_import_packed.py"],
    "distilqwen3_memory": ["bench_distilqwen3_memory.py"],
    "mistakes": ["bench_mistakes.py"],
    "unshifted": ["bench_unshifted.py"],
    "collapse": ["bench_collapse.py"],
    "quantize": ["bench_quantize.py"],
    "round": ["bench_round.py"],
    "resident": ["bench_resident.py"],
    "structured": ["bench_structured.py"],
    "prune": ["bench_prune.py"],
    "stream": ["bench_stream.py"],
    "train_default": ["bench_train_default.py"],
    "shakespeare": ["bench_shakespeare.py"],
    "ptb": ["bench_ptb.py"],
    "repeated": ["bench_repeated.py"],
    "shakespeare-generations": [
        "bench_shakespeare.py",
        "--recipe",
        str(ROOT / "benchmarks" / "shakespeare-generations.yaml"),
    ],
    "shakespeare-mixed": [
        "bench_shakespeare.py",
        "--recipe",
        str(ROOT / "benchmarks" / "shakespeare-mixed.yaml"),
        *("--seeds", "0", "1", "2"),
    ],
    "shakespeare-distilled": ["bench_shakespeare.py", "--recipe", "shakespeare-distilled"],
    "shakespeare-alone": [
        "bench_shakespeare.py",
        "--recipe",
        str(ROOT / "benchmarks" / "shakespeare-alone.yaml"),
    ],
}


Rows = list[dict[str, str]]


def _values(rows: Rows, metric: str, who: str = "", setting: str = "") -> list[float]:
    """Return the medians of a metric by setting and contestant; `who` and `setting` are parts."""
    groups: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        if row["metric"] == metric and who in row["contestant"] and setting in row["setting"]:
            groups[row["setting"], row["contestant"]].append(float(row["value"]))
    return [statistics.median(values) for values in groups.values()]


def _range(values: list[float]) -> str:
    return f"{min(values):.3g} to {max(values):.3g}"


def _linear_quant(rows: Rows) -> str:
    weights = {who: _values(rows, "weight", who) for who in ("dense", "int8", "nf4")}
    times = {who: _values(rows, "time", who) for who in ("dense", "int8, chosen", "nf4, chosen")}
    ratios = {
        who: statistics.median(times[who]) / statistics.median(times["dense"])
        for who in ("int8, chosen", "nf4, chosen")
    }
    saved = sum(weights["dense"]) / len(weights["dense"])
    nf4 = sum(weights["nf4"]) / len(weights["nf4"])
    return (
        f"NF4 takes {nf4 / saved:.2f} of the dense bytes. Median times over all settings are"
        f" {ratios['int8, chosen']:.2f} of dense in int8 and {ratios['nf4, chosen']:.2f} in NF4."
    )


def _time_of_objectives(rows: list[dict[str, str]]) -> str:
    """Return how long head and loss take, where that was measured."""
    ratios = _values(rows, "ratio of processor_seconds")
    return f", in {_range(ratios)} of its time" if ratios else ""


def _all(rows: Rows, metric: str) -> float:
    """Return a harness's total of a metric."""
    return next(float(r["value"]) for r in rows if (r["setting"], r["metric"]) == ("all", metric))


def _crash(rows: Rows) -> str:
    return (
        f"{_all(rows, 'kills'):.0f} kills, {_all(rows, 'compared_files'):,.0f} files compared:"
        f" {_all(rows, 'faults'):.0f} differ, are half-written or were made twice."
    )


def _fuzz(rows: Rows) -> str:
    malformed = [row for row in rows if row["metric"] == "malformed"]
    tried = sum(float(row["value"]) for row in malformed if "status" not in row["setting"])
    refused = _all(rows, "refused_with_a_message")
    return f"{refused:,.0f} of {tried:,.0f} malformed inputs ended with a message."


def _one(rows: Rows, who: str, metric: str, setting: str = "") -> float:
    """Return the median of a contestant's metric; `setting` is a part."""
    return statistics.median(
        float(row["value"])
        for row in rows
        if (row["contestant"], row["metric"]) == (who, metric) and setting in row["setting"]
    )


def _quantize(rows: Rows) -> str:
    shares = {
        kind: [
            _one(rows, f"{kind}-gptq", "more bits", text) / _one(rows, kind, "more bits", text)
            for text in ("WikiText-2", "stories260k")
        ]
        for kind in ("int4", "int3")
    }
    told = (f"{_range(found)} at {kind}" for kind, found in shares.items())
    return f"GPTQ loses {' and '.join(told)} of what nearest rounding loses."


def _round(rows: Rows) -> str:
    names = ("int3-gptq", "on-int3-gptq", "int3-trained", "int3-distilled")
    gptq, control, trained, distilled = (_one(rows, who, "more bits") for who in names)
    return (
        f"Bits per byte beyond the base's: int3 by GPTQ {gptq:.4f}, trained on and rounded by GPTQ"
        f" {control:.4f}, trained for int3 {trained:.4f}, by distillation {distilled:.4f}."
    )


def _structured(rows: Rows) -> str:
    base = _one(rows, "base", "bits per byte")
    text, taught = (_one(rows, who, "more bits") / base for who in ("recovered", "distilled"))
    speeds = _values(rows, "share of the FLOP ratio")
    return (
        f"With 30 % of the blocks' parameters removed, a forward pass is faster by {_range(speeds)}"
        f" of the ratio of FLOPs. Trained on 10 % of the tokens further the model has {text:.1%}"
        f" more bits per byte, by distillation {taught:.1%}."
    )


def _mistakes(rows: Rows) -> str:
    """Return what padding does to a perplexity, and pruning before training to zeros."""
    batch = "perplexity of one model, scored 16 at once"
    steps = "zeros at step 2"
    padded, score = (_one(rows, who, batch) for who in ("as published", "as it should be"))
    void, kept = (_one(rows, who, steps) for who in ("as published", "as it should be"))
    return (
        f"Counted padding makes a perplexity of {score:.1f} one of {padded:.1f}. Of 80 % zeros"
        f" {void:.0f} % are left after two steps without masks, {kept:.0f} % with them."
        " [The ten mistakes](lightgpt2.md)."
    )


def _prune(rows: Rows) -> str:
    losses = {who: _one(rows, f"{who}-50", "more bits") for who in ("magnitude", "sparsegpt")}
    return (
        f"At 50 % zeros, one-shot, magnitude costs {losses['magnitude']:.3f} bits per byte,"
        f" SparseGPT {losses['sparsegpt']:.3f}."
    )


def _within_bounds(rows: Rows) -> int:
    pairs = zip(_values(rows, "largest violation"), _values(rows, "bound"), strict=True)
    return sum(violation <= bound for violation, bound in pairs)


def _won_texts(rows: Rows) -> list[str]:
    """Return the texts on which flyweight's worst seed is below the others' best."""
    scores: defaultdict[tuple[str, bool], list[float]] = defaultdict(list)
    for row in rows:
        if row["metric"].startswith("bits_per_byte"):
            ours = row["contestant"] == "flyweight train"
            scores[row["setting"], ours].append(float(row["value"]))
    texts = {text for text, _ in scores}
    return [text for text in texts if max(scores[text, True]) < min(scores[text, False])]


def _compress(rows: Rows) -> str:
    """Return what the chosen models lose within a quarter of the bfloat16 file, by model."""
    said = []
    for setting in dict.fromkeys(row["setting"] for row in rows):
        bits = _values(rows, "bits per byte", "model", setting)[0]
        more = [
            float(row["value"])
            for row in rows
            if row["setting"] == setting and row["metric"] == "more than model"
            if row["contestant"] == "compress"
        ]
        said.append(f"{more[0] / bits:.2%} more bits per byte ({setting})")
    return f"`compress` within a quarter of the bfloat16 file: {' and '.join(said)}."


def _stream(rows: Rows) -> str:
    """Return what a stream keeps over kills, and what it takes."""
    ratio = next(row for row in rows if row["metric"] == "peak" and row["unit"] == "times")
    return (
        f"A stream that was killed {_values(rows, 'kills', 'reader')[0]:.0f} times gave"
        f" {_values(rows, 'steps identical')[0]:.0%} of the steps of an undisturbed one. Ten times"
        f" as long, it takes {float(ratio['value']):.3g} times the memory; a training waits"
        f" {_values(rows, 'data wait', '4 x 256')[0]:.2%} of its time for it."
    )


SAYS: dict[str, Callable[[Rows], str]] = {
    "compress": _compress,
    "stream": _stream,
    "collapse": lambda rows: (
        "Sinusoidal positions drown a small token table: initial sensitivity is"
        f" {_values(rows, 'initial sensitivity', 'small', 'as published')[0]:.2f} as published,"
        f" {_values(rows, 'initial sensitivity', 'small', 'embedding std 1')[0]:.2f} with an"
        f" embedding of standard deviation 1, {_values(rows, 'initial sensitivity', 'small', 'RoPE')[0]:.2f} with"
        " rotary positions."
    ),
    "corruption": lambda rows: (
        f"{_all(rows, 'found_and_named'):,.0f} of {_all(rows, 'damages'):,.0f} commands found the"
        " damage and named it."
    ),
    "crash": _crash,
    "crash-finetune": _crash,
    "crash-quickstart": _crash,
    "elsewhere": lambda rows: (
        f"{len([row for row in rows if row['metric'] == 'equal'])} models from elsewhere equal"
        f" transformers, {len([row for row in rows if row['metric'] == 'refused'])} are refused"
        f" with a reason, {len([row for row in rows if row['metric'] == 'different'])} differ."
    ),
    "finetuning": lambda rows: (
        "LoRA fine-tuning has the loss curve of peft on transformers (largest difference"
        f" {_values(rows, 'largest_loss_gap')[0]:.2g} nats), at"
        f" {_values(rows, 'speed_ratio')[0]:.2f} times its steps per second, in"
        f" {_values(rows, 'memory_ratio')[0]:.2f} of its peak memory."
    ),
    "fuzz": _fuzz,
    "fuzz-in-the-runs-root": _fuzz,
    "fuzz-templates-and-links": _fuzz,
    "gguf": lambda rows: (
        "llama.cpp computes what flyweight does: the relative error of logits in f32 is at most"
        f" {max(_values(rows, 'relative logit error', setting=': f32')):.2g}."
    ),
    "hub": lambda rows: (
        "Imports compute what transformers does (relative error at most"
        f" {max(_values(rows, 'relative logit error')):.2g}) and come back unchanged:"
        f" {max(_values(rows, 'tensors changed')):.0f} tensors differ after a round trip."
    ),
    "identities": lambda rows: (
        f"{_within_bounds(rows)} of {len(_values(rows, 'bound'))} identities of counted and built"
        " models hold within their bound."
    ),
    "import_packed": lambda rows: (
        "Packing a checkpoint as it is read takes"
        f" {_range(_values(rows, 'used/limit'))} of the packed model and 1 GB, scaled with the width."
    ),
    "distilqwen3_memory": lambda rows: (
        "Distilling Qwen3-8B as NF4: planned memory is"
        f" {_range(_values(rows, 'ratio'))} times what was used."
    ),
    "linear_quant": _linear_quant,
    "objectives": lambda rows: (
        "Head and loss take"
        f" {_range(_values(rows, 'ratio beyond gradients'))} of the plain version's memory beyond"
        f" the gradients that both hold{_time_of_objectives(rows)}."
    ),
    "pack": lambda rows: (
        f"Packing reads {_range(_values(rows, 'pack_mb_per_s'))} MB/s in"
        f" {_range(_values(rows, 'peak_mb_over_imports'))} MB of memory."
    ),
    "plan_memory": lambda rows: (
        f"Planned memory is {_range(_values(rows, 'ratio'))} times what was used, median"
        f" {statistics.median(_values(rows, 'ratio')):.2f}."
    ),
    "mistakes": _mistakes,
    "prune": _prune,
    "quantize": _quantize,
    "round": _round,
    "shakespeare": lambda rows: (
        f"{_values(rows, 'last 10 %')[0]:.3f} nats per character on nanoGPT's last 10 %."
    ),
    "shared": lambda rows: (
        f"Shared models generate {_range(_values(rows, 'ratio', setting=''))} times as fast as"
        " plain ones of equal depth."
    ),
    "startup": lambda rows: (
        f"`import flyweight` takes {_values(rows, 'seconds', setting='import flyweight')[0]:.2f} s,"
        f" Python alone {_values(rows, 'seconds', setting='python alone')[0]:.2f} s."
    ),
    "structured": _structured,
    "train_default": lambda rows: (
        f"`flyweight train` beats Kneser-Ney counts and nanoGPT's CPU settings on"
        f" {len(_won_texts(rows))} of {len(_values(rows, 'bits_per_byte', 'Kneser-Ney'))} texts,"
        " its worst seed against their best."
    ),
    "training": lambda rows: (
        f"Training is {_range(_values(rows, 'ratio'))} times as fast as transformers' Trainer."
    ),
}
SAYS["shakespeare-distilled"] = SAYS["shakespeare-alone"] = SAYS["shakespeare"]

FOLDED_ROWS = 24
"""A table with more rows than this is folded on the page."""


def tables() -> str:
    """Return docs/benchmarks.md from the CSV files: what each says, then medians and ranges."""
    parts = [
        "# Benchmarks",
        "Made by `make bench` from the CSV files in `results/`, which hold every single measurement"
        " with machine, versions and time. Each line is the median of its repeats, with the lowest"
        " and the highest.",
    ]
    for path in sorted((ROOT / "results").glob("*.csv")):
        with open(path, encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if rows and "contestant" in rows[0]:
            parts += _section(path.stem, rows)
    return "\n\n".join(parts) + "\n"


def _section(name: str, rows: Rows) -> list[str]:
    """Return the heading, what the table says, where it was measured, and the table."""
    groups: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
    for row in rows:
        key = (row["setting"], row["contestant"], row["metric"], row["unit"])
        groups[key].append(float(row["value"]))
    first = rows[0]
    if first["benchmark"] in ("crash", "corruption", "fuzz"):
        totals = {key: values for key, values in groups.items() if key[0] == "all"}
        groups = defaultdict(list, totals)
    lines = ["| setting | who | metric | median | range | n |", "|---|---|---|---:|---:|---:|"]
    for (setting, who, metric, unit), values in groups.items():
        middle, low, high = statistics.median(values), min(values), max(values)
        lines.append(
            f"| {setting} | {who} | {metric} | {middle:,.4g} {unit} |"
            f" {low:,.4g} ... {high:,.4g} | {len(values)} |"
        )
    table = ["\n".join(lines)]
    if len(groups) > FOLDED_ROWS:
        folded = f"<details><summary>All {len(groups)} rows</summary>"
        table = [folded, *table, "</details>"]
    where = f"{first['machine']}, {first['cores']} cores, torch {first['torch']}"
    says = [f"**{SAYS[name](rows)}**"] if name in SAYS else []
    return [f"## {name}", *says, f"{where}, {rows[-1]['time'][:10]}", *table]


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
