"""The stages that make a trained model smaller, or simpler."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from flyweight.checkpoints import convert, fetch, load_any
from flyweight.compression.calibration import (
    calibration_batches,
    check_length,
)
from flyweight.compression.merge import merge, merged
from flyweight.compression.pack import PackStage
from flyweight.compression.packed_import import ImportPacking
from flyweight.compression.planned import column_seconds, gathering
from flyweight.compression.prune_stage import PruneStage
from flyweight.compression.quantize import check_gptq, quantize, quantize_by_inputs, quantized
from flyweight.compression.written import inherited, write_model
from flyweight.config import catalogue, schema
from flyweight.model.build import Model
from flyweight.model.sparsity import pruned_layers, sparsity_facts
from flyweight.store.artifact import Draft, Identity
from flyweight.store.stage import Context, Inputs, Outline, PlannedInputs, Stage


class QuantizeStage(Stage[schema.Quantize]):
    """The same model with its matrices in fewer bits."""

    version = 2

    def run(
        self, config: schema.Quantize, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Write the smaller `model/`; the facts inherit what the input had cost."""
        source = inputs.model("input")
        if config.calibrates:
            small = load_any.own_config(source, f"stages.{inputs.name}.input")
            check_gptq(quantized(small, config.kind, config.embedding, config.layers))
        device = context.runtime.device if config.calibrates else "cpu"
        model = load_any.decoder(source, device, f"stages.{inputs.name}.input")
        if config.calibrates:
            smaller, facts = _round_by_inputs(model, config, inputs, context, draft)
        else:
            smaller = quantize(model, config.kind, config.embedding, config.clip, config.layers)
            facts = {}
        write_model(smaller, source, draft)
        return {**inherited(inputs), **sparsity_facts(smaller, pruned_layers(model)), **facts}

    def plan(self, config: schema.Quantize, inputs: PlannedInputs) -> Outline:
        """Return the input's model with its matrices in fewer bits."""
        source = inputs.models.get("input")
        if source is None:
            return Outline()
        made = quantized(source, config.kind, config.embedding, config.layers)
        if config.calibrates:
            check_gptq(made)
            known = inputs.train_tokens if config.data is None else None
            check_length(config.calibration, source, known)
            work = gathering(config.calibration, source)
            return Outline(made, config.seconds + column_seconds(source), work=(work,))
        return Outline(made)


class ImportStage(Stage[schema.Import]):
    """A model from elsewhere, the same as `flyweight import` makes."""

    def own_identity(self, config: schema.Import) -> Identity:
        """Return the identity of the checkpoint's files, which are fetched if need be."""
        source = fetch.checkpoint_of(config.input)
        packing = ImportPacking.of(config)
        fetch.refuse_others(config.input, source, packing)
        return fetch.identity(source, packing)

    def run(
        self, config: schema.Import, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Write the model and its tokenizer."""
        source = fetch.checkpoint_of(config.input)
        return fetch.write(config.input, source, ImportPacking.of(config), draft)

    def plan(self, config: schema.Import, inputs: PlannedInputs) -> Outline:
        """Return the model of a local folder, or of a published one that nobody has fetched yet."""
        source = _shape_of(config.input)
        if source is None:
            return Outline(notes=(f"the shape of {config.input} is known once it is fetched",))
        packing = ImportPacking.of(config)
        return Outline(source if packing is None else packing.config(source))


def _shape_of(reference: str) -> schema.ModelConfig | None:
    """Return the shape of a folder or of a published model; None where nobody knows it yet."""
    if not reference.startswith(fetch.HUB):
        return convert.config_of(fetch.checkpoint_of(reference))
    shape = catalogue.published(reference)
    assert shape is None or isinstance(shape, schema.ModelConfig)
    return shape


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


def _round_by_inputs(
    model: Model, config: schema.Quantize, inputs: Inputs, context: Context, draft: Draft
) -> tuple[Model, dict[str, Any]]:
    """Return the model with its blocks rounded by GPTQ, and how far each layer is off."""
    began = time.monotonic()
    assert inputs.corpus is not None
    batches = calibration_batches(config.calibration, model.config, inputs, context.runtime.seed)
    smaller, errors = quantize_by_inputs(
        model,
        config.kind,
        config.embedding,
        batches,
        config.calibration.damping,
        config.clip,
        config.layers,
        lambda done: draft.events.watch(
            "scoring", {"what": f"rounding {inputs.name} by GPTQ", "done": done}
        ),
    )
    rounding = {
        "tokens": sum(batch.numel() for batch in batches),
        "text": inputs.corpus.id,
        "seconds": round(time.monotonic() - began, 3),
        "errors": {name: asdict(error) for name, error in errors.items()},
    }
    return smaller.to("cpu"), {"rounding": rounding}


STAGES: dict[str, Stage[Any]] = {
    "import": ImportStage(),
    "quantize": QuantizeStage(),
    "prune": PruneStage(),
    "pack": PackStage(),
    "merge": MergeStage(),
}
