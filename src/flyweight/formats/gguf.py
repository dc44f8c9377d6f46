"""A model as one GGUF file, which llama.cpp and what is built on it open; tokenizer included.

Our decoder is llama.cpp's `gpt2`, `llama` or `qwen3` where `gguf_family` says so.
GGUF has no shared layers: visits are written out one by one. Biases that only some matrices have
are zero in the others; dropout does not matter. Sources: llama.cpp's model code and its converters'
conventions; the `gguf` package writes the file and quantizes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyweight.checkpoints import load_any
from flyweight.checkpoints.family import Family, Inexpressible, Part
from flyweight.config import schema
from flyweight.config.units import format_count, format_size
from flyweight.core.files import appearing, disk_errors, new_file, refuse_existing
from flyweight.errors import RequestError
from flyweight.formats import gguf_codes, vocabulary
from flyweight.formats.exported import Exported
from flyweight.formats.gguf_family import written_out
from flyweight.formats.gguf_header import converse, describe
from flyweight.model import folder as model_folder
from flyweight.model.dense_state import zeros_note
from flyweight.model.position import frequencies
from flyweight.spec import flops
from flyweight.spec.visits import visits

if TYPE_CHECKING:
    import gguf
    import numpy as np

# How matrices are stored, with the name of the file's type; vectors and learned positions stay
# float32, as llama.cpp has them.
TYPES: dict[str, tuple[str, str]] = {
    "f32": ("F32", "ALL_F32"),
    "f16": ("F16", "MOSTLY_F16"),
    "q8_0": ("Q8_0", "MOSTLY_Q8_0"),
    "q4_0": ("Q4_0", "MOSTLY_Q4_0"),
}
# The largest weight that each type can hold: a float16, or one times the largest code of a block.
_LARGEST = {"F32": float("inf"), "F16": 65504.0, "Q8_0": 65504.0 * 127, "Q4_0": 65504.0 * 8}


@dataclass(frozen=True)
class _Tensor:
    """One tensor of the file: `shape` is numpy's, outputs first.

    `ours` are the tensors it is made of, `read` makes it: in float32, or of `codes` their bytes.
    """

    name: str
    shape: tuple[int, ...]
    type: gguf.GGMLQuantizationType
    ours: tuple[str, ...]
    read: Callable[[], np.ndarray]
    codes: bool = False

    @property
    def bytes(self) -> int:
        import gguf

        block, size = gguf.GGML_QUANT_SIZES[self.type]
        return prod(self.shape) // block * size


def write(folder: Path, out: Path, type: str = "f16", name: str = "") -> Exported:
    """Write the model in `folder` as the new GGUF file `out`, or not at all.

    The folder has config.json, model.safetensors and tokenizer.json.

    `type` is how matrices are stored (one of TYPES), `name` what the file calls its model (else its
    own name). Raises RequestError with every reason why llama.cpp could not compute the same,
    FlyweightError where a file is damaged or cannot be written.
    """
    gguf = gguf_library()
    if type not in TYPES:
        raise RequestError(f"--type {type}: GGUF files are written as {', '.join(TYPES)}")
    if out.is_dir():
        raise RequestError(f"{out} is a folder; name the file, for example {out / 'model.gguf'}")
    refuse_existing(out)  # before anything is read
    config = load_any.decoder_config(folder, "GGUF")
    plain, family, reasons = written_out(config)
    assert config.vocab_size
    tokens = vocabulary.read(folder / "tokenizer.json", config.vocab_size, reasons)
    if reasons or tokens is None:
        raise Inexpressible("this model cannot be written as GGUF", reasons)
    source = gguf_codes.Source(model_folder.load(folder))
    order = [visit.layer for visit in visits(config)]
    tensors = list(_tensors(plain, family, order, source, type))
    warnings = [
        *_unrolled(config, tensors),
        *_kept(tensors, type, folder),
        *zeros_note(config),
        *tokens.warnings,
    ]
    with appearing(out) as partial, disk_errors(out), new_file(partial):
        writer = gguf.GGUFWriter(partial, family.model_type)
        try:
            file_type = _file_type(tensors, type)
            describe(writer, plain, family, tokens, file_type, name or out.stem)
            converse(writer, folder)
            _write(writer, tensors)
        finally:
            writer.close()
    return Exported(out, family.model_type, out.stat().st_size, tuple(warnings))


def gguf_library() -> Any:
    """Return the gguf package; raise RequestError where it is not installed."""
    try:
        import gguf
    except ImportError as error:
        raise RequestError(
            "GGUF files need the gguf package: pip install 'flyweight[gguf]'"
        ) from error
    return gguf


# --- the tensors ---


def _tensors(
    plain: schema.ModelConfig,
    family: Family,
    order: list[int],
    source: gguf_codes.Source,
    type: str,
) -> Iterator[_Tensor]:
    """Yield the tensors of the file in its order.

    `order` says which of our layers each of its layers is.
    """
    import gguf

    architecture = next(
        number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == family.model_type
    )
    names = gguf.get_tensor_name_map(architecture, plain.layers)
    for part in family.parts(plain):
        name = names.get_name(part.theirs, try_suffixes=(".weight", ".bias"))
        assert name, part.theirs
        ours = tuple(_source(ours, order) for ours in part.ours)
        heads = _interleaved(part, plain) if family.model_type == "llama" else 0
        shape, codes = source.shape(ours), source.type_of(ours)
        stored = _type(name, shape, plain, type)
        yield _Tensor(
            name,
            shape,
            gguf.GGMLQuantizationType[codes] if codes else stored,
            ours,
            lambda ours=ours, heads=heads: source.value(ours, heads),
            bool(codes),
        )
    if (
        isinstance(plain.position, schema.Rope)
        and plain.position.scaling
        and plain.position.scaling.kind == "llama3"
    ):
        factors = _factors(plain.position, plain.attention.head_dim or 0)
        yield _Tensor(
            "rope_freqs.weight", factors.shape, gguf.GGMLQuantizationType.F32, (), lambda: factors
        )


def _source(name: str, order: list[int]) -> str:
    """Return the tensor of ours in this place, where layer i of the file is our order[i]."""
    if not name.startswith("blocks."):
        return name
    _, layer, rest = name.split(".", 2)
    return f"blocks.{order[int(layer)]}.{rest}"


def _interleaved(part: Part, plain: schema.ModelConfig) -> int:
    """Return in how many heads the rows of this part are to be interleaved, 0 for none.

    llama.cpp's llama turns neighbours, (2i, 2i + 1); ours are (i, i + head_dim / 2), as in its
    gpt-neox and qwen3.
    """
    if ".attention.q." in part.ours[0]:
        return plain.attention.heads or 0
    return (plain.attention.kv_heads or 0) if ".attention.k." in part.ours[0] else 0


def _factors(position: schema.Rope, channels: int) -> np.ndarray:
    """Return by what llama.cpp divides each frequency (channels / 2)."""
    import numpy as np

    plain = frequencies(position.model_copy(update={"scaling": None}), channels)
    return np.array(
        [old / new for old, new in zip(plain, frequencies(position, channels), strict=True)],
        dtype=np.float32,
    )


# --- how it is stored ---


def _type(
    name: str, shape: tuple[int, ...], plain: schema.ModelConfig, type: str
) -> gguf.GGMLQuantizationType:
    import gguf

    kinds = gguf.GGMLQuantizationType
    if len(shape) < 2 or name == "position_embd.weight":
        return kinds.F32
    kind = kinds[TYPES[type][0]]
    if kind is kinds.Q4_0 and name == _head(plain):
        kind = kinds.Q8_0
    return kinds.F16 if shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] else kind


def _head(plain: schema.ModelConfig) -> str:
    return "token_embd.weight" if plain.embedding.tied else "output.weight"


def _kept(tensors: list[_Tensor], type: str, folder: Path) -> list[str]:
    """Return which matrices are stored otherwise than asked for.

    Raises RequestError where all of them would be.
    """
    asked, notes = TYPES[type][0], []
    if codes := sorted({tensor.type.name.lower() for tensor in tensors if tensor.codes}):
        return [
            f"its quantized matrices are written with their own codes and scales "
            f"({', '.join(codes)}); --type {type} holds for the others"
        ]
    others = [
        tensor
        for tensor in tensors
        if len(tensor.shape) > 1 and tensor.type.name not in (asked, "F32")
    ]
    rows = [tensor for tensor in others if tensor.type.name == "F16"]
    if rows:
        sizes = ", ".join(str(size) for size in sorted({tensor.shape[-1] for tensor in rows}))
        if not any(tensor.type.name in ("Q8_0", "Q4_0") for tensor in tensors):
            raise RequestError(
                f"{folder}: {type} needs rows of a multiple of 32; all of this model's matrices "
                f"have {sizes}: use f16"
            )
        notes.append(
            f"{type} needs rows of a multiple of 32: {len(rows)} matrices with rows of {sizes} "
            f"are kept in f16"
        )
    if any(tensor.type.name == "Q8_0" for tensor in others):
        notes.append(
            "the output matrix is kept in q8_0, as llama.cpp keeps it finer than the others"
        )
    return notes


def _unrolled(config: schema.ModelConfig, tensors: list[_Tensor]) -> list[str]:
    if isinstance(config.sharing, schema.NoSharing):
        return []
    looped = isinstance(config.sharing, schema.Span)
    used = f"{'some of them' if looped else 'each'} used {config.sharing.times} times"
    once = sum({tensor.ours: tensor.bytes for tensor in tensors}.values())
    size, count = sum(tensor.bytes for tensor in tensors), flops.parameters(config)
    return [
        f"GGUF has no shared layers: {config.layers}, {used} ({config.sharing.kind}), are"
        f" written out as {len(visits(config))}; that makes {format_size(size)} of weights "
        f"instead of {format_size(once)}, and"
        f" {format_count(count.total)} parameters instead of {format_count(count.unique)}"
    ]


# --- the file ---


def _file_type(tensors: list[_Tensor], type: str) -> str:
    """Return the file's type: that of codes where there are any, of the fewest bits."""
    codes = {tensor.type.name for tensor in tensors if tensor.codes}
    for name in ("q4_0", "q8_0"):
        if name.upper() in codes:
            return TYPES[name][1]
    return TYPES[type][1]


def _write(writer: gguf.GGUFWriter, tensors: list[_Tensor]) -> None:
    """Write the header, then one tensor after the other, and sync the file.

    Only one tensor at a time is in memory.
    """
    import gguf
    import numpy as np

    for tensor in tensors:
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), tensor.bytes, raw_dtype=tensor.type
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        value = tensor.read()
        largest = 0.0 if tensor.codes else float(np.abs(value).max())
        if not largest <= _LARGEST[tensor.type.name]:  # NaN is not, either
            what = f"a weight of {largest:g}" if largest == largest else "NaN"
            raise RequestError(
                f"{tensor.name}: {tensor.type.name} cannot hold {what}, which is in "
                f"{', '.join(tensor.ours)}"
            )
        try:
            stored = value if tensor.codes else gguf.quantize(value, tensor.type)
            writer.write_tensor_data(stored)
        except OSError as error:
            if error.errno:
                raise
            # numpy's tofile counts what it could not write, but drops the system's reason, which is
            # a full disk.
            raise OSError(errno.ENOSPC, str(error)) from error
    writer.flush()
    assert writer.fout
    os.fsync(writer.fout[0].fileno())
