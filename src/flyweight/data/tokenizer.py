"""Tokenizers, each a `tokenizer.json` of the tokenizers library.

Byte, character, word and byte-level BPE are trained here; any existing one can be loaded. The file
alone reproduces encoding and decoding; files beside it may name more tokens that begin and end a
text (`special`). Documents end in one special token, `<|endoftext|>` in tokenizers trained here.
Text that merely contains those characters never becomes that token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyweight.core.files import digest, read_bytes, reason, write_text
from flyweight.data import patterns, special
from flyweight.data.special import Special
from flyweight.errors import FlyweightError, RequestError

if TYPE_CHECKING:
    import tokenizers

SEPARATOR = "<|endoftext|>"
PAD = "<|pad|>"
UNKNOWN = "<unk>"
LINE_END = "<eos>"
# What other people's tokenizers call the end of a document, in the order of preference.
_ENDS = (SEPARATOR, "<|end_of_text|>", "<|end▁of▁sentence|>", "</s>", "<eos>", "[SEP]")


class Tokenizer:
    """Text to token ids and back, from a `tokenizer.json`.

    `declared` is what the files beside it say of special tokens. `separator` is the id that ends a
    document, or None where the corpus is one text; `unknown` the id of `<unk>`, or None; `line_end`
    the id that a word tokenizer gives to a line end, or None.
    """

    def __init__(self, text: str, declared: Special | None = None) -> None:
        """Build a tokenizer from the text of a `tokenizer.json`.

        Raises ValueError where the library cannot read it.
        """
        try:
            self._backend: tokenizers.Tokenizer = patterns.load(text)
        except BaseException as error:  # the library raises bare Exception, or panics
            if not isinstance(error, Exception) and not panicked(error):
                raise
            raise ValueError(str(error)) from error
        # Text is text: "<|endoftext|>" inside a document must not become the end of one.
        self._backend.encode_special_tokens = True
        self._backend.no_truncation()
        self._backend.no_padding()
        self._text = text
        self.declared = declared or Special()

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Return the tokenizer in a file, or in a folder's `tokenizer.json`.

        The files beside it name its special tokens. Raises RequestError where it is missing or
        unreadable, and FlyweightError for a damaged file beside it.
        """
        file = path / "tokenizer.json" if path.is_dir() else path
        try:
            tokenizer = cls(read_bytes(file).decode("utf-8"))
        except (OSError, ValueError) as error:
            raise RequestError(
                f"{file} is not a readable tokenizer.json of the tokenizers library "
                f"({reason(error)})"
            ) from error
        tokenizer.declared = special.read(file.parent, tokenizer.vocab)
        return tokenizer

    def save(self, path: Path) -> None:
        """Write the `tokenizer.json`, and a file beside it for special tokens that it lacks."""
        write_text(path, self._text)
        if self._needs_more:
            end = next((text for text, at in self.vocab.items() if at == self.separator), None)
            fields = special.config({**self.words, "eos": end}, self.adds)
            write_text(
                path.parent / special.WORDS, json.dumps(fields, indent=2, ensure_ascii=False) + "\n"
            )

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Return, each once, the parts of a text that the vocabulary lacks: they become `<unk>`."""
        if self.unknown is None:
            return ()
        (encoding,) = self._encodings([text])
        places = zip(encoding.ids, encoding.offsets, strict=True)
        words = dict.fromkeys(
            text[start:end].strip() for at, (start, end) in places if at == self.unknown
        )
        return tuple(
            word for word in words if word not in ("", self._raw["model"].get("unk_token"))
        )

    @property
    def text(self) -> str:
        """The text of the `tokenizer.json`."""
        return self._text

    @property
    def normal_text(self) -> str:
        """The `tokenizer.json` as this version of the library writes it."""
        return self._backend.to_str()

    @property
    def _needs_more(self) -> bool:
        """Whether other files name special tokens that `tokenizer.json` alone does not."""
        alone = Tokenizer(self._text)
        return (self.special, self.around) != (alone.special, alone.around)

    def identity(self, content: str) -> str:
        """Return a checksum of this tokenizer, given that of its file (`content`).

        Includes the special tokens where `tokenizer.json` alone does not name them.
        """
        if not self._needs_more:
            return content
        return digest([content, asdict(self.special), self.around])

    @cached_property
    def vocab(self) -> dict[str, int]:
        """Every token's id."""
        return self._backend.get_vocab(with_added_tokens=True)

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self.vocab.values(), default=-1) + 1

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of the canonical JSON of the file."""
        return digest(self._raw)

    @cached_property
    def _raw(self) -> dict[str, Any]:
        return json.loads(self._text)

    @cached_property
    def separator(self) -> int | None:
        """The id that ends a document, or None.

        Of the ids that the model's files name, the one with a usual name, else the first; where
        they name none, any token with a usual name.
        """
        usual = [self._special[end] for end in _ENDS if end in self._special]
        ends = self.declared.ends
        if not ends:
            return next(iter(usual), None)
        return next((at for at in usual if at in ends), ends[0])

    @cached_property
    def pad(self) -> int | None:
        """The id of the padding token, or None."""
        return self._special.get(PAD) if self.declared.pad is None else self.declared.pad

    @cached_property
    def adds(self) -> tuple[bool, bool] | None:
        """Whether a begin and an end token are added to each text; None where no file says so.

        A token that does not exist is not added.
        """
        if self.declared.adds is None:
            return None
        begin, end = self.declared.adds
        return begin and self.declared.bos is not None, end and bool(self.declared.ends)

    @cached_property
    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids that the tokenizer itself puts before and after one text."""
        if self.adds is None:
            return special.of_post_processor(self._raw.get("post_processor"))
        begin = (self.declared.bos,) if self.adds[0] and self.declared.bos is not None else ()
        return begin, self.declared.ends[:1] if self.adds[1] else ()

    @property
    def begin(self) -> tuple[int, ...]:
        """The ids that a text starts after."""
        return self.around[0]

    @cached_property
    def special(self) -> Special:
        """The special tokens that the files name, else those of usual names or post-processor."""
        bos = self.begin[-1] if self.declared.bos is None and self.begin else self.declared.bos
        ends = list(self.declared.ends)
        if not ends and self.separator is not None:
            ends = [self.separator]
        return Special(bos, tuple(ends), self.pad, self.adds)

    @cached_property
    def ends(self) -> frozenset[int]:
        """The ids after which generation ends.

        Those that the files name, the one with a usual name, and those that begin another text.
        """
        usual = next(([self._special[end]] for end in _ENDS if end in self._special), [])
        return frozenset([*self.special.ends, *usual, *self.begin])

    @property
    def words(self) -> dict[str, str | None]:
        """The texts of the begin, end and padding token, by `bos`, `eos` and `pad`.

        None for those that do not exist.
        """
        texts = {at: text for text, at in self.vocab.items()}
        end = self.declared.ends[0] if self.declared.ends else self.separator
        named = {"bos": self.special.bos, "eos": end, "pad": self.pad}
        return {name: None if at is None else texts[at] for name, at in named.items()}

    @cached_property
    def unknown(self) -> int | None:
        """The id of text that the vocabulary lacks, or None."""
        model = self._raw["model"]
        if isinstance(model.get("unk_id"), int):
            return model["unk_id"]
        return self.vocab.get(model.get("unk_token") or "")

    @cached_property
    def line_end(self) -> int | None:
        """The id of line ends in a word tokenizer, or None."""
        words = self._raw["model"].get("type") == "WordLevel"
        return self.vocab.get(LINE_END) if words else None

    def encode(self, text: str, start: bool = True) -> list[int]:
        """Return the ids of a text, after the begin tokens if `start`.

        Raises RequestError for unknown characters.
        """
        ids = self.encode_batch([text])[0]
        return [*self.begin, *ids] if start else ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of several texts, encoded on all cores, without added tokens."""
        return [encoding.ids for encoding in self._encodings(texts, offsets=False)]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return the first and the last character (exclusive) that each token of a text encodes."""
        (encoding,) = self._encodings([text])
        return encoding.offsets

    def _encodings(self, texts: Sequence[str], offsets: bool = True) -> list[tokenizers.Encoding]:
        run = self._backend.encode_batch if offsets else self._backend.encode_batch_fast
        try:
            return run(list(texts), add_special_tokens=False)
        except FlyweightError:
            raise
        except BaseException as error:  # the library raises bare Exception, or panics
            if not isinstance(error, Exception) and not panicked(error):
                raise
            raise self._refusal(texts, error) from error

    @cached_property
    def _special(self) -> dict[str, int]:
        return {
            token.content: at
            for at, token in self._backend.get_added_tokens_decoder().items()
            if token.special
        }

    @cached_property
    def specials(self) -> frozenset[str]:
        """The texts of the special tokens."""
        return frozenset(self._special)

    def encode_marked(self, text: str) -> list[int]:
        """Return the ids of a text in which the characters of a special token mean that token.

        Only for text of a template, never of a user.
        """
        self._backend.encode_special_tokens = False
        try:
            return self.encode(text, start=False)
        finally:
            self._backend.encode_special_tokens = True

    def rowless(self, rows: int) -> dict[int, str]:
        """Return the tokens, by id, for which a model with `rows` rows has no row."""
        return {
            at: text
            for text, at in sorted(self.vocab.items(), key=lambda entry: entry[1])
            if at >= rows
        }

    def _refusal(self, texts: Sequence[str], error: BaseException) -> FlyweightError:
        if panicked(error):
            return patterns.gave_up(error)
        strange = sorted(
            {character for text in texts for character in text if character not in self.vocab}
        )
        if self.unknown is None and strange:
            shown = ", ".join(repr(character) for character in strange[:8])
            return RequestError(
                f"the tokenizer knows no {shown} and has no {UNKNOWN}; leave such characters out "
                "of the text"
            )
        return FlyweightError(f"the tokenizer failed: {error}")

    @cached_property
    def reversible(self) -> bool:
        """Whether decoding gives back every text, by construction.

        It does where the alphabet is all bytes, and nothing is normalized.
        """
        from tokenizers import pre_tokenizers

        parts = self._raw
        kinds = [
            (parts.get(key) or {}).get("type") for key in ("normalizer", "pre_tokenizer", "decoder")
        ]
        if kinds != [None, "ByteLevel", "ByteLevel"] or parts["pre_tokenizer"].get(
            "add_prefix_space", True
        ):
            return False
        strips = any(
            token.lstrip or token.rstrip
            for token in self._backend.get_added_tokens_decoder().values()
        )
        return not strips and all(
            letter in self.vocab for letter in pre_tokenizers.ByteLevel.alphabet()
        )

    @cached_property
    def cuts_before_words(self) -> bool:
        """Whether text in front of a space and a word is encoded alike, whatever follows it.

        Byte-level pre-tokenizers cut there. NFC, their usual normalizer, joins nothing to a space.
        """
        parts = self._raw
        normalizer = (parts.get("normalizer") or {}).get("type", "NFC")
        before = parts.get("pre_tokenizer") or {}
        steps = before.get("pretokenizers", [before])
        byte_level = [step for step in steps if step.get("type") == "ByteLevel"]
        return (
            normalizer == "NFC"
            and len(byte_level) == 1
            and not byte_level[0].get("add_prefix_space", True)
            and all(step.get("type") in ("Split", "ByteLevel") for step in steps)
        )

    def decode_batch(self, batch: Sequence[Sequence[int]]) -> list[str]:
        """Return the texts of several sequences of ids, decoded on all cores."""
        return self._backend.decode_batch([list(ids) for ids in batch], skip_special_tokens=False)

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """Return the text of ids; the separator appears as itself unless `skip_special`."""
        return self._backend.decode(list(ids), skip_special_tokens=skip_special)


def panicked(error: BaseException) -> bool:
    """Return whether native code gave up, as on a regular expression that backtracks too often.

    Such an error is a BaseException, not an Exception.
    """
    return type(error).__name__ == "PanicException"


def with_special(tokenizer: Tokenizer, words: Sequence[str]) -> Tokenizer:
    """Return a tokenizer with special tokens added after all others."""
    raw = json.loads(tokenizer.text)
    fields = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    for at, word in enumerate(words, tokenizer.vocab_size):
        raw["added_tokens"].append({"id": at, "content": word, **fields})
    return Tokenizer(json.dumps(raw, ensure_ascii=False), tokenizer.declared)


def named_tokens(tokens: Mapping[int, str]) -> str:
    """Return tokens with their ids for a message, three at most."""
    shown = ", ".join(f"{text!r} ({at})" for at, text in list(tokens.items())[:3])
    if len(tokens) <= 3:
        return shown
    return f"{shown} and {len(tokens) - 3} more"
