"""Open an export in the program that will use it, for its logits and its tokens."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flyweight.checkpoints import load_any, proof, read
from flyweight.checkpoints.attributes import first_line, quiet
from flyweight.checkpoints.flyweight_type import OWN
from flyweight.checkpoints.peft_import import is_peft
from flyweight.data.tokenizer import Tokenizer
from flyweight.errors import RequestError
from flyweight.evaluation.agreement import Logits
from flyweight.formats import gguf_reader, hf, vocabulary
from flyweight.model import folder
from flyweight.model.decoder import Decoder
from flyweight.records.verification import Loss

LLAMA = "llama_cpp"
NO_TRANSFORMERS = "transformers is not installed (pip install transformers)"
NO_LLAMA = "llama.cpp is not installed (pip install llama-cpp-python)"
ROUNDED_TYPES = frozenset({"F32", "F16"})


@dataclass(frozen=True)
class Opened:
    """An export that a program has opened.

    `tokens_differ` says how its tokenizer differs from the model's; empty where it does not.
    """

    logits: Logits
    loss: Loss
    tokens_differ: str = ""


@dataclass(frozen=True)
class Reading:
    """A way to read an export.

    `program` is what opens it. `weaker`: a reader of ours in place of that program. `missing` says
    why it cannot run here.
    """

    format: str
    program: str
    open: Callable[[], Opened]
    weaker: bool = False
    missing: str = ""


@dataclass(frozen=True)
class Source:
    """The model that was measured: its folder, some text to cut into tokens, its window."""

    folder: Path
    text: str
    window: int

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own tokenizer."""
        return Tokenizer.load(self.folder)


def readings(export: Path, source: Source) -> list[Reading]:
    """Return every way to read an export, the program that will use it first.

    Raises RequestError for a path that is not an export, and for a folder without weights.
    """
    if gguf_reader.is_gguf(export):
        return _gguf(export, source)
    if not export.is_dir():
        raise RequestError(
            f"{export} is not an export: name a Hugging Face folder, a GGUF file, an adapter of "
            f"peft's, or a model"
        )
    if is_peft(export):
        return [_peft(export, source)]
    if not any(export.glob("*.safetensors")):
        raise RequestError(f"{export} has no weights (no file *.safetensors); export it again")
    if read.is_checkpoint(export):
        return [_transformers(export, source)]
    return [_own(export, source)]


# --- transformers and peft ---


def _transformers(export: Path, source: Source) -> Reading:
    checkpoint = read.read(export)
    kind = "flyweight's own type" if checkpoint.model_type == OWN else checkpoint.model_type

    def open() -> Opened:
        with quiet():
            model = proof.transformers_model(checkpoint)
        return Opened(_hf_logits(model), "lossless", _auto_tokens(export, source))

    missing = "" if importlib.util.find_spec("transformers") else NO_TRANSFORMERS
    return Reading(f"Hugging Face, {kind}", _version("transformers"), open, missing=missing)


def _peft(export: Path, source: Source) -> Reading:
    """Return how to read an adapter: around the model without its adapters."""

    def open() -> Opened:
        from peft import PeftModel

        with _base_folder(source.folder) as base:
            model = proof.transformers_model(read.read(base))
            wrapped: Any = PeftModel.from_pretrained(model, str(export))  # pyright: ignore
        return Opened(_hf_logits(wrapped.eval()), "lossless")

    missing = "" if importlib.util.find_spec("peft") else "peft is not installed (pip install peft)"
    return Reading("adapter of peft's", _version("peft"), open, missing=missing)


@contextmanager
def _base_folder(source: Path) -> Iterator[Path]:
    """Yield a Hugging Face folder of a model without its adapters."""
    model = folder.load(source)
    if not isinstance(model, Decoder) or not model.config.adapters:
        raise RequestError("the model has no adapters, so this adapter is that of another model")
    plain = model.config.model_copy(update={"adapters": ()})
    with torch.device("meta"):
        names = set(Decoder(plain).state_dict())
    state = {name: each for name, each in model.state_dict().items() if name in names}
    with tempfile.TemporaryDirectory() as place:
        own, out = Path(place) / "own", Path(place) / "hf"
        own.mkdir()
        folder.write(plain, state, own)
        hf.write(own, out, lambda kind, notes: "")
        yield out


def _hf_logits(model: nn.Module) -> Logits:
    def logits(ids: Tensor) -> Tensor:
        return model(input_ids=ids[None], use_cache=False).logits[0]  # (T, V)

    return logits


