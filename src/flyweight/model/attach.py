"""Before a fine-tuning: adapters around a trained model, and a gradient for what trains alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from flyweight.config.adapters import Adapter, TrainedPart
from flyweight.config.finetuning import with_adapters
from flyweight.config.schema import Architecture, ModelConfig
from flyweight.errors import RequestError
from flyweight.model.adapters import reset_adapters
from flyweight.model.build import Model
from flyweight.model.decoder import Decoder
from flyweight.spec.adapters import adapter_tensors, check_adapters, sites, trained_tensors


def attach(model: Model, adapters: Sequence[Adapter], seed: int = 0) -> Decoder:
    """Return a model with more adapters, which changes nothing of what it computes.

    A prefix in the text's softmax is the exception: it begins as random keys and values.
    Its other tensors are those of `model`, not copies. `seed` draws the adapters' first values.
    Raises RequestError where such a model cannot have these adapters.
    """
    config = attached(model.config, adapters)
    with torch.device("meta"):
        adapted = Decoder(config)
    tensors = model.state_dict()
    for tensor in adapter_tensors(config):
        if tensor.name not in tensors:
            dtype = torch.uint8 if tensor.itemsize else model.dtype
            empty = torch.empty(tensor.shape, dtype=dtype, device=model.device)
            tensors[tensor.name] = empty
    adapted.load_state_dict(tensors, assign=True)
    adapted = adapted.to(model.dtype).train(model.training)
    before = len(sites(model.config)) if isinstance(model.config, ModelConfig) else 0
    reset_adapters(adapted, sites(config)[before:], seed)
    return adapted


def attached(config: Architecture, adapters: Sequence[Adapter]) -> ModelConfig:
    """Return the config that `attach` gives a model of this one.

    Raises RequestError as it does.
    """
    if not isinstance(config, ModelConfig):
        raise RequestError(
            f"adapters: a model of kind {config.kind} has no blocks of attention and MLP; choose "
            f"the method full or frozen"
        )
    adapted = ModelConfig.model_validate(with_adapters(config, adapters).model_dump())
    check_adapters(adapted)
    return adapted


def freeze(model: nn.Module, config: Architecture, part: TrainedPart) -> None:
    """Let gradients go to the tensors of one part of a model, and to no others."""
    trains = trained_tensors(config, part)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trains(name))
