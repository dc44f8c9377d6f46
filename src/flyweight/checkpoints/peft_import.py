"""Adapters of peft's as ours: what a folder holds, checked against the model it goes onto."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from flyweight.checkpoints.family import Inexpressible
from flyweight.checkpoints.peft_config import PeftFields, read_fields
from flyweight.checkpoints.peft_modules import (
    CONFIG,
    IA3,
    MAGNITUDE,
    PREFIX,
    PROMPT,
    WEIGHTS,
    A,
    B,
    Module,
    base_family,
    shortened,
)
from flyweight.config.adapters import Adapter
from flyweight.config.schema import Ia3, Lora, ModelConfig, Prefix
from flyweight.core.files import reason
from flyweight.errors import FlyweightError, RequestError
from flyweight.model.attach import attach, attached
from flyweight.model.decoder import Decoder
from flyweight.spec.adapters import JOINT, adapter_tensors, block_shapes

ENDS = (A, B, f"{MAGNITUDE}.weight", MAGNITUDE, IA3)


@dataclass(frozen=True)
class OurAdapters:
    """Adapters in our terms, and their tensors by our names."""

    adapters: tuple[Adapter, ...]
    tensors: dict[str, Tensor]


def is_peft(folder: Path) -> bool:
    """Return whether a folder holds an adapter of peft's."""
    return (folder / CONFIG).is_file()


@torch.no_grad()
def with_peft(model: Decoder, folder: Path) -> Decoder:
    """Return a model with the adapter in a folder of peft's around its layers.

    Its other tensors are those of `model`. Raises RequestError for an adapter of a kind that
    flyweight does not have and for one that was trained around another model, with the tensors that
    differ. Raises FlyweightError for damaged files.
    """
    ours = read_adapters(folder, model.config)
    adapted = attach(model, ours.adapters)
    parameters = dict(adapted.named_parameters())
    for name, tensor in ours.tensors.items():
        parameters[name].copy_(tensor.view_as(parameters[name]))
    return adapted


def read_adapters(folder: Path, config: ModelConfig) -> OurAdapters:
    """Return the adapter in a folder of peft's, around a model of this config."""
    fields = read_fields(folder)
    tensors = _tensors(folder)
    try:
        _, modules = base_family(config)
    except Inexpressible as error:
        raise RequestError(
            f"{folder}: peft's adapters are around models of transformers, and this model is of "
            f"no family there: {'; '.join(error.reasons)}"
        ) from error
    try:
        if fields.peft_type == "PREFIX_TUNING":
            found = _prefix(folder, fields, tensors, config)
        elif fields.peft_type == "LORA":
            found = _lora(folder, fields, _held(folder, tensors, modules), config)
        else:
            found = _ia3(folder, _held(folder, tensors, modules), config)
    except ValidationError as error:
        raise RequestError(f"{folder / CONFIG}: {error.errors()[0]['msg']}") from error
    _compare(folder, found, attached(config, found.adapters))
    return found


def _tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        raise RequestError(
            f"{folder}: {WEIGHTS} is missing beside {CONFIG}; save the adapter with "
            f"save_pretrained(..., safe_serialization=True)"
        )
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise FlyweightError(f"{path}: damaged ({reason(error)}); save it again") from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise FlyweightError(f"{path}: {name} is {tensor.dtype}, not floats; save it again")
        if tensor.itemsize == 1:  # few operations exist in eight bits
            tensors[name] = tensor = tensor.float()
        if not tensor.float().isfinite().all():
            raise FlyweightError(
                f"{path}: {name} holds NaN or infinity; the training failed, or it was saved broken"
            )
    return tensors


_Held = dict[Module, dict[str, Tensor]]
"""The tensors of each module, by the ends of their names."""


