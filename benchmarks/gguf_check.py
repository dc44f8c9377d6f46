"""Exported GGUF files against llama.cpp: worst relative logit error and greedy tokens in common, per model and type.

    python -m pip install -c constraints.txt llama-cpp-python      # builds llama.cpp, for some minutes
    python benchmarks/gguf_check.py [--steps 80] [--tokens 24]

The models are those of the tests: tiny, of every kind that GGUF can hold, trained for a moment on a short text. The error is
the largest difference of any logit over the largest logit of its position, at the worst position of the prompts and of a
passage of the text; greedy tokens follow the prompts. llama.cpp caches keys and values in float16, its default.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from rows import ROOT, Rows

from flyweight.export import gguf

sys.path.insert(0, str(ROOT / "tests"))
from gguf_models import MODELS, PROMPTS, TEXT, LlamaCpp, greedy, ours, relative_error, save, tokenizer


def measure(rows: Rows, kind: str, steps: int, count: int, folder: Path) -> None:
    known, who = tokenizer(), f"llama-cpp-python {metadata.version('llama-cpp-python')}"
    model = save(folder / "model", known, steps, **MODELS[kind])
    for type in gguf.TYPES:
        written = gguf.write(folder / "model", folder / "model.gguf", type)
        theirs = LlamaCpp(written.path)
        texts = [known.encode(text) for text in PROMPTS]
        pairs = [(greedy(theirs.logits, ids, count), greedy(ours(model), ids, count)) for ids in texts]
        same = [a == b for found, wanted in pairs for a, b in zip(found, wanted, strict=True)]
        worst = max(relative_error(theirs.logits(ids), ours(model)(ids)) for ids in [*texts, known.encode(TEXT)[:60]])
        theirs.close()
        setting = f"{kind}: {type}"
        rows.add(who, setting, "relative logit error", 0, worst, "")
        rows.add(who, setting, "greedy tokens in common", 0, 100 * sum(same) / len(same), "%")
        rows.add(who, setting, "file", 0, written.bytes / 1000, "kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
