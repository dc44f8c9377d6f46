"""Continuing texts: cached decoding of a batch of unequal prompts, and choosing the next token."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from flyweight.config.speed import EngineName
from flyweight.decode.sampling import Sampling
from flyweight.errors import RequestError
from flyweight.model import kernels

UNLIMITED = 2**31
"""The context of a model whose config names none."""

FIRST = 4096
"""New tokens that the first cache has room for.

The cache grows by doubling, because a request can be longer than memory allows.
"""

Stop = Callable[[int, list[int]], bool]
OnToken = Callable[[int, int], None]


class CausalLM(Protocol):
    """What generation needs of a model: see `flyweight.model.build`."""

    training: bool

    @property
    def config(self) -> Any:
        """Sizes: `vocab_size`, and `context` or None."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def hidden(self, tokens: Tensor, cache: Any = None, mask: Tensor | None = None) -> Tensor:
        """Return hidden states (B, T, dim)."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits (..., vocab_size)."""
        ...

    def new_cache(self, batch: int, length: int) -> Any:
        """Return an empty cache with `length`, `capacity`, `select` and `resize`."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Switch dropout on or off."""
        ...


@dataclass
class _Sequence:
    """One text under way; `window` is what the model sees of it."""

    index: int
    window: list[int]
    generator: torch.Generator
    new: list[int] = field(default_factory=list)

    def append(self, token: int, context: int) -> None:
        """Add a token; a full window moves on by half, so that its recomputation is rare.

        No other row has a say in it.
        """
        self.new.append(token)
        self.window.append(token)
        if len(self.window) > context:
            self.window = self.window[-max(1, context // 2) :]


@torch.inference_mode()
def generate(
    model: CausalLM,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int = 0,
    stop: Stop | None = None,
    stop_tokens: Collection[int] = (),
    on_token: OnToken | None = None,
    tokens: int | None = None,
    engine: EngineName = "auto",
) -> list[list[int]]:
    """Return the new tokens after each prompt of token ids.

    A row ends at `max_new_tokens`, before one of `stop_tokens` (which is left out), or after a
    token for which `stop(row, new_tokens)` is true; `on_token(row, token)` sees each token that
    stays. Of a text longer than the model's context only its end is seen: a full window goes on
    with its last half. Only the first `tokens` ids are drawn, or all that the model has rows for. A
    row's draws depend on the seed, on its prompt and on how many rows before it have the same
    prompt, not on the batch around it. `engine` says what multiplies a few rows: see
    `model.kernels`. Raises RequestError for options or prompts that make no sense, and for an
    engine that this machine has not.
    """
    rows = _rows(model, prompts, seed)
    if max_new_tokens < 0:
        raise RequestError(f"max_new_tokens: {max_new_tokens} is negative")
    options = _Options(
        context=model.config.context or UNLIMITED,
        limit=max_new_tokens,
        sampling=Sampling(temperature, top_k, top_p, min_p),
        stop=stop,
        stop_tokens=frozenset(stop_tokens),
        on_token=on_token,
        vocab=tokens,
    )
    results = [row.new for row in rows]
    was_training = model.training
    model.train(False)
    try:
        if not max_new_tokens:
            rows = []
        with kernels.engine(engine):
            while rows:
                # When a window moves, every row's window is read anew, into a fresh cache.
                rows = _decode_until_window_moves(model, rows, options)
    finally:
        model.train(was_training)
    return results


@dataclass(frozen=True)
class _Options:
    """What holds for all texts of one call of `generate`."""

    context: int
    limit: int
    sampling: Sampling
    stop: Stop | None
    stop_tokens: frozenset[int]
    on_token: OnToken | None
    vocab: int | None

    def ends(self, row: _Sequence) -> bool:
        """Return whether a text that has just grown ends here."""
        if len(row.new) >= self.limit:
            return True
        return self.stop is not None and self.stop(row.index, row.new)


def _decode_until_window_moves(
    model: CausalLM, rows: list[_Sequence], options: _Options
) -> list[_Sequence]:
    """Read the rows' windows, then extend them token by token until one of them moves.

    Return the rows still going.
    """
    device = model.device
    width = max(len(row.window) for row in rows)
    remaining = options.limit - min(len(row.new) for row in rows)
    most = min(options.context, width + remaining)
    cache = model.new_cache(len(rows), min(most, width + FIRST))
    tokens, mask = _padded([row.window for row in rows], width, device)
    while True:
        hidden = model.hidden(tokens, cache, mask)[:, -1]  # (B, dim)
        logits = model.logits(hidden)[:, : options.vocab]  # (B, V)
        chosen = _choose(rows, logits, options.sampling)
        going = _append(rows, chosen, options)
        if len(going) < len(rows):
            rows = [rows[place] for place in going]
            if rows:
                mask = _keep(cache, mask, torch.tensor(going, device=device))
        if not rows or cache.length == most:
            return rows
        if cache.length == cache.capacity:
            cache.resize(min(most, 2 * cache.capacity))
        tokens = torch.tensor([row.window[-1:] for row in rows], device=device)  # (B, 1)
        if mask is not None:
            mask = torch.cat((mask, mask.new_ones(len(rows), 1)), 1)  # (B, S)


def _choose(rows: list[_Sequence], logits: Tensor, sampling: Sampling) -> list[int]:
    """Return one token for each row of logits (B, V), by its own draws."""
    draws = torch.tensor([_draw(row) if sampling.temperature else 0.0 for row in rows])
    return sampling.choose(logits, draws.to(logits.device)).tolist()


def _append(rows: list[_Sequence], chosen: list[int], options: _Options) -> list[int]:
    """Append a token to each row that it does not end; return the places of rows still going."""
    going = []
    for place, (row, token) in enumerate(zip(rows, chosen, strict=True)):
        if token in options.stop_tokens:
            continue
        row.append(token, options.context)
        if options.on_token is not None:
            options.on_token(row.index, token)
        if not options.ends(row):
            going.append(place)
    return going


def _keep(cache: Any, mask: Tensor | None, rows: Tensor) -> Tensor | None:
    cache.select(rows)
    return None if mask is None else mask[rows]


def _padded(
    windows: list[list[int]], width: int, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Return the windows as tokens (B, width), padded on the left, and their mask.

    The mask is None where nothing is padded.
    """
    tokens = torch.tensor(
        [[0] * (width - len(window)) + window for window in windows], device=device
    )
    if all(len(window) == width for window in windows):
        return tokens, None
    real = torch.tensor(
        [[False] * (width - len(window)) + [True] * len(window) for window in windows],
        device=device,
    )
    return tokens, real


def _rows(model: CausalLM, prompts: Sequence[Sequence[int]], seed: int) -> list[_Sequence]:
    vocab, context = model.config.vocab_size or 0, model.config.context or UNLIMITED
    rows, repeats = [], dict[tuple[int, ...], int]()
    for index, prompt in enumerate(prompts):
        key = tuple(int(token) for token in prompt)
        if not key:
            raise RequestError(
                f"prompt {index}: it has no tokens; a model needs at least one to go on from"
            )
        if min(key) < 0 or max(key) >= vocab:
            raise RequestError(
                f"prompt {index}: token ids have to lie in 0 ... {vocab - 1}; use the model's "
                f"own tokenizer"
            )
        repeats[key] = repeats.get(key, -1) + 1
        rows.append(_Sequence(index, list(key[-context:]), generator(seed, key, repeats[key])))
    return rows


def generator(seed: int, prompt: tuple[int, ...], repeat: int) -> torch.Generator:
    """Return the source of a row's draws.

    It depends on the seed, the prompt, and how many rows before it have the same one (`repeat`).
    """
    digest = hashlib.sha256(repr((seed, prompt, repeat)).encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _draw(row: _Sequence) -> float:
    return torch.rand((), generator=row.generator).item()
