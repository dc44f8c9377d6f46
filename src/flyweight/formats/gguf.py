"""A model as one GGUF file, which llama.cpp and what is built on it open; tokenizer included.

Our decoder is llama.cpp's `gpt2`, `llama` or `qwen3` where the families of `hub.families` hold it.
GGUF has no shared layers: visits are written out one by one. Biases that only some matrices have
are zero in the others; dropout does not matter. Sources: llama.cpp's model code and its converters'
conventions; the `gguf` package writes the file and quantizes.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyweight.checkpoints import load_any, template_files
from flyweight.checkpoints.beyond import beyond, changed_fields
from flyweight.checkpoints.families import FAMILIES
from flyweight.checkpoints.family import Family, Inexpressible, Part
from flyweight.config import schema
from flyweight.config.linear_kinds import LinearKind
from flyweight.config.units import format_count, format_size
from flyweight.core.files import appearing, disk_errors, new_file, refuse_existing
from flyweight.data import special
from flyweight.errors import RequestError
from flyweight.formats import gguf_codes, vocabulary
from flyweight.formats.exported import Exported
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
_LARGEST_NUMBER = 2**31  # of what a header holds in 32 bits


_WRITTEN_OUT = frozenset(
    {"sharing.kind", "sharing.times", "sharing.span", "sharing.loop_from", "sharing.index"}
)
"""Fields of sharing that show in the layers that are written; an index is refused by itself."""


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
    plain, family, reasons = _plain(config)
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
            _describe(writer, plain, family, tokens, file_type, name or out.stem)
            _converse(writer, folder)
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


# --- what llama.cpp would compute ---


def _nearest(config: schema.ModelConfig) -> str:
    """Return the name of the family that the config resembles most."""
    if isinstance(config.position, schema.Learned):
        return "gpt2"
    return "qwen3" if config.attention.qk_norm else "llama"


def _plain(config: schema.ModelConfig) -> tuple[schema.ModelConfig, Family, list[str]]:
    """Return the config with its layers written out, the nearest family, and its faults.

    A fault is a reason why the model does not fit that family.
    """
    attention, norm, mlp = config.attention, config.norm, config.mlp
    learned = isinstance(config.position, schema.Learned)
    bias = learned or attention.bias or bool(attention.out_bias)
    plain = config.model_copy(
        update={
            "layers": len(visits(config)),
            "sharing": schema.NoSharing(),
            "linears": {},
            "dropout": schema.Dropout(),
            "attention": attention.model_copy(update={"bias": bias, "out_bias": bias}),
            "norm": norm.model_copy(update={"bias": True})
            if isinstance(norm, schema.LayerNorm)
            else norm,
            "mlp": mlp.model_copy(update={"bias": learned or mlp.bias}),
        }
    )
    family = FAMILIES[_nearest(config)]
    reasons = []
    lossy = (kind for kind in config.linears.values() if not _writable(kind))
    if packed := sorted({kind.label for kind in lossy}):
        reasons.append(
            f"it is quantized ({', '.join(packed)}), in codes that GGUF does not have (it has "
            f"int8, and int4 in groups of {gguf_codes.BLOCK}): export the dense model that it was "
            "made from, with --type q8_0 or q4_0"
        )
    reasons += _lost_sharing(config)
    try:
        family.raw(plain)
    except Inexpressible as error:
        reasons += error.reasons
    if not config.layers:
        reasons.append("it has no layers (model.layers=1 or more)")
    if not isinstance(config.sharing, schema.NoSharing) and config.sharing.index:
        reasons.append(
            "its shared layers have an index embedding for each of their uses "
            "(model.sharing.index=false)"
        )
    if learned and isinstance(mlp, schema.Gelu) and mlp.approximate == "none":
        reasons.append(
            "its GELU is the exact one; llama.cpp computes the tanh approximation (mlp: {kind: "
            "gelu, approximate: tanh})"
        )
    if family.model_type == "qwen3":
        if bias:
            reasons.append(
                "its attention has biases beside q/k norms; llama.cpp's qwen3 does not read all "
                "of them"
                " (model.attention.bias=false)"
            )
        if (
            isinstance(config.position, schema.Rope)
            and config.position.scaling
            and config.position.scaling.kind == "llama3"
        ):
            reasons.append(
                "its rotary scaling is llama3 beside q/k norms; llama.cpp's qwen3 has no factors "
                "per frequency"
            )
    return plain, family, reasons


def _writable(kind: LinearKind) -> bool:
    return kind.plain or kind.lossless or bool(gguf_codes.type_of(kind))


def _lost_sharing(config: schema.ModelConfig) -> list[str]:
    """Return what is lost when shared layers are written out one by one."""
    claims = {path for path, _ in changed_fields(config) if not path.startswith("sharing.")}
    return beyond(config, claims | _WRITTEN_OUT)


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


def _describe(
    writer: gguf.GGUFWriter,
    plain: schema.ModelConfig,
    family: Family,
    tokens: vocabulary.Vocabulary,
    file_type: str,
    name: str,
) -> None:
    """Put what llama.cpp has to know into the file's header."""
    import gguf

    attention = plain.attention
    assert (
        plain.context
        and plain.mlp.hidden
        and attention.heads
        and attention.kv_heads
        and attention.head_dim
    )
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(len(tokens.tokens))
    writer.add_context_length(plain.context)
    writer.add_embedding_length(plain.dim)
    writer.add_block_count(plain.layers)
    writer.add_feed_forward_length(plain.mlp.hidden)
    writer.add_head_count(attention.heads)
    writer.add_head_count_kv(attention.kv_heads)
    if isinstance(plain.norm, schema.LayerNorm):
        writer.add_layer_norm_eps(plain.norm.eps)
    else:
        writer.add_layer_norm_rms_eps(plain.norm.eps)
    if isinstance(plain.position, schema.Rope):
        writer.add_key_length(attention.head_dim)
        writer.add_value_length(attention.head_dim)
        writer.add_rope_dimension_count(attention.head_dim)
        writer.add_rope_freq_base(family.raw(plain)["rope_theta"])  # ntk is another base
        if plain.position.scaling and plain.position.scaling.kind == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(plain.position.scaling.factor)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokens.pre)
    writer.add_token_list(tokens.tokens)
    writer.add_token_types(tokens.types)
    writer.add_token_merges(tokens.merges)
    writer.add_bos_token_id(tokens.begin)
    writer.add_eos_token_id(tokens.end)
    if tokens.turn is not None:
        writer.add_eot_token_id(tokens.turn)
    if tokens.message is not None:
        writer.add_eom_token_id(tokens.message)
    if tokens.pad is not None:
        writer.add_pad_token_id(tokens.pad)
    writer.add_add_bos_token(tokens.adds[0])
    writer.add_add_eos_token(tokens.adds[1])


def _converse(writer: gguf.GGUFWriter, folder: Path) -> None:
    """Put the chat template and the defaults of sampling into the header, if there are any."""
    templates = {
        re.sub("[^A-Za-z0-9]", "_", name): source
        for name, source in template_files.sources(folder).items()
    }
    try:
        "".join(templates.values()).encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{folder}: its chat template is not UTF-8 text; copy the model again"
        ) from error
    if templates:
        writer.add_chat_template(
            [{"name": name, "template": source} for name, source in templates.items()]
        )
    drawn = special.json_object(folder / special.IDS[0])
    if drawn.get("do_sample") is False:  # what else it says is not used there
        return
    adds: dict[str, Callable[[Any], None]] = {
        "top_k": writer.add_sampling_top_k,
        "temperature": writer.add_sampling_temp,
        "top_p": writer.add_sampling_top_p,
        "min_p": writer.add_sampling_min_p,
        "repetition_penalty": writer.add_sampling_penalty_repeat,
    }
    for key, add in adds.items():
        value = drawn.get(key)
        if (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and abs(value) < _LARGEST_NUMBER
        ):
            add(int(value) if key == "top_k" else float(value))


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