def _auto_tokens(export: Path, source: Source) -> str:
    """Return how the tokenizer of a Hugging Face folder differs from the model's."""
    from transformers import AutoTokenizer

    if not (source.folder / "tokenizer.json").is_file():
        return ""
    if not (export / "tokenizer.json").is_file():
        return "it has no tokenizer"
    try:
        with quiet():
            theirs = AutoTokenizer.from_pretrained(export, local_files_only=True)
            theirs.model_max_length = len(source.text) + 1  # a longer text is not read, only cut
            found = theirs(source.text, add_special_tokens=False, split_special_tokens=True)[
                "input_ids"
            ]
    except Exception as error:  # a tokenizer of another program fails in every way
        return f"transformers cannot read its tokenizer: {first_line(error)}"
    return _difference(source.tokenizer.encode(source.text, start=False), found)


def _difference(ours: list[int], theirs: list[int]) -> str:
    """Return where two lists of ids differ first; empty where they are equal."""
    for place, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        if a != b:
            return f"its tokenizer gives token {b} at place {place}, where the model's gives {a}"
    if len(ours) != len(theirs):
        return f"its tokenizer makes {len(theirs)} tokens of a text, the model's {len(ours)}"
    return ""


# --- GGUF ---


def _gguf(export: Path, source: Source) -> list[Reading]:
    def with_llama() -> Opened:
        return _llama(export, source)

    def back() -> Opened:
        file = gguf_reader.read(export)
        return Opened(_own_logits(file.model), _loss(file.types), _words(file, source))

    there = importlib.util.find_spec(LLAMA) is not None
    return [
        Reading("GGUF", "llama.cpp", with_llama, missing="" if there else NO_LLAMA),
        Reading("GGUF", "flyweight's reader of GGUF", back, weaker=True),
    ]


def _loss(types: frozenset[str]) -> Loss:
    if types == {"F32"}:
        return "lossless"
    return "rounded" if types <= ROUNDED_TYPES else "quantized"


def _words(file: gguf_reader.GgufFile, source: Source) -> str:
    """Return how the tokens and merges of a GGUF file differ from the model's tokenizer."""
    reasons: list[str] = []
    due = vocabulary.read(source.folder / "tokenizer.json", len(file.tokens), reasons)
    if due is None:
        return "; ".join(reasons)
    for name, found, wanted in (
        ("token", file.tokens, due.tokens),
        ("merge", file.merges, due.merges),
    ):
        for place, (a, b) in enumerate(zip(found, wanted, strict=False)):
            if a != b:
                return f"its {name} {place} is {a!r}, and the model's is {b!r}"
        if len(found) != len(wanted):
            return f"it has {len(found)} {name}s, and the model's tokenizer {len(wanted)}"
    return ""


def _llama(export: Path, source: Source) -> Opened:
    """Open a file in llama.cpp, on the threads of torch."""
    from llama_cpp import Llama  # pyright: ignore[reportMissingImports]

    threads = torch.get_num_threads()
    model: Any = Llama(
        os.fspath(export),
        n_ctx=source.window,
        n_threads=threads,
        n_threads_batch=threads,
        logits_all=True,
        verbose=False,
    )

    def logits(ids: Tensor) -> Tensor:
        model.reset()
        model.eval(ids.tolist())
        return torch.from_numpy(np.array(model.scores[: len(ids)]))  # (T, V)

    found = model.tokenize(source.text.encode(), add_bos=False, special=False)
    differ = _difference(source.tokenizer.encode(source.text, start=False), found)
    loss = _loss(gguf_reader.matrix_types(export))
    # llama.cpp keeps keys and values in float16, whatever the file holds.
    return Opened(logits, "rounded" if loss == "lossless" else loss, differ)


# --- our own models ---


def _own(export: Path, source: Source) -> Reading:
    """Return how to read a model of flyweight's: one that was merged, quantized or packed."""

    def open() -> Opened:
        model = load_any.load(export).eval()
        differ = ""
        files = [each / "tokenizer.json" for each in (export, source.folder)]
        if all(file.is_file() for file in files):
            theirs = Tokenizer.load(export).encode(source.text, start=False)
            differ = _difference(source.tokenizer.encode(source.text, start=False), theirs)
        return Opened(_own_logits(model), model_loss(export, source.folder), differ)

    return Reading("a model of flyweight's", "flyweight", open)


def model_loss(one: Path, other: Path) -> Loss:
    """Return what is lost between two models: one of them may hold its matrices in fewer bits."""
    kinds = [
        kind
        for place in (one, other)
        for kind in getattr(load_any.config(place), "linears", {}).values()
    ]
    exact = all(kind.plain or kind.lossless for kind in kinds)
    return "lossless" if exact else "quantized"


def _own_logits(model: Any) -> Logits:
    def logits(ids: Tensor) -> Tensor:
        return model(ids[None])[0]  # (T, V)

    return logits


def own_logits(place: Path) -> Logits:
    """Return the logits of the model that was measured."""
    return _own_logits(load_any.load(place).eval())


def _version(name: str) -> str:
    if importlib.util.find_spec(name) is None:
        return name
    from importlib.metadata import version

    return f"{name} {version(name)}"
