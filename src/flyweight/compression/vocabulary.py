"""A decoder without the vocabulary rows that a text never uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from flyweight.config.schema import ModelConfig
from flyweight.data.corpus import Split
from flyweight.data.tokenizer import Tokenizer
from flyweight.data.vocabulary_cut import VocabularyCut, cut_vocabulary
from flyweight.errors import RequestError
from flyweight.model.decoder import Decoder

AT_ONCE = 1 << 22
"""Tokens that are looked at together."""


def check_vocabulary(config: ModelConfig) -> None:
    """Raise RequestError for a decoder whose tables are looked up by more than a token's id."""
    if config.embedding.bigram.kind != "none":
        raise RequestError(
            "prune: vocabulary: the rows of its bigram table belong to pairs of ids; prune heads, "
            "hidden or layers instead"
        )


def used_tokens(split: Split) -> list[int]:
    """Return the ids that a split has, in their order."""
    found = set[int]()
    for start in range(0, len(split.tokens), AT_ONCE):
        found.update(np.unique(split.tokens[start : start + AT_ONCE]).tolist())
    return sorted(found)


def without_unused(
    model: Decoder, tokenizer: Tokenizer, split: Split
) -> tuple[Decoder, VocabularyCut, dict[str, Any]]:
    """Return the decoder and its tokenizer without the entries that a split never uses.

    The facts have the rows before and after. Raises RequestError as `cut_vocabulary` does.
    """
    cut = cut_vocabulary(tokenizer, used_tokens(split))
    small = with_rows(model, cut.kept)
    rows = {"vocabulary_before": model.config.vocab_size, "vocabulary": len(cut.kept)}
    return small, cut, rows


def with_rows(model: Decoder, kept: Sequence[int]) -> Decoder:
    """Return a decoder with the rows `kept` of its embedding and its head, under new ids.

    Row `n` is the old row `kept[n]`; logits of kept tokens are the same numbers.
    """
    check_vocabulary(model.config)
    with torch.device("meta"):
        small = Decoder(model.config.model_copy(update={"vocab_size": len(kept)}))
    rows = torch.tensor(kept)
    shapes = {name: tensor.shape for name, tensor in small.state_dict().items()}
    state = {
        name: tensor.clone() if tensor.shape == shapes[name] else tensor[rows].clone()
        for name, tensor in model.state_dict().items()
    }
    small.load_state_dict(state, assign=True)
    return small.to(model.dtype).train(model.training)