def _held(folder: Path, tensors: Mapping[str, Tensor], modules: list[Module]) -> _Held:
    """Return an adapter's tensors by module; raise RequestError for those without a place."""
    known = {module.name: module for module in modules}
    held: _Held = {module: {} for module in modules}
    others = list[str]()
    for name, tensor in sorted(tensors.items()):
        end = next((end for end in ENDS if name.endswith(f".{end}")), "")
        module = known.get(name.removeprefix(PREFIX).removesuffix(f".{end}"))
        if module is None or not end:
            others.append(name)
        else:
            end = MAGNITUDE if MAGNITUDE in end else end
            if end in held[module]:
                raise FlyweightError(f"{folder}: {module.name} has two {end}; save it again")
            held[module][end] = tensor
    if others:
        raise RequestError(
            f"{folder}: this adapter was trained around another model: this one has no place for "
            f"{_some(others)}; name the model that it was trained around"
        )
    held = {module: found for module, found in held.items() if found}
    if not held:
        raise RequestError(f"{folder}: the adapter holds no tensors; save it again")
    return held


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"{', '.join(names[:4])}{more}"


# --- LoRA ---


@dataclass(frozen=True)
class _Thin:
    """The matrices of a LoRA at one place of ours, and what their product is multiplied by."""

    a: Tensor
    b: Tensor
    magnitude: Tensor | None
    factor: float

    def joins(self, other: _Thin) -> bool:
        """Whether both could be parts of one joint LoRA."""
        same = self.a.shape == other.a.shape and torch.equal(self.a, other.a)
        return same and self.factor == other.factor


def _lora(folder: Path, fields: PeftFields, held: _Held, config: ModelConfig) -> OurAdapters:
    """Return one LoRA for each rank and scale that modules have."""
    places: dict[str, _Thin] = {}
    for module, tensors in held.items():
        if absent := [end for end in (A, B, *[MAGNITUDE] * fields.use_dora) if end not in tensors]:
            raise FlyweightError(f"{folder}: {module.name} has no {absent[0]}; save it again")
        rank, shape = fields.rank(module.name), tuple(tensors[A].shape)
        if len(shape) != 2 or shape[0] != rank:
            raise FlyweightError(
                f"{folder}: {module.name} has rank {rank} by {CONFIG}, and its {A} is {shape}; "
                f"save the adapter again"
            )
        thin = _Thin(tensors[A], tensors[B], tensors.get(MAGNITUDE), fields.factor(module.name))
        places[_place(module)] = thin
    for joint, members in _joints(config).items():
        _join(places, joint, members)
    groups: dict[tuple[int, float], list[str]] = {}
    tensors: dict[str, Tensor] = {}
    for place, thin in places.items():
        groups.setdefault((len(thin.a), thin.factor), []).append(place)
        tensors |= {f"{place}.lora.a": thin.a, f"{place}.lora.b": thin.b}
        if thin.magnitude is not None:
            tensors[f"{place}.lora.magnitude"] = thin.magnitude
    rs = fields.use_rslora
    adapters = tuple(
        Lora(
            targets=tuple(shortened(chosen, _every_place(config))),
            r=rank,
            alpha=factor * (sqrt(rank) if rs else rank),
            dropout=fields.lora_dropout,
            scale="rs" if rs else "standard",
            dora=fields.use_dora,
        )
        for (rank, factor), chosen in groups.items()
    )
    return OurAdapters(adapters, tensors)


def _place(module: Module) -> str:
    """Return our name of a module: that of its layer, or the joint name of several."""
    if len(module.layers) == 1:
        return module.layers[0]
    return f"{module.layers[0].rpartition('.')[0]}.qkv"


def _joints(config: ModelConfig) -> dict[str, list[str]]:
    """Return the joint names of every block, each with the names of its layers."""
    return {
        f"blocks.{block}.{joint}": [
            f"blocks.{block}.{joint.split('.')[0]}.{member}" for member in members
        ]
        for block in range(config.layers)
        for joint, members in JOINT.items()
    }


def _every_place(config: ModelConfig) -> list[str]:
    """Return every name of a block's layers, and the joint ones."""
    names = list(_joints(config))
    for block in range(config.layers):
        names += block_shapes(config.layer(block), block)
    return names


def _join(places: dict[str, _Thin], joint: str, members: list[str]) -> None:
    """Put a joint LoRA in the place of several with the same A."""
    thin = [places[name] for name in members if name in places]
    if len(thin) < len(members) or not all(thin[0].joins(other) for other in thin):
        return
    for name in members:
        del places[name]
    lengths = [each.magnitude for each in thin if each.magnitude is not None]
    magnitude = torch.cat(lengths) if len(lengths) == len(thin) else None
    b = torch.cat([each.b for each in thin])
    places[joint] = _Thin(thin[0].a, b, magnitude, thin[0].factor)


