"""Examples as tokens: the prompt, the completion and its end, cut to the context from the left."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from flyweight.data.tasks.conversations import (
    ConversationRenderer,
    ConversationTemplate,
    fixed_answers,
    fixed_text,
    longest_that_fits,
    shorter_versions,
)
from flyweight.data.tasks.example import ChatMessage, Example
from flyweight.data.tokenizer import Tokenizer
from flyweight.errors import RequestError

_BATCH = 1024
"""Examples tokenized at once."""


@dataclass(frozen=True)
class CompletionEnd:
    """The tokens that end a completion.

    `special`: they are the tokenizer's separator. Otherwise it has none, and a line end (`text`)
    stands for it, so that a completion ends at its first line end.
    """

    ids: tuple[int, ...]
    text: str
    special: bool


def completion_end(tokenizer: Tokenizer) -> CompletionEnd:
    """Return the tokens that end a completion.

    Raises RequestError for a tokenizer that knows neither a separator nor a line end.
    """
    if tokenizer.separator is not None:
        names = {at: text for text, at in tokenizer.vocab.items()}
        return CompletionEnd((tokenizer.separator,), names[tokenizer.separator], special=True)
    ids: list[int] = []
    with suppress(RequestError):  # a character that the tokenizer does not know
        ids = tokenizer.encode("\n", start=False)
    if not ids or tokenizer.unknown in ids:
        raise RequestError(
            "the model's tokenizer has no token that ends a text and no line end, so nothing "
            "could end a completion; use a model with a separator token such as <|endoftext|>"
        )
    return CompletionEnd(tuple(ids), "\n", special=False)


@dataclass(frozen=True)
class EncodedExample:
    """The ids of one example: begin tokens, prompt, completion, end.

    The first `prompt` of them are not to be learned, but for the `earlier` answers of a
    conversation, as (start, stop). `cut` tokens of the prompt's head were left out, with every
    reference of it if `answer_cut`. `apart`: prompt and completion were encoded each by itself,
    because together they share a token. `opening` is the text by which a chat template begins the
    completion.
    """

    ids: tuple[int, ...]
    prompt: int
    cut: int = 0
    answer_cut: bool = False
    apart: bool = False
    earlier: tuple[tuple[int, int], ...] = ()
    opening: str = ""


@dataclass(frozen=True)
class TooLong:
    """Why an example does not fit its context."""

    source: str
    reason: str


@dataclass(frozen=True)
class Refused:
    """Why a model's chat template cannot write a conversation."""

    source: str
    reason: str


def encode_examples(
    examples: Iterable[Example],
    tokenizer: Tokenizer,
    context: int,
    cut_head: bool = True,
    template: ConversationTemplate | None = None,
) -> Iterator[EncodedExample | TooLong | Refused]:
    """Yield each example's ids, context + 1 at most, or why there are none.

    The completion's tokens are those that follow the prompt's in the encoding of both. Where a
    token would span the two, each is encoded by itself. A prompt that is too long loses the
    beginning of its head, of which a token has to be left; without `cut_head` it does not fit.
    A conversation loses its oldest turns first. With a `template` it is written by that, and its
    last question is never cut.
    """
    end = completion_end(tokenizer).ids
    waiting = iter(examples)
    if template is not None:
        renderer = ConversationRenderer(template, tokenizer, end)
        yield from (_rendered(example, renderer, context, cut_head) for example in waiting)
        return
    while batch := list(itertools.islice(waiting, _BATCH)):
        for parts in _tokenized(tokenizer, batch):
            if parts.example.messages:
                yield _conversation(parts, tokenizer, end, context, cut_head)
            else:
                yield _fitted(parts, tokenizer, end, context, cut_head)


