"""Exported GGUF files against llama.cpp: worst relative logit error and greedy tokens in common, per model and type.

    python -m pip install -c constraints.txt llama-cpp-python      # builds llama.cpp, for some minutes
    python benchmarks/gguf_check.py [--steps 80] [--tokens 24]

The models are those of the tests: tiny, of every kind that GGUF can hold, trained for a moment on a
short text. The error is the largest difference of any logit over the largest logit of its position,
at the worst position of the prompts and of a passage of the text; greedy tokens follow the prompts.
llama.cpp caches keys and values in float16, its default.

Three more settings take roundings away: "keys and values too" caches them in float32; "of such
weights" is a model whose weights the type holds exactly, and "codes" one that is quantized to int4
(tables int8) and exported with its own codes, so that only llama.cpp's rounding of activations to 8
bits is left.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from rows import ROOT, Rows

from flyweight.compression.quantize import quantize
from flyweight.config.linear_kinds import Int4, Int8
from flyweight.formats import gguf
from flyweight.model import folder as model_folder
from flyweight.model.build import Model

sys.path.insert(0, str(ROOT / "tests"))
from gguf_models import (
    MODELS,
    PROMPTS,
    TEXT,
    LlamaCpp,
    greedy,
    ours,
    relative_error,
    round_to,
    save,
    tokenizer,
)


def measure(rows: Rows, kind: str, steps: int, count: int, folder: Path) -> None:
    known, who = tokenizer(), f"llama-cpp-python {metadata.version('llama-cpp-python')}"
    model = save(folder / "model", known, steps, **MODELS[kind])
    texts = [known.encode(text) for text in (*PROMPTS, TEXT)]
    texts[-1] = texts[-1][:60]
    for type in gguf.TYPES:
        written = gguf.write(folder / "model", folder / f"{type}.gguf", type)
        theirs, setting = LlamaCpp(written.path), f"{kind}: {type}"
        pairs = [
            (greedy(theirs.logits, ids, count), greedy(ours(model), ids, count))
            for ids in texts[:-1]
        ]
        same = [a == b for found, wanted in pairs for a, b in zip(found, wanted, strict=True)]
        rows.add(who, setting, "relative logit error", 0, worst(theirs, model, texts), "")
        rows.add(who, setting, "greedy tokens in common", 0, 100 * sum(same) / len(same), "%")
        rows.add(who, setting, "file", 0, written.bytes / 1000, "kB")
        theirs.close()
    theirs = LlamaCpp(gguf.write(folder / "model", folder / "exact.gguf", "f32").path, exact=True)
    rows.add(
        who,
        f"{kind}: f32, keys and values too",
        "relative logit error",
        0,
        worst(theirs, model, texts),
        "",
    )
    theirs.close()
    quantized = quantize(model, Int4(), Int8())
    model_folder.save(quantized, folder / "model")
    theirs = LlamaCpp(gguf.write(folder / "model", folder / "codes.gguf", "f32").path)
    error = worst(theirs, quantized, texts)
    rows.add(who, f"{kind}: codes of int4 and int8", "relative logit error", 0, error, "")
    theirs.close()
    for type in ("q8_0", "q4_0"):
        model = save(folder / "model", known, steps, **MODELS[kind])
        round_to(model, type)
        model_folder.save(model, folder / "model")
        theirs = LlamaCpp(gguf.write(folder / "model", folder / f"rounded-{type}.gguf", type).path)
        rows.add(
            who,
            f"{kind}: {type} of such weights",
            "relative logit error",
            0,
            worst(theirs, model, texts),
            "",
        )
        theirs.close()


def worst(theirs: LlamaCpp, model: Model, texts: list[list[int]]) -> float:
    return max(relative_error(theirs.logits(ids), ours(model)(ids)) for ids in texts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--tokens", type=int, default=24)
    options = parser.parse_args()
    rows = Rows("gguf")
    for kind in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            measure(rows, kind, options.steps, options.tokens, Path(folder))
    print(rows.write())


if __name__ == "__main__":
    main()
