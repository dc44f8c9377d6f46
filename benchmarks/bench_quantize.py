"""What fewer bits cost: bits per byte and bytes of a model in every kind, by nearest rounding and GPTQ.

    python benchmarks/bench_quantize.py [--runs DIR] [--data-dir DIR]

The base of `wikitext2-base.yaml` is stored in every kind, with tables in int8. `more bits` is the
difference to float32, paired on the test split, with its 95 % interval. `stories260k` is a
published model, calibrated on the first nine tenths of a sample of its stories and measured on the
others. `resident` is what a fresh process gains by loading a larger model with random weights.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import wikitext2
from rows import Rows, worker

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
CALIBRATION = 65_536
"""Tokens that GPTQ reads."""

SEPARATOR, STORIES = "<|endoftext|>", "stories260k, TinyStories"


def quantized(source: str, kind: Any, **fields: Any) -> wikitext2.Stage:
    """Return the stage that stores a model in a kind."""
    return {"stage": "quantize", "input": source, "kind": kind, **fields}


def kinds(source: str, **calibration: Any) -> dict[str, wikitext2.Stage]:
    """Return the stages that store a model in every kind, by both roundings."""
    gptq = {"rounding": "gptq", "calibration": {"tokens": CALIBRATION, **calibration}}
    stages: dict[str, wikitext2.Stage] = {}
    for name, kind in KINDS.items():
        stages[name] = quantized(source, kind)
        stages[f"{name}-gptq"] = quantized(source, kind, **gptq)
    return stages


def resident(job: dict[str, Any]) -> dict[str, Any]:
    """Return the bytes that a process gained by loading a model, and those planned for its weights.

    Every page is read once: a mapped page counts from then on. A tiny model is loaded first, so
    that what libraries load at first use is not the model's.
    """
    import psutil

    from flyweight.config.schema import ModelConfig
    from flyweight.model import folder
    from flyweight.model.decoder import Decoder
    from flyweight.spec.flops import weight_bytes

    with tempfile.TemporaryDirectory() as scratch:
        folder.save(Decoder(ModelConfig(vocab_size=8, context=8, dim=8, layers=1)), scratch)
        folder.load(scratch)
    process = psutil.Process()
    before = process.memory_info().rss
    model = folder.load(job["model"])
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.detach().flatten()[:: 4096 // tensor.element_size()].sum()
    gained = process.memory_info().rss - before
    return {"gained": gained, "planned": weight_bytes(model.config, 4)}


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
    for name in KINDS:
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
    for name in KINDS:
        wikitext2.add_pair(rows, STORIES, models, f"{name}-gptq", name, session, **held_out)


def measure_resident(rows: Rows) -> None:
    """Add what a fresh process gains by loading a model of each kind."""
    for kind in ("dense", *KINDS.values()):
        name = kind if isinstance(kind, str) else kind["kind"]
        for metric, value in _resident(kind).items():
            rows.add(name, "12 x 768, 32,768 tokens", metric, 0, value, "bytes")


def _resident(kind: Any) -> dict[str, float]:
    """Return the resident and the planned bytes of a model with random weights, tables of the kind."""
    from flyweight.compression.quantize import quantize
    from flyweight.config.linear_kinds import read_kind
    from flyweight.config.schema import ModelConfig
    from flyweight.model import folder
    from flyweight.model.decoder import Decoder

    shape = {"vocab_size": 32_768, "context": 256, "dim": 768, "layers": 12}
    model = Decoder(ModelConfig.model_validate({**shape, "attention": {"heads": 12}}))
    chosen = read_kind({"kind": kind} if isinstance(kind, str) else kind)
    if not chosen.plain:
        model = quantize(model, chosen, chosen)
    with tempfile.TemporaryDirectory() as scratch:
        folder.save(model, scratch)
        found = worker(__file__, {"model": scratch})
    return {"resident": found["gained"], "planned": found["planned"]}


def main() -> None:
    """Read the options and measure."""
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(resident(json.loads(sys.argv[2]))))
        return
    options = wikitext2.options(__doc__)
    session = Session(runs=options.runs, data_dir=options.data_dir, threads=1)
    rows = Rows("quantize")
    measure(rows, session)
    measure_stories(rows, session, options.data_dir)
    measure_resident(rows)
    print(rows.write())


if __name__ == "__main__":
    main()
