"""How a teacher with another tokenizer reads a student's windows: in its own tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from flyweight.checkpoints import load_any
from flyweight.checkpoints.load_any import AnyModel
from flyweight.config import schema
from flyweight.data.alignment import (
    AlignedWindow,
    SharedGroups,
    TokenPlaces,
    align,
    first_mark,
    same_tokenizer,
    shared_groups,
)
from flyweight.data.batch import Batch
from flyweight.data.corpus import Corpus
from flyweight.data.documents import DocumentIds
from flyweight.data.sources import source_of
from flyweight.data.token_bytes import token_bytes
from flyweight.data.tokenizer import Tokenizer
from flyweight.data.windows import Windows
from flyweight.errors import RequestError
from flyweight.spec.chunks import TOKENS_AT_ONCE
from flyweight.store.stage import Context, Inputs
from flyweight.training.teaching import grouped, hidden_states

LOOKED_AT = 64
"""Windows in which there has to be a common boundary."""


@dataclass(frozen=True)
class Heard:
    """What teachers have read of some rows.

    `hidden` are the states of each teacher, (P, D); `flops` what they cost. `positions` (rows, T),
    bool, are the positions that they belong to; None for all.
    """

    hidden: list[Tensor]
    flops: int
    positions: Tensor | None = None


class Reading(Protocol):
    """How teachers read rows of windows, and what they predict then of `entries` tokens."""

    entries: int

    @property
    def groups(self) -> np.ndarray | None:
        """The group of each of the student's tokens, (V,); None where tokens are predicted."""
        ...

    def read(self, first: int, count: int) -> Heard:
        """Return what each teacher has read of `count` rows from `first` on."""
        ...

    def predict(self, place: int, hidden: Tensor, temperature: float) -> Tensor:
        """Return log-probabilities (n, entries) of one teacher, given its hidden states (n, D)."""
        ...

    def facts(self, aligned: float) -> dict[str, Any]:
        """Return facts of the reading; `aligned` is the share of positions that are told."""
        ...


@dataclass(frozen=True)
class ForeignTeacher:
    """A teacher, the text in its own tokens, and the groups of those tokens."""

    model: AnyModel
    places: TokenPlaces
    entries: int
    groups: Tensor
    ids: DocumentIds | None


