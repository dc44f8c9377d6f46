"""Windows of a stream: a source of batches that a thread fills while a model learns."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from flyweight.data.batch import IGNORE, Batch, rank_rows
from flyweight.data.streams.order import StreamEvent
from flyweight.data.streams.tokens import StreamPlace, StreamStep, TokenStream
from flyweight.errors import FlyweightError

AHEAD = 1 << 20
"""Tokens that are made ahead of what is learned, so that reading the next block stops nothing."""

_LOOK = 0.1
"""Seconds between two looks whether a thread that waits should end."""


class StreamWindows:
    """Windows of `context` tokens and their targets, step by step: what a training reads.

    A thread reads, cuts into tokens and packs ahead of the training. Steps are asked for in their
    order, from where `start` says. Each of several processes reads documents of its own, so that
    they learn other windows than one process would.
    """

    def __init__(
        self,
        tokens: Callable[[int, int], TokenStream],
        context: int,
        batch: int,
        tell: Callable[[StreamEvent], None] = lambda event: None,
    ) -> None:
        """Prepare to read; `tokens(rank, world)` returns the text of one of several processes.

        `tell` hears what happened to shards, when the training comes to their documents.
        """
        self._tokens, self._tell = tokens, tell
        self.context, self.size = context, batch
        self._number = 0
        self._held: StreamStep | None = None
        self._start = StreamPlace()
        self._ahead: _Ahead | None = None
        self.waited = 0.0
        """Seconds in which the training waited for its next step."""

    def start(self, step: int, place: Mapping[str, Any] | None) -> None:
        """Go on at a step, whose windows begin at `place`; None is the beginning."""
        self.close()
        self._number, self._held = step, None
        self._start = StreamPlace() if place is None else StreamPlace.read(place)

    def close(self) -> None:
        """End the thread."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def place(self, step: int) -> StreamPlace:
        """Return where a step begins: the one that was read last, or the one after it."""
        if self._held is None:
            return self._start
        return self._held.place if step == self._number else self._held.next

    def ready(self, step: int, rank: int = 0, world: int = 1) -> bool:
        """Read the windows of a step; return False where the stream has no more.

        Raises FlyweightError where the stream cannot be read.
        """
        if self._held is not None and step == self._number:
            return True
        following = self._number + (self._held is not None)
        if step != following:
            raise FlyweightError(f"stream: step {step} was asked for, and {following} is next")
        if self._ahead is None:
            share = rank_rows(self.size, rank, world)
            rows = share.stop - share.start
            steps = self._tokens(rank, world).steps(self._start, rows, self.context)
            self._ahead = _Ahead(steps, max(2, math.ceil(AHEAD / (rows * self.context))))
        began = time.monotonic()
        found = self._ahead.next()
        self.waited += time.monotonic() - began
        if found is None:
            return False
        self._number, self._held = step, found
        for event in found.events:
            self._tell(event)
        return True

    def batch(self, step: int, rows: slice = slice(None), rank: int = 0, world: int = 1) -> Batch:
        """Return the windows of a step that process `rank` of `world` reads, or some of them.

        Raises FlyweightError where the stream has no more.
        """
        import torch

        if not self.ready(step, rank, world) or self._held is None:
            raise FlyweightError(f"stream: it ended before step {step + 1}")
        held = self._held
        windows = held.tokens[rows].astype(np.int64)
        inputs, targets = windows[:, :-1].copy(), windows[:, 1:].copy()
        documents, real = None, targets.size
        if held.ids is not None and held.begins is not None:
            targets[held.begins[rows][:, 1:]] = IGNORE
            documents = torch.from_numpy(held.ids[rows][:, :-1].copy())
            real = int((targets != IGNORE).sum())
        return Batch(
            inputs=torch.from_numpy(inputs),
            targets=torch.from_numpy(targets),
            real_targets=real,
            documents=documents,
        )


class _Ahead:
    """A thread that makes steps ahead of whoever takes them, so many at most."""

    def __init__(self, steps: Iterator[StreamStep], most: int) -> None:
        self._steps = steps
        self._made: queue.Queue[StreamStep | BaseException | None] = queue.Queue(most)
        self._ended = threading.Event()
        self._last = False
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)
        self._thread.start()

    def next(self) -> StreamStep | None:
        """Return the next step; None behind the last. Raises what ended the thread."""
        if self._last:
            return None
        made = self._made.get()
        self._last = not isinstance(made, StreamStep)
        if isinstance(made, BaseException):
            raise made
        return made

    def close(self) -> None:
        """End the thread and wait for it."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            for step in self._steps:
                if not self._put(step):
                    return
            self._put(None)
        except BaseException as error:  # it is raised where the steps are taken
            self._put(error)

    def _put(self, made: StreamStep | BaseException | None) -> bool:
        """Hand over what was made; return False where nobody wants more."""
        while not self._ended.is_set():
            with suppress(queue.Full):
                self._made.put(made, timeout=_LOOK)
                return True
        return False
