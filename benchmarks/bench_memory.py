"""The memory of training GPT-2's shape, and whether what saves it learns as well.

    python benchmarks/bench_memory.py [--only peaks losses seconds] [--contestants NAME ...]
        [--seeds 3]

`peaks`: a model of GPT-2's shape (124 M, random weights, no dropout, 16 x 128 tokens, AdamW) in a
fresh process each: the most memory held over what the interpreter held with its imports. Freed blocks
go back to the system at once, as under `budget.memory`, for all contestants. There are three steps;
with `--quick` a short one, which makes the optimizer's states, and a whole one. `share` is of plain
transformers in float32.

`losses`: 200 steps of 4 x 128 on Tiny Shakespeare by character, for several seeds; the NLL on
validation text. The seeds draw weights, windows and rounding. Plain AdamW is the control.

`seconds`: what a step of `peaks` takes, the processor's seconds and those on the clock, the median of
three steps after the first. The contestants take turns. `ours` keeps freed blocks, as a training without
`budget.memory` does; what saves memory is measured with them kept and given back.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rows import Rows, worker

VOCAB, CONTEXT, BATCH, STEPS = 50_257, 128, 16, 3
TIMED = {
    "ours": {"give_back": False},
    "ours, all but bf16 weights": {},
    "ours, all but bf16 weights, blocks kept": {"give_back": False},
    "ours, all": {},
}
"""Whose steps are timed. What follows the second comma changes how, not what."""
SHORT = 8
"""Tokens of a row in the first of two steps where `--quick` is given."""
ALL = {"recompute": "blocks", "states": "int8", "step": "backward"}
THEIRS: dict[str, dict[str, Any]] = {
    "transformers": {},
    "transformers, bf16 autocast": {"precision": "bf16"},
    "transformers, its own switches": {"checkpointing": True, "accumulate": 16},
}
RECOMPUTED = {"method": "lora", "memory": {"recompute": "blocks"}}
OURS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, all but bf16 weights": {"memory": ALL, "clip": 0},
    "ours, all": {"memory": {**ALL, "weights": "bf16"}, "precision": "bf16", "clip": 0},
    "ours, LoRA": {"method": "lora"},
    "ours, LoRA, recompute, accumulate 16": {**RECOMPUTED, "accumulate": 16},
    "ours, QLoRA": {"method": "lora", "packed": True},
    "ours, QLoRA, recompute, accumulate 16": {**RECOMPUTED, "packed": True, "accumulate": 16},
    "ours, accumulate 16": {"accumulate": 16},
    "ours, recompute": {"memory": {"recompute": "blocks"}},
    "ours, states bf16": {"memory": {"states": "bf16"}},
    "ours, states int8": {"memory": {"states": "int8"}},
    "ours, step in backward": {"memory": {"step": "backward"}, "clip": 0},
    "ours, weights bf16": {"memory": {"weights": "bf16"}, "precision": "bf16"},
    "ours, all but step in backward, accumulate 4": {
        "memory": {"recompute": "blocks", "states": "int8"},
        "accumulate": 4,
    },
}
LEARNED: dict[str, dict[str, Any]] = {
    "plain": {},
    "states bf16": {"memory": {"states": "bf16"}},
    "states int8": {"memory": {"states": "int8"}},
    "plain, precision bf16": {"precision": "bf16"},
    "weights bf16": {"memory": {"weights": "bf16"}, "precision": "bf16"},
    "all": {
        "memory": {**ALL, "weights": "bf16"},
        "precision": "bf16",
        "clip": 0,
    },
    "plain, no clipping": {"clip": 0},
}


def _steps(job: dict[str, Any]) -> int:
    return 2 if job["quick"] else STEPS


def _tokens(job: dict[str, Any], step: int) -> np.ndarray:
    """Return the tokens of a step, (B, T + 1)."""
    length = SHORT if job["quick"] and not step else CONTEXT
    return np.random.default_rng(step).integers(0, VOCAB, (BATCH, length + 1))


def _exercise() -> None:
    """Load what libraries load at first use: it is not the training's memory."""
    import torch
    from torch.utils.checkpoint import checkpoint

    layer = torch.nn.Linear(64, 64)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    checkpoint(layer, torch.zeros(8, 64), use_reentrant=False).square().mean().backward()
    optimizer.step()


