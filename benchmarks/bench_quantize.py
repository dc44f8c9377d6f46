"""What fewer bits cost: bits per byte and bytes of one model in every kind, by nearest rounding, GPTQ and training.

    python benchmarks/bench_quantize.py [--corpus tiny-shakespeare] [--layers 4] [--dim 128]
        [--steps 600] [--tokens 65536] [--runs DIR]

One decoder is trained in float32. All ways start from it, with tables in int8 but for `float32`.
`trained for int3` goes on for 5 % of the steps with blocks rounded as they are read, and is then
rounded to nearest; `trained on` goes on as long without rounding, and is then rounded by GPTQ. Of
both there are three learning rates, of which validation text chooses. Nothing is chosen on the test
split. `more bits` is the difference to float32, paired on the test split, with its 95 % interval.
`resident` is what a fresh process gains by loading a larger model with random weights in each kind.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from rows import Rows, worker

KINDS: dict[str, Any] = {
    "int8": "int8",
    "int8_dynamic": "int8_dynamic",
    "nf4": "nf4",
    "int4": {"kind": "int4", "group": 32},
    "int3": {"kind": "int3", "group": 32},
}
RATES = (3e-3, 1e-3, 3e-4)


def recipe(options: argparse.Namespace) -> dict[str, Any]:
    """Return the recipe: a model, and every way to store it."""
    gptq = {"rounding": "gptq", "calibration": {"tokens": options.tokens}}
    stages: dict[str, Any] = {"float32": {"stage": "pretrain"}}
    stages["tables"] = _quantized("float32", "dense")
    for name, kind in KINDS.items():
        stages[name] = _quantized("float32", kind)
        stages[f"{name}-gptq"] = _quantized("float32", kind, **gptq)
    for name, fields in (("for-int3", {"round": KINDS["int3"]}), ("on", {})):
        for place, rate in enumerate(RATES):
            train = {
                "steps": max(1, options.steps // 20),
                "optimizer": {"kind": "adamw", "lr": rate},
            }
            stages[f"{name}-{place}"] = {
                "stage": "finetune",
                "input": "float32",
                "method": "full",
                "train": train,
                **fields,
            }
        among = [f"{name}-{place}" for place in range(len(RATES))]
        stages[f"trained-{name}"] = {"stage": "select", "among": among}
    stages["int3-trained"] = _quantized("trained-for-int3", KINDS["int3"])
    stages["on-int3"] = _quantized("trained-on", KINDS["int3"])
    stages["on-int3-gptq"] = _quantized("trained-on", KINDS["int3"], **gptq)
    compared = [name for name, stage in stages.items() if stage["stage"] == "quantize"]
    return {
        "name": "bench-quantize",
        "data": {"corpus": options.corpus, "tokenizer": options.tokenizer, "context": 256},
        "model": {
            "dim": options.dim,
            "layers": options.layers,
            "mlp": "relu2",
            "norm": "layernorm",
            "init": {"zero_out": True},
        },
        "train": {
            "steps": options.steps,
            "batch": 8,
            "precision": "fp32",
            "optimizer": {"kind": "muon", "lr": 0.02, "rest": {"lr": 6e-3}},
            "schedule": {"warmup": 0.05, "tail": "linear", "tail_from": 0.3},
            "validations": 3,
        },
        "stages": stages,
        "report": {"compare": ["float32", "trained-on", *compared], "measure": ["evaluate"]},
    }


def _quantized(source: str, kind: Any, **fields: Any) -> dict[str, Any]:
    return {"stage": "quantize", "input": source, "kind": kind, **fields}


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


def measure(options: argparse.Namespace, runs: Path) -> Path:
    """Make the models, compare them on the test split, and write the rows."""
    import flyweight as fw
    from flyweight.api import Session
    from flyweight.config import load

    session = Session(runs=runs, threads=options.threads)
    asked = recipe(options)
    result = fw.run(load.recipe(asked), session=session)
    names = asked["report"]["compare"]
    compared = fw.compare(
        *(f"bench-quantize:{name}" for name in names),
        against="bench-quantize:float32",
        session=session,
    )
    rows = Rows("quantize")
    setting = f"{options.corpus} {options.layers} x {options.dim}, {options.steps} steps"
    for row in compared:
        name = row.name.rpartition(":")[2]
        rows.add(name, setting, "bits per byte", 0, row.bits_per_byte, "bits")
        if row.paired is not None:
            bits = row.paired.decisive
            for metric, value in (("", bits.value), (" low", bits.low), (" high", bits.high)):
                rows.add(name, setting, f"more bits{metric}", 0, value, "bits per byte")
        place = result[name].path / "model"
        size = (place / "model.safetensors").stat().st_size
        rows.add(name, setting, "file", 0, size, "bytes")
        facts = result[name].facts.get("rounding")
        if facts is not None:
            rows.add(name, setting, "calibration tokens", 0, facts["tokens"], "tokens")
            rows.add(name, setting, "rounding", 0, facts["seconds"], "s")
    for better, worse in PAIRS:
        pair = fw.compare(
            f"bench-quantize:{better}",
            f"bench-quantize:{worse}",
            against=f"bench-quantize:{worse}",
            session=session,
        )
        bits = next(row.paired for row in pair if row.paired is not None).decisive
        for metric, value in (("", bits.value), (" low", bits.low), (" high", bits.high)):
            rows.add(
                f"{better} - {worse}", setting, f"difference{metric}", 0, value, "bits per byte"
            )
    for kind in ("dense", *KINDS.values()):
        name = kind if isinstance(kind, str) else kind["kind"]
        for metric, value in _resident(kind).items():
            rows.add(name, "12 x 768, 32,768 tokens", metric, 0, value, "bytes")
    return rows.write()


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


PAIRS = (
    *((f"{name}-gptq", name) for name in KINDS),
    ("int3-trained", "int3-gptq"),
    ("int3-trained", "on-int3-gptq"),
    ("on-int3-gptq", "int3-gptq"),
)
"""What is compared beside float32: the first is expected to be better."""


def main() -> None:
    """Read the options and measure."""
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(resident(json.loads(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", default="tiny-shakespeare")
    parser.add_argument("--tokenizer", default="char")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(measure(options, options.runs or Path(scratch)))


if __name__ == "__main__":
    main()
