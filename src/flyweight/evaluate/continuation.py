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
    tokenizer = _tokenizer(folder)
    model = models.load(folder, device)
    encoded = [_encoded(tokenizer, prompt) for prompt in prompts]
    return [tokenizer.decode(new) for new in generate(model, encoded, stop_tokens=_ends(tokenizer), **options)]


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
    tokenizer = _tokenizer(folder)
    model = models.load(folder, device)
    said = ""

    def stopped(row: int, new: list[int]) -> bool:
        nonlocal said
        whole = tokenizer.decode(new)
        if any(word in whole for word in stop):
            return True
        # A token may end inside a character: the replacement sign waits for the bytes that complete it.
        ready = whole.rstrip("\N{REPLACEMENT CHARACTER}")
        if on_text is not None and not any(word[:n] and ready.endswith(word[:n]) for word in stop for n in range(1, len(word))):
            on_text(ready[len(said) :])
            said = ready
        return False

    (new,) = generate(
        model,
        [_encoded(tokenizer, prompt)],
        max_new_tokens=max_new_tokens,
        stop=stopped,
        stop_tokens=_ends(tokenizer),
        **options,
    )
    whole = tokenizer.decode(new, skip_special=True)
    cut = min((whole.index(word) for word in stop if word in whole), default=len(whole))
    if on_text is not None:
        on_text(whole[len(said) : cut])
    return whole[:cut]


def _tokenizer(folder: Path) -> Tokenizer:
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise RequestError(f"{folder} has no tokenizer.json: it cannot read text")
    return Tokenizer.load(file)


def _ends(tokenizer: Tokenizer) -> tuple[int, ...]:
    return () if tokenizer.separator is None else (tokenizer.separator,)


def _encoded(tokenizer: Tokenizer, prompt: str) -> list[int]:
    tokens = tokenizer.encode(prompt)
    if not tokens:
        if tokenizer.separator is None:
            raise RequestError("the prompt is empty, and this tokenizer has no token to start a text with; give some text")
        tokens = [tokenizer.separator]
    return tokens
