"""`distilqwen3-small` at toy size: the same stages by the same names, a few steps each."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path

from flyweight import api
from flyweight.config import schema
from flyweight.data.sources import source_of
from flyweight.data.streams.make import make
from flyweight.data.tokenizer_training import train

LARGE = ("gpt2", "qwen3-06b", "speed")
"""Stages whose models are large: a toy leaves them out."""

STEPS = 8


def text(stories: int = 400) -> str:
    """Return short stories with a line between them, as TinyStories has them."""
    draw = random.Random(0)
    names, things = ("Ann", "Bob", "Lily", "Tom"), ("cat", "dog", "red ball", "page", "tree")
    return "<|endoftext|>\n".join(
        f"One day {draw.choice(names)} saw a {draw.choice(things)}. It was {n % 7} years old. "
        f"{draw.choice(names)} was happy and read the {draw.choice(things)} again.\n"
        for n in range(stories)
    )


def write_tokenizer(file: Path, text: str) -> None:
    """Write a tokenizer with more entries than the stories use."""
    other = "The king of England sees a model; quickly, wonderfully! " * 20
    pieces = [text, other]
    config = schema.BpeTokenizer(vocab=500)
    size = sum(map(len, pieces))
    train(config, lambda: iter(pieces), lambda: iter([]), size, True).save(file)


def write_tasks(folder: Path) -> None:
    """Write a few rows of the three tasks, in their published schemas, as a data folder."""
    rows = {
        "squad": lambda n: {
            "id": str(n),
            "title": "t",
            "context": f"Ann has {n} cats. Bob has a dog.",
            "question": "How many cats has Ann?",
            "answers": {"text": [str(n)], "answer_start": [8]},
        },
        "daily-dialog": lambda n: {"dialog": [f"Hi {n}.", "Hello Ann.", "How are you?", "Fine."]},
        "cnn-dailymail": lambda n: {
            "article": f"Ann saw {n} cats. They were happy. Bob saw none.",
            "highlights": f"Ann saw {n} cats.",
            "id": str(n),
        },
    }
    for task, row in rows.items():
        for split, start in (("train", 0), ("validation", 100), ("test", 200)):
            file = folder / task / f"{split}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps(row(start + n)) for n in range(12)]
            file.write_text("\n".join(lines) + "\n")


def write_shards(folder: Path, stories: str) -> None:
    """Write the stories as shards."""
    file = folder.parent / "stories.txt"
    file.write_text(stories)
    data = schema.Data(corpus=str(file), separator="<|endoftext|>")
    make(source_of(data), folder, documents=100)


def toy(shards: Path, tokenizer: Path) -> dict:
    """Return the raw recipe: its own stages, with toy models, few steps and short answers."""
    raw = copy.deepcopy(dict(api.with_words("distilqwen3-small", [])))
    raw["name"] = "toy-distilqwen3"
    raw["data"]["context"] = 96
    sizes = {"validation": "0.5kB", "test": "0.5kB", "sample": "30kB"}
    raw["data"]["stream"] |= {"source": f"{shards}/*.jsonl.gz", "shuffle": 50, **sizes}
    raw["data"]["tokenizer"] |= {"path": str(tokenizer)}
    raw["model"] |= {"dim": 16}
    raw["model"]["mlp"] |= {"hidden": 16, "rank": 4}
    raw["model"]["sharing"] |= {"times": 3}
    raw["train"] |= {"precision": "fp32", "validation_tokens": 512}
    for name in LARGE:
        del raw["stages"][name]
    for stage in raw["stages"].values():
        _shrink(stage)
    raw["report"]["measure"] = ["evaluate"]
    return raw


def _shrink(stage: dict) -> None:
    if "steps" in stage.get("train", {}):
        stage["train"] = {**stage["train"], "steps": STEPS, "validations": 2}
    if "model" in stage:
        small = {"dim": 16, "layers": min(2, stage["model"].get("layers", 1))}
        stage["model"] = {**stage["model"], **small}
        if "attention" in stage["model"]:
            stage["model"]["attention"] = {"heads": 2, "kv_heads": 1}
        if stage["model"].get("mlp", {}).get("hidden"):
            stage["model"]["mlp"] = {"hidden": 8, "rank": None}
        if stage["model"].get("sharing", {}) not in ({}, "none"):
            stage["model"]["sharing"] = {"times": 2}
    if "task" in stage.get("data", {}):
        stage["data"] = {**stage["data"], "context": 96}
        stage["train"] = {**stage["train"], "validation_tokens": 256}
    if stage["stage"] == "score":
        stage |= {"limit": 4, "new_tokens": 2}
