"""The stages that make a trained model smaller, or simpler."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flyweight.checkpoints import load_any
from flyweight.checkpoints.convert import copy_tokenizer
from flyweight.compression.calibration import calibration_batches, check_length
from flyweight.compression.merge import merge, merged
from flyweight.compression.quantize import check_gptq, quantize, quantize_by_inputs, quantized
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
        source, where = inputs.model("input"), f"stages.{inputs.name}.input"
        if config.calibrates:
            facts = _round_by_inputs(config, inputs, context, draft)
        else:
            model = load_any.decoder(source, what=where)
            _write(quantize(model, config.kind, config.embedding, config.clip), source, draft)
            facts = {}
        return {**_inherited(inputs), **facts}

    def plan(self, config: schema.Quantize, inputs: PlannedInputs) -> Outline:
        """Return the input's model with its matrices in fewer bits."""
        source = inputs.models.get("input")
        if source is None:
            return Outline()
        made = quantized(source, config.kind, config.embedding)
        if config.calibrates:
            check_gptq(made)
            known = inputs.train_tokens if config.data is None else None
            check_length(config.calibration, source, known)
        return Outline(made)


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


def _round_by_inputs(
    config: schema.Quantize, inputs: Inputs, context: Context, draft: Draft
) -> dict[str, Any]:
    """Write the model with its blocks rounded by GPTQ, and return how far each layer is off."""
    source, began = inputs.model("input"), time.monotonic()
    assert inputs.corpus is not None
    small = load_any.own_config(source, f"stages.{inputs.name}.input")
    check_gptq(quantized(small, config.kind, config.embedding))
    seed, device = context.runtime.seed, context.runtime.device
    batches = calibration_batches(config.calibration, small, inputs, seed)
    model, errors = quantize_by_inputs(
        load_any.decoder(source, device),
        config.kind,
        config.embedding,
        batches,
        config.calibration.damping,
        config.clip,
        lambda done: draft.events.watch(
            "scoring", {"what": f"rounding {inputs.name} by GPTQ", "done": done}
        ),
    )
    _write(model.to("cpu"), source, draft)
    rounding = {
        "tokens": sum(batch.numel() for batch in batches),
        "text": inputs.corpus.id,
        "seconds": round(time.monotonic() - began, 3),
        "errors": {name: asdict(error) for name, error in errors.items()},
    }
    return {"rounding": rounding}


def _write(model: Model, source: Path, draft: Draft) -> None:
    """Write a model into the draft, with the tokenizer of the model that it was made from."""
    with disk_errors(draft.path):
        folder.save(model, draft.new_folder("model"))
        copy_tokenizer(source, draft.path / "model")


def _inherited(inputs: Inputs) -> dict[str, object]:
    """Return the facts of a model that was not trained: what its input had cost and read."""
    facts: dict[str, Any] = {key: inputs.spent(key) for key in ("total_flops", "total_seconds")}
    for name in ("documents", "corpus"):
        if (value := inputs.artifacts["input"].facts.get(name)) is not None:
            facts[name] = value
    return facts


STAGES: dict[str, Stage[Any]] = {"quantize": QuantizeStage(), "merge": MergeStage()}
