"""The stages that make a trained model smaller, or simpler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flyweight.checkpoints import load_any
from flyweight.checkpoints.convert import copy_tokenizer
from flyweight.compression.merge import merge, merged
from flyweight.compression.quantize import quantize, quantized
from flyweight.config import schema
from flyweight.core.files import disk_errors
from flyweight.model import folder
from flyweight.model.build import Model
from flyweight.store.artifact import Draft
from flyweight.store.stage import Context, Inputs, Outline, PlannedInputs, Stage


class QuantizeStage(Stage[schema.Quantize]):
    """The same model with its matrices in fewer bits."""

    version = 2

    def run(
        self, config: schema.Quantize, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Write the smaller `model/`; the facts inherit what the input had cost."""
        source = inputs.model("input")
        model = quantize(
            load_any.decoder(source, what=f"stages.{inputs.name}.input"),
            config.kind,
            config.embedding,
        )
        _write(model, source, draft)
        return _inherited(inputs)

    def plan(self, config: schema.Quantize, inputs: PlannedInputs) -> Outline:
        """Return the input's model with its matrices in fewer bits."""
        source = inputs.models.get("input")
        if source is None:
            return Outline()
        return Outline(quantized(source, config.kind, config.embedding))


class MergeStage(Stage[schema.Merge]):
    """The same model with its adapters made part of its matrices."""

    def run(
        self, config: schema.Merge, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Write the plain `model/`; the facts inherit what the input had cost."""
        source = inputs.model("input")
        model = load_any.decoder(source, what=f"stages.{inputs.name}.input")
        _write(merge(model, config.unpack), source, draft)
        return _inherited(inputs)

    def plan(self, config: schema.Merge, inputs: PlannedInputs) -> Outline:
        """Return the input's model without adapters."""
        source = inputs.models.get("input")
        return Outline() if source is None else Outline(merged(source, config.unpack))


def _write(model: Model, source: Path, draft: Draft) -> None:
    """Write a model into the draft, with the tokenizer of the model that it was made from."""
    with disk_errors(draft.path):
        folder.save(model, draft.new_folder("model"))
        copy_tokenizer(source, draft.path / "model")


def _inherited(inputs: Inputs) -> dict[str, object]:
    """Return the facts of a model that was not trained: what its input had cost and read."""
    facts: dict[str, Any] = {key: inputs.spent(key) for key in ("total_flops", "total_seconds")}
    if (documents := inputs.artifacts["input"].facts.get("documents")) is not None:
        facts["documents"] = documents
    return facts


STAGES: dict[str, Stage[Any]] = {"quantize": QuantizeStage(), "merge": MergeStage()}
