"""A smaller ordinary model out of a trained one: fewer heads, MLP channels or layers.

What stays is copied. A head goes with its part of the output matrix; heads that share keys and
values go together. So the smaller model computes what the whole one does with those parts at zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flyweight.config.pruning import Prune
from flyweight.config.schema import Architecture, ModelConfig
from flyweight.errors import RequestError
from flyweight.model.decoder import Decoder
from flyweight.model.parts import Scores, best, cut_out, cuts, part_scores, writers
from flyweight.spec import flops


def shrunk_config(config: Architecture, settings: Prune) -> ModelConfig:
    """Return the config that `shrink` gives a model of this one.

    Raises RequestError for anything but a decoder of dense matrices whose layers are alike, for
    `layers` of a model that shares them, and for numbers that are not fewer or do not fit.
    """
    plain = _plain_decoder(config)
    attention, mlp, layers = plain.attention, plain.mlp, plain.layers
    heads, hidden = settings.heads, settings.hidden
    assert attention.heads and attention.kv_heads
    if settings.layers is not None:
        layers = len(_named_layers(plain, settings.layers))
    if heads is not None:
        shared = attention.heads // attention.kv_heads
        _check_fewer("heads", heads, attention.heads)
        if heads % shared:
            raise RequestError(
                f"prune: heads: {shared} heads share their keys and values and go together, and "
                f"{heads} is not a multiple of {shared}"
            )
        fewer = {"heads": heads, "kv_heads": heads // shared}
        attention = attention.model_copy(update=fewer)
    if hidden is not None:
        _check_fewer("hidden", hidden, mlp.width(plain.dim))
        if mlp.rank is not None and mlp.rank > hidden:
            raise RequestError(
                f"prune: hidden: {hidden} channels are fewer than the {mlp.rank} of the MLP's "
                f"bottleneck; keep at least those"
            )
        mlp = mlp.model_copy(update={"hidden": hidden})
    smaller = {"layers": layers, "attention": attention, "mlp": mlp}
    return plain.model_copy(update=smaller).resolved()


def _plain_decoder(config: Architecture) -> ModelConfig:
    """Return a resolved decoder of dense matrices whose layers are alike, or raise RequestError."""
    reason = ""
    if not isinstance(config, ModelConfig):
        reason = f"it is a baseline (kind: {config.kind}), and only decoders have heads and blocks"
    elif any(not kind.plain for kind in config.linears.values()):
        label = next(kind.label for kind in config.linears.values() if not kind.plain)
        reason = f"its matrices are stored as {label}; start from the dense model"
    elif config.adapters:
        reason = "it has adapters; merge them first (flyweight merge)"
    elif config.blocks:
        reason = f"its layers differ already (blocks: {', '.join(config.blocks)})"
    elif config.mixture is not None:
        reason = "it is a mixture; prune the network that it was made from, and mix the result"
    elif not config.layers:
        reason = "it has no layers"
    if reason:
        raise RequestError(f"prune: method structured: {reason}")
    assert isinstance(config, ModelConfig)
    return config.resolved()


def _named_layers(config: ModelConfig, layers: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return the layers that stay, or the first ones where only their number is known."""
    if config.sharing.kind != "none":
        raise RequestError(
            f"prune: layers: the layers are shared (sharing: {config.sharing.kind}), and each "
            f"stands for several places; prune heads and hidden instead"
        )
    if config.skips:
        raise RequestError(
            f"prune: layers: layers read earlier ones by their place (skips: "
            f"{', '.join(config.skips)}); prune heads and hidden instead"
        )
    if config.attention.value_residual:
        raise RequestError(
            "prune: layers: later layers read the values of the first "
            "(attention.value_residual); prune heads and hidden instead"
        )
    chosen = tuple(range(layers)) if isinstance(layers, int) else layers
    _check_fewer("layers", len(chosen), config.layers)
    if outside := [layer for layer in chosen if layer >= config.layers]:
        raise RequestError(
            f"prune: layers: layer {outside[0]} is outside the model's {config.layers} layers, "
            f"which are counted from 0"
        )
    return chosen


