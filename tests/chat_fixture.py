"""Tiny models that can be talked with: a byte-level tokenizer with chat tokens, and templates like those on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
    "message['content'] | trim + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
STRICT = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ "
    "raise_exception('no system here') }}"
    "{% endif %}{% generation %}[{{ message['role'] }}] {{ message['content'] }}{{ eos_token "
    "}}{% endgeneration %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def tokenizer(folder: Path, template: str | None = CHATML, as_file: bool = True) -> None:
    """Write a byte-level tokenizer of 259 entries with its config and, where given, its template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: at for at, letter in enumerate(letters)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    made.save(str(folder / "tokenizer.json"))
    fields: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "bos_token": SPECIAL[0],
    }
    if template is not None and as_file:
        (folder / "chat_template.jinja").write_text(template)
    elif template is not None:
        fields["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))


def save(
    folder: Path,
    kind: str = "Llama",
    template: str | None = CHATML,
    context: int = 512,
    as_file: bool = True,
) -> Path:
    """Write a model of 259 tokens, random and the same every time, with its tokenizer.

    Return the folder.
    """
    fields = {
        "vocab_size": 259, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": context, "bos_token_id": 256, "eos_token_id": 256,
    }  # fmt: skip
    if kind == "Mistral":
        fields |= {"num_key_value_heads": 2, "sliding_window": 24}
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(
        getattr(transformers, f"{kind}Config")(**fields)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    tokenizer(folder, template, as_file)
    return folder
