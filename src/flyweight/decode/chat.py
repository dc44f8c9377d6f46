"""Talking with a model.

A base model goes on with one running text, a model with a chat template answers in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from flyweight.checkpoints import load_any
from flyweight.config.speed import EngineName
from flyweight.data.tokenizer import Tokenizer
from flyweight.decode import chat_template, sampling_defaults as drawing
from flyweight.decode.chat_template import Message
from flyweight.decode.incremental import Ended, IncrementalDecoder
from flyweight.decode.sampling_defaults import SamplingChoice
from flyweight.decode.stream import TextStream, encoded, text_of, tokenizer_of
from flyweight.errors import FlyweightError, RequestError


@dataclass(frozen=True)
class Options:
    """How answers are made: see `flyweight.decode.sampling.Sampling` and `model.kernels`.

    `stop` ends an answer before one of these texts.

    What is None is as the model's own files have it, see `flyweight.decode.sampling_defaults`.
    """

    max_new_tokens: int = 256
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int = 0
    stop: Sequence[str] = ()
    engine: EngineName = "auto"

    def drawing(self, folder: Path) -> SamplingChoice:
        """Return how the model in a folder chooses tokens.

        Raises RequestError for options that make no sense.
        """
        options = {
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
        }
        return drawing.of(folder, **options)


@dataclass(frozen=True)
class Turn:
    """One line said and what was answered.

    `ended` says why the answer ended: the model's own `end`, a `stop` text, its `length`, a full
    `context`, or it was `interrupted`. `known_tokens` of what came before were in the cache,
    `read_tokens` had to be read. `dropped_tokens` (of a running text) or `dropped_turns` (of a
    template's) were left out of what the model saw, because its context was full. `unknown_words`
    of the prompt are not in the vocabulary.
    """

    prompt: str
    text: str
    ended: Ended | Literal["interrupted"]
    new_tokens: int
    read_tokens: int
    known_tokens: int
    dropped_tokens: int = 0
    dropped_turns: int = 0
    unknown_words: tuple[str, ...] = ()


@dataclass
class _Window:
    """What the model is to see for the next answer."""

    tokens: list[int]
    dropped_tokens: int = 0
    dropped_turns: int = 0
    text: str = ""


@dataclass(eq=False)
class Chat:
    """A conversation with the model in a folder.

    With a chat template every line is a user's turn after `system`. Without one, what is said and
    answered forms one running text: a new line begins where it did not end in one, an empty line
    lets the model go on. Raises RequestError for a model without a tokenizer, options that make no
    sense, and a `system` text where no template could place it.
    """

    folder: Path
    device: str = "cpu"
    system: str | None = None
    options: Options = field(default_factory=Options)
    turns: list[Turn] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.drawing = self.options.drawing(self.folder)
        if self.options.max_new_tokens < 1:
            raise RequestError(
                f"max_new_tokens: {self.options.max_new_tokens} leaves no answer; give at least 1"
            )
        self.tokenizer = tokenizer_of(self.folder)
        self.template = chat_template.of(self.folder)
        if self.system is not None and self.template is None:
            raise RequestError(
                "--system: this model has no chat template, so it has no place; say it as the "
                "first line"
            )
        self.ends = self.tokenizer.ends
        self.running = IncrementalDecoder(
            load_any.load(self.folder, self.device),
            self.tokenizer.vocab_size,
            self.options.engine,
        )
        self._messages: list[Message] = []
        self._ids: list[int] = []
        self._seen: tuple[str, list[int]] = ("", [])
        self._open = False  # whether the running text ends inside a line
        self._break = _line_break(self.tokenizer)
        if (
            self.template is not None
        ):  # a template that refuses the system text says so before anything is asked
            self._rendered([*self._opening(), {"role": "user", "content": "?"}])

    @property
    def context(self) -> int | None:
        """The most tokens that the model sees at once, or None where it names no limit."""
        return self.running.model.config.context

    def reset(self) -> None:
        """Forget everything said; `turns` keeps its record."""
        self.running.forget()
        self._messages, self._ids, self._open, self._seen = [], [], False, ("", [])

    def say(self, line: str, on_text: Callable[[str], None] | None = None) -> Turn:
        """Return the model's answer to a line; `on_text` hears each new piece as it comes.

        An interrupt (Ctrl-C) ends the answer, which is kept as far as it came. Raises RequestError
        for a line that does not fit the model's context; the conversation is then as it was before.
        """
        line = text_of(line)
        window = self._turns(line) if self.template else self._plain(line)
        # A template's answer begins a text of its own, a running text goes on.
        before = () if self.template else window.tokens
        stream = TextStream(self.tokenizer, self.options.stop, on_text, before)
        heard: list[int] = []

        def stop(new: list[int]) -> bool:
            heard[:] = new
            return stream.stopped(new)

        reused = 0
        try:
            extension = self.running.extend(
                window.tokens,
                self.drawing.sampling,
                self.options.seed + len(self.turns),
                self.options.max_new_tokens,
                self.ends,
                stop,
            )
            new, ended, read, reused = (
                extension.tokens,
                extension.ended,
                extension.read,
                extension.known,
            )
        except KeyboardInterrupt:
            new, ended, read = heard, "interrupted", len(window.tokens)
        text = stream.finished(new)
        if self.template:
            exchange: list[Message] = [
                {"role": "user", "content": line},
                {"role": "assistant", "content": text},
            ]
            self._messages = [*self._messages, *exchange]
            self._seen = (window.text + text, window.tokens + self._kept(new, text, ended))
        else:
            self._ids = window.tokens + self._kept(new, text, ended)
            if line or text:
                self._open = not (line + text).endswith("\n")
        dropped = {"dropped_tokens": window.dropped_tokens, "dropped_turns": window.dropped_turns}
        unknown = self.tokenizer.unknown_words(line)
        self.turns.append(
            Turn(line, text, ended, len(new), read, reused, **dropped, unknown_words=unknown)
        )
        return self.turns[-1]

    def json(self) -> dict[str, Any]:
        """Return the conversation as plain data."""
        return {
            "template": self.template is not None,
            "system": self.system,
            "context": self.context,
            "sampling": self.drawing.json(),
            "turns": [asdict(turn) for turn in self.turns],
        }

    def _kept(self, new: list[int], text: str, ended: str) -> list[int]:
        """Return the tokens that stay of an answer, anew where a stop string cut its text."""
        return new if ended != "stop" else self.tokenizer.encode(text, start=False)

    def _room(self) -> int:
        """Return the tokens kept free for an answer, at most half of the context."""
        return min(self.options.max_new_tokens, self.running.context // 2)

    def _plain(self, line: str) -> _Window:
        """Return the running text with a line more.

        Of a text that leaves no room for the answer, its last half.
        """
        if not line and not self._ids:
            tokens = encoded(self.tokenizer, "")
        else:
            text = self._break + line if line and self._open else line
            tokens = [
                *self._ids,
                *(self.tokenizer.encode(text, start=not self._ids) if text else ()),
            ]
        limit = self.running.context
        over = len(tokens) + self._room() > limit
        window = tokens[-max(1, limit // 2) :] if over and len(tokens) > limit // 2 else tokens
        return _Window(window, len(tokens) - len(window))

    def _turns(self, line: str) -> _Window:
        """Return the rendered conversation with a line more.

        The oldest turns are left out where they leave no room.
        """
        new: Message = {"role": "user", "content": line}
        messages, dropped = self._messages, 0
        while True:
            text, tokens = self._rendered([*self._opening(), *messages, new])
            if len(tokens) + self._room() <= self.running.context:
                break
            if not messages and len(tokens) >= self.running.context:
                limit = self.running.context
                raise RequestError(
                    f"this line takes {len(tokens)} tokens, and the model sees {limit}; say it "
                    f"shorter"
                )
            if not messages:
                break
            messages, dropped = messages[2:], dropped + 1
        self._messages = messages
        return _Window(tokens, dropped_turns=dropped, text=text)

    def _opening(self) -> list[Message]:
        return [] if self.system is None else [{"role": "system", "content": self.system}]

    def _rendered(self, messages: Sequence[Message]) -> tuple[str, list[int]]:
        """Return a conversation's text and tokens.

        Where the text only grew, what the model said stays in its own tokens.
        """
        assert self.template
        text = self.template.marked(messages, self.tokenizer)
        before, earlier = self._seen
        rest = text.removeprefix(before)
        tokens = (
            [*earlier, *chat_template.tokens(rest, self.tokenizer)]
            if rest != text
            else chat_template.tokens(text, self.tokenizer)
        )
        if not tokens:
            raise RequestError(
                f"{self.template.where}: its chat template renders this conversation as nothing"
            )
        return text, tokens


def _line_break(tokenizer: Tokenizer) -> str:
    """Return what stands between two lines.

    It is a line end, or a space where the model's text never had line ends.
    """
    try:
        ids = tokenizer.encode("\n", start=False)
    except FlyweightError:
        return " "
    return "\n" if ids and tokenizer.unknown not in ids else " "
