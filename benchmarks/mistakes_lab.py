"""What the mistakes of `bench_mistakes.py` share: sizes, the text, its models, and how they are timed."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import padded
import torch
from padded import Text, gpt2
from peft import LoraConfig, get_peft_model
from rows import Rows
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import GPT2LMHeadModel

PUBLISHED, RIGHT = "as published", "as it should be"


@dataclass(frozen=True)
class Size:
    """How much is trained, scored and timed."""

    rows: int = 6000
    held_out: int = 400
    words: int = 2000
    steps: int = 240
    student_steps: int = 120
    adapter_steps: int = 60
    repeats: int = 9
    candidates: int = 16
    memory_dim: int = 384
    wide: int = 384


QUICK = Size(600, 40, 300, 30, 15, 10, 3, 4, 64, 64)


class Lab:
    """The text and the models that several mistakes share, each made once."""

    def __init__(self, size: Size, data_dir: Path, rows: Rows) -> None:
        self.size, self.data_dir, self.rows = size, data_dir, rows

    @cached_property
    def text(self) -> Text:
        """Lines without blank ones."""
        return padded.read(self.data_dir, self.size.rows, self.size.held_out, self.size.words)

    @cached_property
    def model(self) -> GPT2LMHeadModel:
        """A model that was trained on real targets alone."""
        start = gpt2(self.text.vocabulary)
        return padded.train(start, self.text.train, padded.masked, self.size.steps)

    @cached_property
    def published(self) -> GPT2LMHeadModel:
        """The same model, trained as published: on padding too."""
        start = gpt2(self.text.vocabulary)
        return padded.train(start, self.text.train, padded.pads_counted, self.size.steps)

    def adapted(self, model: GPT2LMHeadModel | None = None) -> Any:
        """Return a copy of a model with fresh LoRA adapters, as the paper sets them."""
        torch.manual_seed(1)
        lora = LoraConfig(
            r=8, lora_alpha=32, lora_dropout=0.0, target_modules=["c_attn"], fan_in_fan_out=True
        )
        return get_peft_model(copy.deepcopy(model or self.model), lora)


@dataclass
class Table:
    """The rows of one mistake: a number as published beside the one that should be there."""

    rows: Rows
    mistake: str

    def add(
        self, metric: str, unit: str, published: float | None, right: float | None, repeat: int = 0
    ) -> None:
        """Add a line; None where there is no such number."""
        for who, value in ((PUBLISHED, published), (RIGHT, right)):
            if value is not None:
                self.rows.add(who, self.mistake, metric, repeat, value, unit)


def adapters(model: Any) -> list[torch.nn.Linear]:
    names = ("lora_A.default", "lora_B.default")
    return [module for name, module in model.named_modules() if name.endswith(names)]


def words(lab: Lab, rows: int) -> Tensor:
    """Return tokens (rows, 128) at random."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, lab.text.vocabulary, (rows, padded.LONGEST), generator=generator)


def forward(model: Any, tokens: Tensor) -> Callable[[], Tensor]:
    """Return a forward pass up to the logits (B, T, V)."""

    @torch.inference_mode()
    def run() -> Tensor:
        found = model(tokens)
        return getattr(found, "logits", found)

    return run


def seconds(run: Callable[[], object], passes: int = 1) -> float:
    began = time.process_time()
    for _ in range(passes):
        run()
    return (time.process_time() - began) / passes


def turns(runs: Sequence[Callable[[], object]], repeats: int, passes: int = 1) -> list[list[float]]:
    """Return the seconds of every run, which take turns, after a pass of each that is not timed."""
    for run in runs:
        run()
    return [[seconds(run, passes) for run in runs] for _ in range(repeats)]


def operators(run: Callable[[], object], *names: str) -> float:
    """Return how many operators with such a name a profiler sees."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    averages = profiler.key_averages()
    if len(names) > 1:
        return float(sum(event.count for event in averages if event.key in names))
    return float(sum(e.count for e in averages if names[0] in e.key and "for_cpu" in e.key))


def mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)
