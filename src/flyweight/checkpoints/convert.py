"""Checkpoints to our tensors and back: a GPT-2, Llama or Qwen3 folder, or one of our own type."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from flyweight.checkpoints import attributes
from flyweight.checkpoints.families import FAMILIES
from flyweight.checkpoints.family import Family, Inexpressible, Part
from flyweight.checkpoints.flyweight_type import OWN, own_fields
from flyweight.checkpoints.read import CONFIG, INDEX, TOKENIZER, WEIGHTS, Checkpoint
from flyweight.checkpoints.weights import Header, read_rows
from flyweight.config.schema import ModelConfig
from flyweight.core.files import copy_file, disk_errors, new_file, write_text
from flyweight.errors import FlyweightError
from flyweight.model import folder
from flyweight.spec.linears import float_name

PREFIX = "decoder."
SHARD_BYTES = 5_000_000_000
ROWS = 4096
"""Rows of a table that are read at once."""


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


@dataclass(frozen=True)
class StoredPart:
    """A tensor of a checkpoint, unread, and the tensors of ours that it holds one after another.

    `transposed`: it is stored (in, out).
    """

    header: Header
    ours: tuple[str, ...]
    transposed: bool = False

    @property
    def table(self) -> bool:
        """Whether its rows can be read alone, and are those of one tensor of ours."""
        return len(self.ours) == 1 and not self.transposed and len(self.header.shape) == 2


@dataclass(frozen=True)
class Source:
    """A decoder in a checkpoint's files, of which the headers were read and checked.

    `dtype` is the widest float type of its tensors, which all of them get; None where each keeps
    its own.
    """

    checkpoint: Checkpoint
    config: ModelConfig
    parts: tuple[StoredPart, ...]
    dtype: torch.dtype | None

    def read(self, part: StoredPart, start: int = 0, stop: int | None = None) -> dict[str, Tensor]:
        """Return the tensors of ours in a part, or rows `start` to `stop` of a table.

        Raises FlyweightError for NaN and infinity.
        """
        return self.ours(part, read_rows(self.checkpoint.path, part.header, start, stop))

    def rows(self, name: str, count: int) -> Tensor:
        """Return the first rows of a tensor of ours."""
        part = next(part for part in self.parts if name in part.ours)
        if part.table:
            return self.read(part, 0, count)[name]
        return self.read(part)[name][:count]

    def ours(self, part: StoredPart, tensor: Tensor) -> dict[str, Tensor]:
        """Return the tensors of ours that a part's tensor is.

        Raises FlyweightError for NaN and infinity, and for a stack of unequal parts.
        """
        if not tensor.is_meta:
            _check_finite(self.checkpoint, part.header.name, tensor)
        whole = tensor.T if part.transposed else tensor
        dtype = self.dtype or whole.dtype
        if len(part.ours) == 1:
            return {part.ours[0]: whole.to(dtype)}
        if whole.shape[0] % len(part.ours):
            raise FlyweightError(
                f"{part.header.name} has shape {part.header.shape}, which is not "
                f"{len(part.ours)} equal parts"
            )
        chunks = (chunk.to(dtype) for chunk in whole.chunk(len(part.ours)))
        return dict(zip(part.ours, chunks, strict=True))


def source_of(checkpoint: Checkpoint) -> Source:
    """Return the decoder in a checkpoint, without reading its tensors.

    Raises as `config_of`, and FlyweightError where tensors are missing, left over or of another
    shape.
    """
    config = config_of(checkpoint)
    if checkpoint.model_type == OWN:
        own = (
            StoredPart(header, (header.name.removeprefix(PREFIX),))
            for header in checkpoint.headers()
        )
        return Source(checkpoint, config, tuple(own), None)
    family = FAMILIES[checkpoint.model_type]
    found = {
        _named(header.name, family): header
        for header in checkpoint.headers()
        if not _is_buffer(header.name)
    }
    parts = tuple(family.parts(config))
    if config.embedding.tied and (head := found.pop("lm_head.weight", None)) is not None:
        table = next(part.theirs for part in parts if part.ours == ("embedding.tokens.weight",))
        # A file may keep a tied tensor under either of its two names.
        if not _equal(checkpoint, head, found.setdefault(table, head)):
            raise FlyweightError(
                f"{checkpoint.path}: it says that its head is its embedding, but has a head of its "
                "own"
            )
    _check_names(checkpoint, [part.theirs for part in parts], found)
    stored = tuple(StoredPart(found[part.theirs], part.ours, part.transposed) for part in parts)
    source = Source(checkpoint, config, stored, _widest(part.header.kind for part in stored))
    shapes = dict[str, Tensor]()
    for part in stored:
        shapes |= source.ours(part, torch.empty(part.header.shape, device="meta"))
    folder.check(config, shapes, checkpoint.path)
    return source


def decoder(checkpoint: Checkpoint) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the config and the state of the decoder that computes what this checkpoint does.

    Raises as `source_of`, and FlyweightError for NaN and infinity.
    """
    source = source_of(checkpoint)
    tensors = dict(checkpoint.tensors())
    state: dict[str, Tensor] = {}
    for part in source.parts:
        state |= source.ours(part, tensors[part.header.name])
    return source.config, state


def _check_names(
    checkpoint: Checkpoint, wanted: Sequence[str], found: Mapping[str, Header]
) -> None:
    """Raise FlyweightError where tensors are missing, left over, or no floats."""
    faults = [f"{name} is missing" for name in wanted if name not in found]
    faults += [f"{name} is unexpected" for name in sorted(found.keys() - set(wanted))]
    if faults:
        more = f"; and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise FlyweightError(
            f"{checkpoint.path}: its tensors are not those of its config: "
            f"{'; '.join(faults[:20])}{more}"
        )
    if odd := sorted(header.name for header in found.values() if not header.is_float):
        raise FlyweightError(
            f"{checkpoint.path}: weights that are not floats: {', '.join(odd[:20])}; save the "
            "model anew"
        )


def _check_finite(checkpoint: Checkpoint, name: str, tensor: Tensor) -> None:
    """Raise FlyweightError for a tensor with NaN or infinity."""
    if (
        tensor.is_floating_point()
        and tensor.element_size() > 1
        and not torch.isfinite(tensor).all()
    ):
        raise FlyweightError(
            f"{checkpoint.path}: {name} holds NaN or infinity; copy the model again, or it was "
            "saved broken"
        )


def _equal(checkpoint: Checkpoint, one: Header, other: Header) -> bool:
    """Return whether two tensors (rows, ...) are the same, some of their rows at a time."""
    if one == other:
        return True
    if one.shape != other.shape:
        return False
    return all(
        torch.equal(
            *(read_rows(checkpoint.path, each, start, start + ROWS) for each in (one, other))
        )
        for start in range(0, one.shape[0], ROWS)
    )


def _named(name: str, family: Family) -> str:
    """Return a tensor's full name: checkpoints of the bare model leave the prefix out."""
    return name if name.startswith((family.prefix, "lm_head.")) else family.prefix + name


def _is_buffer(name: str) -> bool:
    """Return whether old checkpoints keep a constant under this name."""
    return name.endswith((".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"))


def _widest(kinds: Iterable[str]) -> torch.dtype:
    """Return the float type that holds all of these: some checkpoints keep norms in float32."""
    dtypes = {_FLOATS[kind] for kind in kinds}
    if {torch.bfloat16, torch.float16} <= dtypes:
        return torch.float32
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).bits)


_FLOATS = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


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
