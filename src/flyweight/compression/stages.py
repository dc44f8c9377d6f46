"""The stages that make a trained model smaller."""

from __future__ import annotations

from typing import Any

from flyweight.checkpoints import load_any
from flyweight.checkpoints.convert import copy_tokenizer
from flyweight.compression.quantize import quantize
from flyweight.config import schema
from flyweight.core.files import disk_errors
from flyweight.model import folder
from flyweight.store.artifact import Draft
from flyweight.store.stage import Context, Inputs, Stage


class Quantize:
    """The same model with its matrices in fewer bits."""

    version, measures, trains = 2, False, False

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


STAGES: dict[str, Stage] = {"quantize": Quantize()}
