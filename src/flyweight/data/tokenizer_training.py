"""Training a tokenizer of each kind on a text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from flyweight.config import schema
from flyweight.data.token_bytes import BYTE_OF_LETTER
from flyweight.data.tokenizer import LINE_END, PAD, SEPARATOR, UNKNOWN, Tokenizer
from flyweight.data.tokenizer_file import file_tokenizer
from flyweight.errors import RequestError

if TYPE_CHECKING:
    import tokenizers
    from tokenizers import pre_tokenizers

LONGEST_WORD = 256
"""Characters of a word that training reads at once."""
_LONG_RUN = re.compile(rf"\S{{{LONGEST_WORD + 1}}}|\s{{{LONGEST_WORD + 1}}}")


def train(
    config: schema.Tokenizer,
    texts: Callable[[], Iterator[str]],
    others: Callable[[], Iterator[str]],
    size: int,
    separated: bool,
    published: bool = True,
    data_dir: Path | None = None,
) -> Tokenizer:
    """Return the tokenizer of a config.

    `texts` yields the training split in pieces (`size` characters or a little less). `others`
    yields the held-out splits; they only decide whether a character vocabulary needs `<unk>`, and
    which entries of a file's are cut. `data_dir` has local copies of files.
    `separated` adds the separator; unless `published`, an end and a padding token are added in any
    case. Raises RequestError for a vocabulary without room for them.
    """
    special_words = (SEPARATOR,) if separated else ()
    if not published:
        special_words = (SEPARATOR, PAD)
    if isinstance(config, schema.ByteTokenizer):
        return _byte(special_words)
    if isinstance(config, schema.CharTokenizer):
        return _char(_characters(texts()), _characters(others()), special_words)
    if isinstance(config, schema.WordTokenizer):
        return _word(config, texts(), () if published else special_words)
    if isinstance(config, schema.BpeTokenizer):
        return _bpe(config, _sampled(texts(), config.sample, size), special_words)
    if isinstance(config, schema.ModelTokenizer):
        raise RequestError(
            "data.tokenizer: kind model needs a stage with an input or a teacher; choose another"
        )
    return file_tokenizer(config, data_dir, chain(texts(), others()))


def _finished(backend: tokenizers.Tokenizer, special_words: Sequence[str]) -> Tokenizer:
    from tokenizers import AddedToken

    backend.add_special_tokens(
        [AddedToken(word, special=True, normalized=False) for word in special_words]
    )
    return Tokenizer(backend.to_str(pretty=False))


def _room(vocab: int, special_words: Sequence[str], least: int) -> int:
    """Return the entries that are left for text.

    Raises RequestError where that is fewer than `least`.
    """
    if vocab - len(special_words) < least:
        raise RequestError(
            f"data.tokenizer.vocab: {vocab} leaves no room for {' and '.join(special_words)}; "
            f"give at least {least + len(special_words)}"
        )
    return vocab - len(special_words)


def _byte(special_words: Sequence[str]) -> Tokenizer:
    """Return a tokenizer whose ids are byte values; the file writes bytes as GPT-2's letters."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    backend = tokenizers.Tokenizer(models.BPE(vocab=dict(BYTE_OF_LETTER), merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return _finished(backend, special_words)


def _characters(texts: Iterable[str]) -> set[str]:
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    return characters


def _char(characters: set[str], others: set[str], special_words: Sequence[str]) -> Tokenizer:
    """Return a tokenizer with ids in the order of code points.

    `<unk>` follows them where a held-out split has a character that train lacks.
    """
    import tokenizers
    from tokenizers import Regex, decoders, models, pre_tokenizers

    vocab = {character: at for at, character in enumerate(sorted(characters))}
    if others - characters:
        vocab[UNKNOWN] = len(vocab)
    backend = tokenizers.Tokenizer(models.WordLevel(vocab=vocab, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("(?m:.)"), "isolated")
    backend.decoder = decoders.Fuse()
    return _finished(backend, special_words)


def _word(
    config: schema.WordTokenizer, texts: Iterable[str], special_words: Sequence[str]
) -> Tokenizer:
    """Return a tokenizer of `<unk>`, `<eos>`, then the words of the training text.

    The most frequent words come first, ties in the order of code points.
    """
    import tokenizers
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text.split())
    for reserved in (UNKNOWN, LINE_END):
        counts.pop(reserved, None)
    ranked = sorted(
        (word for word, n in counts.items() if n >= config.min_count),
        key=lambda word: (-counts[word], word),
    )
    most = None if config.vocab is None else _room(config.vocab, special_words, 3)
    words = [UNKNOWN, LINE_END, *ranked][:most]
    backend = tokenizers.Tokenizer(
        models.WordLevel(vocab={word: at for at, word in enumerate(words)}, unk_token=UNKNOWN)
    )
    # The separators U+001C to U+001F are white space to Python, which counts the words, but not to
    # the library.
    backend.normalizer = normalizers.Sequence(
        [normalizers.Replace("\n", f" {LINE_END} "), normalizers.Replace(Regex("[\x1c-\x1f]"), " ")]
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace(Regex(r"\A"), " "),
            decoders.Fuse(),
            decoders.Replace(f" {LINE_END}", "\n"),
            decoders.Replace("\n ", "\n"),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _finished(backend, special_words)


def _bpe(
    config: schema.BpeTokenizer, texts: Iterator[str], special_words: Sequence[str]
) -> Tokenizer:
    """Return a BPE with GPT-2's pre-tokenizer and byte alphabet; learn merges from the texts."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = tokenizers.Tokenizer(models.BPE())
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_room(config.vocab, special_words, 256),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_short_words(splitter, texts), trainer)
    return _finished(backend, special_words)


def _short_words(splitter: pre_tokenizers.ByteLevel, texts: Iterable[str]) -> Iterator[str]:
    """Yield texts, cut inside words of more than LONGEST_WORD characters.

    Training is quadratic in a word's length. Encoding is linear, and does not cut words.
    """
    for text in texts:
        start = 0
        if _LONG_RUN.search(text):
            for _, (begin, end) in splitter.pre_tokenize_str(text):
                for cut in range(begin + LONGEST_WORD, end, LONGEST_WORD):
                    yield text[start:cut]
                    start = cut
        yield text[start:]


def _sampled(texts: Iterator[str], limit: int, size: int) -> Iterator[str]:
    """Yield about `limit` of `size` characters in pieces taken evenly, the first always.

    Yields all of them where there are fewer.
    """
    read = yielded = 0
    for text in texts:
        if yielded * size <= read * limit:
            yielded += len(text)
            yield text
        read += len(text)
