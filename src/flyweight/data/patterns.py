"""Run tokenizers with unknown regular expressions in a process limited in time and memory.

A pattern such as `(a+)+$` takes exponential time on some texts, in native code that nothing stops.
Patterns that are known to take linear time, those of the common models and our own, run in this
process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from flyweight.core.helper import Helper, TooMuchError
from flyweight.errors import FlyweightError, RequestError

if TYPE_CHECKING:
    import tokenizers


class StoppedError(FlyweightError):
    """A pattern took too long, or too much memory, on some text."""


def gave_up(reason: object) -> RequestError:
    """Return the error for a text on which the library itself gave up."""
    return RequestError(
        f"the tokenizer gave up on the text ({reason}): its regular expression or its vocabulary "
        "does not suit it; use another text or another tokenizer"
    )


WORKER = "flyweight.data.patterns_worker"
SECONDS, CHARACTERS_PER_SECOND = 30.0, 8_000
"""What encoding may take: so many seconds, and one for so many characters.

It takes a microsecond or two for each.
"""
MEGABYTES = 4096
PIECE = 1 << 16
"""Characters of the texts that are encoded at once, few, to notice a slow pattern soon."""

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
LINEAR = frozenset(
    {
        *(
            "(?m:.)",
            "[\x1c-\x1f]",
            r"\A",
            r"\d",
            r"\p{N}",
            r"\p{N}{1,3}",
            "[0-9][0-9][0-9]",
            " {2,}",
            r"\s+",
        ),
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        rf"{_CONTRACTIONS}|{_BEFORE}\p{{L}}+|\p{{N}}{{1,3}}|{_REST}",
        rf"{_CONTRACTIONS}|{_BEFORE}\p{{L}}+|\p{{N}}|{_REST}",
        rf"{_BEFORE}{_UPPER}*{_LOWER}+{_ENDING}|{_BEFORE}{_UPPER}+{_LOWER}*{_ENDING}|\p{{N}}{{1,3}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        rf"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*|\p{{N}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    }
)
"""Patterns of GPT-2, Llama 3, Qwen, GPT-4o, Mistral, Falcon, sentencepiece models, and our own."""


def load(text: str) -> tokenizers.Tokenizer:
    """Return the tokenizer of a `tokenizer.json`; it runs unknown patterns in another process.

    Raises ValueError where the library cannot read it, or does not come to an end.
    """
    import tokenizers

    if not foreign(text):
        return tokenizers.Tokenizer.from_str(text)
    remote = _Remote(text)
    remote.start()
    return cast("tokenizers.Tokenizer", remote)


def foreign(text: str) -> bool:
    """Return whether a `tokenizer.json` has a pattern that is not known to take linear time."""
    try:
        waiting: list[Any] = [json.loads(text)]
    except (ValueError, RecursionError):
        return False  # the library says what is wrong with it
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            if isinstance(value.get("Regex"), str) and value["Regex"] not in LINEAR:
                return True
            waiting += [
                part
                for name, part in value.items()
                if name not in ("vocab", "merges", "added_tokens")
            ]
    return False


@dataclass(frozen=True)
class Encoded:
    """A text's ids, and the range of characters that each one encodes."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class _Remote:
    """A `tokenizers.Tokenizer` that runs its patterns in a helper, and the rest in this process."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._helper = Helper(WORKER, MEGABYTES)
        self.encode_special_tokens = True

    def start(self) -> None:
        """Read the tokenizer, the helper first: compiling a pattern can end a process."""
        import tokenizers

        try:
            self._ask({"work": "load"}, 0)
        except FlyweightError as error:
            raise ValueError(str(error)) from error
        self._local = tokenizers.Tokenizer.from_str(self._text)

    def __getattr__(self, name: str) -> object:
        return getattr(self.__dict__["_local"], name)

    def encode(self, text: str, add_special_tokens: bool = False) -> Encoded:
        """Return a text's ids and places."""
        return self.encode_batch([text], add_special_tokens)[0]

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = False) -> list[Encoded]:
        """Return the ids and places of several texts."""
        encoded: list[Encoded] = []
        for some in _pieces(texts):
            asked = {
                "work": "encode",
                "texts": some,
                "add": add_special_tokens,
                "special": self.encode_special_tokens,
            }
            answer = self._ask(asked, sum(map(len, some)))
            pairs = zip(answer["ids"], answer["offsets"], strict=True)
            encoded += [
                Encoded(ids, [(start, end) for start, end in offsets]) for ids, offsets in pairs
            ]
        return encoded

    encode_batch_fast = encode_batch

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of ids."""
        return self.decode_batch([ids], skip_special_tokens)[0]

    def decode_batch(
        self, batch: Sequence[Sequence[int]], skip_special_tokens: bool = True
    ) -> list[str]:
        """Return the texts of several sequences of ids."""
        asked = {
            "work": "decode",
            "batch": [list(ids) for ids in batch],
            "skip": skip_special_tokens,
        }
        return self._ask(asked, sum(map(len, batch)))["texts"]

    def _ask(self, question: dict[str, Any], characters: int) -> dict[str, Any]:
        seconds = SECONDS + characters / CHARACTERS_PER_SECOND
        try:
            answer = self._helper.ask(question, seconds)
            if answer.get("unread"):  # a new process
                answer = self._helper.ask({**question, "tokenizer": self._text}, seconds)
        except TooMuchError as error:
            raise StoppedError(
                f"a regular expression of the tokenizer was stopped on this text: {error}"
            ) from error
        if "failed" in answer:
            raise gave_up(answer["failed"])
        return answer


def _pieces(texts: Sequence[str]) -> Iterator[list[str]]:
    some: list[str] = []
    length = 0
    for text in texts:
        if some and length + len(text) > PIECE:
            yield some
            some, length = [], 0
        some.append(text)
        length += len(text)
    if some:
        yield some
