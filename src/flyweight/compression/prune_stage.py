"""The stage that prunes a trained model."""

from __future__ import annotations

from typing import Any

from flyweight.checkpoints import load_any
from flyweight.checkpoints.reading import check_reads
from flyweight.compression.prune import prune, pruned_config
from flyweight.compression.sweep import sweep
from flyweight.compression.written import inherited, write_model
from flyweight.config.pruning import Prune, SparsitySweep
from flyweight.data.corpus import Corpus
from flyweight.model.build import Model
from flyweight.model.sparsity import sparsity_facts
from flyweight.store.artifact import Draft
from flyweight.store.stage import Context, Inputs, Outline, PlannedInputs, Stage


class PruneStage(Stage[Prune]):
    """The same model with some of its weights at zero."""

    def run(self, config: Prune, inputs: Inputs, context: Context, draft: Draft) -> dict[str, Any]:
        """Write the pruned `model/`; the facts have the zeros that are found in it."""
        source, device = inputs.model("input"), context.runtime.device
        what = f"stages.{inputs.name}.input"
        pruned_config(load_any.own_config(source, what), config)  # before anything is read
        model = load_any.decoder(source, device, what).eval()
        share, facts = config.sparsity, dict[str, Any]()
        if config.calibrates:
            check_reads(model.config, "input", inputs, 1, "calibration.data")
        if isinstance(share, SparsitySweep):
            share, facts = _swept(model, config, share, inputs, context, draft)
        pruned = prune(model, config, share or config.share, context.runtime.seed)
        write_model(pruned, source, draft)
        return {**inherited(inputs), **sparsity_facts(pruned), **facts}

    def plan(self, config: Prune, inputs: PlannedInputs) -> Outline:
        """Return the input's model with masks."""
        source = inputs.models.get("input")
        return Outline() if source is None else Outline(pruned_config(source, config))


def _swept(
    model: Model,
    config: Prune,
    choice: SparsitySweep,
    inputs: Inputs,
    context: Context,
    draft: Draft,
) -> tuple[float, dict[str, Any]]:
    """Return the sparsity that a sweep chooses on validation text, and the sweep as facts."""
    split = Corpus.open(inputs.text(), verify=False).split("validation")
    seed, device = context.runtime.seed, context.runtime.device
    swept = sweep(
        model,
        choice,
        split,
        load_any.window(model.config),
        device,
        lambda sparsity: prune(model, config, sparsity, seed),
        lambda done: draft.events.watch("scoring", {"what": inputs.name, "done": done}),
    )
    return swept.chosen, swept.facts()
