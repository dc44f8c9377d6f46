"""What fewer bits cost: bits per byte and bytes of a model in every kind, by nearest rounding and GPTQ.

    python benchmarks/bench_quantize.py [--runs DIR] [--data-dir DIR]

The base of `wikitext2-base.yaml` is stored in every kind, with tables in int8. `more bits` is the
difference to float32, paired on the test split, with its 95 % interval. `stories260k` is a
published model, calibrated on the first nine tenths of a sample of its stories and measured on the
others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import wikitext2
from rows import Rows

import flyweight as fw
from flyweight.api import Session
from flyweight.config import load

KINDS: dict[str, Any] = {
    "int8": "int8",
    "int8_dynamic": "int8_dynamic",
    "nf4": "nf4",
    "int4": {"kind": "int4", "group": 32},
    "int3": {"kind": "int3", "group": 32},
}
BY_GPTQ = ("nf4", "int4", "int3")
"""Kinds that are rounded by GPTQ as well: int8 loses next to nothing."""

CALIBRATION = 65_536
"""Tokens that GPTQ reads."""

SEPARATOR, STORIES = "<|endoftext|>", "stories260k, TinyStories"


def quantized(source: str, kind: Any, **fields: Any) -> wikitext2.Stage:
    """Return the stage that stores a model in a kind."""
    return {"stage": "quantize", "input": source, "kind": kind, **fields}


def kinds(source: str, **calibration: Any) -> dict[str, wikitext2.Stage]:
    """Return the stages that store a model in every kind, and by GPTQ."""
    gptq = {"rounding": "gptq", "calibration": {"tokens": CALIBRATION, **calibration}}
    stages: dict[str, wikitext2.Stage] = {}
    for name, kind in KINDS.items():
        stages[name] = quantized(source, kind)
        if name in BY_GPTQ:
            stages[f"{name}-gptq"] = quantized(source, kind, **gptq)
    return stages


def measure(rows: Rows, session: Session) -> None:
    """Store the base in every kind and add what that costs, in bits per byte and in bytes."""
    stages = {"tables": quantized(wikitext2.BASE, "dense"), **kinds(wikitext2.BASE)}
    result = wikitext2.run("bench-quantize", stages, stages, session)
    models = wikitext2.references("bench-quantize", stages)
    wikitext2.add_comparison(rows, wikitext2.SETTING, models, session)
    for name in models:
        size = (result[name].path / "model" / "model.safetensors").stat().st_size
        rows.add(name, wikitext2.SETTING, "file", 0, size, "bytes")
        if rounding := result[name].facts.get("rounding"):
            rows.add(name, wikitext2.SETTING, "rounding", 0, rounding["seconds"], "s")
    for name in BY_GPTQ:
        wikitext2.add_pair(rows, wikitext2.SETTING, models, f"{name}-gptq", name, session)


def measure_stories(rows: Rows, session: Session, data: Path) -> None:
    """Round a published model on its stories, and add what that costs on others of them."""
    model, text = str(data / "stories260k"), str(data / "tinystories" / "train-sample-2MiB.txt")
    read = {"corpus": text, "separator": SEPARATOR, "context": 512}
    stages = kinds(model, data=read)
    recipe = {"name": "bench-stories", "stages": stages, "report": {"measure": []}}
    fw.run(load.recipe(recipe), session=session)
    models = {"base": model, **{name: f"bench-stories:{name}" for name in stages}}
    held_out: dict[str, Any] = {"data": text, "separator": SEPARATOR, "split": "validation+test"}
    wikitext2.add_comparison(rows, STORIES, models, session, **held_out)
    for name in BY_GPTQ:
        wikitext2.add_pair(rows, STORIES, models, f"{name}-gptq", name, session, **held_out)


def main() -> None:
    """Quantize, compare, and write the rows."""
    options = wikitext2.parser(__doc__).parse_args()
    session = Session(runs=options.runs, data_dir=options.data_dir, threads=1)
    rows = Rows("quantize")
    measure(rows, session)
    measure_stories(rows, session, options.data_dir)
    print(rows.write())


if __name__ == "__main__":
    main()
