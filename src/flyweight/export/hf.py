"""A model as a Hugging Face folder: of a native family where one holds it, else of flyweight's own type."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from flyweight.core.files import appearing, disk_errors, write_text
from flyweight.data.tokenizer import Tokenizer
from flyweight.export.exported import Exported
from flyweight.hub import checkpoint, convert, models, template
from flyweight.hub.families import Family, Inexpressible, family_of
from flyweight.model import folder

Card = Callable[[str, Sequence[str]], str]
"""Returns an export's card, given what it was written as and what is not as one may expect of it."""


def write(source: Path, out: Path, card: Card, shard_bytes: int = convert.SHARD_BYTES) -> Exported:
    """Write the model folder `source` as the new Hugging Face folder `out`, which appears whole or not at all.

    What `card` returns becomes its README.md. Tensors keep their bits; layers that are used more than once are stored once.
    """
    with appearing(out) as partial:
        with disk_errors(out):
            partial.mkdir()
        kind, notes = _written(source, partial, shard_bytes)
        write_text(partial / "README.md", card(kind, notes))
    return Exported(out, kind, sum(file.stat().st_size for file in out.rglob("*") if file.is_file()), tuple(notes))


def _written(source: Path, out: Path, shard_bytes: int) -> tuple[str, list[str]]:
    if checkpoint.is_checkpoint(source):
        found = checkpoint.read(source)
        with disk_errors(out):
            shutil.copytree(source, out, dirs_exist_ok=True)
        return found.model_type, [f"the type {found.model_type}: its files as they came"]
    config, notes = models.decoder_config(source, "a Hugging Face folder"), list[str]()
    family: Family | None = None
    try:
        family, _ = family_of(config)
    except Inexpressible as error:
        notes.append(f"flyweight's own type: `import flyweight` before AutoModelForCausalLM reads it. {error}")
    raw, tensors = convert.checkpoint_files(config, load_file(source / folder.WEIGHTS), family)
    if convert.copy_tokenizer(source, out):
        ends = _describe(source, out, config.context)
        raw = {**raw, **ends}
        write_text(out / "generation_config.json", json.dumps({**ends, "do_sample": False}, indent=2) + "\n")
    else:
        notes.append("it has no tokenizer")
    convert.write(raw, tensors, out, shard_bytes)
    return family.model_type if family else convert.OWN, notes


def _describe(source: Path, out: Path, context: int | None) -> dict[str, Any]:
    """Write what AutoTokenizer asks for beside `tokenizer.json`, unless it came along; return the ids that models name."""
    tokenizer = Tokenizer.load(source)
    end = tokenizer.separator
    word = None if end is None else next(text for text, at in tokenizer.vocab.items() if at == end)
    if not (out / "tokenizer_config.json").is_file():
        fields: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": context,
            "clean_up_tokenization_spaces": False,
        }
        if word is not None:
            fields |= {"eos_token": word, "pad_token": word}
        write_text(out / "tokenizer_config.json", json.dumps(fields, indent=2, ensure_ascii=False) + "\n")
    ends = sorted(template.ends(source, tokenizer))  # a chat model also ends its turns
    return {"bos_token_id": None, "eos_token_id": ends if len(ends) > 1 else end, "pad_token_id": end}
