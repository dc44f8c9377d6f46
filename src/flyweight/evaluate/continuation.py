"""From prompt to text: a model folder, its tokenizer, and generation between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flyweight.data.tokenizer import Tokenizer
from flyweight.errors import RequestError
from flyweight.hub import models
from flyweight.model.generate import generate


def texts(folder: Path, prompts: Sequence[str], device: str, **options: Any) -> list[str]:
    """Return the continuation of every prompt, up to the end of its document; `options` are those of `generate`."""
    tokenizer = tokenizer_of(folder)
    model = models.load(folder, device)
    starts = [encoded(tokenizer, prompt) for prompt in prompts]
    return [tokenizer.decode(new) for new in generate(model, starts, stop_tokens=_ends(tokenizer), **options)]


def text(
    folder: Path,
    prompt: str,
    max_new_tokens: int,
    stop: Sequence[str],
    on_text: Callable[[str], None] | None,
    device: str,
    options: dict[str, Any],
) -> str:
    """Return one continuation, cut before the first of the `stop` strings; `on_text` hears each new piece as it comes."""
    tokenizer = tokenizer_of(folder)
    model = models.load(folder, device)
    spoken = Spoken(tokenizer, stop, on_text)
    (new,) = generate(
        model,
        [encoded(tokenizer, prompt)],
        max_new_tokens=max_new_tokens,
        stop=lambda row, new: spoken.stopped(new),
        stop_tokens=_ends(tokenizer),
        **options,
    )
    return spoken.finished(new)


class Spoken:
    """New tokens as text while they come, held back where they could be half of a character or of a stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], on_text: Callable[[str], None] | None) -> None:
        if not all(stop):
            raise RequestError("stop: an empty stop string would end every text at once; leave it out")
        self.tokenizer, self.stop, self.on_text, self.said = tokenizer, stop, on_text, ""

    def stopped(self, new: list[int]) -> bool:
        """Say what is ready of the new tokens; return whether they hold one of the stop strings."""
        if any(word in self.tokenizer.decode(new) for word in self.stop):
            return True
        # A token may end inside a character: the replacement sign waits for the bytes that complete it.
        ready = self.tokenizer.decode(new, skip_special=True).rstrip("\N{REPLACEMENT CHARACTER}")
        half = any(ready.endswith(word[:n]) for word in self.stop for n in range(1, len(word)))
        if self.on_text is not None and not half:
            self.on_text(ready[len(self.said) :])
            self.said = ready
        return False

    def finished(self, new: list[int]) -> str:
        """Say the rest of the new tokens and return their text, cut before the first of the stop strings."""
        whole = self.tokenizer.decode(new, skip_special=True)
        cut = min((whole.index(word) for word in self.stop if word in whole), default=len(whole))
        if self.on_text is not None:
            self.on_text(whole[len(self.said) : cut])
        return whole[:cut]


def tokenizer_of(folder: Path) -> Tokenizer:
    """Return the tokenizer in a model folder; raise RequestError where there is none."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise RequestError(f"{folder} has no tokenizer.json: it cannot read text")
    return Tokenizer.load(file)


def _ends(tokenizer: Tokenizer) -> tuple[int, ...]:
    return () if tokenizer.separator is None else (tokenizer.separator,)


def encoded(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Return a prompt's tokens; an empty one starts a new document."""
    tokens = tokenizer.encode(prompt)
    if not tokens:
        if tokenizer.separator is None:
            raise RequestError("the prompt is empty, and this tokenizer has no token to start a text with; give some text")
        tokens = [tokenizer.separator]
    return tokens
