"""Tiny random checkpoints in the real layouts, made by transformers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

VOCAB = 97
GPT2 = {"vocab_size": VOCAB, "n_positions": 32, "n_embd": 36, "n_layer": 3, "n_head": 3, "bos_token_id": 0, "eos_token_id": 0}
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
    "gpt2-untied-wide": ("GPT2", {**GPT2, "n_inner": 50, "tie_word_embeddings": False, "layer_norm_epsilon": 1e-3}),
    "gpt2-exact-gelu": ("GPT2", {**GPT2, "activation_function": "gelu", "n_embd": 35, "n_head": 5}),
    "llama": ("Llama", LLAMA),
    "llama-head-dim-tied": ("Llama", {**LLAMA, "head_dim": 14, "tie_word_embeddings": True, "hidden_size": 37 * 4}),
    "llama-biases-mha": ("Llama", {**LLAMA, "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}),
    "llama-one-kv-head": ("Llama", {**LLAMA, "num_key_value_heads": 1, "rms_norm_eps": 1e-5}),
    "llama-linear": ("Llama", {**LLAMA, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    "llama-llama3": ("Llama", {**LLAMA, "rope_parameters": LLAMA3}),
    "qwen3": ("Qwen3", {**LLAMA, "head_dim": 12}),
    "qwen3-tied": ("Qwen3", {**LLAMA, "head_dim": 24, "tie_word_embeddings": True, "num_key_value_heads": 4}),
    "qwen3-biases": ("Qwen3", {**LLAMA, "head_dim": 10, "attention_bias": True}),
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


def tokenizer(folder: Path) -> None:
    """Write a `tokenizer.json` of VOCAB entries: printable characters and an end of text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = ["<|endoftext|>", "<unk>", *map(chr, range(32, 32 + VOCAB - 2))]
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens(["<|endoftext|>"])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
