"""What every model of ours asks of the tokens and the mask that it is given."""

from __future__ import annotations

import torch
from torch import Tensor

from flyweight.errors import RequestError


def check(tokens: Tensor, start: int, mask: Tensor | None) -> None:
    """Raise RequestError unless tokens are a batch (B, T) and a mask covers all of them.

    That is (B, S): `start` earlier tokens and these.
    """
    if tokens.dim() != 2 or tokens.shape[1] == 0:
        raise RequestError(
            f"tokens: the shape is {tuple(tokens.shape)}; give a batch of non-empty sequences "
            f"(B, T)"
        )
    total = start + tokens.shape[1]
    if mask is not None and (
        mask.dtype != torch.bool or tuple(mask.shape) != (tokens.shape[0], total)
    ):
        raise RequestError(
            f"mask: {mask.dtype} of shape {tuple(mask.shape)}; cached and new tokens need "
            f"torch.bool of shape"
            f" {(tokens.shape[0], total)}"
        )


def check_documents(tokens: Tensor, documents: Tensor) -> None:
    """Raise RequestError unless documents are int64 ids of the shape of tokens (B, T)."""
    if documents.dtype != torch.int64 or documents.shape != tokens.shape:
        raise RequestError(
            f"documents: {documents.dtype} of shape {tuple(documents.shape)}; tokens of shape "
            f"{tuple(tokens.shape)} need torch.int64 ids of the same shape"
        )
