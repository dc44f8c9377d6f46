"""Our adapters as those of peft: the config and the tensors of an adapter's folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any, TypeVar

import torch
from torch import Tensor

from flyweight.checkpoints.family import Family, Inexpressible
from flyweight.checkpoints.peft_modules import (
    IA3,
    MAGNITUDE,
    PREFIX,
    PROMPT,
    A,
    B,
    Module,
    base_family,
    shortened,
)
from flyweight.config.schema import Bottleneck, Ia3, Lora, ModelConfig, Prefix
from flyweight.errors import RequestError
from flyweight.model.adapters import (
    Ia3Part,
    LayerAdapter,
    LoraAdapter,
    LoraPart,
    PrefixAdapter,
    adapter_at,
)
from flyweight.model.decoder import Decoder
from flyweight.model.linear_layer import LinearLayer, layers_of
from flyweight.spec.adapters import sites


@dataclass(frozen=True)
class PeftAdapter:
    """What an adapter's folder holds: its config, its tensors, and what is worth knowing."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


@torch.no_grad()
def peft_adapter(model: Decoder, base: str | None = None) -> PeftAdapter:
    """Return a model's adapters in peft's format; `base` is the name of what they are around.

    On GPT-2, whose query, key and value are one matrix, a joint LoRA keeps its form; LoRAs apart
    become one of the sum of their ranks. On Llama and Qwen3 the A of a joint LoRA is copied. A
    prefix in the text's softmax is peft's prefix tuning. Raises RequestError for adapters that
    peft's format does not have.
    """
    kind = _one_kind(model.config)
    family, modules = _native(model.config)
    layers = dict(layers_of(model))
    notes = _notes(model.config)
    common: dict[str, Any] = {
        "base_model_name_or_path": base,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
    }
    if kind is Prefix:
        config, tensors = _prefix(model)
        return PeftAdapter({**common, **config}, tensors, tuple(notes))
    if kind is Lora:
        config, tensors = _lora(model.config, modules, layers)
    else:
        config, tensors = _ia3(modules, layers)
    config |= {"fan_in_fan_out": family.model_type == "gpt2"}
    return PeftAdapter({**common, **config}, tensors, tuple(notes))


def _native(config: ModelConfig) -> tuple[Family, list[Module]]:
    """Return what `base_family` does; raise RequestError where no family holds the base."""
    try:
        return base_family(config)
    except Inexpressible as error:
        raise RequestError(
            f"--to peft: peft's adapters are around models of transformers, and this model is of "
            f"no family there: {'; '.join(error.reasons)}; use --to hf"
        ) from error


def _one_kind(config: ModelConfig) -> type[Lora] | type[Ia3] | type[Prefix]:
    """Return the kind of all adapters; raise RequestError where peft's format has no such ones."""
    kinds = list(dict.fromkeys(type(adapter) for adapter in config.adapters))
    if not kinds:
        raise RequestError(
            "--to peft writes adapters, and this model has none; use --to hf for the whole model"
        )
    for adapter in config.adapters:
        if isinstance(adapter, Bottleneck):
            raise RequestError(
                "--to peft: peft has no bottleneck behind a branch (Houlsby et al. 2019); use "
                "--to hf"
            )
        if isinstance(adapter, Prefix) and adapter.softmax != "shared":
            raise RequestError(
                "--to peft: this prefix has a softmax of its own, and peft's prefix tuning shares "
                "that of the text, so that it would compute something else; train one with "
                "method.softmax=shared, or use --to hf"
            )
    if len(kinds) > 1:
        names = " and ".join(sorted({adapter.kind for adapter in config.adapters}))
        raise RequestError(
            f"--to peft: one adapter of peft's is a LoRA, an IA3 or a prefix, and this model has "
            f"{names}; {_together(config)}"
        )
    dora = {adapter.dora for adapter in config.adapters if isinstance(adapter, Lora)}
    if len(dora) > 1:
        raise RequestError(
            "--to peft: one adapter of peft's has DoRA everywhere or nowhere; merge them "
            "(flyweight merge) and use --to hf"
        )
    return next(kind for kind in (Lora, Ia3, Prefix) if kind is kinds[0])


def _together(config: ModelConfig) -> str:
    """Return how a model with several kinds of adapters can be written all the same."""
    if any(isinstance(adapter, Prefix) for adapter in config.adapters):
        return "use --to hf"
    return "merge them (flyweight merge) and use --to hf"


def _notes(config: ModelConfig) -> list[str]:
    packed = sorted({kind.label for kind in config.linears.values() if not kind.plain})
    if not packed:
        return []
    return [
        f"it was trained around matrices in {' and '.join(packed)}; around the float model's it "
        f"computes almost the same"
    ]


# --- LoRA ---


