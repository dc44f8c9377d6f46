"""A head of a model's own: a dense copy of what it multiplies hidden states with."""

from __future__ import annotations

import torch

from flyweight.config.adapters import Frozen
from flyweight.config.finetuning import tuned_config
from flyweight.errors import RequestError
from flyweight.model.decoder import Decoder


@torch.no_grad()
def with_own_head(model: Decoder) -> Decoder:
    """Return the model with a dense head that can be trained apart from its embedding.

    It gives the same logits. The other tensors are shared with `model`, which is returned itself
    where its head is such a one already. Raises RequestError for a mixture.
    """
    if model.mixture is not None:
        raise RequestError("model: a mixture has no head that could be trained")
    config = tuned_config(model.config, Frozen())
    if config == model.config:
        return model
    state = model.state_dict()
    if model.head is not None:
        weight, bias = model.head.linear.dense(), model.head.linear.bias
    else:
        weight, bias = model.embedding.tokens.dense(), model.head_bias
        if model.embedding.expand is not None:
            weight = weight @ model.embedding.expand.dense().T  # (V, rank) (rank, dim)
    state = {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith("head.") and name != "head_bias"
    }
    state["head.linear.weight"] = weight.clone()
    if bias is not None:
        state["head.linear.bias"] = bias.clone()
    with torch.device("meta"):
        apart = Decoder(config)  # pyright: ignore[reportArgumentType] - that of a decoder
    apart.load_state_dict(state, assign=True)
    return apart.to(model.dtype)
