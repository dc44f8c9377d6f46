"""What a teacher told once of a text's windows: its most likely tokens at every position.

    told/tokens.npy     (rows, T, k) uint16 or uint32, the likeliest first
    told/log_probs.npy  (rows, T, k) float16 or float32, natural logarithms
    told/meta.json      corpus, context, seed, documents, vocabulary, temperature

Teachers with other tokenizers tell of `vocabulary` groups of tokens (`flyweight.data.alignment`),
and of nothing where no boundary is common.

    told/groups.npy     (V,) int64, the group of each of the student's tokens

Row g belongs to window number g of `flyweight.data.windows`, whatever the batch size. The windows
of another text, context or seed are others, so a record fits one of each.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.format import open_memmap

from flyweight.config.base import Strict
from flyweight.core.files import read_bytes, write_json
from flyweight.data.batch import Batch, TeacherRecord
from flyweight.data.windows import Windows
from flyweight.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

TOKENS, LOG_PROBS, META = "tokens.npy", "log_probs.npy", "meta.json"
GROUPS = "groups.npy"


class ToldMeta(Strict):
    """What the rows of a record are: of which windows, by which softmax.

    `across` is set where the teachers have other tokenizers than the text.
    """

    corpus: str
    context: int
    seed: int
    documents: str
    vocabulary: int
    temperature: float
    rows: int
    k: int
    across: bool = False


class ToldWriter:
    """Writes the rows of a record in their order; what was written before is kept."""

    def __init__(
        self,
        folder: Path,
        meta: ToldMeta,
        dtype: str,
        done: int = 0,
        groups: np.ndarray | None = None,
    ) -> None:
        """Make the files of a record, or go on behind the first `done` rows."""
        shape = (meta.rows, meta.context, meta.k)
        small = meta.vocabulary <= 2**16
        kinds = {TOKENS: np.uint16 if small else np.uint32, LOG_PROBS: np.dtype(dtype)}
        self._arrays: dict[str, Any] = {
            name: open_memmap(folder / name, "r+")
            if done
            else open_memmap(folder / name, "w+", dtype=kind, shape=shape)
            for name, kind in kinds.items()
        }
        if groups is not None:
            np.save(folder / GROUPS, groups)
        write_json(folder / META, meta.model_dump())

    def write(self, first: int, tokens: Tensor, log_probs: Tensor) -> None:
        """Write rows from `first` on, both (rows, T, k)."""
        rows = slice(first, first + len(tokens))
        self._arrays[TOKENS][rows] = tokens.cpu().numpy()
        self._arrays[LOG_PROBS][rows] = log_probs.float().cpu().numpy()

    def flush(self) -> None:
        """Bring what was written to the disk."""
        for array in self._arrays.values():
            array.flush()


class Told:
    """A finished record."""

    def __init__(self, folder: Path) -> None:
        """Open the record in a folder; nothing is read before it is asked for."""
        self.meta = ToldMeta.model_validate_json(read_bytes(folder / META))
        self._tokens = np.load(folder / TOKENS, mmap_mode="r")
        self._log_probs = np.load(folder / LOG_PROBS, mmap_mode="r")
        self._groups = np.load(folder / GROUPS) if self.meta.across else None

    def check(self, windows: Windows, corpus: str, rows: int, where: str) -> None:
        """Raise RequestError where the record is not of the first `rows` of these windows."""
        meta = self.meta
        for name, own, asked in (
            ("text", meta.corpus, corpus),
            ("context", meta.context, windows.context),
            ("seed", meta.seed, windows.seed),
            ("documents", meta.documents, windows.documents),
        ):
            if own != asked:
                raise RequestError(
                    f"{where}: the record is of another {name} ({own}, and this training reads "
                    f"{asked}); teach it anew"
                )
        if rows > meta.rows:
            raise RequestError(
                f"{where}: the record has {meta.rows} rows, and this training reads {rows}; teach "
                f"more rows, or train fewer steps"
            )

    def record(self, numbers: np.ndarray) -> TeacherRecord:
        """Return what was told of windows by their numbers, (B,)."""
        import torch

        tokens = torch.from_numpy(self._tokens[numbers].astype(np.int64))  # (B, T, k)
        log_probs = torch.from_numpy(self._log_probs[numbers].astype(np.float32))
        groups = None if self._groups is None else torch.from_numpy(self._groups)
        return TeacherRecord(tokens, log_probs, groups, self.meta.vocabulary)


class ToldWindows:
    """Windows with what a teacher told of them: a source of batches."""

    def __init__(self, windows: Windows, told: Told) -> None:
        self.windows, self.told = windows, told

    @property
    def context(self) -> int:
        """The number of inputs in each row."""
        return self.windows.context

    def batch(self, step: int, rows: slice = slice(None), rank: int = 0, world: int = 1) -> Batch:
        """Return the windows of a step as `Windows.batch` does, with the teacher's record."""
        batch = self.windows.batch(step, rows, rank, world)
        numbers = self.windows.numbers(step, rows, rank, world)
        return batch.with_teacher(self.told.record(numbers))