def _check_fewer(name: str, asked: int, present: int) -> None:
    if not 0 < asked < present:
        raise RequestError(
            f"prune: {name}: the model has {present}, and {asked} are not fewer; name from 1 to "
            f"{present - 1}"
        )


def shrink(
    model: Decoder, settings: Prune, seed: int = 0, batches: Sequence[Tensor] = ()
) -> Decoder:
    """Return a smaller model with copies of the most important parts of another one.

    `seed` draws the random score, `batches` are tokens (B, T) for the score `taylor`. Raises
    RequestError as `shrunk_config` does.
    """
    config = shrunk_config(model.config, settings)
    scores = score_parts(model, settings.score or "magnitude", seed, batches)
    before = model.config
    assert before.attention.heads and before.attention.kv_heads
    shared = before.attention.heads // before.attention.kv_heads
    layers = range(before.layers)
    if isinstance(settings.layers, int):
        layers = best(scores.layers, settings.layers)
    elif settings.layers is not None:
        layers = settings.layers
    with torch.device("meta"):
        small = Decoder(config)
    state, own = dict[str, Tensor](), model.state_dict()
    for name, tensor in own.items():
        if not name.startswith("blocks."):
            state[name] = tensor.clone()
    for place, layer in enumerate(layers):
        groups = torch.tensor(best(scores.groups[layer], (config.attention.kv_heads or 0)))
        width = before.mlp.width(before.dim)
        channels = torch.tensor(best(scores.channels[layer], settings.hidden or width))
        found = cuts(before, groups, shared, channels)
        prefix = f"blocks.{layer}."
        for name, tensor in own.items():
            if name.startswith(prefix):
                inner = name.removeprefix(prefix)
                state[f"blocks.{place}.{inner}"] = cut_out(tensor, found.get(inner)).clone()
    small.load_state_dict(state, assign=True)
    return small.to(model.dtype).train(model.training)


# --- scores ---


def score_parts(
    model: Decoder, score: str, seed: int = 0, batches: Sequence[Tensor] = ()
) -> Scores:
    """Return how important heads, channels and layers are, by a score's name."""
    if score == "random":
        generator = torch.Generator("cpu").manual_seed(seed)
        return part_scores(model, lambda weight: torch.rand(weight.shape, generator=generator))
    if score == "magnitude":
        return part_scores(model, lambda weight: weight.detach().float().square())
    return _taylor(model, batches)


def _taylor(model: Decoder, batches: Sequence[Tensor]) -> Scores:
    """Return the squared first-order changes of the loss without each part, summed over batches.

    The sum of weight times gradient over the columns that read a part is the derivative of the loss
    by a factor on that part.
    """
    model.eval()
    weights = [weight for pair in writers(model) for weight in pair]
    total: Scores | None = None
    with torch.enable_grad():
        for tokens in batches:
            rows = tokens.to(model.device)
            logits = model(rows[:, :-1]).float()
            loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten().long())
            slopes = dict(zip(weights, torch.autograd.grad(loss, weights), strict=True))
            found = part_scores(model, partial(_slope, slopes))
            squares = Scores(
                *(part.square() for part in (found.groups, found.channels, found.layers))
            )
            total = squares if total is None else _sum(total, squares)
    assert total is not None
    return total


def _slope(slopes: Mapping[Tensor, Tensor], weight: Tensor) -> Tensor:
    return weight.detach().float() * slopes[weight].float()


def _sum(first: Scores, second: Scores) -> Scores:
    return Scores(
        first.groups + second.groups,
        first.channels + second.channels,
        first.layers + second.layers,
    )


def shrinking_facts(before: ModelConfig, after: ModelConfig) -> dict[str, Any]:
    """Return the parameters and the forward FLOPs of a text in the context, before and after."""
    length = before.context or 1
    return {
        "parameters": flops.parameters(after).unique,
        "parameters_before": flops.parameters(before).unique,
        "forward_flops": flops.forward_flops(after, length),
        "forward_flops_before": flops.forward_flops(before, length),
    }
