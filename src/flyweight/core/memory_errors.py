"""Which errors say that memory ran out."""

from __future__ import annotations

import torch

ERRORS = (MemoryError, RuntimeError)
"""What may mean that memory ran out; `ran_out` says whether it does."""

WORDS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "std::bad_alloc",
)
"""What torch says where an allocation fails, on GPUs and on CPUs, and where a file is mapped."""


def ran_out(error: BaseException) -> bool:
    """Return whether an error says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return any(words in text for words in WORDS)