def theirs(job: dict[str, Any]) -> dict[str, Any]:
    """Return the peak bytes of transformers' GPT-2 in a plain loop."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from flyweight.core.allocator import give_back_at_once
    from flyweight.core.runtime import Runtime
    from flyweight.evaluation.bench_worker import MemoryProbe

    Runtime.detect(device="cpu", threads=1).apply()  # the same threads and allocator
    give_back_at_once()
    _exercise()
    torch.manual_seed(0)
    free = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    memory = MemoryProbe(torch.device("cpu"))
    memory.start()
    model = GPT2LMHeadModel(GPT2Config(n_positions=CONTEXT, use_cache=False, **free)).train()
    if job.get("checkpointing"):
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    pieces = job.get("accumulate", 1)
    for step in range(_steps(job)):
        optimizer.zero_grad(set_to_none=True)
        batch = torch.from_numpy(_tokens(job, step))
        for piece in batch.chunk(pieces):
            with torch.autocast("cpu", torch.bfloat16, enabled=job.get("precision") == "bf16"):
                logits = model(input_ids=piece[:, :-1]).logits  # (B, T, V)
                loss = torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1), piece[:, 1:].flatten()
                )
            (loss / pieces).backward()
            del logits, loss
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return {"peak_bytes": memory.peak()}


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """Return the peak bytes of our own loop on the same shape."""
    import torch

    from flyweight.config import schema
    from flyweight.core.allocator import give_back_at_once
    from flyweight.core.runtime import Runtime
    from flyweight.data.batch import Batch
    from flyweight.evaluation.bench_worker import MemoryProbe
    from flyweight.model.decoder import Decoder
    from flyweight.training.finetune import prepared

    Runtime.detect(device="cpu", threads=1).apply()
    if job.get("give_back", True):
        give_back_at_once()
    _exercise()
    config = schema.ModelConfig.model_validate(
        {
            "dim": 768,
            "layers": 12,
            "attention": {"heads": 12, "bias": True},
            "mlp": {"kind": "gelu", "bias": True},
            "norm": "layernorm",
            "position": "learned",
        }
    ).resolved(VOCAB, CONTEXT)
    if job.get("packed"):  # as a packed model is loaded, without its floats
        with tempfile.TemporaryDirectory() as folder:
            worker(__file__, {"who": "pack", "folder": folder, "config": config.model_dump()})
            memory = MemoryProbe(torch.device("cpu"))
            memory.start()
            from flyweight.model import folder as folders

            model = folders.load(folder)
    else:
        memory = MemoryProbe(torch.device("cpu"))
        memory.start()
        model = Decoder(config)
    assert isinstance(model, Decoder)
    if job.get("method"):
        model = prepared(model, schema.Lora(targets=("attention.qkv",), r=8, alpha=32))

    begun: dict[int, tuple[float, float]] = {}

    class Drawn:
        context = CONTEXT

        def batch(
            self, step: int, rows: slice = slice(None), rank: int = 0, world: int = 1
        ) -> Batch:
            begun.setdefault(step, (time.process_time(), time.perf_counter()))
            tokens = torch.from_numpy(_tokens(job, step))[rows]
            return Batch.from_tensors(tokens[:, :-1], tokens[:, 1:])

    fields = {
        name: job[name] for name in ("memory", "precision", "clip", "accumulate") if name in job
    }
    _train(
        model,
        Drawn(),
        lambda *_: 0.0,
        {"steps": job.get("steps", _steps(job)), "batch": BATCH, "validations": 0, **fields},
    )
    starts = [begun[step] for step in sorted(begun)][1:]
    took = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(starts)]
    return {
        "processor_seconds": [each[0] for each in took],
        "clock_seconds": [each[1] for each in took],
        "peak_bytes": memory.peak(),
        "parameters": sum(each.numel() for each in model.parameters()),
    }


def pack(job: dict[str, Any]) -> dict[str, Any]:
    """Write a model of random weights in NF4, with its tables in int8."""
    from flyweight.compression.quantize import quantize
    from flyweight.config import schema
    from flyweight.model import folder
    from flyweight.model.decoder import Decoder

    model = Decoder(schema.ModelConfig.model_validate(job["config"]))
    folder.save(quantize(model, schema.NF4(), schema.Int8()), job["folder"])
    return {}


def learned(job: dict[str, Any]) -> dict[str, Any]:
    """Return the NLL on validation text after a short training."""
    from flyweight.config import schema
    from flyweight.core.runtime import Runtime
    from flyweight.data.corpus import Corpus
    from flyweight.data.windows import Windows
    from flyweight.evaluation import likelihood
    from flyweight.model.decoder import Decoder

    Runtime.detect(device="cpu", threads=1).apply()
    corpus = Corpus.open(Path(job["corpus"]))
    config = schema.ModelConfig.model_validate({"dim": 128, "layers": 4})
    nlls = dict[str, float]()
    for name, fields in LEARNED.items():
        if job["contestants"] and name not in job["contestants"]:
            continue
        model = Decoder(config.resolved(corpus.meta.vocab_size, CONTEXT), job["seed"])
        source = Windows(corpus.split("train"), CONTEXT, 4, job["seed"])
        train = {"steps": 200, "batch": 4, "validations": 0, **fields}
        _train(model, source, lambda *_: 0.0, train, job["seed"])
        nlls[name] = likelihood.quick(
            model.float(), corpus.split("validation"), tokens=16_384, window=CONTEXT
        )
        print(job["seed"], name, nlls[name], file=sys.stderr, flush=True)
    return nlls


def _train(model: Any, source: Any, validate: Any, fields: dict[str, Any], seed: int = 0) -> None:
    """Train a model by the one loop."""
    from flyweight.config import schema
    from flyweight.core.events import Events
    from flyweight.core.pinned import PinnedFolder
    from flyweight.core.runtime import Runtime
    from flyweight.store.artifact import Draft, Identity
    from flyweight.store.budget import Meter
    from flyweight.training.limits import Limits
    from flyweight.training.objectives import NextTokenObjective
    from flyweight.training.step_cost import StepCost
    from flyweight.training.trainer import Trainer

    train = schema.Train.model_validate(
        {"precision": "fp32", "keep": "last", "checkpoint": "1h", **fields}
    )
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model=model,
            objective=NextTokenObjective(schema.NextToken()),
            source=source,
            validate=validate,
            config=train,
            limits=Limits(train.steps, None),
            cost=StepCost.constant(1),
            runtime=Runtime("cpu", 1, seed),
            precision="bf16" if train.precision == "bf16" else "fp32",
            draft=Draft(
                PinnedFolder(Path(folder)),
                Identity("bench", 1, {}),
                Events(Path(folder) / "events.jsonl"),
            ),
            meter=Meter(schema.Budget()),
            name="bench",
        ).train()


def peaks(rows: Rows, asked: list[str], quick: bool) -> None:
    """Measure the peak of every contestant."""
    setting = f"GPT-2, {BATCH} x {CONTEXT}{', quick' if quick else ''}"
    jobs = {name: {"who": "theirs", **job} for name, job in THEIRS.items()}
    jobs |= {name: {"who": "ours", **job} for name, job in OURS.items()}
    plain = 0.0
    for row in rows.found:
        if row["contestant"] == "transformers" and row["metric"] == "peak":
            plain = float(row["value"])
    for name, job in jobs.items():
        if asked and name not in asked:
            continue
        peak = worker(__file__, {**job, "quick": quick}, timeout=7200)["peak_bytes"]
        plain = peak if name == "transformers" else plain
        _replace(rows, name, setting)
        rows.add(name, setting, "peak", 0, peak, "bytes")
        if plain:
            rows.add(name, setting, "share", 0, peak / plain, "x")
        rows.write()


def seconds(rows: Rows, repeats: int) -> None:
    """Time the steps of what saves memory against those of what does not."""
    setting = f"GPT-2, {BATCH} x {CONTEXT}, one thread"
    for name in TIMED:
        _replace(rows, name, setting)
    for repeat in range(repeats):
        plain = 0.0
        for name, how in TIMED.items():
            job = {**OURS[name.removesuffix(", blocks kept")], **how}
            found = worker(
                __file__, {"who": "ours", "quick": False, "steps": 5, **job}, timeout=7200
            )
            step = statistics.median(found["processor_seconds"])
            plain = plain or step
            rows.add(name, setting, "step", repeat, step, "processor seconds")
            clock = statistics.median(found["clock_seconds"])
            rows.add(name, setting, "step on the clock", repeat, clock, "s")
            rows.add(name, setting, "times ours", repeat, step / plain, "x")
            rows.write()


def losses(rows: Rows, seeds: int, asked: list[str]) -> None:
    """Measure what is learned in 200 steps."""
    from flyweight.config import schema
    from flyweight.data.pack import pack as packed

    setting = "4 x 128, 200 steps"
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        data = schema.Data(corpus="tiny-shakespeare", tokenizer={"kind": "char"}, context=CONTEXT)
        packed(data, _data_dir(), Path(place) / "packed")
        for seed in range(seeds):
            job = {
                "who": "learned",
                "seed": seed,
                "corpus": f"{place}/packed",
                "contestants": asked,
            }
            for name, nll in worker(__file__, job, timeout=7200).items():
                found.setdefault(name, []).append(nll)
                if seed == 0:
                    _replace(rows, name, setting)
                rows.add(name, setting, "validation_nll", seed, nll, "nats")
            rows.write()
    for name, values in found.items():
        print(f"{name}: {statistics.mean(values):.4f} +- {statistics.pstdev(values):.4f}")


def _data_dir() -> Path | None:
    import os

    return Path(os.environ["FLYWEIGHT_DATA"]) if "FLYWEIGHT_DATA" in os.environ else None


def _replace(rows: Rows, name: str, setting: str) -> None:
    """Take out the rows of an earlier run of a contestant."""
    rows.found = [
        row for row in rows.found if (row["contestant"], row["setting"]) != (name, setting)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=["peaks", "losses"])
    parser.add_argument("--contestants", nargs="*", default=[], help="others keep their old rows")
    parser.add_argument("--quick", action="store_true", help="peaks after a short and a whole step")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        job = json.loads(options.worker)
        work = {"theirs": theirs, "ours": ours, "pack": pack, "learned": learned}[job["who"]]
        print(json.dumps(work(job)))
        return
    rows = Rows("memory")
    if options.contestants or "seconds" in options.only:
        rows.read()
    if "peaks" in options.only:
        peaks(rows, options.contestants, options.quick)
    if "seconds" in options.only:
        seconds(rows, options.seeds)
    if "losses" in options.only:
        losses(rows, options.seeds, options.contestants)
    print(rows.write())


if __name__ == "__main__":
    sys.exit(main())
