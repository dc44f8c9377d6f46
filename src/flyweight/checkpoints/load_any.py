"""A model folder of either kind: our own model, or a foreign one behind its interface."""

from __future__ import annotations

from pathlib import Path

import torch

from flyweight.checkpoints import foreign_model, read
from flyweight.checkpoints.foreign_model import Foreign, ForeignConfig
from flyweight.config.adapters import MERGEABLE
from flyweight.config.baselines import LstmConfig
from flyweight.config.model_rules import packed_kinds
from flyweight.config.schema import Architecture, ModelConfig
from flyweight.errors import RequestError
from flyweight.model import folder
from flyweight.model.build import Model
from flyweight.spec import flops
from flyweight.spec.chunks import WINDOW

AnyModel = Model | Foreign
AnyConfig = Architecture | ForeignConfig


def load(path: Path, device: str | torch.device = "cpu") -> AnyModel:
    """Return the model in an artifact's `model/` folder.

    Raises as `folder.load` and `external.load` do.
    """
    if read.is_checkpoint(path):
        return foreign_model.load(path, device)
    return folder.load(path, device)


def decoder(path: Path, device: str | torch.device = "cpu", what: str = "this") -> Model:
    """Return our own model in a folder.

    Raises RequestError for a foreign one, which cannot do what `what` says.
    """
    own_config(path, what)
    model = load(path, device)
    assert isinstance(model, Model)
    return model


def own_config(path: Path, what: str) -> Architecture:
    """Return the config of our own model in a folder.

    Raises RequestError for a foreign one, as `decoder` does.
    """
    kind = config(path)
    if isinstance(kind, ForeignConfig):
        raise RequestError(
            f"{what}: {kind.model_type} models can be teachers and can be evaluated, but not "
            "trained or quantized here. GPT-2, Llama and Qwen3 models can"
        )
    return kind


def trainable_config(path: Path, what: str) -> Architecture:
    """Return the config of a model to train further.

    Raises RequestError for a foreign model and for a packed one, whose matrices have no gradient.
    """
    architecture = own_config(path, what)
    if kinds := packed_kinds(architecture):
        raise RequestError(
            f"{what}: this model's matrices are stored as {' and '.join(kinds)} and cannot be "
            f"trained. {_made_dense(architecture)}"
        )
    refuse_mixture(architecture, what)
    if isinstance(architecture, ModelConfig) and architecture.adapters:
        raise RequestError(
            f"{what}: this model has adapters, which are trained by fine-tuning. Merge them first "
            f"(flyweight merge), or go on with flyweight finetune"
        )
    return architecture


def _made_dense(architecture: Architecture) -> str:
    """Return how one gets a model like this one that all of can be trained."""
    adapters = architecture.adapters if isinstance(architecture, ModelConfig) else ()
    if adapters and all(adapter.kind in MERGEABLE for adapter in adapters):
        return (
            "It has adapters: flyweight merge MODEL --unpack makes it dense with what they "
            "learned, or train them further with flyweight finetune"
        )
    if adapters:
        return "It has adapters, which flyweight finetune trains further"
    return "Start from the model that was quantized, and quantize the result"


def refuse_mixture(architecture: Architecture, what: str) -> None:
    """Raise RequestError for the config of a mixture, which is not trained any further."""
    if isinstance(architecture, ModelConfig) and architecture.mixture is not None:
        raise RequestError(
            f"{what}: this model is a mixture with counts or a pointer, and cannot be trained. "
            "Train the network that it was made from, and mix the result"
        )


def require_isolation(config: AnyConfig, where: str, task: bool) -> None:
    """Raise RequestError for a model that cannot read apart what shares a window.

    That is documents, or the examples of a `task`.
    """
    reason = None
    if isinstance(config, LstmConfig):
        reason = "an LSTM carries its state across documents in a window"
    elif isinstance(config, ModelConfig) and config.mixture is not None:
        reason = "the counts and the pointer of a mixture look across documents"
    elif isinstance(config, ForeignConfig):
        reason = f"a {config.model_type} model is read joined, behind transformers"
    if reason is not None:
        remedy = "packing: padding" if task else "documents: joined"
        raise RequestError(f"{where}: {reason}; use {remedy}")


def require_context(config: AnyConfig, context: int, where: str, what: str) -> None:
    """Raise RequestError where windows of `context` tokens are more than a model reads at once.

    `where` is the field that names them, `what` the model.
    """
    if config.context is not None and config.context < context:
        raise RequestError(
            f"{where}: {context} is longer than the {config.context} tokens that the {what} reads "
            f"at once"
        )


def decoder_config(path: Path, what: str) -> ModelConfig:
    """Return the config of the decoder of ours in a folder.

    Raises RequestError for a baseline, which `what` cannot hold.
    """
    architecture = folder.load_config(path)
    if isinstance(architecture, ModelConfig):
        return architecture
    raise RequestError(
        f"{path}: {what} holds decoders; this is a baseline (kind: {architecture.kind}), which no "
        "other program knows"
    )


def config(path: Path) -> AnyConfig:
    """Return the config of the model in a folder, without loading it."""
    if read.is_checkpoint(path):
        return foreign_model.config_of(read.read(path))
    return folder.load_config(path)


def window(config: AnyConfig) -> int:
    """Return the tokens that are read at once by default: the model's context, up to WINDOW."""
    return min(config.context or WINDOW, WINDOW)


def forward_flops(model: AnyModel, length: int) -> int:
    """Return the FLOPs of one forward pass over `length` tokens, with logits at every position."""
    if isinstance(model, Model):
        return flops.forward_flops(model.config, length)
    return model.forward_flops(length)
