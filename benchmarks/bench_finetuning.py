"""LoRA fine-tuning against peft on transformers: same weights, adapters and batches; losses, steps per second and peak memory.

    python benchmarks/bench_finetuning.py [--layers 12] [--dim 768] [--steps 50] [--repeats 3]

GPT-2's shape with random weights, LoRA (r 8, alpha 32) on the joint query-key-value matrix, float32,
no dropout, AdamW. Both start from the same A, drawn at random, and B of zeros. Every measurement is a
fresh process; the contestants take turns. The first repeat makes all steps and compares the losses,
the others make 12 steps. Peak memory is over what the process held before the model was loaded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rows import Rows, spread, worker

WARM_UP = 3
R, ALPHA, RATE, CLIP = 8, 32, 1e-4, 1.0


def _batches(job: dict[str, Any]) -> np.ndarray:
    """Return the tokens of every step, (steps, B, T + 1)."""
    draw = np.random.default_rng(0)
    return draw.integers(0, job["vocab"], (job["steps"], job["batch"], job["context"] + 1))


def _first(job: dict[str, Any]) -> list[np.ndarray]:
    """Return the first A of every layer, (R, D)."""
    draw = np.random.default_rng(1)
    bound = job["dim"] ** -0.5
    shape = (R, job["dim"])
    return [draw.uniform(-bound, bound, shape).astype("float32") for _ in range(job["layers"])]


def _exercise() -> None:
    """Load what libraries load at first use: it is not the training's memory."""
    import torch

    layer = torch.nn.Linear(64, 64)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    layer(torch.zeros(8, 64)).square().mean().backward()
    optimizer.step()


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """Return the losses, seconds and peak bytes of our own loop."""
    import torch

    from flyweight.checkpoints import load_any
    from flyweight.config import schema
    from flyweight.config.adapters import Lora
    from flyweight.core.events import Events
    from flyweight.core.pinned import PinnedFolder
    from flyweight.core.runtime import Runtime
    from flyweight.data.batch import Batch
    from flyweight.evaluation.bench_worker import MemoryProbe
    from flyweight.store.artifact import Draft, Identity
    from flyweight.store.budget import Meter
    from flyweight.training.finetune import prepared
    from flyweight.training.limits import Limits
    from flyweight.training.objectives import NextTokenObjective
    from flyweight.training.state import TrainerState
    from flyweight.training.step_cost import StepCost
    from flyweight.training.trainer import Trainer

    runtime = Runtime.detect(device="cpu")
    runtime.apply()
    _exercise()
    memory = MemoryProbe(torch.device("cpu"))
    memory.start()
    base = load_any.decoder(Path(job["base"]), "cpu", "the base")
    model = prepared(base, Lora(targets=("attention.qkv",), r=R, alpha=ALPHA))
    named = dict(model.named_parameters())
    with torch.no_grad():
        for layer, first in enumerate(_first(job)):
            named[f"blocks.{layer}.attention.qkv.lora.a"].copy_(torch.from_numpy(first))
    tokens = torch.from_numpy(_batches(job))
    seconds: list[float] = []
    losses: list[float] = []

    class TimedTrainer(Trainer):
        def step(self, state: TrainerState) -> tuple[float, float]:
            began = time.perf_counter()
            result = super().step(state)
            seconds.append(time.perf_counter() - began)
            losses.append(result[0])
            return result

    class Rowwise:
        context = job["context"]

        def batch(
            self, step: int, rows: slice = slice(None), rank: int = 0, world: int = 1
        ) -> Batch:
            return Batch.from_tensors(tokens[step, rows, :-1], tokens[step, rows, 1:])

    train = schema.Train(
        steps=job["steps"],
        batch=job["batch"],
        precision="fp32",
        validations=0,
        clip=CLIP,
        optimizer=schema.AdamW(lr=RATE, weight_decay=0.0),
        schedule=schema.Schedule(warmup=0.0, tail="none"),
    )
    with tempfile.TemporaryDirectory() as folder:
        draft = Draft(
            PinnedFolder(Path(folder)),
            Identity("bench", 1, {}),
            Events(Path(folder) / "events.jsonl"),
        )
        TimedTrainer(
            model=model,
            objective=NextTokenObjective(schema.NextToken()),
            source=Rowwise(),
            validate=lambda tokens, rows: 0.0,
            config=train,
            limits=Limits(job["steps"], None),
            cost=StepCost.constant(1),
            runtime=runtime,
            precision="fp32",
            draft=draft,
            meter=Meter(schema.Budget()),
            name="bench",
        ).train()
    return {"losses": losses, "seconds": seconds[WARM_UP:], "peak_bytes": memory.peak()}


