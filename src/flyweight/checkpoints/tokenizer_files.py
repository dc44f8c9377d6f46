"""Keep a checkpoint's tokenizer, as transformers builds it, as one `tokenizer.json`.

The kept tokenizer is compared with the original. A `tokenizer.json` is not the whole truth: the
tokenizer's class rebuilds parts of it, and `tokenizer_config.json`, `added_tokens.json` and
`special_tokens_map.json` add tokens and name special ones. What AutoTokenizer builds of all of them
is right by definition. Where transformers is not installed, a `tokenizer.json` counts only if the
other files change nothing.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flyweight.checkpoints import (
    read as checkpoint,
    sentencepiece_model,
    strict_tokenizer,
    template_files,
)
from flyweight.checkpoints.attributes import quiet
from flyweight.checkpoints.flyweight_type import OWN
from flyweight.checkpoints.read import CONFIG, INDEX, TEMPLATES, VOCABULARIES, Checkpoint
from flyweight.core.files import disk_errors, reason, write_text
from flyweight.data import special
from flyweight.data.patterns import StoppedError
from flyweight.data.special import WORDS, json_object
from flyweight.data.tokenizer import Tokenizer, panicked
from flyweight.errors import FlyweightError, RequestError

FILE, GENERATION, TEMPLATE = "tokenizer.json", special.IDS[0], "chat_template.jinja"
PLAIN = "PreTrainedTokenizerFast"
"""The class that takes a `tokenizer.json` as it is."""

SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
SAMPLING = (
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "num_beams",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "min_new_tokens",
    "suppress_tokens",
)
"""Defaults of generation that older checkpoints keep in `config.json`."""

TEXTS = (
    "",
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    " \n \n",
    "a",
    " a",
    "a ",
    "  leading and trailing  ",
    "two  spaces   and three",
    "tab\tbetween\t\ttwo",
    "line\nend\n\nblank\r\nwindows\rold",
    "no\u00a0break\u2009thin\u3000wide\u200bnone",
    "\ufeffmark",
    "Hello, world! It's we'll THEY'RE don\u2019t",
    "x=1;y+=2 # 3e-10 \\n \"q\" 'p' `c`",
    "    def f(x):\n\treturn x",
    "0 1 12 123 1234 12345 1,234,567.89 007",
    "½ ² Ⅷ ٣٤ ०१ \U0001d7d9",
    "e\u0301 o\u0308 n\u0303 a\u030a\u0323",
    "é ö ñ ﬁ Å",
    "क्षि తెలుగు กำลัง",
    "漢字かなカナ한국어。「」、",
    "مرحبا بالعالم، ١٢٣",
    "של\u200fם",
    "Привет, мир",
    "ΑΒΓ ς İı ẞß",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea "
    "\u2764\ufe0f",
    "\U00020000\ue000",
    "\ufffd\x00\x01\x07\x1b[0m\x7f\x85",
    "a" * 400,
    "ab1 " * 60,
    "antidisestablishmentarianism" * 12,
    "-" * 70 + "=" * 70,
    "a▁b ▁ ▁▁c Ġd Ċ ##e </w>",
    "<s> </s> <unk> [CLS] <0x0A> <|endoftext|>",
)
"""Texts that tokenizers get wrong; `compare` adds the texts of special tokens."""


def keep(source: Checkpoint, out: Path) -> dict[str, Any] | None:
    """Write a checkpoint's tokenizer into the folder `out`.

    Return facts about it, or None where the checkpoint has no tokenizer.

    `compared` counts the texts whose ids and decoded text are those of transformers' own tokenizer;
    `class` names that one, and `rebuilt` the parts of `tokenizer.json` that it replaces. Raises
    RequestError where the tokenizer cannot be kept.
    """
    if not any((source.path / name).is_file() for name in VOCABULARIES):
        return None
    if importlib.util.find_spec("transformers") is None:
        text, names, vocab = strict_tokenizer.read(source)
        _refuse_chance(source, text)
        _write(source, out, text, names, vocab)
        return {"compared": 0, "why": "transformers is not installed"}
    with TemporaryDirectory(dir=out.parent, prefix="tokenizer-") as place, quiet():
        theirs = _built(source, Path(place))
        text, rebuilt = _preferred(source, theirs.backend_tokenizer)
        _refuse_chance(source, text)
        sentencepiece_model.compare(source.path, theirs, _without(source))
        names = {
            key: str(word)
            for key, word in theirs.special_tokens_map.items()
            if isinstance(word, str)
        }
        _write(source, out, text, names, theirs.get_vocab())
        compared = compare(Tokenizer.load(out), theirs, source.path)
    return {"compared": compared, "class": type(theirs).__name__, "rebuilt": rebuilt}


def keep_generation(source: Checkpoint, out: Path) -> None:
    """Write `generation_config.json`: a checkpoint's own, and fields of its config that it lacks.

    Our config, which replaces the checkpoint's, has no place for them. As in transformers, sampling
    defaults in the config count only where `generation_config.json` is missing.
    """
    file = source.path / GENERATION
    fields = json_object(file)
    keys = SPECIAL_IDS if file.is_file() else (*SPECIAL_IDS, *SAMPLING)
    added = {
        key: source.raw[key]
        for key in keys
        if source.raw.get(key) is not None and fields.get(key) is None
    }
    if fields or added:
        write_text(out / GENERATION, json.dumps({**fields, **added}, indent=2) + "\n")


def check_folder(folder: Path) -> None:
    """Raise RequestError where a folder's other files change what its `tokenizer.json` says.

    An import would keep another tokenizer. In a folder of ours, or one without such files, nothing
    changes.
    """
    names = checkpoint.tokenizer_names(folder)
    if FILE not in names or not set(names) & {
        WORDS,
        "special_tokens_map.json",
        "added_tokens.json",
    }:
        return
    raw = json_object(folder / CONFIG)
    source = Checkpoint(folder, {"model_type": OWN, **raw}, (), tuple(names))
    with TemporaryDirectory(prefix="flyweight-tokenizer-") as place:
        out = Path(place) / "kept"
        out.mkdir()
        try:
            text, named, vocab = strict_tokenizer.read(source)
            _refuse_chance(source, text)
            _write(source, out, text, named, vocab)
            rebuilt = []
        except RequestError:
            if importlib.util.find_spec("transformers") is None:
                raise
            rebuilt = (keep(source, out) or {})["rebuilt"]
        keep_generation(source, out)
        read, copy = Tokenizer.load(folder), Tokenizer.load(out)
    if read.around != copy.around:
        rebuilt.append(f"the tokens around a text, {read.around} for {copy.around}")
    for name in ("bos", "ends", "pad"):
        if getattr(read.special, name) != getattr(copy.special, name):
            rebuilt.append(
                f"{name}, {getattr(read.special, name)} for {getattr(copy.special, name)}"
            )
    if rebuilt:
        raise RequestError(
            f"{folder}: other files there change what its {FILE} says ({'; '.join(rebuilt)}). "
            "Import the model that it belongs to and name the import's model folder, or name "
            f"{folder / FILE} itself to have that file as it is"
        )


# --- what transformers builds ---


def _built(source: Checkpoint, place: Path) -> Any:
    """Return AutoTokenizer's tokenizer of the checkpoint's files.

    It sees copies in `place` of the files that were checked, and no others.
    """
    import transformers

    fields = json_object(source.path / WORDS)
    _check_class(source, fields)
    with disk_errors(place):
        for name in (CONFIG, *source.others):
            if name not in (INDEX, WORDS) and (source.path / name).is_file():
                (place / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(source.path / name, place / name)
        if fields:
            clean = {
                key: value for key, value in fields.items() if not key.endswith(("_file", "_files"))
            }
            write_text(place / WORDS, json.dumps(clean))
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            place, local_files_only=True, trust_remote_code=source.code
        )
    except BaseException as error:  # files of other people's models fail in every way
        if not isinstance(error, Exception) and not panicked(error):
            raise
        raise RequestError(
            _failure(source, fields, str(error).replace(str(place), str(source.path)))
        ) from error
    if not isinstance(getattr(tokenizer, "backend_tokenizer", None), _library().Tokenizer):
        raise RequestError(
            f"{source.path}: its tokenizer ({type(tokenizer).__name__}) is code of transformers, "
            f"which no tokenizer.json can hold; {_without(source)}"
        )
    return tokenizer


def _library() -> Any:
    import tokenizers

    return tokenizers


def _check_class(source: Checkpoint, fields: Mapping[str, object]) -> None:
    """Raise RequestError where the files name a class of transformers that is not a tokenizer.

    transformers would load it as one.
    """
    import transformers

    for file, value in (
        (WORDS, fields.get("tokenizer_class")),
        (CONFIG, source.raw.get("tokenizer_class")),
    ):
        if value is None:
            continue
        classes = (
            getattr(transformers, name, None)
            for name in (str(value), str(value).removesuffix("Fast"), f"{value}Fast")
        )
        bad = [kind for kind in classes if kind is not None and not _is_tokenizer(kind)]
        if not isinstance(value, str) or bad:
            raise RequestError(
                f"{source.path / file}: tokenizer_class {value!r} is not a tokenizer; copy the "
                "model again"
            )


def _is_tokenizer(kind: object) -> bool:
    import transformers

    # A class whose library is missing is a stand-in that only says so.
    stand_in = type(kind).__name__ == "DummyObject"
    return stand_in or (
        isinstance(kind, type) and issubclass(kind, transformers.PreTrainedTokenizerBase)
    )


def _failure(source: Checkpoint, fields: Mapping[str, object], message: str) -> str:
    if "auto_map" in fields and not source.code:
        return (
            f"{source.path / WORDS} asks for Python code of its own (auto_map: "
            f"{str(fields['auto_map'])[:200]}), which flyweight does not run; put the "
            f"tokenizer.json that this code builds beside it, or {_without(source)}"
        )
    first = (message.strip().splitlines() or ["no reason given"])[0][:300]
    piece = next(
        (
            name
            for name in VOCABULARIES
            if name.endswith(".model") and (source.path / name).is_file()
        ),
        "",
    )
    library = "tiktoken" if piece == "tiktoken.model" else "sentencepiece"
    if piece and not (source.path / FILE).is_file() and importlib.util.find_spec(library) is None:
        return (
            f"{source.path}: its tokenizer is {piece} alone, and transformers needs {library} to "
            f"read it: pip install {library} protobuf, or put its tokenizer.json beside it"
        )
    return (
        f"{source.path}: transformers could not build its tokenizer ({first}); copy the model "
        f"again, or {_without(source)}"
    )


def _refuse_chance(source: Checkpoint, text: str) -> None:
    """Raise RequestError for a tokenizer whose ids are drawn anew each time."""
    if rate := json.loads(text)["model"].get("dropout"):
        raise RequestError(
            f"{source.path}: its tokenizer drops merges by chance (dropout: {rate}), and gives a "
            f"text other ids each time; set dropout to null in its {FILE}"
        )


def _without(source: Checkpoint) -> str:
    files = " and ".join(name for name in VOCABULARIES if (source.path / name).is_file())
    return f"move {files} away to have the model without a tokenizer"


def _preferred(source: Checkpoint, backend: Any) -> tuple[str, list[str]]:
    """Return the text of the `tokenizer.json` to keep, and the original parts that it replaces.

    The checkpoint's own file stays as it is where it means the same. Corpora that were packed with
    it still fit.
    """
    backend.no_truncation()
    backend.no_padding()
    file = source.path / FILE
    if not file.is_file():
        return backend.to_str(pretty=True), []
    try:
        text = file.read_text(encoding="utf-8")
        meaning = strict_tokenizer.meaning(Tokenizer(text).normal_text)
    except (OSError, ValueError) as error:
        raise FlyweightError(f"{file}: damaged ({reason(error)}); copy the model again") from error
    new = strict_tokenizer.meaning(backend.to_str())
    rebuilt = [part for part in meaning if meaning[part] != new[part]]
    return (backend.to_str(pretty=True) if rebuilt else text), rebuilt


# --- what is kept ---


def _write(
    source: Checkpoint, out: Path, text: str, names: Mapping[str, str], vocab: Mapping[str, int]
) -> None:
    """Write the tokenizer, its special tokens (`names`: by `bos_token`, ...), its chat template."""
    write_text(out / FILE, text)
    fields = {
        key: value
        for key, value in json_object(source.path / WORDS).items()
        if not key.endswith(("_file", "_files"))
    }
    fields = {
        key: value
        for key, value in fields.items()
        if key not in ("auto_map", "name_or_path", *_ADDS)
    }
    fields |= {
        "tokenizer_class": PLAIN,
        **dict.fromkeys(("bos_token", "eos_token", "pad_token")),
        **names,
    }
    before, after = special.of_post_processor(json.loads(text).get("post_processor"))
    begin, end = (vocab.get(names.get(key, "")) for key in ("bos_token", "eos_token"))
    if before in ((), (begin,)) and after in ((), (end,)):
        fields |= dict(zip(_ADDS, (bool(before), bool(after)), strict=True))
    if any(name.startswith(f"{TEMPLATES}/") for name in source.others):
        # They count instead of those of the config, and all have one place there.
        texts = template_files.sources(source.path)
        fields["chat_template"] = [{"name": name, "template": text} for name, text in texts.items()]
        with disk_errors(out):
            (out / TEMPLATE).unlink(missing_ok=True)
            shutil.rmtree(out / TEMPLATES, ignore_errors=True)
    elif (source.path / TEMPLATE).is_file():
        with disk_errors(out):
            written = (source.path / TEMPLATE).read_bytes()
        (out / TEMPLATE).unlink(missing_ok=True)
        (out / TEMPLATE).write_bytes(written)
    write_text(out / WORDS, json.dumps(fields, indent=2) + "\n")


_ADDS = ("add_bos_token", "add_eos_token")


# --- the comparison ---


def compare(
    ours: Tokenizer, theirs: Any, where: Path, named: Sequence[str] = ("bos", "eos", "pad")
) -> int:
    """Return on how many texts both tokenizers give the same ids and decode them alike.

    Raises FlyweightError for a difference. Each text is compared twice: with the texts of special
    tokens split like other text, and with them as tokens, as a chat template writes them. Left out:
    transformers may tidy up spaces after decoding. The tokens `named` have to be the same ones.
    """
    before, after = ours.around
    words = sorted(
        {*ours.specials, *(str(token) for token in theirs.added_tokens_decoder.values())}
    )[:24]
    texts = [*TEXTS, *words, *(f"a {word} b{word}{word}c" for word in words)]
    for text in texts:
        _agree(
            f"the ids of {text!r}",
            lambda text=text: [*before, *ours.encode(text, start=False), *after],
            lambda text=text: theirs(text, split_special_tokens=True)["input_ids"],
            where,
        )
        marked = _agree(
            f"the ids of {text!r} with special tokens read",
            lambda text=text: ours.encode_marked(text),
            lambda text=text: theirs(text, add_special_tokens=False, split_special_tokens=False)[
                "input_ids"
            ],
            where,
        )
        ids = [*before, *marked, *after] if isinstance(marked, list) else []
        for skip in (False, True):
            _agree(
                f"the decoded text of {text!r}",
                lambda ids=ids, skip=skip: ours.decode(ids, skip),
                lambda ids=ids, skip=skip: theirs.decode(
                    ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
                ),
                where,
            )
    for key in named:
        their_id = getattr(theirs, f"{key}_token_id")
        our_id = next(iter(ours.declared.ends), None)
        if key != "eos":
            our_id = getattr(ours.declared, key)
        if their_id is not None and our_id != their_id:
            raise FlyweightError(
                f"{where}: its {key} token is {our_id} here and {their_id} in transformers; please "
                "report this"
            )
    return len(texts)


def _agree(
    what: str, ours: Callable[[], object], theirs: Callable[[], object], where: Path
) -> object:
    """Return the outcome of both; raise FlyweightError where they differ.

    A failure of both, such as an unknown character without a token for it, counts as the same.
    """
    first, second = _outcome(ours), _outcome(theirs)
    if first != second:
        raise FlyweightError(
            f"{where}: its tokenizer is not read as transformers reads it: {what[:200]} are "
            f"{str(first)[:120]}, and {str(second)[:120]} in transformers; please report this "
            "tokenizer"
        )
    return first


def _outcome(run: Callable[[], object]) -> object:
    try:
        return run()
    except StoppedError:  # nothing would stop transformers on such a text
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not panicked(error):
            raise
        return None
