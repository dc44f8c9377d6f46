"""The stage that trains a finished model further: all of its tensors, or those of a method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flyweight.checkpoints import load_any
from flyweight.checkpoints.convert import copy_tokenizer
from flyweight.checkpoints.reading import check_reads
from flyweight.config import schema
from flyweight.config.adapters import Frozen, Full, Method
from flyweight.config.finetuning import tuned_config
from flyweight.config.schema import Architecture, ModelConfig
from flyweight.errors import RequestError
from flyweight.model.attach import attach
from flyweight.model.build import Model, build
from flyweight.model.decoder import Decoder
from flyweight.model.masked import copy_masks
from flyweight.model.own_head import with_own_head
from flyweight.spec import flops
from flyweight.spec.adapters import adapter_bytes, adapter_faults, trained_tensors
from flyweight.store.artifact import Draft
from flyweight.store.stage import Context, Inputs, Stage
from flyweight.training.model_training import train_model, vocabulary
from flyweight.training.objectives import NextTokenObjective


class FinetuneStage(Stage[schema.Finetune]):
    """Next-token training of a finished model by a method; what the method leaves out is frozen."""

    version = 1

    def run(
        self, config: schema.Finetune, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Train and return the facts: how many numbers trained, and the bytes that hold them."""
        base, where = inputs.model("input"), f"stages.{inputs.name}"
        tunable_config(base, config.method, where)
        model = load_any.decoder(base, context.runtime.device, f"{where}.input")
        if config.start == "random":
            fresh = build(model.config, seed=context.runtime.seed).to(context.runtime.device)
            copy_masks(model, fresh)
            model = fresh
        model = prepared(model, config.method, context.runtime.seed)
        check_reads(model.config, "input", inputs, config.data.context)
        objective = NextTokenObjective(schema.NextToken(), vocabulary(inputs))
        facts = train_model(config, model, objective, None, inputs, context, draft)
        copy_tokenizer(base, draft.path / "model")  # with the template of a chat
        return {**facts, **tuning_facts(model, config.method)}


def tunable_config(folder: Path, method: Method, where: str) -> Architecture:
    """Return the config of the model in a folder that is to be fine-tuned.

    Raises RequestError for a model that the method cannot train: a foreign one, a mixture, a packed
    one where all of it is to be trained, and a baseline where a part is. Raises it as well for
    adapters that name no layer of the model. `where` is the stage.
    """
    if isinstance(method, Full):
        return load_any.trainable_config(folder, f"{where}.input")
    config = load_any.own_config(folder, f"{where}.input")
    if not isinstance(config, ModelConfig):
        raise RequestError(
            f"{where}.method: {method.kind} is for decoders, and this is a baseline (kind: "
            f"{config.kind}); use method: full"
        )
    load_any.refuse_mixture(config, f"{where}.input")
    tuned = tuned_config(config, method)
    if faults := adapter_faults(tuned):
        raise RequestError("\n".join(f"{where}.method: {fault}" for fault in faults))
    return config


def prepared(model: Model, method: Method, seed: int = 0) -> Model:
    """Return the model with what the method adds; only the tensors that it trains have a gradient.

    Its logits are those of `model`, but for a prefix in the text's softmax. `seed` draws the first
    values of adapters.
    """
    if isinstance(method, Frozen):
        assert isinstance(model, Decoder)
        model = with_own_head(model)
    elif not isinstance(method, Full) and tuned_config(model.config, method) != model.config:
        model = attach(model, [method], seed)
    trained = trained_tensors(model.config, method.trains)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and trained(name))
    return model


def tuning_facts(model: Model, method: Method) -> dict[str, Any]:
    """Return what a fine-tuning trained: its numbers, their bytes, and those of adapters alone."""
    trained = sum(tensor.nbytes for tensor in model.parameters() if tensor.requires_grad)
    facts = {
        "trainable_parameters": flops.trained_parameters(model.config, method.trains),
        "trainable_bytes": trained,
    }
    if method.trains == "adapters":
        facts["adapter_bytes"] = adapter_bytes(model.config, model.dtype.itemsize)
    return facts
