"""Chat templates as Hugging Face models bring them: a conversation to the text, and the tokens, that the model was trained on.

A template is code from elsewhere: it runs in jinja's sandbox, with the variables and settings that transformers gives it.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from flyweight.core.files import reason
from flyweight.data.special import content, json_object
from flyweight.data.tokenizer import Tokenizer
from flyweight.errors import FlyweightError, RequestError

TEMPLATE, CONFIG = "chat_template.jinja", "tokenizer_config.json"

MARK = "\ufdd0"
"""Stands around what a message wrote out: a code point that no text is meant to hold."""

Message = Mapping[str, str]
"""`role` (system, user or assistant) and `content`."""


class _Generation(Extension):
    """The tag around what the assistant says, which only training needs: here its body is rendered and nothing else."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own declaration

    def parse(self, parser: Any) -> list[nodes.Node]:
        """Return the body of the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _environment() -> ImmutableSandboxedEnvironment:
    found = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    found.filters["tojson"] = _to_json  # jinja's own writes for HTML
    found.globals["raise_exception"] = _refuse
    found.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return found


@dataclass(frozen=True)
class ChatTemplate:
    """One model's template, and the special tokens that its text names (`bos_token`, `eos_token`, ...)."""

    source: str
    where: Path
    special: Mapping[str, str]

    @cached_property
    def _compiled(self) -> jinja2.Template:
        try:
            return _environment().from_string(self.source)
        except jinja2.TemplateError as error:
            raise FlyweightError(f"{self.where}: not a usable chat template ({error}); copy the model again") from error

    def render(self, messages: Sequence[Message], reply: bool = True) -> str:
        """Return the conversation as text, with the words that open the assistant's next turn where `reply`.

        Raises RequestError with the template's own reason where it refuses the messages (a system text, for example).
        """
        try:
            return self._compiled.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=reply,
                tools=None,
                documents=None,
                **self.special,
            )
        except jinja2.TemplateError as error:
            raise RequestError(f"the model's chat template refuses this conversation: {error}") from error
        except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
            raise FlyweightError(f"{self.where}: its chat template fails: {type(error).__name__}: {error}") from error

    def marked(self, messages: Sequence[Message], tokenizer: Tokenizer) -> str:
        """Return the rendered conversation in which special tokens that a message merely writes out are marked for `tokens`."""
        hidden = re.compile("|".join(map(re.escape, _written(tokenizer))))
        place = {text: f"{MARK}{index}{MARK}" for index, text in enumerate(_written(tokenizer))}
        return self.render([{**m, "content": hidden.sub(lambda found: place[found[0]], m["content"])} for m in messages])


def tokens(text: str, tokenizer: Tokenizer) -> list[int]:
    """Return the tokens of a conversation, or of a part of it, that `ChatTemplate.marked` returned.

    Special tokens count where the template writes them, never where a message merely contains their characters.
    """
    ids: list[int] = []
    for place, part in enumerate(text.split(MARK)):
        # Every second part stands between two marks: the number of what a message wrote out.
        ids += tokenizer.encode(_written(tokenizer)[int(part)], start=False) if place % 2 else tokenizer.encode_marked(part)
    return ids


def _written(tokenizer: Tokenizer) -> list[str]:
    return [MARK, *sorted(tokenizer.specials, key=lambda text: (-len(text), text))]


def sources(folder: Path) -> dict[str, str]:
    """Return the texts of the chat templates in a model folder by name, the one for talking as `default`."""
    default, listed = of(folder), json_object(folder / CONFIG).get("chat_template")
    found = {} if default is None else {"default": default.source}
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict) and isinstance(name := entry.get("name"), str) and isinstance(entry.get("template"), str):
            found.setdefault(name, entry["template"])
    return found


def of(folder: Path) -> ChatTemplate | None:
    """Return the chat template in a model folder, or None; raise FlyweightError where its files are damaged."""
    fields = json_object(folder / CONFIG)
    found: Any = fields.get("chat_template")
    where = folder / CONFIG
    if (folder / TEMPLATE).is_file():
        where = folder / TEMPLATE
        try:
            found = where.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise FlyweightError(f"{where}: cannot be read ({reason(error)}); copy the model again") from error
    if isinstance(found, list):  # several under names, of which the default one is for talking
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = named.get("default")
    if found is None:
        return None
    if not isinstance(found, str):
        raise FlyweightError(f"{where}: its chat_template is not a text; copy the model again")
    special = {name: text for name, value in fields.items() if name.endswith("_token") and (text := content(value))}
    return ChatTemplate(found, where, special)
