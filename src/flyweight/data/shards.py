"""Tokens on disk: little-endian shards that are written as they come and read as one array."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
import numpy.typing as npt

from flyweight.core.files import disk_errors

SHARD_TOKENS = 1 << 26
"""The most tokens in one shard: 128 MiB of uint16."""


@dataclass(frozen=True)
class Shard:
    """A file of tokens, how many it holds and the SHA-256 of its bytes."""

    file: str
    tokens: int
    sha256: str


def dtype_for(vocab_size: int) -> np.dtype[Any]:
    """Return the narrowest type of a vocabulary's ids: uint16 up to 65,536 entries, else uint32."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


class ShardWriter:
    """Write a split's tokens to `<split>-00000.bin`, ...; hash each shard and the whole stream."""

    def __init__(
        self, folder: Path, split: str, dtype: np.dtype[Any], limit: int = SHARD_TOKENS
    ) -> None:
        self._folder = folder
        self._split = split
        self._dtype = dtype
        self._limit = limit
        self._file: BinaryIO | None = None
        self._shards: list[Shard] = []
        self._in_shard = 0
        self._stream = hashlib.sha256()
        self._hash = hashlib.sha256()
        self.tokens = 0

    def write(self, ids: npt.ArrayLike) -> None:
        """Append token ids; raise FlyweightError where the disk refuses."""
        array = np.asarray(ids, dtype=self._dtype)
        while len(array):
            part = array[: self._limit - self._in_shard]
            raw = part.tobytes()
            with disk_errors(self._path):
                if self._file is None:
                    self._file = open(self._path, "xb")  # noqa: SIM115 (closed with the shard)
                self._file.write(raw)
            self._hash.update(raw)
            self._stream.update(raw)
            self._in_shard += len(part)
            self.tokens += len(part)
            array = array[len(part) :]
            if self._in_shard == self._limit:
                self._finish_shard()

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._split}-{len(self._shards):05d}.bin"

    def _finish_shard(self) -> None:
        if self._file is None:
            return
        with disk_errors(self._path):
            self._file.close()
        self._shards.append(Shard(self._path.name, self._in_shard, self._hash.hexdigest()))
        self._file, self._in_shard, self._hash = None, 0, hashlib.sha256()

    def close(self) -> tuple[tuple[Shard, ...], str]:
        """Finish the last shard.

        Return the shards and the SHA-256 of the stream, which does not depend on their size.
        """
        self._finish_shard()
        return tuple(self._shards), self._stream.hexdigest()


class Tokens:
    """Shards that read like one array: length, and indexing by int or slice.

    `gather` reads many windows at once.
    """

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self._parts = [part for part in parts if len(part)]
        self._ends = np.cumsum([0, *(len(part) for part in self._parts)], dtype=np.int64)
        self.dtype: np.dtype[Any] = parts[0].dtype if parts else np.dtype("<u2")

    @property
    def shape(self) -> tuple[int]:
        """The number of tokens, as numpy has it."""
        return (len(self),)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> np.ndarray: ...
    def __getitem__(self, index: int | slice) -> int | np.ndarray:
        """Return one token, or a copy of the tokens of a slice."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                raise ValueError(
                    f"tokens are read forwards, one by one: a step of {step} is not supported"
                )
            return self._range(start, max(start, stop))
        if not -len(self) <= index < len(self):
            raise IndexError(f"token {index} of {len(self)}")
        start = index % len(self)
        return int(self._range(start, start + 1)[0])

    def _range(self, start: int, stop: int) -> np.ndarray:
        first = int(np.searchsorted(self._ends, start, side="right")) - 1
        slices: list[np.ndarray] = []
        for part, offset in zip(self._parts[first:], self._ends[first:], strict=False):
            if offset >= stop:
                break
            slices.append(part[max(0, start - int(offset)) : stop - int(offset)])
        return np.concatenate(slices) if slices else np.empty(0, self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self._range(0, len(self))
        return whole if dtype is None else whole.astype(dtype)

    def parts(self) -> list[np.ndarray]:
        """Return the shards' arrays, in order."""
        return list(self._parts)

    def gather(self, starts: npt.ArrayLike, length: int) -> np.ndarray:
        """Return the windows of `length` tokens at `starts`, (N, length).

        Raises IndexError where one leaves the array.
        """
        begins = np.asarray(starts, dtype=np.int64)  # (N,)
        if len(begins) and (begins.min() < 0 or begins.max() + length > len(self)):
            raise IndexError(
                f"a window of {length} at {begins.min()} ... {begins.max()} leaves the "
                f"{len(self)} tokens"
            )
        if len(self._parts) == 1:
            return np.asarray(self._parts[0])[begins[:, None] + np.arange(length)]  # (N, length)
        rows = [self._range(int(begin), int(begin) + length) for begin in begins]
        return np.stack(rows) if rows else np.empty((0, length), self.dtype)
