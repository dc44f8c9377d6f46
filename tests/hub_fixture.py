"""Tiny random checkpoints in the real layouts, made by transformers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

VOCAB = 97
GPT2 = {
    "vocab_size": VOCAB,
    "n_positions": 32,
    "n_embd": 36,
    "n_layer": 3,
    "n_head": 3,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": 40,
    "intermediate_size": 52,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

# name: (model class, config fields)
CHECKPOINTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", GPT2),
    "gpt2-untied-wide": (
        "GPT2",
        {**GPT2, "n_inner": 50, "tie_word_embeddings": False, "layer_norm_epsilon": 1e-3},
    ),
    "gpt2-exact-gelu": ("GPT2", {**GPT2, "activation_function": "gelu", "n_embd": 35, "n_head": 5}),
    "llama": ("Llama", LLAMA),
    "llama-head-dim-tied": (
        "Llama",
        {**LLAMA, "head_dim": 14, "tie_word_embeddings": True, "hidden_size": 37 * 4},
    ),
    "llama-biases-mha": (
        "Llama",
        {**LLAMA, "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4},
    ),
    "llama-one-kv-head": ("Llama", {**LLAMA, "num_key_value_heads": 1, "rms_norm_eps": 1e-5}),
    "llama-linear": (
        "Llama",
        {**LLAMA, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
    ),
    "llama-llama3": ("Llama", {**LLAMA, "rope_parameters": LLAMA3}),
    "qwen3": ("Qwen3", {**LLAMA, "head_dim": 12}),
    "qwen3-tied": (
        "Qwen3",
        {**LLAMA, "head_dim": 24, "tie_word_embeddings": True, "num_key_value_heads": 4},
    ),
    "qwen3-biases": ("Qwen3", {**LLAMA, "head_dim": 10, "attention_bias": True}),
}

LIMITS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "max_position_embeddings": 64}
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    **LIMITS,
}
WIDE = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2}
SIZES = {**LIMITS, "vocab_size": VOCAB}
GPT = {**SIZES, "n_embd": 32, "n_layer": 2, "n_head": 4}
MOE = {
    **WIDE,
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
}

# families behind the adapter, and those that are refused: (model class, config fields)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertLMHeadModel", {**SMALL, "intermediate_size": 48}),
    "bert, as a decoder": (
        "BertLMHeadModel",
        {**SMALL, "intermediate_size": 48, "is_decoder": True},
    ),
    "biogpt": ("BioGptForCausalLM", {**SMALL, "intermediate_size": 48}),
    "bloom": ("BloomForCausalLM", {**SMALL, "n_layer": 2, "n_head": 4}),
    "codegen": ("CodeGenForCausalLM", {**GPT, "rotary_dim": 4}),
    "cohere": ("CohereForCausalLM", WIDE),
    "cohere2": ("Cohere2ForCausalLM", {**WIDE, "sliding_window": 16}),
    "falcon": ("FalconForCausalLM", {**SMALL, "alibi": False}),
    "gemma": ("GemmaForCausalLM", {**WIDE, "head_dim": 8}),
    "gemma2": ("Gemma2ForCausalLM", {**WIDE, "head_dim": 8, "sliding_window": 16}),
    "gemma3": ("Gemma3ForCausalLM", {**WIDE, "head_dim": 8, "sliding_window": 16}),
    "glm": ("GlmForCausalLM", {**WIDE, "head_dim": 8}),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", GPT),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        {**SMALL, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", {**SMALL, "intermediate_size": 48}),
    "gptj": ("GPTJForCausalLM", {**GPT, "rotary_dim": 4}),
    "granite": ("GraniteForCausalLM", {**WIDE, "logits_scaling": 2.0, "residual_multiplier": 0.5}),
    "helium": ("HeliumForCausalLM", {**WIDE, "head_dim": 8}),
    "mistral": ("MistralForCausalLM", {**WIDE, "sliding_window": None}),
    "mistral, sliding window": ("MistralForCausalLM", {**WIDE, "sliding_window": 16}),
    "mixtral": ("MixtralForCausalLM", MOE),
    "mpt": (
        "MptForCausalLM",
        {**SIZES, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    ),
    "nemotron": ("NemotronForCausalLM", WIDE),
    "olmo": ("OlmoForCausalLM", WIDE),
    "olmo2": ("Olmo2ForCausalLM", WIDE),
    "openai-gpt": (
        "OpenAIGPTLMHeadModel",
        {"vocab_size": 97, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4},
    ),
    "opt": ("OPTForCausalLM", {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "phi": ("PhiForCausalLM", {**SMALL, "intermediate_size": 48}),
    "phi3": ("Phi3ForCausalLM", WIDE),
    "qwen2": ("Qwen2ForCausalLM", WIDE),
    "qwen2_moe": ("Qwen2MoeForCausalLM", {**MOE, "shared_expert_intermediate_size": 24}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", {**MOE, "head_dim": 8}),
    "roformer": ("RoFormerForCausalLM", {**SMALL, "intermediate_size": 48, "embedding_size": 32}),
    "smollm3": ("SmolLM3ForCausalLM", WIDE),
    "stablelm": (
        "StableLmForCausalLM",
        {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2},
    ),
    "starcoder2": ("Starcoder2ForCausalLM", WIDE),
    "xglm": (
        "XGLMForCausalLM",
        {**SIZES, "d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48},
    ),
    "bert, masked": ("BertForMaskedLM", {**SMALL, "intermediate_size": 48}),
    "t5": (
        "T5ForConditionalGeneration",
        {"vocab_size": 97, "d_model": 32, "d_ff": 48, "num_layers": 2, "num_heads": 4},
    ),
}


def build(name: str, seed: int = 0) -> Any:
    """Return a transformers model whose every tensor is random, norms and biases too."""
    kind, fields = CHECKPOINTS[name]
    config = getattr(transformers, f"{kind}Config")(**fields)
    torch.manual_seed(seed)
    suffix = "LMHeadModel" if kind == "GPT2" else "ForCausalLM"
    model = getattr(transformers, kind + suffix)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def save(name: str, folder: Path, seed: int = 0, shard: str = "5GB") -> Any:
    """Write the checkpoint and a byte-level tokenizer into `folder`; return the model."""
    model = build(name, seed)
    model.save_pretrained(folder, max_shard_size=shard)
    tokenizer(folder)
    return model


def save_family(name: str, folder: Path) -> Any:
    """Write a model of another family and a byte-level tokenizer into `folder`.

    Return the model.
    """
    return save_kind(*FAMILIES[name], folder)


def save_kind(kind: str, fields: dict[str, Any], folder: Path) -> Any:
    """Write a model of a class of transformers and a byte-level tokenizer into `folder`.

    Return the model.
    """
    torch.manual_seed(0)
    made = getattr(transformers, kind)
    model = made(made.config_class(**fields))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    tokenizer(folder)
    return model.eval()


def tokenizer(folder: Path) -> None:
    """Write a `tokenizer.json` of VOCAB entries: printable characters and an end of text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = ["<|endoftext|>", "<unk>", *map(chr, range(32, 32 + VOCAB - 2))]
    made = Tokenizer(
        models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>")
    )
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens(["<|endoftext|>"])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