def encode_prompts(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    room: int,
    template: ConversationTemplate | None = None,
) -> Iterator[EncodedExample | TooLong | Refused]:
    """Yield each example's prompt, `room` ids at most, cut as `encode_examples` cuts it.

    What follows the prompt's ids stands for an empty completion.
    """
    end = completion_end(tokenizer).ids
    if template is None:
        bare = [replace(example, completion="") for example in examples]
        yield from encode_examples(bare, tokenizer, room - 1 + len(end))
        return
    renderer = ConversationRenderer(template, tokenizer, end)
    for example in examples:
        yield _asked(example, renderer, room)


def _asked(
    example: Example, renderer: ConversationRenderer, room: int
) -> EncodedExample | TooLong | Refused:
    """Return the ids by which a model is asked for the last answer of a conversation."""
    try:
        whole = renderer.prompt(example.messages)
        kept = longest_that_fits(
            shorter_versions(example.messages),
            lambda messages: len(renderer.prompt(messages)) <= room,
        )
        if kept is None:
            return TooLong(example.source, f"its last question takes more than {room} tokens")
        ids = renderer.prompt(kept)
    except RequestError as error:
        return Refused(example.source, str(error))
    return EncodedExample(tuple(ids), len(ids), len(whole) - len(ids))


def _rendered(
    example: Example, renderer: ConversationRenderer, context: int, cut_head: bool
) -> EncodedExample | TooLong | Refused:
    """Return a conversation's ids in the form of a chat template."""
    try:
        length = renderer.length(example.messages)
        if length > context + 1 and not cut_head:
            return TooLong(example.source, f"it takes {length} tokens, more than {context + 1}")
        versions = shorter_versions(example.messages)
        kept: tuple[ChatMessage, ...] | None = example.messages
        if length > context + 1:
            kept = longest_that_fits(
                versions, lambda messages: renderer.length(messages) <= context + 1
            )
        if kept is None:
            return TooLong(
                example.source,
                f"its last question and answer take {renderer.length(versions[-1])} tokens, more "
                f"than {context + 1}",
            )
        row = renderer.render(kept)
    except RequestError as error:
        return Refused(example.source, str(error))
    cut = 0 if kept == example.messages else length - len(row.ids)
    return EncodedExample(
        row.ids, row.prompt, cut, apart=row.apart, earlier=row.earlier, opening=row.opening
    )


@dataclass(frozen=True)
class _Parts:
    """The ids of an example: `stable`, which begins its head, the `rest` of its prompt, completion.

    `text` is what the rest encodes. `apart`: the completion was encoded by itself.
    """

    example: Example
    stable: list[int]
    rest: list[int]
    text: str
    completion: list[int]
    apart: bool


def _tokenized(tokenizer: Tokenizer, batch: Sequence[Example]) -> Iterator[_Parts]:
    """Yield the ids of examples, each long head encoded once, however many rows have it."""
    places = [
        _stable_end(example.prompt_head) if tokenizer.cuts_before_words else 0 for example in batch
    ]
    stable_texts = [
        example.prompt_head[:place] for example, place in zip(batch, places, strict=True)
    ]
    different = list(dict.fromkeys(stable_texts))
    stable = dict(zip(different, tokenizer.encode_batch(different), strict=True))
    texts = [example.prompt[place:] for example, place in zip(batch, places, strict=True)]
    rests = tokenizer.encode_batch(texts)
    wholes = tokenizer.encode_batch(
        [text + example.completion for text, example in zip(texts, batch, strict=True)]
    )
    follows = [whole[: len(rest)] == rest for rest, whole in zip(rests, wholes, strict=True)]
    alone = [example.completion for example, ok in zip(batch, follows, strict=True) if not ok]
    encoded = iter(tokenizer.encode_batch(alone))
    for at, example in enumerate(batch):
        yield _Parts(
            example=example,
            stable=stable[stable_texts[at]],
            rest=rests[at],
            text=texts[at],
            completion=wholes[at][len(rests[at]) :] if follows[at] else next(encoded),
            apart=not follows[at],
        )


