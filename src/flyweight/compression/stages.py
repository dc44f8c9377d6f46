"""The stages that make a trained model smaller, or simpler."""

from __future__ import annotations

from typing import Any

from flyweight.checkpoints import load_any
from flyweight.compression.merge import merge, merged
from flyweight.compression.prune_stage import PruneStage
from flyweight.compression.quantize import quantize, quantized
from flyweight.compression.written import inherited, write_model
from flyweight.config import schema
from flyweight.model.sparsity import pruned_layers, sparsity_facts
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
        model = load_any.decoder(source, what=f"stages.{inputs.name}.input")
        smaller = quantize(model, config.kind, config.embedding)
        write_model(smaller, source, draft)
        return {**inherited(inputs), **sparsity_facts(smaller, pruned_layers(model))}

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
        smaller = merge(model, config.unpack)
        write_model(smaller, source, draft)
        return {**inherited(inputs), **sparsity_facts(smaller, pruned_layers(model))}

    def plan(self, config: schema.Merge, inputs: PlannedInputs) -> Outline:
        """Return the input's model without adapters."""
        source = inputs.models.get("input")
        return Outline() if source is None else Outline(merged(source, config.unpack))


STAGES: dict[str, Stage[Any]] = {
    "quantize": QuantizeStage(),
    "prune": PruneStage(),
    "merge": MergeStage(),
}
