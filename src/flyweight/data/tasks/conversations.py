"""Conversations as text and as tokens: the fixed text, or a model's own chat template.

The last answer is the completion of a conversation; answers before it are learned as well:

    messages   system  user     assistant        user     assistant
    learned    -       -        a <end>          -        a <end>
                                earlier answer            completion
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from flyweight.data.tasks.example import ChatMessage, Example
from flyweight.data.tasks.templates import TEMPLATES
from flyweight.data.tokenizer import Tokenizer
from flyweight.errors import RequestError

ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}
"""The roles of messages, and what the fixed text calls them."""

ANSWERS = "assistant"
"""The role whose messages are learned."""


class ConversationTemplate(Protocol):
    """A model's chat template, as `flyweight.decode.chat_template` has it."""

    @property
    def fingerprint(self) -> str:
        """A checksum of everything that rendering depends on."""
        ...

    def marked(
        self, messages: Sequence[Mapping[str, str]], tokenizer: Tokenizer, reply: bool = True
    ) -> str:
        """Return a conversation as text; where `reply`, with what opens the next answer.

        Raises RequestError where the template refuses the conversation.
        """
        ...

    def tokens(self, text: str, tokenizer: Tokenizer) -> list[int]:
        """Return the tokens of such a text, or of a part of it."""
        ...


def fixed_text(messages: Sequence[ChatMessage], source: str) -> Example:
    """Return a conversation whose last message is an answer as the fixed text."""
    last = messages[-1].content
    return Example(
        prompt_head="\n".join(_line(message) for message in messages[:-1]),
        prompt_tail=TEMPLATES["messages"].tail,
        completion=f" {last}",
        references=(last,),
        source=source,
        messages=tuple(messages),
    )


def _line(message: ChatMessage) -> str:
    return f"{ROLES[message.role]}: {message.content}"


def fixed_answers(messages: Sequence[ChatMessage]) -> Iterator[tuple[int, int]]:
    """Yield where earlier answers stand in the fixed text's head: characters, end exclusive.

    An answer begins with the space after its role.
    """
    place = 0
    for message in messages[:-1]:
        line = _line(message)
        if message.role == ANSWERS:
            yield place + len(line) - len(message.content) - 1, place + len(line)
        place += len(line) + 1


def shorter_versions(messages: Sequence[ChatMessage]) -> list[tuple[ChatMessage, ...]]:
    """Return a conversation, and what is left of it without its oldest turns, longest first.

    What the system says at first stays. Each shorter version begins with a user's message.
    """
    after = next((at for at, each in enumerate(messages) if each.role != "system"), 0)
    opening = tuple(messages[:after])
    starts = [at for at in range(after + 1, len(messages)) if messages[at].role == "user"]
    return [tuple(messages), *((*opening, *messages[start:]) for start in starts)]


def longest_that_fits(
    versions: Sequence[tuple[ChatMessage, ...]], fits: Callable[[tuple[ChatMessage, ...]], bool]
) -> tuple[ChatMessage, ...] | None:
    """Return the first version that fits; None where none does."""
    at = bisect_left(range(len(versions)), True, key=lambda place: fits(versions[place]))
    return versions[at] if at < len(versions) else None


@dataclass(frozen=True)
class RenderedConversation:
    """A conversation in a model's own form: its ids up to the end of the last answer.

    `prompt` ids come before the last answer, as the model is asked for it. `earlier` are the
    learned spans among them, as (start, stop). `opening` is what the template itself writes before
    the words of the last answer. `apart`: prompt and answer were encoded each by itself.
    """

    ids: tuple[int, ...]
    prompt: int
    earlier: tuple[tuple[int, int], ...]
    opening: str
    apart: bool


