"""Export a model as a Hugging Face folder: of a native family, else of flyweight's own type."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from flyweight.checkpoints import convert, load_any, read
from flyweight.checkpoints.families import family_of
from flyweight.checkpoints.family import Family, Inexpressible
from flyweight.core.files import appearing, copy_folder, disk_errors, write_text
from flyweight.data import special
from flyweight.data.tokenizer import Tokenizer
from flyweight.formats import special_tokens
from flyweight.formats.exported import Exported
from flyweight.model import folder
from flyweight.model.dense_state import dense_state, zeros_note

Card = Callable[[str, Sequence[str]], str]
"""Returns an export's card, given its `kind` and `notes` (see `Exported`)."""


def write(source: Path, out: Path, card: Card, shard_bytes: int = convert.SHARD_BYTES) -> Exported:
    """Write the model folder `source` as the new Hugging Face folder `out`.

    The folder appears whole or not at all. What `card` returns becomes its README.md. Tensors keep
    their bits; layers that are used more than once are stored once.
    """
    with appearing(out) as partial:
        with disk_errors(out):
            partial.mkdir()
        kind, notes = _written(source, partial, shard_bytes)
        write_text(partial / "README.md", card(kind, notes))
    return Exported(
        out,
        kind,
        sum(file.stat().st_size for file in out.rglob("*") if file.is_file()),
        tuple(notes),
    )


def _written(source: Path, out: Path, shard_bytes: int) -> tuple[str, list[str]]:
    if read.is_checkpoint(source):
        model_type = read.read(source).model_type
        with disk_errors(out):
            copy_folder(source, out)
        return model_type, [f"the type {model_type}: its files as they came"]
    config, notes = load_any.decoder_config(source, "a Hugging Face folder"), list[str]()
    family: Family | None = None
    try:
        family, _ = family_of(config)
        if lost := family.lost_dropout(config):
            rates = ", ".join(f"{name} {rate:g}" for name, rate in lost.items())
            notes.append(
                f"its dropout ({rates}) is left out: {family.model_type} has no field for it."
                " Dropout acts in training alone, so the model computes the same"
            )
    except Inexpressible as error:
        notes.append(
            "flyweight's own type: `import flyweight` before AutoModelForCausalLM reads it. "
            f"{error}"
        )
    state: Mapping[str, Tensor] = load_file(source / folder.WEIGHTS)
    if family is not None and (zeros := zeros_note(config)):
        notes += zeros
        state = dense_state(folder.load(source))
    ends: dict[str, Any] = {}
    if convert.copy_tokenizer(source, out):
        config, state, added = special_tokens.complete(source, out, config, state, notes)
        ends = _describe(out, config.context)
        drawn = {**special.json_object(out / "generation_config.json"), **ends}
        if added:  # the model never saw them
            drawn["suppress_tokens"] = added
        write_text(out / "generation_config.json", json.dumps(drawn, indent=2) + "\n")
    else:
        notes.append("it has no tokenizer")
    raw, tensors = convert.checkpoint_files(config, state, family)
    convert.write({**raw, **ends}, tensors, out, shard_bytes)
    return family.model_type if family else convert.OWN, notes


def _describe(out: Path, context: int | None) -> dict[str, Any]:
    """Write the file that AutoTokenizer needs beside `tokenizer.json`, unless the model has it.

    Return the ids of special tokens for the model's config. An imported model's own ids stay as
    they are; other ids with which its tokenizer and template end a text are added.
    """
    tokenizer = Tokenizer.load(out)
    if not (out / special.WORDS).is_file():
        fields = special.config(tokenizer.words, tokenizer.adds, context)
        write_text(out / special.WORDS, json.dumps(fields, indent=2, ensure_ascii=False) + "\n")
    config = {
        key: value
        for key, value in special.json_object(out / special.IDS[0]).items()
        if value is not None
    }
    ends = tuple(sorted(tokenizer.ends - set(tokenizer.begin)))  # a chat model also ends its turns
    named = special.ids(replace(tokenizer.special, ends=ends))
    came = config.get("eos_token_id", [])
    if set(ends) != set(came if isinstance(came, list) else [came]):
        config.pop("eos_token_id", None)
    return {key: config.get(key, value) for key, value in named.items()}
