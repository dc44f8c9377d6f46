"""A tokenizer with a begin token, as Llama's."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers

from flyweight.data.tokenizer import Tokenizer


def spm_like(folder: Path, **files: dict) -> Tokenizer:
    """Byte fallback, a dummy prefix and `<s>` in front, as SentencePiece has it.

    `files` stand beside it.
    """
    from tokenizers import decoders, models, pre_tokenizers, processors

    words = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *"abcdefgh",
        "<|stop|>",
    ]
    vocab = {word: at for at, word in enumerate(words)}
    backend = tokenizers.Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    parts = [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    backend.decoder = decoders.Sequence(parts)
    backend.add_special_tokens(["<unk>", "<s>", "</s>", "<|stop|>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    backend.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return Tokenizer.load(folder)
