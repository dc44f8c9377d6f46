"""Weights that become zero: which ones, and a model with masks that keep them there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from flyweight.compression.calibration import (
    LayerInputs,
    Progress,
    calibrated_layers,
    ignore,
    layer_inputs,
)
from flyweight.compression.kept import ALREADY, largest, largest_of_rows, two_of_four
from flyweight.compression.planned import input_sizes
from flyweight.compression.sparsegpt import prune_by_inputs
from flyweight.config.adapters import Lora
from flyweight.config.linear_kinds import Dense, LinearKind
from flyweight.config.pruning import Prune
from flyweight.config.schema import Architecture, ModelConfig
from flyweight.config.sparse_kinds import Masked, pattern_faults
from flyweight.errors import RequestError
from flyweight.model.adapters import LoraAdapter
from flyweight.model.build import Model, build
from flyweight.model.linear_layer import layers_of
from flyweight.model.masked import (
    MaskedLinear,
    apply_mask,
    masked_tensor,
    pack_bits,
    unpack_bits,
)
from flyweight.spec.linears import kind_of, linear_names, matches


@torch.no_grad()
def prune(
    model: Model,
    config: Prune,
    sparsity: float,
    seed: int = 0,
    batches: Sequence[Tensor] = (),
    progress: Progress = ignore,
) -> Model:
    """Return a copy of a model in which the share `sparsity` of the chosen weights is zero.

    Masks keep them zero in any further training. `seed` draws the random control, `batches` are the
    tokens (B, T) of a calibration text, for methods that weigh weights by what they multiply.
    Raises RequestError for what cannot be pruned, as `pruned_config` does, and for adapters that
    were never trained.
    """
    pruned = _with_masks(model, pruned_config(model.config, config))
    if config.weighs_inputs:
        _prune_by_inputs(pruned, config, sparsity, batches, progress)
        return pruned
    if config.of == "adapters":
        parts = _adapter_parts(pruned, config)
    else:
        layers = _masked_layers(pruned, config)
        parts = {name: (layer.weight, layer.mask) for name, layer in layers.items()}
    kept = _choose(parts, config, sparsity, seed)
    for name, (weight, mask) in parts.items():
        mask.copy_(pack_bits(kept[name]))
        apply_mask(weight, mask)
    return pruned


def _masked_layers(model: Model, config: Prune) -> dict[str, MaskedLinear]:
    """Return the layers that are to be pruned, by name."""
    names = target_names(model.config, config)
    return {
        name: layer
        for name, layer in layers_of(model)
        if name in names and isinstance(layer, MaskedLinear)
    }


Parts = Mapping[str, tuple[Tensor, Tensor]]
"""Numbers (..., n) that are to be pruned, with their masks of bits (..., bytes), by name."""


def _with_masks(model: Model, config: Architecture) -> Model:
    """Return a copy of a model with masks; where it had none, they keep everything."""
    with torch.device("meta"):
        masked = build(config)
    own = model.state_dict()
    state = dict[str, Tensor]()
    for name in masked.state_dict():
        if name in own:
            state[name] = own[name].clone()
        else:
            weight = own[masked_tensor(name)]
            state[name] = pack_bits(torch.ones_like(weight, dtype=torch.bool))
    masked.load_state_dict(state, assign=True)
    return masked.to(model.dtype).train(model.training)


def _choose(parts: Parts, config: Prune, sparsity: float, seed: int) -> dict[str, Tensor]:
    """Return which numbers of each part are kept; what was pruned before is not."""
    generator = torch.Generator("cpu").manual_seed(seed)
    scores: dict[str, Tensor] = {}
    for name, (weight, mask) in parts.items():
        score = SCORES[config.method](weight, generator)
        scores[name] = score.masked_fill(~unpack_bits(mask, weight.shape[-1]), ALREADY)
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
"""How important each number of a matrix (out, in) is by itself: never less than zero."""


# --- by what the weights multiply ---


def _prune_by_inputs(
    model: Model,
    config: Prune,
    sparsity: float,
    batches: Sequence[Tensor],
    progress: Progress,
) -> None:
    """Prune a masked model's matrices one block at a time, each by what it reads by then."""
    layers = _masked_layers(model, config)
    for read in layer_inputs(model, batches, progress):
        for name in read.names:
            if (layer := layers.get(name)) is not None:
                weight, kept = _pruned_by(read, layer, config, sparsity)
                layer.weight.copy_(weight)
                layer.mask.copy_(pack_bits(kept))
                apply_mask(layer.weight, layer.mask)


def _pruned_by(
    read: LayerInputs, layer: MaskedLinear, config: Prune, sparsity: float
) -> tuple[Tensor, Tensor]:
    """Return a layer's new weight (out, in) and which of its numbers are kept."""
    if config.method == "sparsegpt":
        damping = config.calibration.damping
        return prune_by_inputs(
            layer.weight, read.gram, sparsity, config.pattern, layer.kept(), damping
        )
    score = layer.weight.float().abs() * read.norms()  # Wanda (Sun et al. 2023)
    score = score.masked_fill(~layer.kept(), ALREADY)
    if config.pattern is not None:
        return layer.weight, two_of_four(score)
    return layer.weight, largest_of_rows(score, sparsity)


# --- adapters ---


def _adapter_parts(model: Model, config: Prune) -> Parts:
    """Return A and B of every LoRA of a masked model, with their masks.

    Raises RequestError for an adapter that adds nothing yet, unless it is pruned at random: half of
    its numbers are zero already, and a share of zeros there would say nothing.
    """
    parts: dict[str, tuple[Tensor, Tensor]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, LoraAdapter):
            continue
        if config.method != "random" and not module.b.count_nonzero():
            raise RequestError(_nothing_to_prune(name, module))
        parts |= {f"{name}.{part}": pair for part, pair in zip("ab", module.masks(), strict=True)}
    return parts


def _nothing_to_prune(name: str, adapter: LoraAdapter) -> str:
    """Return why an adapter whose B is zero everywhere cannot be pruned."""
    (_, mask_of_b) = list(adapter.masks())[1]
    if not unpack_bits(mask_of_b, adapter.b.shape[-1]).any():
        return (
            f"prune: B of {name} was pruned whole before, and nothing of this adapter is left; "
            f"prune less there, or with scope: layer, which keeps a share of each matrix"
        )
    return (
        f"prune: B of {name} is zero everywhere, so this adapter was never trained, and "
        f"its zeros would be no result of pruning; fine-tune the model first"
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
    tables = sorted(set(names) - set(calibrated_layers(config, names)))
    if settings.weighs_inputs and tables:
        raise RequestError(
            f"prune: {settings.method} weighs a matrix by what it multiplies, and {tables[0]} is a "
            f"table whose rows are looked up; name other targets, or method: magnitude"
        )
    for name, in_ in input_sizes(config).items():
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