def theirs(job: dict[str, Any]) -> dict[str, Any]:
    """Return the losses, seconds and peak bytes of peft around transformers' GPT-2."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2LMHeadModel

    from flyweight.core.runtime import Runtime
    from flyweight.evaluation.bench_worker import MemoryProbe

    Runtime.detect(device="cpu").apply()  # the same threads and allocator
    _exercise()
    memory = MemoryProbe(torch.device("cpu"))
    memory.start()
    model = GPT2LMHeadModel.from_pretrained(job["hf"], dtype=torch.float32)
    config = LoraConfig(
        r=R,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        target_modules=["c_attn"],
        fan_in_fan_out=True,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, config).train()
    named = dict(model.named_parameters())
    with torch.no_grad():
        for layer, first in enumerate(_first(job)):
            name = f"base_model.model.transformer.h.{layer}.attn.c_attn.lora_A.default.weight"
            named[name].copy_(torch.from_numpy(first))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=RATE, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, fused=True
    )
    tokens = torch.from_numpy(_batches(job))
    seconds: list[float] = []
    losses: list[float] = []
    for step in range(job["steps"]):
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        batch = tokens[step]
        logits = model(input_ids=batch[:, :-1]).logits  # (B, T, V)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        losses.append(float(loss.detach()))
        seconds.append(time.perf_counter() - began)
    return {"losses": losses, "seconds": seconds[WARM_UP:], "peak_bytes": memory.peak()}


def _make_base(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Write the same random GPT-2 for both, and return where it is."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel

    import flyweight as fw

    torch.manual_seed(0)
    free = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(
        vocab_size=options.vocab,
        n_positions=options.context,
        n_embd=options.dim,
        n_layer=options.layers,
        n_head=options.dim // 64,
        bos_token_id=0,
        eos_token_id=0,
        **free,
    )
    GPT2LMHeadModel(config).save_pretrained(folder / "hf")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({each: at for at, each in enumerate(alphabet)}, []))
    tokenizer.save(str(folder / "hf" / "tokenizer.json"))
    session = fw.Session(runs=folder / "runs", quiet=True)
    imported = fw.import_(folder / "hf", session=session)
    return {"hf": str(folder / "hf"), "base": str(imported.path / "model")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in (
        ("layers", 12),
        ("dim", 768),
        ("vocab", 50_257),
        ("context", 128),
        ("batch", 8),
        ("steps", 50),
        ("repeats", 3),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        job = json.loads(options.worker)
        print(json.dumps(ours(job) if job["who"] == "ours" else theirs(job)))
        return
    rows = Rows("finetuning")
    setting = f"lora {options.layers}x{options.dim}"
    found: dict[str, list[float]] = {"speed": [], "memory": []}
    gap = 0.0
    with tempfile.TemporaryDirectory() as place:
        where = _make_base(Path(place), options)
        sizes = {
            name: getattr(options, name) for name in ("layers", "dim", "vocab", "context", "batch")
        }
        for repeat in range(options.repeats):
            steps = options.steps if repeat == 0 else WARM_UP + 12
            answers = {
                who: worker(__file__, {"who": who, "steps": steps, **where, **sizes})
                for who in ("ours", "peft")
            }
            for who, answer in answers.items():
                speed = 1 / statistics.median(answer["seconds"])
                rows.add(who, setting, "steps_per_s", repeat, speed, "1/s")
                rows.add(who, setting, "peak_bytes", repeat, answer["peak_bytes"], "bytes")
            mine, peft = answers["ours"], answers["peft"]
            found["speed"].append(
                statistics.median(peft["seconds"]) / statistics.median(mine["seconds"])
            )
            found["memory"].append(mine["peak_bytes"] / peft["peak_bytes"])
            rows.add("ours/peft", setting, "speed_ratio", repeat, found["speed"][-1], "x")
            rows.add("ours/peft", setting, "memory_ratio", repeat, found["memory"][-1], "x")
            if repeat == 0:
                gap = max(abs(a - b) for a, b in zip(mine["losses"], peft["losses"], strict=True))
                rows.add("ours - peft", setting, "largest_loss_gap", repeat, gap, "nats")
                rows.add("ours", setting, "last_loss", repeat, mine["losses"][-1], "nats")
    print(
        rows.write(),
        f"loss curves over {options.steps} steps: largest difference {gap:.2e} nats",
        f"steps per second: {spread(found['speed'])}x of peft's",
        f"peak memory: {spread(found['memory'])}x of peft's",
        sep="\n",
    )


if __name__ == "__main__":
    sys.exit(main())
