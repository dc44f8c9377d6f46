"""Weights that become zero: which ones, and a model with masks that keep them there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from flyweight.config.adapters import Lora
from flyweight.config.linear_kinds import Dense, LinearKind
from flyweight.config.pruning import Prune
from flyweight.config.schema import Architecture, ModelConfig
from flyweight.config.sparse_kinds import Masked, pattern_faults
from flyweight.errors import RequestError
from flyweight.model.adapters import LoraAdapter
from flyweight.model.build import Model, build
from flyweight.model.linear_layer import LinearLayer, layers_of
from flyweight.model.masked import MaskedLinear, pack_bits
from flyweight.spec.linears import kind_of, linear_names, matches

ALREADY = -1.0
"""The score of a weight that was pruned before: less than that of any other."""


@torch.no_grad()
def prune(model: Model, config: Prune, sparsity: float, seed: int = 0) -> Model:
    """Return a copy of a model in which the share `sparsity` of the chosen weights is zero.

    Masks keep them zero in any further training. `seed` draws the random control. Raises
    RequestError for what cannot be pruned, as `pruned_config` does, and for adapters that were
    never trained.
    """
    planned = pruned_config(model.config, config)
    if config.of == "adapters":
        return _with_pruned_adapters(model, planned, config, sparsity, seed)
    layers = dict(layers_of(model))
    weights = {name: layers[name].dense() for name in target_names(model.config, config)}
    earlier = {name: _mask_of(layers[name]) for name in weights}
    kept = choose(weights, earlier, config, sparsity, seed)
    state = model.state_dict()
    for name, weight in weights.items():
        state[f"{name}.weight"] = weight.masked_fill(~kept[name], 0)
        state[f"{name}.mask"] = pack_bits(kept[name])
    return _loaded(planned, state, model)


def _loaded(config: Architecture, state: Mapping[str, Tensor], source: Model) -> Model:
    """Return a model of a config with copies of these tensors."""
    with torch.device("meta"):
        model = build(config)
    model.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
    return model.to(source.dtype).train(source.training)


def _mask_of(layer: LinearLayer) -> Tensor | None:
    """Return what an earlier pruning has kept (out, in); None where there was none."""
    return layer.kept() if isinstance(layer, MaskedLinear) else None


def choose(
    weights: Mapping[str, Tensor],
    earlier: Mapping[str, Tensor | None],
    config: Prune,
    sparsity: float,
    seed: int,
) -> dict[str, Tensor]:
    """Return which numbers of each matrix (out, in) are kept; what was pruned before is not."""
    generator = torch.Generator("cpu").manual_seed(seed)
    scores: dict[str, Tensor] = {}
    for name, weight in weights.items():
        score = SCORES[config.method](weight, generator)
        kept = earlier[name]
        scores[name] = score if kept is None else score.masked_fill(~kept, ALREADY)
    if config.pattern is not None:
        return {name: two_of_four(score) for name, score in scores.items()}
    if config.scope == "global":
        return dict(zip(scores, largest(list(scores.values()), sparsity), strict=True))
    return {name: largest([score], sparsity)[0] for name, score in scores.items()}


def _magnitude(weight: Tensor, generator: torch.Generator) -> Tensor:
    return weight.float().abs()


def _random(weight: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.empty(weight.shape, device="cpu").uniform_(generator=generator)
    return drawn.to(weight.device)


SCORES: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "magnitude": _magnitude,
    "random": _random,
}
"""How important each number of a matrix (out, in) is: never less than zero."""


def largest(scores: Sequence[Tensor], sparsity: float) -> list[Tensor]:
    """Return where scores are kept that are compared with each other: booleans of their shapes.

    All but the share `sparsity` are kept, to the number. Of equal scores the later ones are.
    """
    flat = torch.cat([score.reshape(-1) for score in scores])
    count = round(sparsity * len(flat))
    kept = torch.ones_like(flat, dtype=torch.bool)
    if count:
        bound = flat.kthvalue(count).values
        kept = flat > bound
        missing = count - int((flat < bound).sum())
        equal = (flat == bound).nonzero()[:, 0]
        kept[equal[missing:]] = True
    parts = kept.split([score.numel() for score in scores])
    return [part.view(score.shape) for part, score in zip(parts, scores, strict=True)]


def two_of_four(score: Tensor) -> Tensor:
    """Return the larger two of every four scores in a row: booleans (out, in)."""
    fours = score.unflatten(-1, (-1, 4))
    best = fours.topk(2, -1).indices
    return torch.zeros_like(fours, dtype=torch.bool).scatter_(-1, best, True).flatten(-2)


# --- adapters ---


def _with_pruned_adapters(
    model: Model, planned: Architecture, config: Prune, sparsity: float, seed: int
) -> Model:
    """Return a copy of a model in which numbers of every LoRA's A and B are zero."""
    tensors, earlier = dict[str, Tensor](), dict[str, Tensor | None]()
    for name, module in model.named_modules():
        if not isinstance(module, LoraAdapter):
            continue
        _refuse_untrained(name, module, config)
        masks = dict(module.kept())
        for part in ("a", "b"):
            tensors[f"{name}.{part}"] = getattr(module, part)
            earlier[f"{name}.{part}"] = masks.get(part)
    kept = choose(tensors, earlier, config, sparsity, seed)
    state = model.state_dict()
    for name, tensor in tensors.items():
        state[name] = tensor.masked_fill(~kept[name], 0)
        state[f"{name}_mask"] = pack_bits(kept[name])
    return _loaded(planned, state, model)


