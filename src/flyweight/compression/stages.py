"""The stages that make a trained model smaller."""

from __future__ import annotations

from typing import Any

from flyweight.checkpoints import load_any
from flyweight.checkpoints.convert import copy_tokenizer
from flyweight.compression.quantize import quantize, quantized
from flyweight.config import schema
from flyweight.core.files import disk_errors
from flyweight.model import folder
from flyweight.store.artifact import Draft
from flyweight.store.stage import Context, Inputs, Outline, PlannedInputs, Stage


class Quantize(Stage[schema.Quantize]):
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
        with disk_errors(draft.path):
            folder.save(model, draft.new_folder("model"))
            copy_tokenizer(source, draft.path / "model")
        facts: dict[str, Any] = {key: inputs.spent(key) for key in ("total_flops", "total_seconds")}
        if (documents := inputs.artifacts["input"].facts.get("documents")) is not None:
            facts["documents"] = documents
        return facts

    def plan(self, config: schema.Quantize, inputs: PlannedInputs) -> Outline:
        """Return the input's model with its matrices in fewer bits."""
        source = inputs.models.get("input")
        if source is None:
            return Outline()
        return Outline(quantized(source, config.kind, config.embedding))


STAGES: dict[str, Stage[Any]] = {"quantize": Quantize()}
