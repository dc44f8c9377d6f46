"""Training tokens/s against transformers' GPT2LMHeadModel under HF Trainer: same shape, same text, same machine, in turn.

    python benchmarks/bench_training.py [--vocabularies 65 50257] [--precisions fp32 bf16]
    [--repeats 3] [--steps 12]

6 layers x 384, 6 heads, context 256, batch 8 (nanoGPT's small GPU model). At `fp32` and `bf16` both
have that precision, no dropout and a fused AdamW; `defaults` is HF Trainer and GPT-2 as they come
against ours as it comes. Every measurement is a fresh process; the contestants take turns, and
ratios are taken within a turn. Nothing but training steps is timed, after a warm-up.
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

from rows import Rows, spread, worker

LAYERS, DIM, HEADS, CONTEXT, BATCH = 6, 384, 6, 256, 8
WARM_UP = 3


def ours(job: dict[str, Any]) -> list[float]:
    """Return the seconds of each step of our own loop."""
    import numpy as np

    from flyweight.config import schema
    from flyweight.core.events import Events
    from flyweight.core.pinned import PinnedFolder
    from flyweight.core.runtime import Runtime
    from flyweight.data.windows import Windows
    from flyweight.model.decoder import Decoder
    from flyweight.store.artifact import Draft, Identity
    from flyweight.store.budget import Meter
    from flyweight.training.limits import Limits
    from flyweight.training.objectives import NextTokenObjective
    from flyweight.training.state import TrainerState
    from flyweight.training.step_cost import StepCost
    from flyweight.training.trainer import Trainer

    config = schema.ModelConfig.model_validate(
        {
            "dim": DIM,
            "layers": LAYERS,
            "attention": {"heads": HEADS, "bias": True},
            "position": "learned",
            "norm": "layernorm",
            "mlp": {"kind": "gelu", "approximate": "tanh", "bias": True},
            "dropout": 0.0,
        }
    ).resolved(job["vocab"], CONTEXT)
    runtime = Runtime.detect()
    runtime.apply()
    model = Decoder(config).to(runtime.device)
    steps = job["steps"] + WARM_UP
    train = schema.Train(
        steps=steps,
        batch=BATCH,
        precision=job["precision"],
        validations=0,
        optimizer=schema.AdamW(),
    )
    times: list[float] = []

    class TimedTrainer(Trainer):
        def step(self, state: TrainerState) -> tuple[float, float]:
            began = time.perf_counter()
            result = super().step(state)
            times.append(time.perf_counter() - began)
            return result

    class Text:
        name = "train"
        tokens = _Tokens(np.random.default_rng(0).integers(0, job["vocab"], 200_000))

    with tempfile.TemporaryDirectory() as folder:
        draft = Draft(
            PinnedFolder(Path(folder)),
            Identity("bench", 1, {}),
            Events(Path(folder) / "events.jsonl"),
        )
        TimedTrainer(
            model=model,
            objective=NextTokenObjective(schema.NextToken()),
            source=Windows(Text(), CONTEXT, BATCH, 0),
            validate=lambda tokens, rows: 0.0,
            config=train,
            limits=Limits(steps, None),
            cost=StepCost.constant(1),
            runtime=runtime,
            precision=runtime.precision(train.precision, model.config.dim),
            draft=draft,
            meter=Meter(schema.Budget()),
            name="bench",
        ).train()
    return times[WARM_UP:]


class _Tokens:
    """An array with the reader's `gather`."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def gather(self, starts: Any, length: int) -> Any:
        import numpy as np

        return self.values[starts[:, None] + np.arange(length)]


def theirs(job: dict[str, Any]) -> list[float]:
    """Return the seconds of each step of HF Trainer."""
    import os

    os.environ["WANDB_DISABLED"] = "true"
    import torch
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    free = {} if job["defaults"] else {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(
        vocab_size=job["vocab"],
        n_positions=CONTEXT,
        n_embd=DIM,
        n_layer=LAYERS,
        n_head=HEADS,
        bos_token_id=0,
        eos_token_id=0,
        **free,
    )
    torch.manual_seed(0)
    tokens = torch.randint(0, job["vocab"], (BATCH * (job["steps"] + WARM_UP + 1), CONTEXT))

    class Text(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(tokens)

        def __getitem__(self, place: int) -> dict[str, Any]:
            return {"input_ids": tokens[place], "labels": tokens[place]}

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *arguments: Any, **options: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *arguments: Any, **options: Any) -> None:
            times.append(time.perf_counter() - self.began)

    chosen: dict[str, Any] = {}
    if not job["defaults"]:
        chosen = {"bf16": job["precision"] == "bf16", "optim": "adamw_torch_fused"}
    if not torch.cuda.is_available():
        chosen["use_cpu"] = True  # without it, bf16 is refused where there is no GPU
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            max_steps=job["steps"] + WARM_UP,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            **chosen,
        )
        Trainer(
            GPT2LMHeadModel(config), arguments, train_dataset=Text(), callbacks=[Clock()]
        ).train()
    return times[WARM_UP:]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[65, 50_257])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        job = json.loads(options.worker)
        seconds = ours(job) if job["who"] == "ours" else theirs(job)
        print(json.dumps({"tokens_per_s": BATCH * CONTEXT / statistics.median(seconds)}))
        return
    rows, summary = Rows("training"), []
    settings = [
        (vocab, precision, False)
        for vocab in options.vocabularies
        for precision in options.precisions
    ]
    settings += [(vocab, "auto", True) for vocab in options.vocabularies]
    for vocab, precision, defaults in settings:
        setting = f"V={vocab} {'defaults' if defaults else precision}"
        slow = precision == "bf16" and not _native_bf16()
        steps = 3 if slow else options.steps
        ratios = []
        for repeat in range(1 if slow else options.repeats):
            speeds = {}
            for who in ("ours", "transformers"):
                job = {
                    "who": who,
                    "vocab": vocab,
                    "precision": precision,
                    "defaults": defaults,
                    "steps": steps,
                }
                speeds[who] = worker(__file__, job)["tokens_per_s"]
                rows.add(who, setting, "tokens_per_s", repeat, speeds[who], "tokens/s")
            ratios.append(speeds["ours"] / speeds["transformers"])
            rows.add("ours/transformers", setting, "ratio", repeat, ratios[-1], "x")
        summary.append(f"{setting}: {spread(ratios)}x")
    print(rows.write(), *summary, sep="\n")


def _native_bf16() -> bool:
    import torch

    from flyweight.core.runtime import native_bf16

    return native_bf16() or torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main())
