"""Chat templates of Hugging Face models: from a conversation to text and tokens.

The result is what the model was trained on. A template is code from elsewhere: it runs in jinja's
sandbox in a process of its own (`chat_template_worker`), which is limited in time and memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from flyweight.checkpoints import template_files
from flyweight.core.files import digest
from flyweight.core.helper import Helper, TooMuchError
from flyweight.data.special import content, json_object
from flyweight.data.tokenizer import Tokenizer
from flyweight.errors import FlyweightError, RequestError

WORKER = "flyweight.decode.chat_template_worker"
SECONDS, MEGABYTES = 10.0, 512
"""What rendering a conversation may take; it takes milliseconds and next to no memory."""
LONGEST, REPEATED = 100_000, 4
"""Characters of a conversation beside its messages, and how often each may stand in it."""

MARK = "\ufdd0"
"""Stands around what a message wrote out: a code point that no text is meant to hold."""

Message = Mapping[str, str]
"""`role` (system, user or assistant) and `content`."""


@dataclass(frozen=True)
class ChatTemplate:
    """One model's template, and its special tokens by name (`bos_token`, `eos_token`, ...)."""

    source: str
    where: Path
    special: Mapping[str, str]

    @cached_property
    def _renderer(self) -> Helper:
        return Helper(WORKER, MEGABYTES)

    def render(self, messages: Sequence[Message], reply: bool = True) -> str:
        """Return the conversation as text.

        Where `reply`, the text ends with the words that open the assistant's next turn.

        Raises RequestError with the template's own reason where it refuses the messages (a system
        text, for example), and FlyweightError where it fails or takes more time, memory or
        characters than a conversation needs.
        """
        settings = {
            "add_generation_prompt": reply,
            "tools": None,
            "documents": None,
            **self.special,
        }
        longest = LONGEST + REPEATED * sum(
            len(text) for message in messages for text in message.values()
        )
        variables = {"messages": [dict(message) for message in messages], **settings}
        question = {"source": self.source, "variables": variables, "longest": longest}
        try:
            answer = self._renderer.ask(question, SECONDS)
        except TooMuchError as error:
            raise FlyweightError(f"{self.where}: its chat template was stopped: {error}") from error
        if "unusable" in answer:
            raise FlyweightError(
                f"{self.where}: not a usable chat template ({answer['unusable']}); copy the "
                f"model again"
            )
        if "refused" in answer:
            raise RequestError(
                f"the model's chat template refuses this conversation: {answer['refused']}"
            )
        if "failed" in answer:
            raise FlyweightError(f"{self.where}: its chat template fails: {answer['failed']}")
        if "long" in answer:
            raise FlyweightError(
                f"{self.where}: its chat template was stopped: it makes more than {longest:,} "
                f"characters of this conversation"
            )
        return answer["text"]

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the template and of the special tokens that it can write."""
        return digest([self.source, dict(self.special)])

    def tokens(self, text: str, tokenizer: Tokenizer) -> list[int]:
        """Return the tokens of a text that `marked` returned, or of a part of it."""
        return tokens(text, tokenizer)

    def marked(self, messages: Sequence[Message], tokenizer: Tokenizer, reply: bool = True) -> str:
        """Return the rendered conversation with marks for `tokens`; `reply` is that of `render`.

        A mark takes the place of a special token that a message merely writes out.
        """
        hidden = re.compile("|".join(map(re.escape, _written(tokenizer))))
        place = {text: f"{MARK}{index}{MARK}" for index, text in enumerate(_written(tokenizer))}
        return self.render(
            [
                {**m, "content": hidden.sub(lambda found: place[found[0]], m["content"])}
                for m in messages
            ],
            reply,
        )


def tokens(text: str, tokenizer: Tokenizer) -> list[int]:
    """Return the tokens of a conversation, or of a part of it, that `ChatTemplate.marked` returned.

    Special tokens count where the template writes them, never where a message merely contains their
    characters.
    """
    written = _written(tokenizer)
    places = {f"{MARK}{index}{MARK}": text for index, text in enumerate(written)}
    ids: list[int] = []
    for part in re.split(f"({MARK}[0-9]+{MARK})", text):
        if part in places:
            ids += tokenizer.encode(places[part], start=False)
        elif MARK in part:
            raise RequestError(
                "the model's chat template cuts what a message wrote in two, or writes U+FDD0 "
                "itself; leave the special tokens"
                " out of the message"
            )
        else:
            ids += tokenizer.encode_marked(part)
    return ids


def _written(tokenizer: Tokenizer) -> list[str]:
    return [MARK, *sorted(tokenizer.specials, key=lambda text: (-len(text), text))]


def of(folder: Path) -> ChatTemplate | None:
    """Return the chat template in a model folder, or None.

    Raises FlyweightError where its files are damaged.
    """
    text, where = template_files.by_name(folder).get("default", (None, folder))
    if text is None:
        return None
    if not isinstance(text, str):
        raise FlyweightError(f"{where}: its chat_template is not a text; copy the model again")
    fields = json_object(folder / template_files.CONFIG)
    special = {
        name: word
        for name, value in fields.items()
        if name.endswith("_token") and (word := content(value))
    }
    return ChatTemplate(text, where, special)
