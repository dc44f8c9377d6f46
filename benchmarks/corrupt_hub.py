"""Hugging Face folders for `corrupt.py`: what a reader without checksums finds, and what it cannot.

Three models: a Llama in shards, which becomes one of ours; a GPT-NeoX, which stays behind an
adapter; and a Llama in a folder as the hub's cache keeps them, where every file is called by its
checksum. What no reader of a plain folder can find is told from the files, not from what the
command made of them: JSON that is still JSON, numbers of a tensor that are other numbers, and files
that a model may have or not.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

VOCABULARY = 97
OPTIONAL = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
}
ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "max_position_embeddings": 64}


def write_models(folder: Path) -> dict[str, Path]:
    """Write the three models into a folder and return their places by name."""
    import torch
    import transformers

    made: dict[str, Path] = {}
    sizes: dict[str, Any] = {**SIZES, **ENDS, "intermediate_size": 48}
    for seed, (name, kind) in enumerate({"llama": "Llama", "neox": "GPTNeoX"}.items()):
        torch.manual_seed(seed)
        config = getattr(transformers, f"{kind}Config")(**sizes)
        made[name] = folder / name
        getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(
            made[name], max_shard_size="30KB" if seed == 0 else "5GB"
        )
        _tokenizer(made[name])
    made["cached"] = folder / "models--me--llama" / "snapshots" / ("0" * 40)
    made["cached"].mkdir(parents=True)
    (blobs := folder / "models--me--llama" / "blobs").mkdir()
    for path in made["llama"].iterdir():
        raw = path.read_bytes()
        large = path.suffix == ".safetensors"
        blob = (
            blobs
            / (
                hashlib.sha256(raw) if large else hashlib.sha1(b"blob %d\0" % len(raw) + raw)
            ).hexdigest()
        )
        shutil.copyfile(path, blob)
        (made["cached"] / path.name).symlink_to(os.path.relpath(blob, made["cached"]))
    return made


def _tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = ["<|endoftext|>", "<unk>", *map(chr, range(32, 32 + VOCABULARY - 2))]
    made = Tokenizer(
        models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>")
    )
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens(["<|endoftext|>"])
    made.save(str(folder / "tokenizer.json"))


def beyond_any_check(before: bytes, path: Path) -> bool:
    """Return whether a damaged file of a folder without checksums is one that somebody could have meant."""
    if not path.is_file():
        return path.name in OPTIONAL
    after = path.read_bytes()
    if path.suffix == ".safetensors":
        head = 8 + int.from_bytes(before[:8], "little")
        return after[:head] == before[:head] and len(after) == len(before)
    try:
        json.loads(after)
    except ValueError:
        return path.name in OPTIONAL  # nothing here reads them
    return True
