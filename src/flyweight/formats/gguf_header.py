"""What the header of a GGUF file tells llama.cpp: shape, tokenizer, chat template, sampling."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyweight.checkpoints import template_files
from flyweight.checkpoints.family import Family
from flyweight.config import schema
from flyweight.data import special
from flyweight.errors import RequestError
from flyweight.formats import vocabulary

if TYPE_CHECKING:
    import gguf

_LARGEST_NUMBER = 2**31  # of what a header holds in 32 bits


def describe(
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


def converse(writer: gguf.GGUFWriter, folder: Path) -> None:
    """Put the chat template and the defaults of sampling into the header, if there are any.

    Raises RequestError where a template is not UTF-8 text.
    """
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
