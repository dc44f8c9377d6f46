"""Our decoder against transformers' own models, with the same random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from flyweight.config.schema import ModelConfig
from flyweight.model.decoder import Decoder

VOCAB = 61
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def randomised(model: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.1 * noise if "norm" in name or "ln_" in name else 0.3 * noise)
    return model.eval()


def gpt2_weights(model: GPT2LMHeadModel) -> dict[str, torch.Tensor]:
    theirs, ours = model.transformer.state_dict(), {}
    names = {
        "ln_1": "attention_norm",
        "ln_2": "mlp_norm",
        "mlp.c_fc": "mlp.up",
        "mlp.c_proj": "mlp.down",
    }
    ours["embedding.tokens.weight"], ours["embedding.positions.weight"] = (
        theirs["wte.weight"],
        theirs["wpe.weight"],
    )
    ours["norm.weight"], ours["norm.bias"] = theirs["ln_f.weight"], theirs["ln_f.bias"]
    for layer in range(model.config.n_layer):
        for end in ("weight", "bias"):
            for their_name, our_name in {**names, "attn.c_proj": "attention.out"}.items():
                tensor = theirs[f"h.{layer}.{their_name}.{end}"]
                ours[f"blocks.{layer}.{our_name}.{end}"] = tensor.T if tensor.dim() == 2 else tensor
            joined = theirs[f"h.{layer}.attn.c_attn.{end}"]
            for name, part in zip("qkv", joined.chunk(3, -1), strict=True):
                ours[f"blocks.{layer}.attention.{name}.{end}"] = part.T if part.dim() == 2 else part
    return ours


def llama_weights(model: Any) -> dict[str, torch.Tensor]:
    names = {
        "model.embed_tokens.": "embedding.tokens.",
        "model.layers.": "blocks.",
        "model.norm.": "norm.",
        "lm_head.": "head.linear.",
        "self_attn.o_proj.": "attention.out.",
        "self_attn.": "attention.",
        "input_layernorm.": "attention_norm.",
        "post_attention_layernorm.": "mlp_norm.",
        "_proj.": ".",
    }
    ours = {}
    for name, tensor in model.state_dict().items():
        for theirs, mine in names.items():
            name = name.replace(theirs, mine)
        ours[name] = tensor
    if model.config.tie_word_embeddings:
        ours.pop("head.linear.weight")
    return ours


def gpt2() -> tuple[Any, ModelConfig, dict[str, torch.Tensor]]:
    model = randomised(
        GPT2LMHeadModel(GPT2Config(**SIZES, n_positions=48, n_embd=24, n_layer=3, n_head=3))
    )
    config = ModelConfig.model_validate(
        {
            "dim": 24,
            "layers": 3,
            "attention": {"heads": 3, "bias": True},
            "position": "learned",
            "mlp": {"kind": "gelu", "approximate": "tanh", "bias": True},
            "norm": {"kind": "layernorm", "eps": 1e-5},
        }
    )
    return model, config, gpt2_weights(model)


def llama(scaling: str | None, tied: bool) -> tuple[Any, ModelConfig, dict[str, torch.Tensor]]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 500.0}
    ours: dict[str, Any] | None = None
    if scaling == "linear":
        rope, ours = {**rope, "rope_type": "linear", "factor": 3.0}, {"kind": "linear", "factor": 3}
    if scaling == "llama3":
        rope = {
            **rope,
            **{
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            },
            "original_max_position_embeddings": 32,
        }
        ours = {"kind": "llama3", "factor": 8, "original_context": 32}
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    theirs = LlamaConfig(
        **SIZES,
        **sizes,
        num_key_value_heads=2,
        max_position_embeddings=48,
        rope_parameters=rope,
        rms_norm_eps=1e-5,
        tie_word_embeddings=tied,
    )
    model = randomised(LlamaForCausalLM(theirs))
    config = ModelConfig.model_validate(
        {
            "dim": 32,
            "layers": 2,
            "attention": {"heads": 4, "kv_heads": 2},
            "position": {"kind": "rope", "base": 500, "scaling": ours},
            "mlp": {"kind": "swiglu", "hidden": 40},
            "norm": {"kind": "rmsnorm", "eps": 1e-5},
            "embedding": {"tied": tied},
        }
    )
    return model, config, llama_weights(model)


def qwen3() -> tuple[Any, ModelConfig, dict[str, torch.Tensor]]:
    sizes: dict[str, Any] = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    theirs = Qwen3Config(
        **SIZES,
        **sizes,
        num_key_value_heads=2,
        head_dim=10,
        max_position_embeddings=48,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
    )
    model = randomised(Qwen3ForCausalLM(theirs))
    config = ModelConfig.model_validate(
        {
            "dim": 24,
            "layers": 2,
            "attention": {"heads": 4, "kv_heads": 2, "head_dim": 10, "qk_norm": True},
            "position": {"kind": "rope", "base": 1e6},
            "mlp": {"kind": "swiglu", "hidden": 40},
        }
    )
    return model, config, llama_weights(model)


FAMILIES = {
    "gpt2": gpt2,
    "llama": lambda: llama(None, False),
    "llama-linear": lambda: llama("linear", True),
    "llama-llama3": lambda: llama("llama3", True),
    "qwen3": qwen3,
}


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_logits_are_those_of_transformers(family: str) -> None:
    theirs, config, weights = FAMILIES[family]()
    ours = Decoder(config.resolved(VOCAB, 48)).eval()
    ours.load_state_dict({name: tensor.contiguous() for name, tensor in weights.items()})
    tokens = torch.randint(VOCAB, (2, 48), generator=torch.Generator().manual_seed(1))
    expected = theirs(tokens).logits
    assert expected.std() > 0.5
    assert (ours(tokens) - expected).abs().max() < 1e-4
    mask = torch.ones(2, 48, dtype=torch.bool)
    mask[0, :5] = False
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    padded = theirs(tokens, attention_mask=mask.long(), position_ids=positions).logits
    assert (ours(tokens, mask=mask) - padded)[mask].abs().max() < 1e-4
