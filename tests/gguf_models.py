"""Small trained models of every kind that GGUF can hold, and what llama.cpp makes of their files, for tests and a benchmark."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from flyweight.config import schema
from flyweight.data.tokenizer import Tokenizer
from flyweight.data.tokenizer_training import train
from flyweight.model import folder
from flyweight.model.decoder import Decoder

TEXT = (
    "The king sees a model, and the model sees the king; it's 12 o'clock.\n"
    "\tAnn takes one small word:  naïve café — 100 %!\n"
    "def double(x):\n    return 2 * x  # it isn't 3\n\n"
) * 40
PROMPTS = ("The king", "Ann takes one", "def double(", "It's 12  o'clock\n\n\tcafé 😀 ---")
CONTEXT = 64
GPT2 = {"position": "learned", "mlp": {"kind": "gelu", "approximate": "tanh"}, "norm": "layernorm"}
BIASED = {**GPT2, "mlp": {**GPT2["mlp"], "bias": True}, "attention": {"heads": 4, "bias": True}}
LLAMA3 = {"kind": "llama3", "factor": 8.0, "original_context": 32}

MODELS: dict[str, dict[str, Any]] = {
    "llama": {"attention": {"heads": 4}},
    "llama, grouped heads of 32, own head": {
        "attention": {"heads": 4, "kv_heads": 2, "head_dim": 32},
        "embedding": {"tied": False},
    },
    "llama, biases, llama3 scaling": {
        "attention": {"heads": 4, "kv_heads": 1, "bias": True, "out_bias": False},
        "mlp": {"kind": "swiglu", "bias": True},
        "position": {"base": 500.0, "scaling": LLAMA3},
    },
    "llama, linear scaling": {
        "attention": {"heads": 2},
        "position": {"scaling": {"kind": "linear", "factor": 2.0}},
    },
    "llama, ntk scaling": {
        "attention": {"heads": 2},
        "position": {"scaling": {"kind": "ntk", "factor": 4.0}},
    },
    "llama, repeat": {"attention": {"heads": 4}, "sharing": {"kind": "repeat", "times": 2}},
    "gpt2": BIASED,
    "gpt2, own head": {**BIASED, "embedding": {"tied": False}},
    "gpt2, no biases, cycle": {
        **GPT2,
        "attention": {"heads": 4},
        "norm": {"kind": "layernorm", "bias": False},
        "sharing": {"kind": "cycle", "times": 2},
    },
    "qwen3": {"attention": {"heads": 4, "kv_heads": 2, "head_dim": 32, "qk_norm": True}},
    "qwen3, own head": {"attention": {"heads": 4, "qk_norm": True}, "embedding": {"tied": False}},
}


def tokenizer(
    config: schema.Tokenizer | None = None, text: str = TEXT, separated: bool = True
) -> Tokenizer:
    """Return a tokenizer trained on TEXT, byte-level BPE with 320 tokens unless told otherwise."""
    return train(
        config or schema.BpeTokenizer(vocab=320),
        lambda: iter([text]),
        lambda: iter([]),
        len(text),
        separated,
    )


_LETTERS = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": False,
}
_START = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def splitting(pattern: str) -> dict[str, Any]:
    """Return a pre-tokenizer that splits text by a regular expression, as a `tokenizer.json` has it."""
    first = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [first, _LETTERS]}


# What a `tokenizer.json` has where llama.cpp has a pre-tokenizer of this name.
PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "gpt-2": {},
    "qwen2": {"pre_tokenizer": splitting(_START + r"\p{N}" + _REST)},
    "llama-bpe": {
        "pre_tokenizer": splitting(_START + r"\p{N}{1,3}" + _REST),
        "model": {"ignore_merges": True},
    },
    "dbrx": {"pre_tokenizer": splitting(_START + r"\p{N}{1,3}" + _REST)},
    "smollm": {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {**_LETTERS, "use_regex": True},
            ],
        }
    },
}


def changed(known: Tokenizer, **parts: Any) -> Tokenizer:
    """Return a tokenizer with other parts of its file; `model` is updated, not replaced."""
    raw = json.loads(known._text)
    model = {**raw["model"], **parts.pop("model", {})}
    return Tokenizer(json.dumps({**raw, **parts, "model": model}))


def round_to(model: Decoder, type: str) -> None:
    """Round the matrices of a model to what a quantized type holds, so that writing them loses nothing more."""
    import gguf

    head = "embedding.tokens.weight" if model.head is None else "head.linear.weight"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and name != "embedding.positions.weight":
                kind = gguf.GGMLQuantizationType["Q8_0" if name == head else type.upper()]
                parameter.copy_(
                    torch.from_numpy(gguf.dequantize(gguf.quantize(parameter.numpy(), kind), kind))
                )


def save(path: Path, known: Tokenizer, steps: int = 0, **fields: Any) -> Decoder:
    """Write a model folder with a tokenizer into `path`.

    Every parameter is random, then trained for `steps` on TEXT.
    """
    config = {"vocab_size": known.vocab_size, "context": CONTEXT, "dim": 64, "layers": 2, **fields}
    model = Decoder(schema.ModelConfig.model_validate(config))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            parameter.add_(
                noise, alpha=0.1 if parameter.dim() == 1 else 0.05
            )  # biases and norms have to matter
    ids = torch.tensor(known.encode(TEXT))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        starts = torch.randint(len(ids) - CONTEXT - 1, (8,), generator=draw).tolist()
        rows = torch.stack([ids[start : start + CONTEXT + 1] for start in starts])  # (B, T + 1)
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder.save(model.eval(), path)
    known.save(path / "tokenizer.json")
    return model


def ours(model: Decoder) -> Callable[[list[int]], np.ndarray]:
    """Return what gives our logits (T, vocab_size) of ids."""

    def logits(ids: list[int]) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.tensor([ids]))[0].numpy()

    return logits


class LlamaCpp:
    """A GGUF file opened in llama.cpp, on one thread.

    Keys and values are cached in float16, its default, unless `exact`.
    """

    def __init__(self, path: Path, exact: bool = False) -> None:
        from llama_cpp import GGML_TYPE_F32, Llama

        cache = {"type_k": GGML_TYPE_F32, "type_v": GGML_TYPE_F32} if exact else {}
        self.model = Llama(
            str(path),
            n_ctx=CONTEXT,
            n_threads=1,
            n_threads_batch=1,
            logits_all=True,
            verbose=False,
            **cache,
        )

    def encode(self, text: str) -> list[int]:
        """Return a text's ids; the file itself says that no token is put before it."""
        return self.model.tokenize(text.encode(), add_bos=True, special=False)

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids."""
        return self.model.detokenize(ids).decode()

    def logits(self, ids: list[int]) -> np.ndarray:
        """Return the logits (T, vocab_size) of ids, in one pass."""
        self.model.reset()
        self.model.eval(ids)
        return np.array(self.model.scores[: len(ids)])

    def ends(self) -> list[int]:
        """Return the ids after which generation ends."""
        from llama_cpp import llama_vocab_is_eog

        return [
            id
            for id in range(self.model.n_vocab())
            if llama_vocab_is_eog(self.model._model.vocab, id)
        ]

    def close(self) -> None:
        """Free the model."""
        self.model.close()


def greedy(logits: Callable[[list[int]], np.ndarray], prompt: list[int], count: int) -> list[int]:
    """Return the `count` likeliest tokens after a prompt, one after the other."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(logits(ids)[-1].argmax()))
    return ids[len(prompt) :]


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Return the largest difference of any logit over the largest logit of the same position, at the worst position."""
    return float((np.abs(found - wanted).max(-1) / np.abs(wanted).max(-1)).max())
