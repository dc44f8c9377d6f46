"""Change the number of token rows in a decoder's tables, to add tokens to a finished model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from flyweight.config.schema import ModelConfig
from flyweight.errors import RequestError
from flyweight.model.decoder import Decoder

TABLES = ("embedding.tokens.", "head.linear.", "head_bias")
"""Names of the tensors that have a row, or a number, for each token."""


def resized(
    config: ModelConfig, state: Mapping[str, Tensor], rows: int, like: int | None = None
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return a decoder's config and state with `rows` rows for tokens.

    New rows are copies of row `like`, or means of all rows where it is None. Raises RequestError
    for a bigram table, whose rows depend on the size of the vocabulary, and for tables packed
    across rows.
    """
    before = config.vocab_size or 0
    if config.embedding.bigram.kind != "none":
        raise RequestError("its bigram table depends on the size of the vocabulary")
    changed = dict(state)
    for name, tensor in state.items():
        if not name.startswith(TABLES):
            continue
        if not tensor.ndim or tensor.shape[0] != before:
            raise RequestError(f"{name} is packed across rows")
        if like is None and not tensor.is_floating_point():
            raise RequestError(f"{name} is packed, so it has no mean; copy a row")
        row = tensor.mean(0, keepdim=True) if like is None else tensor[like : like + 1]
        changed[name] = torch.cat(
            (tensor[:rows], row.expand(max(0, rows - before), *row.shape[1:]))
        )
    return config.model_copy(update={"vocab_size": rows}), changed


@torch.no_grad()
def least_likely(model: Decoder, tokens: int) -> int:
    """Return the token, of the first `tokens`, that the model expects least.

    Averages over texts of one token each.
    """
    starts = torch.arange(min(tokens, 256), device=model.device)[:, None]  # (N, 1)
    log = model.eval()(starts)[:, -1].float().log_softmax(-1)  # (N, V)
    return int(log[:, :tokens].mean(0).argmin())
