"""Give every export an end and a padding token.

Libraries that pad, batch or train ask for both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from flyweight.checkpoints import load_any, token_rows
from flyweight.config.schema import ModelConfig
from flyweight.core.files import write_text
from flyweight.data import special
from flyweight.data.tokenizer import PAD, SEPARATOR, Tokenizer, with_special
from flyweight.errors import RequestError
from flyweight.model.decoder import Decoder


def complete(
    source: Path, out: Path, config: ModelConfig, state: Mapping[str, Tensor], notes: list[str]
) -> tuple[ModelConfig, Mapping[str, Tensor], list[int]]:
    """Add an end and a padding token where the tokenizer in `out` lacks them.

    Return config, state and the added ids. A model without spare rows gets new ones: copies of its
    least likely token's row, which take next to no probability. Where its tables cannot grow,
    nothing is added and `notes` says why.
    """
    tokenizer = Tokenizer.load(out)
    lacking = [] if tokenizer.separator is not None else [SEPARATOR]
    if tokenizer.pad is None:
        lacking.append(PAD)
    new = [word for word in lacking if word not in tokenizer.vocab]
    rows = tokenizer.vocab_size + len(new)
    if new and rows > (config.vocab_size or 0):
        try:
            config, state = token_rows.resized(
                config, state, rows, _least_likely(source, tokenizer.vocab_size)
            )
        except RequestError as error:
            notes.append(f"it has no {' and no '.join(new)} token, and none can be added: {error}")
            return config, state, []
    added = with_special(tokenizer, new) if new else tokenizer
    if lacking:
        write_text(out / "tokenizer.json", added.text)
        _name(out, added, lacking)
    return config, state, [added.vocab[word] for word in new]


def _least_likely(source: Path, tokens: int) -> int:
    model = load_any.load(source)
    assert isinstance(model, Decoder)
    return token_rows.least_likely(model, tokens)


def _name(out: Path, tokenizer: Tokenizer, lacking: list[str]) -> None:
    """Name the added tokens in the model's own files, which would hide them otherwise."""
    fields: dict[str, Any] = special.json_object(out / special.WORDS)
    kinds = {SEPARATOR: "eos", PAD: "pad"}
    if fields:
        fields |= {f"{kinds[word]}_token": word for word in lacking}
        write_text(out / special.WORDS, json.dumps(fields, indent=2, ensure_ascii=False) + "\n")
    config_ids = special.json_object(out / special.IDS[0])
    if config_ids:
        config_ids |= {f"{kinds[word]}_token_id": tokenizer.vocab[word] for word in lacking}
        write_text(out / special.IDS[0], json.dumps(config_ids, indent=2) + "\n")
