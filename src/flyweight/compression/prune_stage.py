"""The stage that prunes a trained model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from flyweight.checkpoints import load_any
from flyweight.checkpoints.reading import check_reads
from flyweight.compression.calibration import calibration_batches
from flyweight.compression.planned import column_seconds, gathering, weighing
from flyweight.compression.prune import prune, pruned_config
from flyweight.compression.structured import shrink, shrinking_facts, shrunk_config
from flyweight.compression.sweep import Swept, sweep
from flyweight.compression.vocabulary import check_vocabulary, without_unused
from flyweight.compression.written import inherited, write_model
from flyweight.config.baselines import Architecture
from flyweight.config.pruning import Prune, SparsitySweep
from flyweight.core.files import disk_errors
from flyweight.data.corpus import Corpus
from flyweight.data.tokenizer import Tokenizer
from flyweight.model import folder
from flyweight.model.build import Model
from flyweight.model.decoder import Decoder
from flyweight.model.sparsity import sparsity_facts
from flyweight.store.artifact import Draft
from flyweight.store.stage import Context, Inputs, Outline, PlannedInputs, Stage, Work


class PruneStage(Stage[Prune]):
    """The same model with some of its weights at zero."""

    def run(self, config: Prune, inputs: Inputs, context: Context, draft: Draft) -> dict[str, Any]:
        """Write the pruned `model/`; the facts have the zeros that are found in it."""
        source, device = inputs.model("input"), context.runtime.device
        what = f"stages.{inputs.name}.input"
        _planned(load_any.own_config(source, what), config)  # before anything is read
        model = load_any.decoder(source, device, what).eval()
        if config.method == "structured":
            return _with_fewer_parts(model, config, inputs, context, draft)
        pruned = partial(
            prune,
            model,
            config,
            seed=context.runtime.seed,
            batches=_batches(config, model, inputs, context),
            progress=lambda done: draft.events.watch(
                "scoring", {"what": inputs.name, "done": done}
            ),
        )
        share, facts = config.sparsity, dict[str, Any]()
        if isinstance(share, SparsitySweep):
            swept = _swept(model, share, inputs, context, pruned)
            share, facts = swept.chosen, swept.facts()
        result = pruned(share or config.share)
        write_model(result, source, draft)
        return {**inherited(inputs), **sparsity_facts(result), **facts}

    def plan(self, config: Prune, inputs: PlannedInputs) -> Outline:
        """Return the input's model with masks, or with fewer parts."""
        source = inputs.models.get("input")
        if source is None:
            return Outline()
        planned = _planned(source, config)
        if config.vocabulary is not None:
            note = "how many tokens of its vocabulary stay is known once the text has been read"
            return Outline(planned, notes=(note,))
        if not config.calibrates:
            return Outline(planned)
        work, seconds = _planned_work(source, config, inputs.validation_tokens or 0)
        return Outline(planned, seconds, work=work)


def _planned_work(
    source: Architecture, config: Prune, validation_tokens: int
) -> tuple[tuple[Work, ...], float]:
    """Return the work of choosing what is pruned, and the seconds beside it.

    A sweep prunes once more at what it chooses, and measures the model before.
    """
    if config.score == "taylor":
        return (weighing(config.calibration, source),), config.seconds
    once: tuple[Work, ...] = ()
    columns = 0.0
    if config.weighs_inputs:
        once = (gathering(config.calibration, source),)
        columns = column_seconds(source) if config.method == "sparsegpt" else 0.0
    if not isinstance(config.sparsity, SparsitySweep):
        return once, config.seconds + columns
    times = len(config.sparsity.among) + 1
    read = (config.sparsity.tokens or 0) + validation_tokens
    return (*(once * times), Work(source, times * read)), config.seconds + times * columns


def _planned(source: Architecture, config: Prune) -> Architecture:
    """Return the config of what a model becomes; raise RequestError where it cannot."""
    if config.method != "structured":
        return pruned_config(source, config)
    planned = shrunk_config(source, config)
    if config.vocabulary is not None:
        check_vocabulary(planned)
    return planned


def _with_fewer_parts(
    model: Model, config: Prune, inputs: Inputs, context: Context, draft: Draft
) -> dict[str, Any]:
    """Write the model with fewer heads, channels, layers or rows; return what that saves."""
    assert isinstance(model, Decoder)
    source = inputs.model("input")
    batches = _batches(config, model, inputs, context)
    small = shrink(model, config, context.runtime.seed, batches)
    facts: dict[str, Any] = {}
    if config.vocabulary is None:
        write_model(small, source, draft)
    else:
        split = Corpus.open(inputs.text(), verify=False).split(config.calibration.split)
        small, cut, facts = without_unused(small, Tokenizer.load(source), split)
        with disk_errors(draft.path):
            place = draft.new_folder("model")
            folder.save(small, place)
            cut.tokenizer.save(place / "tokenizer.json")
    return {**inherited(inputs), **shrinking_facts(model.config, small.config), **facts}


def _batches(config: Prune, model: Model, inputs: Inputs, context: Context) -> list[Tensor]:
    """Return the calibration text as batches of tokens (B, T), where the method reads one."""
    if config.weighs_inputs or config.score == "taylor":
        seed = context.runtime.seed
        return calibration_batches(config.calibration, model.config, inputs, seed)
    if config.calibrates:
        check_reads(model.config, "input", inputs, 1, "calibration.data")
    return []


def _swept(
    model: Model,
    choice: SparsitySweep,
    inputs: Inputs,
    context: Context,
    pruned: Callable[[float], Model],
) -> Swept:
    """Return the sparsity that a sweep chooses on validation text, and what it measured."""
    split = Corpus.open(inputs.text(), verify=False).split("validation")
    window = load_any.window(model.config)
    return sweep(model, choice, split, window, context.runtime.device, pruned)