def _stable_end(text: str) -> int:
    """Return where the last word of a text begins, with the space before it; 0 where none does.

    A byte-level pre-tokenizer joins nothing over a single space's left side, so that the text
    before this place is encoded alike whatever follows.
    """
    place = len(text)
    while (place := text.rfind(" ", 0, place)) > 0:
        after = text[place + 1 : place + 2]
        if after and not after.isspace() and not text[place - 1].isspace():
            return place
    return 0


def _fitted(
    parts: _Parts, tokenizer: Tokenizer, end: tuple[int, ...], context: int, cut_head: bool
) -> EncodedExample | TooLong:
    """Return an example's ids, of which context + 1 fit: the last one is only a target."""
    example, begin = parts.example, tokenizer.begin
    prompt = [*parts.stable, *parts.rest]
    length = _length(parts, tokenizer, end)
    over = max(0, length - (context + 1))
    if not begin and not prompt:
        return TooLong(example.source, "its prompt has no token")
    if over and not cut_head:
        return TooLong(example.source, f"it takes {length} tokens, more than {context + 1}")
    answer_cut = False
    if over:
        head_of_rest = len(example.prompt_head) - (len(example.prompt) - len(parts.text))
        spans = tokenizer.spans(parts.text)
        in_head = len(parts.stable) + sum(stop <= head_of_rest for _, stop in spans)
        if over >= in_head:
            return TooLong(
                example.source,
                f"the completion and the end of the prompt take {length - in_head} of "
                f"{context + 1} tokens, and leave no room for the rest of the prompt",
            )
        answer_cut = _loses_answer(example, tokenizer.decode(prompt[over:in_head]))
    ids = (*begin, *prompt[over:], *parts.completion, *end)
    return EncodedExample(ids, len(begin) + len(prompt) - over, over, answer_cut, parts.apart)


def _conversation(
    parts: _Parts, tokenizer: Tokenizer, end: tuple[int, ...], context: int, cut_head: bool
) -> EncodedExample | TooLong:
    """Return a conversation's ids in the fixed text, without the oldest turns if it is long."""
    example = parts.example

    def shortened(messages: tuple[ChatMessage, ...]) -> _Parts:
        text = replace(fixed_text(messages, example.source), completion=example.completion)
        (shorter,) = _tokenized(tokenizer, [text])
        return shorter

    whole = _length(parts, tokenizer, end)
    if whole > context + 1 and cut_head:
        versions = shorter_versions(example.messages)
        kept = longest_that_fits(
            versions,
            lambda messages: _length(shortened(messages), tokenizer, end) <= context + 1,
        )
        parts = shortened(kept or versions[-1])
    row = _fitted(parts, tokenizer, end, context, cut_head)
    if isinstance(row, TooLong):
        return row
    earlier = [
        (max(1, start - row.cut), stop - row.cut)
        for start, stop in _earlier(parts.example, tokenizer)
        if stop - row.cut > 1
    ]
    return replace(row, cut=whole - len(row.ids), answer_cut=False, earlier=tuple(earlier))


def _earlier(example: Example, tokenizer: Tokenizer) -> Iterator[tuple[int, int]]:
    """Yield the tokens of earlier answers in the fixed text: those that hold nothing else."""
    answers = list(fixed_answers(example.messages))
    if not answers:
        return
    begin = len(tokenizer.begin)
    spans = tokenizer.spans(example.prompt)
    for start, stop in answers:
        first = next((at for at, (left, _) in enumerate(spans) if left >= start), len(spans))
        last = next((at for at in range(first, len(spans)) if spans[at][1] > stop), len(spans))
        if first < last:
            yield begin + first, begin + last


def _length(parts: _Parts, tokenizer: Tokenizer, end: tuple[int, ...]) -> int:
    """Return the ids of a whole example."""
    prompt = len(tokenizer.begin) + len(parts.stable) + len(parts.rest)
    return prompt + len(parts.completion) + len(end)


def _loses_answer(example: Example, left: str) -> bool:
    """Return whether the head had a right answer, and what is left of it has none."""
    had = any(answer in example.prompt_head for answer in example.references)
    return had and not any(answer in left for answer in example.references)
