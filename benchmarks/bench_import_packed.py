"""Peak memory of `flyweight import --as nf4` on sharded checkpoints like Qwen3-8B's, at a part of its width.

    python benchmarks/bench_import_packed.py [--widths 16 4] [--kind nf4]

Weights are random, in bfloat16, with all 36 layers and the whole vocabulary of 151,936 tokens,
head and embedding apart. A fresh process imports a toy first, which loads the libraries; `used` is
the most memory over what it held then. `packed` are the bytes of the written file, and `limit` is
that and 1 GB divided by the same number as the width. `float` are the bytes of the checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rows import Rows, worker

SLACK = 1e9
"""Bytes that an import of the whole model may take beside the packed one."""

SHARD = 100_000_000


def config(part: int, layers: int = 36, vocabulary: int = 151_936) -> dict[str, Any]:
    """Return the `config.json` of Qwen3-8B with a `part` of its widths and heads."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": vocabulary,
        "hidden_size": 4096 // part,
        "intermediate_size": 12288 // part,
        "num_hidden_layers": layers,
        "num_attention_heads": 32 // part,
        "num_key_value_heads": max(1, 8 // part),
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000,
        "attention_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


def write(raw: Mapping[str, Any], out: Path, shard: int = SHARD) -> int:
    """Write a random checkpoint with an index, one shard after another; return its bytes."""
    import torch
    from safetensors.torch import save_file

    from flyweight.checkpoints.convert import config_of
    from flyweight.checkpoints.families import FAMILIES
    from flyweight.checkpoints.read import CONFIG, INDEX, Checkpoint
    from flyweight.model.build import build

    out.mkdir(parents=True)
    (out / CONFIG).write_text(json.dumps(dict(raw)))
    shape = config_of(Checkpoint(out, dict(raw), (), ()))
    with torch.device("meta"):
        wanted = build(shape).state_dict()
    draw = torch.Generator().manual_seed(0)
    places, pending, total = dict[str, str](), dict[str, torch.Tensor](), 0

    def flush() -> None:
        name = f"model-{len(set(places.values())) + 1:05}.safetensors"
        places.update(dict.fromkeys(pending, name))
        save_file(pending, out / name, metadata={"format": "pt"})
        pending.clear()

    for part in FAMILIES["qwen3"].parts(shape):
        (ours,) = part.ours
        size = wanted[ours].shape
        values = torch.empty(size, dtype=torch.bfloat16)
        if len(size) == 1:
            values.fill_(1)
        else:
            values.normal_(0, 0.02, generator=draw)
        pending[part.theirs] = values
        total += values.nbytes
        if sum(tensor.nbytes for tensor in pending.values()) >= shard:
            flush()
    if pending:
        flush()
    (out / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": places}))
    return total


def measured(job: Mapping[str, str]) -> dict[str, float]:
    """Import a checkpoint in this process; return bytes over what it held after a toy, and seconds."""
    import flyweight as fw
    from flyweight.core.machine import high_water_bytes, reset_high_water, resident_bytes

    session = fw.Session(runs=Path(job["runs"]), threads=1, quiet=True)
    fw.import_(job["toy"], as_=job["kind"], session=session)
    if not reset_high_water():
        raise SystemExit("this system cannot reset the high-water mark of a process")
    before, began = resident_bytes(), time.monotonic()
    artifact = fw.import_(job["checkpoint"], as_=job["kind"], session=session)
    seconds = time.monotonic() - began
    return {
        "used": high_water_bytes() - before,
        "seconds": seconds,
        "packed": (artifact.path / "model" / "model.safetensors").stat().st_size,
        "layers": artifact.facts["proof"]["layers"],
        "difference": artifact.facts["proof"]["difference"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="*", default=[16, 4], help="1/16 and 1/4")
    parser.add_argument("--kind", default="nf4")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measured(json.loads(options.worker))))
        return
    rows = Rows("import_packed")
    for part in options.widths:
        setting = f"Qwen3-8B at 1/{part} of its width, {options.kind}"
        with tempfile.TemporaryDirectory() as place:
            here = Path(place)
            write(config(16, layers=3, vocabulary=1000), here / "toy")
            total = write(config(part), here / "hf")
            found = worker(
                __file__,
                {
                    "runs": str(here / "runs"),
                    "toy": str(here / "toy"),
                    "checkpoint": str(here / "hf"),
                    "kind": options.kind,
                },
            )
        limit = found["packed"] + SLACK / part
        rows.add("checkpoint", setting, "float", 0, total / 1e6, "MB")
        rows.add("model", setting, "packed", 0, found["packed"] / 1e6, "MB")
        rows.add("flyweight import", setting, "used", 0, found["used"] / 1e6, "MB")
        rows.add("flyweight import", setting, "limit", 0, limit / 1e6, "MB")
        rows.add("flyweight import", setting, "used/limit", 0, found["used"] / limit, "x")
        rows.add("flyweight import", setting, "seconds", 0, found["seconds"], "s")
        rows.add("flyweight import", setting, "logit error", 0, found["difference"], "")
        rows.write()


if __name__ == "__main__":
    sys.exit(main())
