"""Trainings that several processes share; as a program, one process of a gloo group."""

import dataclasses
import json
import os
import random
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import distributed

import flyweight
from flyweight.config import schema
from flyweight.config.schema import ModelConfig
from flyweight.core.events import Events
from flyweight.core.pinned import PinnedFolder
from flyweight.core.runtime import Runtime
from flyweight.data.batch import IGNORE, Batch
from flyweight.data.pack import pack
from flyweight.data.windows import Windows
from flyweight.model.decoder import Decoder
from flyweight.store.artifact import Draft, Identity
from flyweight.store.budget import Meter
from flyweight.training.limits import Limits
from flyweight.training.objectives import DistillationObjective, NextTokenObjective
from flyweight.training.step_cost import StepCost
from flyweight.training.trainer import Trainer
from flyweight.training.world import OneProcess, ProcessGroup

CONTEXT, BATCH, STEPS = 16, 8, 3
TIMEOUT = timedelta(seconds=120)


def packed(folder):
    """Return a small corpus of bytes, the same in every process."""
    words = random.Random(0).choices(["small", "models", "under", "a", "budget"], k=900)
    (folder / "text.txt").write_text(
        "\n".join(" ".join(words[i : i + 9]) for i in range(0, 900, 9))
    )
    data = schema.Data(corpus=str(folder / "text.txt"), tokenizer={"kind": "byte"}, context=CONTEXT)
    return pack(data, None, folder / "packed")


class Uneven:
    """Windows whose rows have 0 to CONTEXT real targets, as completions and padding leave them.

    With `weights`, real targets weigh 0.5 to 1.5.
    """

    context = CONTEXT

    def __init__(self, corpus, weights=False):
        self.windows = Windows(corpus.split("train"), CONTEXT, BATCH, 0)
        self.weights = weights

    def batch(self, step, rows=slice(None), rank=0, world=1):
        whole = self.windows.batch(step)
        generator = torch.Generator().manual_seed(step)
        first = torch.randint(CONTEXT + 1, (BATCH, 1), generator=generator)
        first[:3], first[3] = CONTEXT, 0  # whole micro-batches have no targets
        targets = torch.where(torch.arange(CONTEXT) < first, IGNORE, whole.targets)
        weights = 0.5 + torch.rand(BATCH, CONTEXT, generator=generator)
        share = torch.arange(BATCH).chunk(world)[rank][rows]
        return Batch.from_tensors(
            whole.inputs[share], targets[share], weights[share] if self.weights else None
        )


def decoder(corpus, seed=0, dim=16, **fields):
    config = {"dim": dim, "layers": 1, "attention": {"heads": 2}, **fields}
    vocab = corpus.meta.vocab_size
    return Decoder(ModelConfig.model_validate(config).resolved(vocab, CONTEXT), seed=seed)


def objective_of(name, corpus):
    if name == "next_token":
        return NextTokenObjective(schema.NextToken())
    teacher = decoder(corpus, seed=5).double().requires_grad_(False)
    return DistillationObjective(schema.Distillation(temperature=2.0, weight=0.6), teacher)


def trainer(corpus, folder, source, objective=None, world=None, model=None, **options):
    train = schema.Train.model_validate(
        {"steps": STEPS, "batch": BATCH, "validations": 0, "checkpoint": "1h", **options}
    )
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(
        model=(model or decoder(corpus)).double(),
        objective=objective or NextTokenObjective(schema.NextToken()),
        source=source,
        validate=lambda tokens, rows: 0.0,
        config=train,
        limits=Limits(train.steps, train.time),
        cost=StepCost.constant(1),
        runtime=Runtime("cpu", 1),
        precision="fp32",
        draft=Draft(PinnedFolder(folder), Identity("toy", 1, {}), Events(folder / "events.jsonl")),
        meter=Meter(schema.Budget()),
        name="toy",
        world=world or OneProcess(),
    )


@dataclass(frozen=True)
class Case:
    """One training: `accumulate` micro-batches in each process.

    With `mute`, processes keep their gradients to themselves.
    """

    accumulate: int = 1
    optimizer: str = "adamw"
    objective: str = "next_token"
    weights: bool = False
    dropout: float = 0.0
    mute: bool = False

    @property
    def name(self):
        """A name for its folder."""
        return "-".join(str(value) for value in asdict(self).values())

    def trainer(self, corpus, folder, world=None, accumulate=None):
        """Return the training in one process of `world`, or alone with another accumulation."""
        fields: dict[str, Any] = {"dropout": {"residual": self.dropout}} if self.dropout else {}
        return trainer(
            corpus,
            folder,
            Uneven(corpus, self.weights),
            objective_of(self.objective, corpus),
            world=world,
            model=decoder(corpus, **fields),
            optimizer=self.optimizer,
            accumulate=accumulate or self.accumulate,
        )


class Mute(ProcessGroup):
    """Processes that do not exchange their gradients: what a working exchange has to differ from."""

    def sum_gradients(self, parameters):
        pass


def run_processes(cases, folder, size=2):
    """Train every case in `size` processes over gloo, each with files in its folder `rank`."""
    requests = [
        {
            "cases": [dataclasses.asdict(case) for case in cases],
            "rank": rank,
            "size": size,
            "meeting": str(folder / "meeting"),
            "folder": str(folder / str(rank)),
        }
        for rank in range(size)
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(flyweight.__file__).parents[1]),
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, json.dumps(request)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for request in requests
    ]
    try:
        errors = [
            process.communicate(timeout=2 * TIMEOUT.total_seconds())[1] for process in processes
        ]
    finally:
        for process in processes:
            process.kill()
    for process, error in zip(processes, errors, strict=True):
        assert process.returncode == 0, error


def work(request):
    """Train every case as one process of the group."""
    torch.set_num_threads(1)
    folder = Path(request["folder"])
    folder.mkdir()
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{request['meeting']}",
        rank=request["rank"],
        world_size=request["size"],
        timeout=TIMEOUT,
    )
    corpus = packed(folder)
    for fields in request["cases"]:
        case = Case(**fields)
        world = Mute() if case.mute else ProcessGroup()
        made = case.trainer(corpus, folder / case.name, world)
        made.train()
        save_file(dict(made.model.state_dict()), folder / case.name / "weights.safetensors")
    (folder / "sums.json").write_text(json.dumps(sums(ProcessGroup())))
    distributed.destroy_process_group()


def sums(world):
    """Return sums of numbers, and of gradients that all processes have, one has, and none has."""
    everywhere, once, nowhere = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    everywhere.grad = torch.full((2,), 1.0 + world.rank)
    if world.rank:
        once.grad = torch.full((2,), 5.0)
    parameters = (everywhere, once, nowhere)
    world.sum_gradients(parameters)
    gradients = [None if each.grad is None else each.grad.tolist() for each in parameters]
    return {
        "count": world.sum(2**53 + world.rank),
        "number": world.sum(0.25),
        "gradients": gradients,
    }


if __name__ == "__main__":
    work(json.loads(sys.argv[1]))
