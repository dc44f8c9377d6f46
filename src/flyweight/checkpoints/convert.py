"""Checkpoints to our tensors and back: a GPT-2, Llama or Qwen3 folder, or one of our own type."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from flyweight.checkpoints import attributes
from flyweight.checkpoints.families import FAMILIES, Family, Inexpressible, Part
from flyweight.checkpoints.flyweight_type import OWN, own_fields
from flyweight.checkpoints.read import CONFIG, INDEX, TOKENIZER, WEIGHTS, Checkpoint
from flyweight.config.schema import ModelConfig
from flyweight.core.files import copy_file, disk_errors, new_file, write_text
from flyweight.errors import FlyweightError
from flyweight.model import folder
from flyweight.spec.linears import float_name

PREFIX = "decoder."
SHARD_BYTES = 5_000_000_000


def config_of(checkpoint: Checkpoint) -> ModelConfig:
    """Return the resolved config of the decoder that computes what this checkpoint does.

    Raises Inexpressible with every reason why a decoder cannot, RequestError where transformers
    does not accept its config, FlyweightError for a config of our own type that is damaged.
    """
    if checkpoint.code:
        raise Inexpressible(str(checkpoint.path), ["it runs Python code of its own"])
    if checkpoint.model_type == OWN:
        try:
            return ModelConfig.model_validate(checkpoint.raw.get(OWN)).resolved()
        except ValueError as error:
            raise FlyweightError(
                f"{checkpoint.path / CONFIG}: not a model of this version of flyweight ({error})"
            ) from error
    if checkpoint.model_type not in FAMILIES:
        families = ", ".join([*FAMILIES, OWN])
        raise Inexpressible(
            str(checkpoint.path),
            [f"its model_type is {checkpoint.model_type}; known are {families}"],
        )
    return FAMILIES[checkpoint.model_type].config(
        attributes.resolved(checkpoint.path, checkpoint.raw)
    )


def decoder(checkpoint: Checkpoint) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the config and the state of the decoder that computes what this checkpoint does.

    Raises as `config_of`, and FlyweightError where tensors are missing, left over or of another
    shape.
    """
    config = config_of(checkpoint)
    if checkpoint.model_type == OWN:
        return config, {
            name.removeprefix(PREFIX): tensor
            for name, tensor in _finite(checkpoint, checkpoint.tensors())
        }
    family = FAMILIES[checkpoint.model_type]
    real = ((name, tensor) for name, tensor in checkpoint.tensors() if not _is_buffer(name))
    tensors = {_named(name, family): tensor for name, tensor in _finite(checkpoint, real)}
    if config.embedding.tied and (head := tensors.pop("lm_head.weight", None)) is not None:
        table = next(
            part.theirs
            for part in family.parts(config)
            if part.ours == ("embedding.tokens.weight",)
        )
        # A file may keep a tied tensor under either of its two names.
        if not torch.equal(head, tensors.setdefault(table, head)):
            raise FlyweightError(
                f"{checkpoint.path}: it says that its head is its embedding, but has a head of its "
                "own"
            )
    state: dict[str, Tensor] = {}
    missing = []
    for part in family.parts(config):
        if part.theirs not in tensors:
            missing.append(part.theirs)
            continue
        state.update(_ours(part, tensors.pop(part.theirs)))
    if missing or tensors:
        faults = [f"{name} is missing" for name in missing]
        faults += [f"{name} is unexpected" for name in sorted(tensors)]
        more = f"; and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise FlyweightError(
            f"{checkpoint.path}: its tensors are not those of its config: "
            f"{'; '.join(faults[:20])}{more}"
        )
    if odd := sorted(name for name, tensor in state.items() if not tensor.is_floating_point()):
        raise FlyweightError(
            f"{checkpoint.path}: weights that are not floats: {', '.join(odd[:20])}; save the "
            "model anew"
        )
    folder.check(config, state := _one_dtype(state), checkpoint.path)
    return config, state


