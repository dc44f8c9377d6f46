"""A small text, a model that has learned a little of it, and histories to audit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flyweight.config import schema
from flyweight.data.corpus import Corpus
from flyweight.data.pack import pack
from flyweight.evaluation.checks import History, Subject
from flyweight.model import folder
from flyweight.model.decoder import Decoder
from flyweight.store.artifact import EVENTS, Artifact
from flyweight.training.optimizers import rate_factor

WORDS = (
    "small",
    "models",
    "under",
    "a",
    "budget",
    "share",
    "what",
    "can",
    "be",
    "measured",
    "the",
    "same",
    "honest",
    "way",
)
CONFIG = schema.ModelConfig.model_validate(
    {
        "vocab_size": 256,
        "context": 48,
        "dim": 32,
        "layers": 1,
        "attention": {"heads": 2},
        "init": {"std": 0.1},
    }
)


def text(lines: int, seed: int) -> str:
    rng = np.random.default_rng(seed)
    return "".join(" ".join(rng.choice(WORDS, 8)) + "\n" for _ in range(lines))


def packed(place: Path, content: str) -> Corpus:
    (place / "text.txt").write_text(content)
    data = schema.Data(
        corpus=str(place / "text.txt"),
        tokenizer=schema.ByteTokenizer(),
        context=48,
        validation=0.1,
        test=0.1,
    )
    return pack(data, None, place / "corpus")


def trained_model(place: Path, corpus: Corpus) -> Path:
    """Return a model that beats unigrams and predicts the next byte, written into a folder."""
    model, stream = Decoder(CONFIG), np.asarray(corpus.split("train").tokens).astype(np.int64)
    optimizer, rng = torch.optim.AdamW(model.parameters(), lr=1e-2), np.random.default_rng(0)
    for _ in range(60):
        rows = torch.from_numpy(
            np.stack([stream[at : at + 33] for at in rng.integers(0, len(stream) - 33, 16)])
        )
        loss = torch.nn.functional.cross_entropy(
            model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder.save(model, place)
    return place


@dataclass
class Lab:
    """A sound model on its text, and a folder for what a test writes."""

    subject: Subject
    place: Path

    def room(self, name: str) -> Lab:
        """Return the same with an empty folder of its own."""
        place = self.place / name
        place.mkdir()
        return replace(self, place=place)

    def artifact(
        self, stage: str, facts: Mapping[str, Any] | None = None, **identity: Any
    ) -> Artifact:
        """Return a made-up artifact in the folder; its files are those that are there."""
        fields = {"stage": stage, "config": {}, "parents": {}, "data": None, **identity}
        files: dict[str, Any] = {}
        manifest = {"id": f"{stage}-00000000", "identity": fields, "facts": dict(facts or {})}
        return Artifact(self.place, {**manifest, "files": files})

    def trained(self, events: Sequence[Mapping[str, Any]], steps: int, **train: Any) -> Subject:
        """Return the model with the log of a training of so many steps."""
        lines = [json.dumps({"event": "step", "at": 0.0, **event}) for event in events]
        (self.place / EVENTS).write_text("\n".join(lines) + "\n")
        config = schema.Train(steps=steps, **train).model_dump(mode="json")
        facts = {"steps": steps, "stopped_by": "steps", "seconds": float(steps)}
        artifact = self.artifact("pretrain", facts, config={"train": config})
        return replace(self.subject, history=History(artifact))


def log(steps: int) -> list[dict[str, Any]]:
    """Return the log of a sound training, a line for each step."""
    schedule, peak, lines = schema.Schedule(), schema.AdamW().lr, []
    for step in range(1, steps + 1):
        done = (step - 1) / steps
        if done < schedule.warmup:
            done += 1 / steps
        rate = peak * rate_factor(schedule, max(done, 1e-6))
        rates = {"lr": rate, "lr_low": rate, "lr_high": rate}
        line = {"step": step, "nll": 5.0 - step / steps, "seconds": float(step), "flops": 10 * step}
        lines.append({**line, **rates})
    return lines
