"""A model folder of either kind: our own model, or a foreign one behind its interface."""

from __future__ import annotations

from pathlib import Path

import torch

from flyweight.checkpoints import foreign_model, read
from flyweight.checkpoints.foreign_model import Foreign, ForeignConfig
from flyweight.config.model_rules import packed_kinds
from flyweight.config.schema import Architecture, ModelConfig
from flyweight.errors import RequestError
from flyweight.model import folder
from flyweight.model.build import Model
from flyweight.model.decoder import Decoder
from flyweight.model.lstm import LSTM
from flyweight.spec import flops

AnyModel = Model | Foreign
AnyConfig = Architecture | ForeignConfig

WINDOW = 1024
"""Tokens that are read at once unless the user says otherwise.

A model's context may be far more than memory holds.
"""


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
            "trained. Start from the model that was quantized, and quantize the result"
        )
    if isinstance(architecture, ModelConfig) and architecture.mixture is not None:
        raise RequestError(
            f"{what}: this model is a mixture with counts or a pointer, and cannot be trained. "
            "Train the network that it was made from, and mix the result"
        )
    return architecture


def require_isolation(model: AnyModel | None, where: str) -> None:
    """Raise RequestError for a model that cannot read the documents of a window apart."""
    reason = None
    if isinstance(model, LSTM):
        reason = "an LSTM carries its state across documents in a window"
    elif isinstance(model, Decoder) and model.mixture is not None:
        reason = "the counts and the pointer of a mixture look across documents"
    elif isinstance(model, Foreign):
        reason = f"a {model.config.model_type} model is read joined, behind transformers"
    if reason is not None:
        raise RequestError(f"{where}: {reason}; use documents: joined")


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