def _finite(
    checkpoint: Checkpoint, tensors: Iterable[tuple[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors; raise FlyweightError for one with NaN or infinity."""
    for name, tensor in tensors:
        if (
            tensor.is_floating_point()
            and tensor.element_size() > 1
            and not torch.isfinite(tensor).all()
        ):
            raise FlyweightError(
                f"{checkpoint.path}: {name} holds NaN or infinity; copy the model again, or it was "
                "saved broken"
            )
        yield name, tensor


def _named(name: str, family: Family) -> str:
    """Return a tensor's full name: checkpoints of the bare model leave the prefix out."""
    return name if name.startswith((family.prefix, "lm_head.")) else family.prefix + name


def _is_buffer(name: str) -> bool:
    """Return whether old checkpoints keep a constant under this name."""
    return name.endswith((".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"))


def _ours(part: Part, tensor: Tensor) -> dict[str, Tensor]:
    whole = tensor.T if part.transposed else tensor
    if len(part.ours) == 1:
        return {part.ours[0]: whole}
    if whole.shape[0] % len(part.ours):
        raise FlyweightError(
            f"{part.theirs} has shape {tuple(tensor.shape)}, which is not {len(part.ours)} equal "
            "parts"
        )
    return dict(zip(part.ours, whole.chunk(len(part.ours)), strict=True))


def _one_dtype(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state in its widest float type: some checkpoints keep their norms in float32."""
    dtypes = {tensor.dtype for tensor in state.values()}
    if len(dtypes) < 2:
        return state
    widest = max(dtypes, key=lambda dtype: torch.finfo(dtype).bits)
    if {torch.bfloat16, torch.float16} <= dtypes:
        widest = torch.float32
    return {name: tensor.to(widest) for name, tensor in state.items()}


# --- out ---


def checkpoint_files(
    config: ModelConfig, state: Mapping[str, Tensor], family: Family | None
) -> tuple[dict[str, object], dict]:
    """Return (`config.json`, tensors) of a model as `family` has it; None is our own type."""
    dtype = str(state[float_name(config)].dtype).removeprefix("torch.")
    if family is not None:
        tensors = {part.theirs: _theirs(part, state) for part in family.parts(config)}
        return {**family.raw(config), "dtype": dtype}, tensors
    raw = {
        "model_type": OWN,
        "architectures": ["FlyweightForCausalLM"],
        "dtype": dtype,
        **own_fields(config),
    }
    return raw, {PREFIX + name: tensor for name, tensor in state.items()}


def _theirs(part: Part, state: Mapping[str, Tensor]) -> Tensor:
    parts = [state[name] for name in part.ours]
    whole = torch.cat(parts) if len(parts) > 1 else parts[0]
    return whole.T.contiguous() if part.transposed else whole.contiguous()


def write(
    raw: Mapping[str, object],
    tensors: Mapping[str, Tensor],
    out: Path,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a checkpoint folder: `config.json` and one safetensors file.

    Above `shard_bytes`, several safetensors files with an index.
    """
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if size + tensor.nbytes > shard_bytes and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = tensor.detach().contiguous()
        size += tensor.nbytes
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        names = [WEIGHTS]
        if len(shards) > 1:
            names = [f"model-{n:05}-of-{len(shards):05}.safetensors" for n in _count(shards)]
        for name, shard in zip(names, shards, strict=True):
            with new_file(out / name) as file:
                save_file(shard, file, metadata={"format": "pt"})
        if len(shards) > 1:
            total = sum(tensor.nbytes for tensor in tensors.values())
            places = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
            index = {"metadata": {"total_size": total}, "weight_map": places}
            write_text(out / INDEX, json.dumps(index, indent=2) + "\n")
        write_text(out / CONFIG, json.dumps(raw, indent=2, ensure_ascii=False) + "\n")


def _count(shards: list[Any]) -> range:
    return range(1, len(shards) + 1)


# --- tokenizers ---


def copy_tokenizer(source: Path, out: Path) -> bool:
    """Copy the tokenizer files of a model of ours; return whether `tokenizer.json` is one."""
    with disk_errors(out):
        for name in TOKENIZER:
            if (source / name).is_file():
                copy_file(source / name, out / name)
    return (out / "tokenizer.json").is_file()
