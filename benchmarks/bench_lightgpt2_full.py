"""The recipe `lightgpt2` at its full shapes: every stage for a few steps, on random weights in the published layout.

    python benchmarks/bench_lightgpt2_full.py [--protocol published] [--steps 2] [--batch 16] [--without STAGE ...]

GPT-2 and GPT-2 Medium are written as folders of Hugging Face with GPT-2's tokenizer, and take the
place of the hub's. The text is the beginning of WikiText-2. Losses mean nothing here: planned and used memory,
seconds of a step and the stages that ran are what is measured.                                   results/lightgpt2_full_PROTOCOL.csv
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rows import ROOT, Rows
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

SHAPES = {
    "gpt2": {"n_embd": 768, "n_layer": 12, "n_head": 12},
    "gpt2-medium": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
}
CHARACTERS = {"train": 60_000, "valid": 6_000, "test": 6_000}
"""How much of each split is read."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--protocol", default="repaired")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--data-dir", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without", nargs="*", default=[], help="stages to leave out")
    parser.add_argument("--keep", type=Path, help="keep the runs root here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        for name, shape in SHAPES.items():
            _write(here / name, shape, options.data_dir / "tokenizers" / "gpt2")
        _shorten(options.data_dir / "wikitext-2", here / "data" / "wikitext-2")
        runs = options.keep or here / "runs"
        began = time.monotonic()
        answer = subprocess.run(
            _command(options, here, runs), stdout=subprocess.PIPE, text=True, check=True
        )
        seconds = time.monotonic() - began
    _rows(json.loads(answer.stdout), options.protocol, seconds)


def _write(folder: Path, shape: dict[str, int], tokenizer: Path) -> None:
    """Write random weights of GPT-2's layout, with GPT-2's tokenizer."""
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(**shape)).save_pretrained(folder)
    GPT2TokenizerFast(str(tokenizer / "vocab.json"), str(tokenizer / "merges.txt")).save_pretrained(
        folder
    )


def _shorten(source: Path, out: Path) -> None:
    """Write the beginning of each split, up to a whole line."""
    out.mkdir(parents=True)
    for split, size in CHARACTERS.items():
        text = (source / f"{split}.txt").read_text(encoding="utf-8")[:size]
        (out / f"{split}.txt").write_text(text[: text.rindex("\n") + 1], encoding="utf-8")


def _command(options: argparse.Namespace, here: Path, runs: Path) -> list[str]:
    words = [
        f"protocol={options.protocol}",
        *(f"sources.{name}={here / name}" for name in SHAPES),
        "train.epochs=null",
        f"train.steps={options.steps}",
        f"train.batch={options.batch}",
        "train.schedule.warmup=0.0",
        "train.schedule.tail=none",
        "train.keep=last",
        "train.validations=1",
        "train.validation_tokens=2048",
        "report.measure=[evaluate]",
        "name=lightgpt2-full",
    ]
    return [
        *(sys.executable, "-m", "flyweight", "run", "lightgpt2", *words),
        *("--runs", str(runs), "--data-dir", str(here / "data"), "--json"),
        *("--threads", str(options.threads)),
        *(word for stage in options.without for word in ("--without", stage)),
    ]


def _bench_rows(rows: Rows, protocol: str, name: str, bench: dict) -> None:
    """Add what a stage `bench` measured: random weights are as fast as any others."""
    for metric in ("forward_ms", "decode_tokens_per_s", "peak_bytes"):
        found = bench[metric]
        rows.add("flyweight", protocol, f"{name}: {metric}", 0, found["value"], found["unit"])


def _rows(summary: dict, protocol: str, seconds: float) -> None:
    rows = Rows("lightgpt2_full")
    for stage in summary["stages"]:
        name = stage["name"]
        rows.add("flyweight", protocol, f"{name}: seconds", 0, stage["seconds"], "s")
        if stage["bench"]:
            _bench_rows(rows, protocol, name, stage["bench"])
        if memory := stage["memory"]:
            rows.add(
                "flyweight", protocol, f"{name}: planned memory", 0, memory["planned"], "bytes"
            )
            if memory["used"] is not None:
                rows.add("flyweight", protocol, f"{name}: used memory", 0, memory["used"], "bytes")
    for model in summary["models"]:
        unique = model["parameters"]["unique"]
        rows.add("flyweight", protocol, f"{model['name']}: parameters", 0, unique, "parameters")
        rows.add("flyweight", protocol, f"{model['name']}: file", 0, model["disk_bytes"], "bytes")
    if not any(stage["reused"] for stage in summary["stages"]):
        rows.add("flyweight", protocol, "whole command", 0, seconds, "s")
    print(rows.write(f"lightgpt2_full_{protocol}"))


if __name__ == "__main__":
    main()
