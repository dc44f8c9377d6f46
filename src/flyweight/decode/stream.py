"""From prompt to text: a model folder, its tokenizer, and generation between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flyweight.checkpoints import load_any
from flyweight.data.tokenizer import Tokenizer, named_tokens
from flyweight.decode.generate import generate
from flyweight.errors import RequestError

_HALF = "\N{REPLACEMENT CHARACTER}"
"""What decoders make of bytes that are no whole character."""

_BEFORE = 64
"""Tokens before the new ones that are decoded with them.

Decoders look back less far, except over long runs of bytes.
"""


def texts(folder: Path, prompts: Sequence[str], device: str, **options: Any) -> list[str]:
    """Return the continuation of every prompt, up to the end of its document.

    `options` are those of `generate`.
    """
    tokenizer = tokenizer_of(folder)
    model = load_any.load(folder, device)
    starts = [encoded(tokenizer, prompt, model.config.vocab_size) for prompt in prompts]
    continued = generate(
        model, starts, stop_tokens=tokenizer.ends, tokens=tokenizer.vocab_size, **options
    )
    return [after(tokenizer, start, new) for start, new in zip(starts, continued, strict=True)]


def text(
    folder: Path,
    prompt: str,
    max_new_tokens: int,
    stop: Sequence[str],
    on_text: Callable[[str], None] | None,
    device: str,
    options: dict[str, Any],
) -> str:
    """Return one continuation, cut before the first of the `stop` strings.

    `on_text` hears each new piece as it comes.
    """
    tokenizer = tokenizer_of(folder)
    model = load_any.load(folder, device)
    start = encoded(tokenizer, prompt, model.config.vocab_size)
    stream = TextStream(tokenizer, stop, on_text, start)
    (new,) = generate(
        model,
        [start],
        max_new_tokens=max_new_tokens,
        stop=lambda row, new: stream.stopped(new),
        stop_tokens=tokenizer.ends,
        tokens=tokenizer.vocab_size,
        **options,
    )
    return stream.finished(new)


def after(tokenizer: Tokenizer, before: Sequence[int], new: Sequence[int]) -> str:
    """Return the text that new tokens add to that of those before them.

    A space between two words is part of it.
    """
    return TextStream(tokenizer, (), None, before).text(list(new))


class TextStream:
    """New tokens as text while they come.

    Text that could be half of a character or of a stop string is held back.

    `before` are the tokens that they follow. What was emitted stays: the whole text begins with it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str],
        on_text: Callable[[str], None] | None,
        before: Sequence[int] = (),
    ) -> None:
        if not all(stop):
            raise RequestError(
                "stop: an empty stop string would end every text at once; leave it out"
            )
        self.tokenizer = tokenizer
        self.stop = stop
        self.on_text = on_text
        self.emitted = ""
        self._before = list(before[-_BEFORE:])
        if self._decoded(self._before).startswith(_HALF):  # cut inside a character
            self._before = list(before)
        self._settled = 0

    def stopped(self, new: list[int]) -> bool:
        """Emit what is ready of the new tokens; return whether they hold a stop string."""
        whole = self.text(new)
        marked = (
            self.tokenizer.decode(new) if self.stop else ""
        )  # a stop string may be a special token's text
        if any(word in whole or word in marked for word in self.stop):
            return True
        # Half a character waits for the bytes that complete it: some decoders turn a whole run of
        # bytes into such signs.
        half = any(whole.endswith(word[:n]) for word in self.stop for n in range(1, len(word)))
        if not half and not whole.endswith(_HALF):
            self._emit(whole)
            self._settled = len(new)
        return False

    def finished(self, new: list[int]) -> str:
        """Emit the rest of the new tokens; return their text, cut before the first stop string."""
        whole = self.text(new)
        cut = min((whole.index(word) for word in self.stop if word in whole), default=len(whole))
        self._emit(whole[:cut])
        return whole[:cut]

    def text(self, new: list[int]) -> str:
        """Return the text of the new tokens, which begins with what was emitted of them."""
        whole = self._added(self._before, new)
        if whole.startswith(self.emitted):
            return whole
        settled = self._settled
        return self.emitted + self._added([*self._before, *new[:settled]], new[settled:])

    def _added(self, before: list[int], new: list[int]) -> str:
        start, whole = self._decoded(before), self._decoded([*before, *new])
        return whole[len(start) :] if whole.startswith(start) else self._decoded(new)

    def _decoded(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special=True)

    def _emit(self, whole: str) -> None:
        if self.on_text is not None:
            self.on_text(whole[len(self.emitted) :])
        self.emitted = whole


def tokenizer_of(folder: Path) -> Tokenizer:
    """Return the tokenizer in a model folder; raise RequestError where there is none."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise RequestError(f"{folder} has no tokenizer.json: it cannot read text")
    return Tokenizer.load(file)


def encoded(tokenizer: Tokenizer, prompt: str, rows: int | None = None) -> list[int]:
    """Return a prompt's tokens, after the begin tokens where the tokenizer adds some.

    An empty one starts a new document.

    Raises RequestError for a prompt that is not text, and names tokens that a model with `rows`
    rows has none for.
    """
    tokens = tokenizer.encode(text_of(prompt))
    if not tokens:
        if tokenizer.separator is None:
            raise RequestError(
                "the prompt is empty, and this tokenizer has no token to start a text with; give "
                "some text"
            )
        tokens = [tokenizer.separator]
    if rows is not None and max(tokens) >= rows:
        missing = {at: text for at, text in tokenizer.rowless(rows).items() if at in tokens}
        raise RequestError(
            f"the model has {rows} rows and none for {named_tokens(missing)} of the prompt; "
            f"leave it out"
        )
    return tokens


def unknown_note(words: Sequence[str]) -> str:
    """Return in words that the vocabulary lacks these; empty where there are none."""
    if not words:
        return ""
    shown = ", ".join(map(repr, words[:5])) + (
        f" and {len(words) - 5} more" if len(words) > 5 else ""
    )
    return f"not in the model's vocabulary, so it reads <unk>: {shown}"


def text_of(prompt: str) -> str:
    """Return a prompt as it is; raise RequestError where its bytes are not UTF-8."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        strange = (
            prompt[error.start].encode("utf-8", "surrogateescape")
            if ord(prompt[error.start]) >= 0xDC80
            else b""
        )
        what = f"the byte 0x{strange.hex()}" if strange else repr(prompt[error.start])
        raise RequestError(
            f"the prompt is not UTF-8 text: {what} at character {error.start + 1}; set the "
            f"terminal's encoding to UTF-8"
        ) from error
    return prompt