def _refuse_untrained(name: str, lora: LoraAdapter, config: Prune) -> None:
    """Raise RequestError for an adapter that adds nothing yet, unless it is pruned at random.

    Half of its numbers are zero already: a share of zeros there would say nothing.
    """
    if config.method != "random" and not lora.b.count_nonzero():
        raise RequestError(
            f"prune: B of {name} is zero everywhere, so this adapter was never trained, and its "
            f"zeros would be no result of pruning; fine-tune the model first"
        )


# --- configs ---


def target_names(config: Architecture, settings: Prune) -> list[str]:
    """Return the names of the matrices that are to be pruned.

    Raises RequestError for a pattern that names none.
    """
    names = linear_names(config)
    for pattern in settings.targets:
        if not any(matches(name, pattern) for name in names):
            known = ", ".join(names[:8])
            raise RequestError(
                f"prune: targets: no layer is called {pattern!r}; names begin with {known} "
                f"(`*` stands for anything)"
            )
    return [name for name in names if any(matches(name, each) for each in settings.targets)]


def pruned_config(config: Architecture, settings: Prune) -> Architecture:
    """Return the config that `prune` gives a model of this one.

    Raises RequestError for packed matrices, for adapters where weights are to be pruned, for no
    LoRA where adapters are, for a matrix that the pattern does not fit, and where a pattern would
    be lost.
    """
    if settings.of == "adapters":
        return _adapters_config(config)
    if isinstance(config, ModelConfig) and config.adapters:
        raise RequestError(
            "prune: the model has adapters, which would fill the zeros of the matrices that they "
            "are around; merge them first (flyweight merge), or prune the adapters themselves "
            "(of: adapters)"
        )
    names = target_names(config, settings)
    for name, in_ in _inputs(config).items():
        if name not in names:
            continue
        kind = kind_of(config, name)
        _refuse_kind(name, kind, settings)
        if faults := list(pattern_faults(settings.pattern, name, in_)):
            raise RequestError(f"prune: {faults[0]}; leave pattern out, or name other targets")
    masks: dict[str, LinearKind] = {
        pattern: Masked(pattern=settings.pattern) for pattern in settings.targets
    }
    others = {key: kind for key, kind in config.linears.items() if key not in masks}
    return config.model_copy(update={"linears": {**masks, **others}})


def _refuse_kind(name: str, kind: LinearKind, settings: Prune) -> None:
    """Raise RequestError for a matrix that is packed, or whose pattern would be lost."""
    if isinstance(kind, Masked):
        if kind.pattern is not None and settings.pattern is None:
            raise RequestError(
                f"prune: {name} is pruned in the pattern {kind.pattern}, which further zeros "
                f"anywhere would not make smaller; prune the model that it was made from"
            )
    elif not isinstance(kind, Dense):
        raise RequestError(
            f"prune: {name} is stored as {kind.label}, and packed numbers are not pruned; prune "
            f"the model that it was made from, and pack the result"
        )


def _adapters_config(config: Architecture) -> ModelConfig:
    adapters = config.adapters if isinstance(config, ModelConfig) else ()
    if not any(isinstance(adapter, Lora) for adapter in adapters):
        raise RequestError(
            "prune: the model has no LoRA whose numbers could be pruned; fine-tune it with method "
            "lora first, or prune its weights (of: weights)"
        )
    assert isinstance(config, ModelConfig)
    masked = tuple(
        adapter.model_copy(update={"masked": True}) if isinstance(adapter, Lora) else adapter
        for adapter in adapters
    )
    return config.model_copy(update={"adapters": masked})


def _inputs(config: Architecture) -> dict[str, int]:
    """Return how many numbers each linear layer of a model reads, by its name."""
    with torch.device("meta"):
        model = build(config)
    return {name: layer.in_features for name, layer in layers_of(model)}
