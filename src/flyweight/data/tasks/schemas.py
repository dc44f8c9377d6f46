"""Rows of the published schemas and of one's own files, made into examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

from flyweight.data.reading import normalized
from flyweight.data.tasks.conversations import ROLES, fixed_text
from flyweight.data.tasks.example import ChatMessage, Example, TaskKind
from flyweight.data.tasks.templates import TEMPLATES

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
Row = Mapping[str, Json]

_SHOWN = 60


class BadRowError(Exception):
    """A row that no example can be made of; the message says why, without the row's place."""


def kind_of_row(row: Json) -> TaskKind:
    """Return what a row holds, by its fields; raise BadRowError where no schema has them."""
    if not isinstance(row, Mapping):
        raise BadRowError(f"it is {_named(row)}, not an object with fields")
    for fields, kind in _KINDS:
        if all(field in row for field in fields):
            return kind
    listed = ", ".join(repr(name) for name in row) or "none"
    known = "; ".join(template.fields for template in TEMPLATES.values())
    raise BadRowError(f"its fields are {listed}; known are {known}")


def example_of(row: Json, kind: TaskKind, source: str) -> Example:
    """Return the example that a row holds.

    Raises BadRowError for missing fields, values of another type, a row without an answer, and an
    answer that is not in its context.
    """
    if not isinstance(row, Mapping):
        raise BadRowError(f"it is {_named(row)}, not an object with fields")
    return _READERS[kind](row, source)


def questions(value: Json) -> Iterator[Json]:
    """Yield rows of one question each from SQuAD's nested articles; other values as they are.

    An article has `title` and `paragraphs`, each with a `context` and its `qas`.
    """
    if isinstance(value, Mapping) and isinstance(value.get("data"), list):
        for article in cast(list[Json], value["data"]):
            yield from questions(article)
    elif isinstance(value, Mapping) and isinstance(value.get("paragraphs"), list):
        for paragraph in cast(list[Json], value["paragraphs"]):
            if not isinstance(paragraph, Mapping) or not isinstance(paragraph.get("qas"), list):
                yield paragraph
                continue
            shared = {"title": value.get("title"), "context": paragraph.get("context")}
            for question in cast(list[Json], paragraph["qas"]):
                yield {**question, **shared} if isinstance(question, Mapping) else question
    else:
        yield value


def _squad(row: Row, source: str) -> Example:
    context, question = _text(row, "context"), _text(row, "question").strip()
    if "answers" not in row:
        raise BadRowError("it has no 'answers'")
    answers = _answers(row["answers"])
    if not answers:
        raise BadRowError(f"the question {_quoted(question)} has no answer")
    for answer in answers:
        if answer not in context:
            raise BadRowError(f"the answer {_quoted(answer)} is not in its context")
    template = TEMPLATES["squad"]
    return Example(
        prompt_head=context,
        prompt_tail=template.tail.format(question=question),
        completion=template.completion.format(answer=answers[0]),
        references=tuple(dict.fromkeys(answers)),
        source=source,
    )


def _answers(value: Json) -> list[str]:
    """Return the texts of `{"text": [...]}` or `[{"text": ...}, ...]`; blank ones are left out."""
    texts: Json = value
    if isinstance(value, Mapping):
        texts = value.get("text")
    elif isinstance(value, list):
        texts = [each.get("text") if isinstance(each, Mapping) else each for each in value]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadRowError('\'answers\' is not {"text": [...]} or a list of {"text": ...}')
    return [text for text in map(_clean, cast(list[str], texts)) if text.strip()]


def _dialogue(row: Row, source: str) -> Example:
    name = "dialog" if "dialog" in row else "utterances"
    turns = row.get(name)
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise BadRowError(f"{name!r} is not a list of texts")
    texts = [_clean(turn).strip() for turn in cast(list[str], turns)]
    if len(texts) < 2:
        raise BadRowError(f"a dialogue needs two turns, and {name!r} has {len(texts)}")
    if "" in texts:
        raise BadRowError(f"turn {texts.index('') + 1} of {name!r} is empty")
    return Example(
        prompt_head="\n".join(texts[:-1]),
        prompt_tail=TEMPLATES["dialogue"].tail,
        completion=texts[-1],
        references=(texts[-1],),
        source=source,
    )


def _summary(row: Row, source: str) -> Example:
    article, highlights = _text(row, "article"), _text(row, "highlights")
    template = TEMPLATES["summarize"]
    return Example(
        prompt_head=article,
        prompt_tail=template.tail,
        completion=template.completion.format(highlights=highlights),
        references=(highlights,),
        source=source,
    )


def _completion(row: Row, source: str) -> Example:
    prompt, completion = _text(row, "prompt"), _text(row, "completion")
    return Example(
        prompt_head=prompt,
        prompt_tail="",
        completion=completion,
        references=(completion.strip(),),
        source=source,
    )


def _messages(row: Row, source: str) -> Example:
    messages = row.get("messages")
    if not isinstance(messages, list):
        raise BadRowError(f"'messages' is {_named(messages)}, not a list of messages")
    read: list[ChatMessage] = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping):
            raise BadRowError(f"message {number} is {_named(message)}, not a role and a content")
        try:
            role, content = _text(message, "role"), _text(message, "content")
        except BadRowError as error:
            raise BadRowError(f"message {number}: {error}") from error
        if role not in ROLES:
            raise BadRowError(
                f"message {number}: the role {_quoted(role)} is not one of {', '.join(ROLES)}"
            )
        read.append(ChatMessage(role, content))
    if len(read) < 2:
        raise BadRowError(f"a conversation needs two messages, and this one has {len(read)}")
    if read[-1].role != "assistant":
        raise BadRowError(
            f"the last message is by the {read[-1].role}: there is no answer to learn"
        )
    return fixed_text(read, source)


def _text(row: Row, name: str) -> str:
    """Return a field's text; raise BadRowError where it is missing, blank or anything else."""
    if name not in row or row[name] is None:
        raise BadRowError(f"it has no {name!r}")
    value = row[name]
    if not isinstance(value, str):
        raise BadRowError(f"{name!r} is {_named(value)}, not text")
    if not value.strip():
        raise BadRowError(f"{name!r} is empty")
    return _clean(value)


def _clean(text: str) -> str:
    """Return a text as a corpus is read; raise BadRowError for half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRowError("it holds half a surrogate pair, which is not a character") from error
    return normalized(text)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _named(value: Json) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true or false"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, int | float):
        return "a number"
    return "an object" if isinstance(value, Mapping) else "a list"


_KINDS: tuple[tuple[tuple[str, ...], TaskKind], ...] = (
    (("prompt", "completion"), "completion"),
    (("messages",), "messages"),
    (("context", "question"), "squad"),
    (("article", "highlights"), "summarize"),
    (("dialog",), "dialogue"),
    (("utterances",), "dialogue"),
)
"""The fields by which a row's kind is known, in the order in which they are looked for."""

_READERS: dict[TaskKind, Callable[[Row, str], Example]] = {
    "squad": _squad,
    "dialogue": _dialogue,
    "summarize": _summary,
    "completion": _completion,
    "messages": _messages,
}