@dataclass(frozen=True)
class ConversationRenderer:
    """Renders conversations by a template; `end` are ids for one that ends answers in no token."""

    template: ConversationTemplate
    tokenizer: Tokenizer
    end: tuple[int, ...]

    def prompt(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Return the ids by which the model is asked for the last message."""
        return self._tokens(self._text(messages[:-1], reply=True))

    def length(self, messages: Sequence[ChatMessage]) -> int:
        """Return how many ids a conversation has."""
        return len(self._ended(self._tokens(self._text(messages))))

    def render(self, messages: Sequence[ChatMessage]) -> RenderedConversation:
        """Return a conversation's ids with what is learned of them.

        An earlier answer whose place the template does not show is not learned. Raises RequestError
        where the template refuses the conversation, writes nothing before the last answer, or does
        not show its place.
        """
        text = self._text(messages)
        start = self._start(messages, len(messages) - 1, text)
        if start is None:
            raise RequestError(
                "the model's chat template writes what comes before the last answer in another "
                "way once it is given, so the answer cannot be told apart"
            )
        prompt, whole = self._tokens(text[:start]), self._tokens(text)
        if not prompt:
            raise RequestError("the model's chat template writes nothing before the last answer")
        apart = whole[: len(prompt)] != prompt
        ids = [*prompt, *self._tokens(text[start:])] if apart else whole
        place = text.find(messages[-1].content.strip(), start)
        return RenderedConversation(
            ids=tuple(self._ended(ids)),
            prompt=len(prompt),
            earlier=tuple(self._earlier(messages, text[:start], prompt)),
            opening=text[start:place] if place > 0 else "",
            apart=apart,
        )

    def _text(self, messages: Sequence[ChatMessage], reply: bool = False) -> str:
        plain = [{"role": each.role, "content": each.content} for each in messages]
        return self.template.marked(plain, self.tokenizer, reply)

    def _tokens(self, text: str) -> list[int]:
        return self.template.tokens(text, self.tokenizer)

    def _ended(self, ids: list[int]) -> list[int]:
        """Return ids up to the token that ends them, which is added where there is none.

        White space may follow that token.
        """
        last = next(
            (at for at in range(len(ids) - 1, -1, -1) if ids[at] in self.tokenizer.ends), None
        )
        if last is None or self.tokenizer.decode(ids[last + 1 :]).strip():
            return [*ids, *self.end]
        return ids[: last + 1]

    def _start(self, messages: Sequence[ChatMessage], at: int, text: str) -> int | None:
        """Return the character of `text` at which message `at`, an answer, begins.

        None where the template writes the messages before it in another way without it.
        """
        if at == 0:
            return 0
        asked = self._text(messages[:at], reply=True)
        if text.startswith(asked):
            return len(asked)
        before = self._text(messages[:at])
        return _shared_length(asked, text) if text.startswith(before) else None

    def _earlier(
        self, messages: Sequence[ChatMessage], text: str, ids: list[int]
    ) -> Iterator[tuple[int, int]]:
        """Yield the places, among `ids`, of the answers before the last one; `text` is theirs."""
        answers = [at for at, each in enumerate(messages[:-1]) if each.role == ANSWERS]
        starts = [self._start(messages, at, text) for at in answers]
        limits = [*starts, len(text)][1:]
        for at, start, limit in zip(answers, starts, limits, strict=True):
            if start is None or limit is None:
                continue
            stop = self._stop(messages[at].content.strip(), text, start, limit)
            if stop is None:
                continue
            first, last = self._shared(text[:start], ids), self._shared(text[:stop], ids)
            if max(first, 1) < last:
                yield max(first, 1), last

    def _stop(self, content: str, text: str, start: int, limit: int) -> int | None:
        """Return the character after an answer and the special token that ends it, if one does."""
        place = text.find(content, start, limit)
        if place < 0:  # written otherwise than it was said, such as without its thoughts
            names = [name for name, id in self.tokenizer.vocab.items() if id in self.tokenizer.ends]
            found = [(text.find(name, start, limit), len(name)) for name in names]
            return min((at + length for at, length in found if at >= 0), default=None)
        after = place + len(content)
        blank = len(text[after:limit]) - len(text[after:limit].lstrip())
        for name in sorted(self.tokenizer.specials, key=len, reverse=True):
            if text.startswith(name, after + blank):
                return after + blank + len(name)
        return after

    def _shared(self, beginning: str, ids: list[int]) -> int:
        """Return how many of `ids` are those of the beginning of their text.

        A token that reaches over its end is none of them.
        """
        return _shared_length(self._tokens(beginning), ids)


def _shared_length(one: Sequence[object], other: Sequence[object]) -> int:
    """Return how far two sequences are alike from their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