def _lora(
    config: ModelConfig, modules: list[Module], layers: Mapping[str, LinearLayer]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    first = next(adapter for adapter in config.adapters if isinstance(adapter, Lora))
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    factors: dict[str, float] = {}
    for module in modules:
        own = [layers[name] for name in module.layers]
        parts = [_part(layer.adapters, LoraPart) for layer in own]
        loras = list(dict.fromkeys(part.lora for part in parts if part is not None))
        if not loras:
            continue
        a, b = _stacked(own, parts, loras)
        tensors[f"{PREFIX}{module.name}.{A}"] = a
        tensors[f"{PREFIX}{module.name}.{B}"] = b
        if first.dora:
            tensors[f"{PREFIX}{module.name}.{MAGNITUDE}"] = _magnitudes(own, parts)
        ranks[module.name] = len(a)
        factors[module.name] = loras[0].factor
    alphas = {
        name: factors[name] * (sqrt(rank) if first.scale == "rs" else rank)
        for name, rank in ranks.items()
    }
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": _whole(alpha),
        "lora_dropout": first.dropout,
        "use_rslora": first.scale == "rs",
        "use_dora": first.dora,
        "bias": "none",
        "target_modules": shortened(list(ranks), [module.name for module in modules]),
        "rank_pattern": {name: each for name, each in ranks.items() if each != rank},
        "alpha_pattern": {name: _whole(each) for name, each in alphas.items() if each != alpha},
    }, tensors


P = TypeVar("P", bound=LayerAdapter)


def _part(adapters: tuple[LayerAdapter, ...], kind: type[P]) -> P | None:
    return next((adapter for adapter in adapters if isinstance(adapter, kind)), None)


def _stacked(
    own: list[LinearLayer], parts: list[LoraPart | None], loras: list[LoraAdapter]
) -> tuple[Tensor, Tensor]:
    """Return A (sum of ranks, in) and B (sum of rows, sum of ranks) of stacked layers.

    Rows of a layer have their own LoRA's columns alone. Differences in scale are in B.
    """
    a = torch.cat([lora.a for lora in loras])
    columns: dict[LoraAdapter, slice] = {}
    start = 0
    for lora in loras:
        columns[lora] = slice(start, start + len(lora.a))
        start += len(lora.a)
    blocks = []
    for layer, part in zip(own, parts, strict=True):
        block = a.new_zeros(layer.out_features, start)
        if part is not None:
            scale = part.lora.factor / loras[0].factor
            block[:, columns[part.lora]] = part.lora.b[part.rows] * scale
        blocks.append(block)
    return a.clone(), torch.cat(blocks)


def _magnitudes(own: list[LinearLayer], parts: list[LoraPart | None]) -> Tensor:
    """Return the length of every row; of a layer without an adapter it is that of the row."""
    lengths = []
    for layer, part in zip(own, parts, strict=True):
        if part is None or part.lora.magnitude is None:
            lengths.append(layer.dense().norm(dim=1))
        else:
            lengths.append(part.lora.magnitude[part.rows])
    return torch.cat(lengths)


def _whole(number: float) -> float | int:
    """Return a number that is a whole one as such: peft writes alpha without a point."""
    rounded = round(number)
    return rounded if abs(number - rounded) <= 1e-9 * max(1.0, abs(number)) else number


# --- IA3 ---


def _ia3(
    modules: list[Module], layers: Mapping[str, LinearLayer]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    tensors: dict[str, Tensor] = {}
    targets: list[str] = []
    reads: list[str] = []
    for module in modules:
        own = [layers[name] for name in module.layers]
        parts = [_part(layer.adapters, Ia3Part) for layer in own]
        if not any(parts):
            continue
        targets.append(module.name)
        scales = []
        scales_input = False
        for layer, part in zip(own, parts, strict=True):
            if part is None:
                scales.append(torch.ones(layer.out_features))
                continue
            scales.append(part.ia3.scale)
            scales_input = part.ia3.scales_input
        scale = torch.cat([each.to(scales[-1].dtype) for each in scales])
        if scales_input:
            reads.append(module.name)
        shape = (1, -1) if scales_input else (-1, 1)
        tensors[f"{PREFIX}{module.name}.{IA3}"] = scale.view(shape).clone()
    every = [module.name for module in modules]
    return {
        "peft_type": "IA3",
        "target_modules": shortened(targets, every),
        "feedforward_modules": shortened(reads, every),
    }, tensors


# --- prefix ---


def _prefix(model: Decoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    rows: list[Tensor] = []
    for site in sites(model.config):
        prefix = adapter_at(model, site)
        assert isinstance(prefix, PrefixAdapter)
        rows += [prefix.keys, prefix.values]
    attention = model.config.resolved().attention
    length, width = rows[0].shape
    return {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": length,
        "token_dim": width,
        "num_attention_heads": attention.kv_heads,
        "num_layers": model.config.layers,
        "num_transformer_submodules": 1,
        "encoder_hidden_size": width,
        "prefix_projection": False,
    }, {PROMPT: torch.cat(rows, 1)}  # (length, 2 * layers * width)