# --- IA3 ---


def _ia3(folder: Path, held: _Held, config: ModelConfig) -> OurAdapters:
    tensors: dict[str, Tensor] = {}
    ones: dict[str, Tensor] = {}
    for module, found in held.items():
        if IA3 not in found:
            raise FlyweightError(f"{folder}: {module.name} has no {IA3}; save it again")
        scale = found[IA3]
        reads = scale.ndim == 2 and scale.shape[0] == 1
        if reads != module.layers[0].endswith("mlp.down"):
            raise RequestError(
                f"{folder}: {module.name} has factors on what it "
                f"{'reads' if reads else 'puts out'}; flyweight's IA3 has them on what mlp.down "
                f"reads and on what other matrices put out"
            )
        if len(module.layers) == 1:
            tensors[f"{module.layers[0]}.ia3.scale"] = scale.flatten()
            continue
        block = int(module.layers[0].split(".")[1])
        shapes = block_shapes(config.layer(block), block)
        sizes = [shapes[name].out for name in module.layers]
        if scale.numel() != sum(sizes):
            raise RequestError(_differs(folder, [_shapes(module.name, scale, (sum(sizes), 1))]))
        for name, part in zip(module.layers, scale.flatten().split(sizes), strict=True):
            one = torch.equal(part, torch.ones_like(part))
            (ones if one else tensors)[f"{name}.ia3.scale"] = part
    tensors = tensors or ones  # an adapter that has learned nothing
    names = [name.removesuffix(".ia3.scale") for name in tensors]
    targets = tuple(shortened(names, _every_place(config)))
    return OurAdapters((Ia3(targets=targets),), tensors)


# --- prefix ---


def _prefix(
    folder: Path, fields: PeftFields, tensors: Mapping[str, Tensor], config: ModelConfig
) -> OurAdapters:
    """Return a prefix in the text's softmax: its layers' keys and values stand side by side."""
    rows = tensors.get(PROMPT)
    if rows is None or len(tensors) > 1 or rows.ndim != 2:
        raise FlyweightError(
            f"{folder}: a prefix is one matrix {PROMPT}, and this one holds "
            f"{_some(sorted(tensors)) or 'nothing'}; save it again"
        )
    attention = config.resolved().attention
    width = (attention.kv_heads or 0) * (attention.head_dim or 0)
    expected = (len(rows), 2 * config.layers * width)
    if rows.shape != expected:
        raise RequestError(_differs(folder, [_shapes(PROMPT, rows, expected)]))
    heads = fields.num_attention_heads
    if heads != attention.kv_heads:
        fault = f"num_attention_heads is {heads} there and {attention.kv_heads} here"
        raise RequestError(_differs(folder, [fault]))
    parts = iter(rows.split(width, 1))
    found: dict[str, Tensor] = {}
    for block in range(config.layers):
        for name in ("keys", "values"):
            found[f"blocks.{block}.attention.prefix.{name}"] = next(parts)
    return OurAdapters((Prefix(length=len(rows), softmax="shared"),), found)


# --- what differs ---


def _compare(folder: Path, found: OurAdapters, config: ModelConfig) -> None:
    """Raise RequestError where tensors have other shapes than around this model."""
    expected = {tensor.name: tensor.shape for tensor in adapter_tensors(config)}
    faults = [
        _shapes(name, tensor, expected.get(name, ()))
        for name, tensor in found.tensors.items()
        if tuple(tensor.shape) != expected.get(name)
    ]
    if faults:
        raise RequestError(_differs(folder, faults))


def _shapes(name: str, tensor: Tensor, here: tuple[int, ...]) -> str:
    return f"{name} is {tuple(tensor.shape)} there and {here} here"


def _differs(folder: Path, faults: list[str]) -> str:
    return (
        f"{folder}: this adapter was trained around another model: {_some(faults)}; name the model "
        f"that it was trained around"
    )