class OtherTokens:
    """Teachers that read the text of the windows in their own tokens."""

    def __init__(
        self,
        teachers: Sequence[ForeignTeacher],
        student: TokenPlaces,
        windows: Windows,
        groups: SharedGroups,
    ) -> None:
        self.teachers, self.student, self.windows = teachers, student, windows
        self.entries = groups.count
        self.groups: np.ndarray | None = groups.of[0]
        self._flops = dict[tuple[int, int], int]()

    def aligned(self, place: int, first: int, count: int) -> list[AlignedWindow]:
        """Return what a teacher reads beside `count` rows from `first` on."""
        starts = [int(self.windows.starts(first + row)[0]) for row in range(count)]
        places, length = self.teachers[place].places, self.windows.context
        return [align(self.student, places, start, length) for start in starts]

    def read(self, first: int, count: int) -> Heard:
        """Return what each teacher has read of `count` rows, where all have a common boundary."""
        windows = [self.aligned(place, first, count) for place in range(len(self.teachers))]
        positions = [np.stack([window.positions for window in each]) for each in windows]
        common = np.logical_and.reduce([each >= 0 for each in positions])  # (rows, T)
        hidden, flops = list[Tensor](), 0
        for place, each in enumerate(windows):
            rows, _ = np.nonzero(common)
            states, cost = self._hidden(place, each, rows, positions[place][common])
            hidden.append(states)
            flops += cost
        return Heard(hidden, flops, torch.from_numpy(common))

    def predict(self, place: int, hidden: Tensor, temperature: float) -> Tensor:
        """Return the log-probabilities (n, groups) of one teacher, given its hidden states.

        They leave out the teacher's tokens that are in no group.
        """
        teacher = self.teachers[place]
        log_probs = predictions(teacher.model, hidden, teacher.entries, temperature)
        return grouped(log_probs, teacher.groups, self.entries)[:, : self.entries]

    def facts(self, aligned: float) -> dict[str, Any]:
        """Return the share of positions with a common boundary, and what is compared there."""
        return {"aligned": aligned, "groups": self.entries}

    @torch.no_grad()
    def _hidden(
        self, place: int, windows: Sequence[AlignedWindow], rows: np.ndarray, at: np.ndarray
    ) -> tuple[Tensor, int]:
        """Return the states (P, D) behind the tokens `at` (P,) of `rows` (P,), and the FLOPs."""
        teacher = self.teachers[place]
        device, flops = device_of(teacher.model), 0
        found: Tensor | None = None
        for pieces in _batches(windows, teacher.model.config.context):
            read = self._batch(teacher, windows, pieces).to(device)
            states = hidden_states(teacher.model, read).view(*read.inputs.shape, -1)  # (n, L, D)
            if found is None:
                found = states.new_zeros(len(rows), states.shape[-1])
            for number, piece in enumerate(pieces):
                inside = (rows == piece.row) & (at >= piece.new) & (at < piece.last)
                chosen = torch.from_numpy(np.flatnonzero(inside)).to(device)
                found[chosen] = states[number, torch.from_numpy(at[inside] - piece.first)]
                flops += self._forward_flops(place, piece.last - piece.first)
        assert found is not None
        return found, flops

    def _batch(
        self, teacher: ForeignTeacher, windows: Sequence[AlignedWindow], pieces: list[_Piece]
    ) -> Batch:
        """Return pieces of windows in the teacher's tokens, padded behind their end."""
        longest = max(piece.last - piece.first for piece in pieces)
        inputs = torch.zeros(len(pieces), longest, dtype=torch.int64)
        documents = torch.zeros_like(inputs)
        for number, piece in enumerate(pieces):
            tokens, ids = self._tokens(teacher, windows[piece.row])
            length = piece.last - piece.first
            inputs[number, :length] = torch.from_numpy(tokens[piece.first : piece.last])
            documents[number, :length] = torch.from_numpy(ids[piece.first : piece.last])
        apart = documents if teacher.ids is not None else None
        return Batch(inputs, inputs, inputs.numel(), documents=apart)

    def _tokens(
        self, teacher: ForeignTeacher, window: AlignedWindow
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of a window and their documents, both int64."""
        tokens, documents = list[np.ndarray](), list[np.ndarray]()
        for number, (first, last) in enumerate(window.segments):
            tokens.append(teacher.places.tokens[first:last].astype(np.int64))
            ids = np.zeros(last - first, np.int64)
            if teacher.ids is not None and last > first:
                ids = teacher.ids.ids(np.array([first]), last - first)[0]
            documents.append(ids + number * len(teacher.places.tokens))
        return np.concatenate(tokens), np.concatenate(documents)

    def _forward_flops(self, place: int, length: int) -> int:
        key = place, length
        if key not in self._flops:
            self._flops[key] = load_any.forward_flops(self.teachers[place].model, length)
        return self._flops[key]


@dataclass(frozen=True)
class _Piece:
    """Tokens `first` to `last` of a row's window; those before `new` were read before."""

    row: int
    first: int
    last: int
    new: int


def _batches(windows: Sequence[AlignedWindow], most: int | None) -> Iterator[list[_Piece]]:
    """Yield what a teacher reads at once, which reads at most so many tokens in a row.

    A longer window is read in pieces that overlap by half.
    """
    waiting = list[_Piece]()
    for row, window in enumerate(windows):
        for piece in _pieces(row, window.tokens, most or max(1, window.tokens)):
            longest = max(each.last - each.first for each in (*waiting, piece))
            if waiting and (len(waiting) + 1) * longest > TOKENS_AT_ONCE:
                yield waiting
                waiting = []
            waiting.append(piece)
    if waiting:
        yield waiting


def _pieces(row: int, length: int, most: int) -> Iterator[_Piece]:
    """Yield the pieces of one window of so many tokens."""
    first, new = 0, 0
    while new < length:
        last = min(first + most, length)
        yield _Piece(row, first, last, new)
        first, new = last - most // 2, last


def predictions(teacher: AnyModel, hidden: Tensor, entries: int, temperature: float) -> Tensor:
    """Return the log-probabilities (n, entries) of a teacher, given its hidden states (n, D)."""
    return teacher.logits(hidden)[:, :entries].float().div(temperature).log_softmax(-1)


def device_of(teacher: AnyModel) -> torch.device:
    """Return where a teacher's weights are."""
    return next(teacher.parameters()).device


def check_alignable(inputs: Inputs, role: str) -> None:
    """Raise RequestError for a model that has no tokenizer, or none whose tokens have bytes."""
    where, folder = f"stages.{inputs.name}.across", inputs.model(role)
    if not (folder / "tokenizer.json").is_file():
        raise RequestError(f"{where}: {inputs.artifacts[role].id} has no tokenizer; use another")
    try:
        token_bytes(Tokenizer.load(folder))
    except RequestError as error:
        raise RequestError(f"{where}: the tokenizer of {role}: {error}") from None


def other_tokens(
    config: schema.Teach, inputs: Inputs, windows: Windows, corpus: Corpus, context: Context
) -> OtherTokens:
    """Return how teachers read a text of another tokenizer.

    Raises RequestError where nothing could be compared: see docs/distillation.md.
    """
    where = f"stages.{inputs.name}.across"
    roles = list(inputs.artifacts)
    texts = [Corpus.open(inputs.texts[role].path / "corpus", verify=False) for role in roles]
    if all(same_tokenizer(text.tokenizer, corpus.tokenizer) for text in texts):
        raise RequestError(f"{where}: the tokenizers are the same; leave across out")

    def placed(text: Corpus, what: str) -> TokenPlaces:
        try:
            return TokenPlaces.of(text, source_of(config.data, context.data_dir).documents("train"))
        except RequestError as error:
            raise RequestError(f"{where}: {what}: {error}") from None

    student = placed(corpus, "the tokenizer of this text")
    places = [
        placed(text, f"the tokenizer of {role}") for text, role in zip(texts, roles, strict=True)
    ]
    known = [corpus, *texts]
    groups = shared_groups(
        [token_bytes(text.tokenizer) for text in known], [first_mark(text) for text in known]
    )
    if groups.text == 0:
        raise RequestError(f"{where}: no token is in both vocabularies, so nothing is comparable")
    teachers = list[ForeignTeacher]()
    for number, (role, text) in enumerate(zip(roles, texts, strict=True)):
        model = load_any.load(inputs.model(role), context.runtime.device)
        ids = _document_ids(config, model, text, f"{where.rsplit('.', 1)[0]}.data.documents")
        text.require_rows(model.config.vocab_size or 0, ("train",))
        of = torch.from_numpy(groups.of[number + 1]).to(context.runtime.device)
        entries = text.meta.vocab_size
        model = model.eval().requires_grad_(False)
        teachers.append(ForeignTeacher(model, places[number], entries, of, ids))
    reading = OtherTokens(teachers, student, windows, groups)
    _check_boundaries(reading, min(config.rows, LOOKED_AT), where)
    return reading


def _document_ids(
    config: schema.Teach, model: AnyModel, text: Corpus, where: str
) -> DocumentIds | None:
    """Return the documents of a teacher's text, where each is read by itself."""
    if config.data.documents == "joined":
        return None
    load_any.require_isolation(model.config, f"{where}: the teacher", task=False)
    return DocumentIds(text.split("train"))


def _check_boundaries(reading: OtherTokens, rows: int, where: str) -> None:
    """Raise RequestError where no window has a common boundary with all teachers."""
    found = False
    for row in range(rows):
        each = [reading.aligned(place, row, 1)[0] for place in range(len(reading.teachers))]
        found |= bool(np.logical_and.reduce([window.positions >= 0 for window in each]).any())
    if not found:
        raise RequestError(
            f"{where}: no token of both tokenizers ends at the same byte in the first {rows} "
            "windows, so nothing can be compared; use other tokenizers or longer windows"
        )
