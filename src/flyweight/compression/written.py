"""What every stage that changes a trained model writes: its folder, and what it had cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flyweight.checkpoints.convert import copy_tokenizer
from flyweight.core.files import disk_errors
from flyweight.model import folder
from flyweight.model.build import Model
from flyweight.store.artifact import Draft
from flyweight.store.stage import Inputs


def write_model(model: Model, source: Path, draft: Draft) -> None:
    """Write a model into the draft, with the tokenizer of the model that it was made from."""
    with disk_errors(draft.path):
        folder.save(model, draft.new_folder("model"))
        copy_tokenizer(source, draft.path / "model")


def inherited(inputs: Inputs) -> dict[str, object]:
    """Return the facts of a model that was not trained: what its input had cost and read."""
    facts: dict[str, Any] = {key: inputs.spent(key) for key in ("total_flops", "total_seconds")}
    for name in ("documents", "corpus"):
        if (value := inputs.artifacts["input"].facts.get(name)) is not None:
            facts[name] = value
    return facts
