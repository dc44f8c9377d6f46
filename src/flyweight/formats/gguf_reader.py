"""Read a GGUF file back: its header says which family's model it is, its tensors are dequantized.

Nothing of the model that was exported is used, so that a wrong header shows as well as a wrong
tensor. llama.cpp itself is another program: this reader is the weaker check.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flyweight.checkpoints.families import FAMILIES
from flyweight.checkpoints.family import Family, Part
from flyweight.config import schema
from flyweight.errors import FlyweightError, RequestError
from flyweight.formats.gguf import gguf_library
from flyweight.model.decoder import Decoder

MAGIC = b"GGUF"


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file: its model, its tokens and merges, and the types of its matrices."""

    model: Decoder
    tokens: list[str]
    merges: list[str]
    types: frozenset[str]


def is_gguf(path: Path) -> bool:
    """Return whether a path is a file that begins as GGUF does."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read(path: Path) -> GgufFile:
    """Return the model in a file, in float32.

    Raises RequestError for an architecture that flyweight does not write, and FlyweightError for a
    file that is damaged or whose tensors are not those of its header.
    """
    gguf = gguf_library()
    try:
        file = gguf.GGUFReader(path)
        header = {name: field.contents() for name, field in file.fields.items()}
        tensors = {each.name: each for each in file.tensors}
        if "rope_freqs.weight" in tensors:
            raise RequestError(
                f"{path}: it has factors for each frequency of its positions (llama3 scaling), "
                f"which this reader does not read; llama.cpp does"
            )
        config, family = _config(header, set(tensors), path)
        state = _state(config, family, tensors, gguf)
    except RequestError:
        raise
    except (KeyError, ValueError, IndexError, TypeError, RuntimeError) as error:
        raise FlyweightError(
            f"{path}: not a whole GGUF file of flyweight's ({type(error).__name__}: {error}); "
            f"export the model again"
        ) from error
    with torch.device("meta"):
        model = Decoder(config)
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise FlyweightError(
            f"{path}: its tensors are not those of its header ({error})"
        ) from error
    types = matrix_types(path)
    tokens = list(header.get("tokenizer.ggml.tokens", ()))
    merges = list(header.get("tokenizer.ggml.merges", ()))
    return GgufFile(model.eval(), tokens, merges, types)


def _config(
    header: dict[str, Any], names: set[str], path: Path
) -> tuple[schema.ModelConfig, Family]:
    """Return the config that a header describes, and its family."""
    kind = header["general.architecture"]
    if kind not in FAMILIES:
        raise RequestError(f"{path}: its architecture is {kind}; known are {', '.join(FAMILIES)}")

    def value(name: str) -> Any:
        return header[f"{kind}.{name}"]

    heads = value("attention.head_count")
    fields: dict[str, Any] = {
        "vocab_size": value("vocab_size"),
        "context": value("context_length"),
        "dim": value("embedding_length"),
        "layers": value("block_count"),
        "attention": {"heads": heads, "kv_heads": value("attention.head_count_kv")},
        "mlp": {"kind": "swiglu", "hidden": value("feed_forward_length")},
        "embedding": {"tied": "output.weight" not in names},
    }
    if kind == "gpt2":
        fields["position"] = "learned"
        fields["norm"] = {"kind": "layernorm", "eps": value("attention.layer_norm_epsilon")}
        fields["mlp"] |= {"kind": "gelu", "approximate": "tanh", "bias": True}
        fields["attention"] |= {"bias": True}
    else:
        eps = value("attention.layer_norm_rms_epsilon")
        fields["norm"] = {"kind": "rmsnorm", "eps": eps}
        fields["position"] = _rope(header, kind)
        fields["attention"] |= {
            "head_dim": value("attention.key_length"),
            "bias": "blk.0.attn_q.bias" in names,
        }
        fields["mlp"]["bias"] = "blk.0.ffn_up.bias" in names
        if "blk.0.attn_q_norm.weight" in names:
            fields["attention"] |= {"qk_norm": True, "qk_norm_eps": eps}
    return schema.ModelConfig.model_validate(fields).resolved(), FAMILIES[kind]


def _rope(header: dict[str, Any], kind: str) -> dict[str, Any]:
    position: dict[str, Any] = {"kind": "rope", "base": header[f"{kind}.rope.freq_base"]}
    if header.get(f"{kind}.rope.scaling.type") == "linear":
        factor = header[f"{kind}.rope.scaling.factor"]
        position["scaling"] = {"kind": "linear", "factor": factor}
    return position


def _state(
    config: schema.ModelConfig, family: Family, tensors: dict[str, Any], gguf: Any
) -> dict[str, Tensor]:
    """Return our tensors by name."""
    architecture = next(
        number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == family.model_type
    )
    names = gguf.get_tensor_name_map(architecture, config.layers)
    state: dict[str, Tensor] = {}
    for part in family.parts(config):
        stored = tensors[names.get_name(part.theirs, try_suffixes=(".weight", ".bias"))]
        value = torch.from_numpy(gguf.dequantize(stored.data, stored.tensor_type).copy()).float()
        state |= _ours(part, value, config, family.model_type == "llama")
    return state


def _ours(
    part: Part, value: Tensor, config: schema.ModelConfig, neighbours: bool
) -> dict[str, Tensor]:
    """Return the tensors of ours that one of the file's is made of.

    `neighbours`: rows of queries and keys are interleaved, as llama.cpp turns (2i, 2i + 1).
    """
    first = part.ours[0]
    heads = 0
    if neighbours and ".attention.q." in first:
        heads = config.attention.heads or 0
    elif neighbours and ".attention.k." in first:
        heads = config.attention.kv_heads or 0
    if heads:
        half = value.shape[0] // heads // 2
        paired = value.view(heads, half, 2, *value.shape[1:])
        value = paired.transpose(1, 2).reshape(value.shape)
    return dict(zip(part.ours, value.chunk(len(part.ours)), strict=True))


def matrix_types(path: Path) -> frozenset[str]:
    """Return the types in which a file stores its matrices."""
    file = gguf_library().GGUFReader(path)
    return frozenset(each.tensor_type.name for each in file.tensors if len(each.shape) > 1)
