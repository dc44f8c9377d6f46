"""Read a Hugging Face model folder with care.

Runs none of its code, and reads neither pickles nor files outside the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flyweight.checkpoints import refusals, weights as weight_files
from flyweight.checkpoints.flyweight_type import OWN
from flyweight.checkpoints.weights import (
    ADAPTER,
    CONFIG,
    INDEX,
    WEIGHTS as WEIGHTS,
    Header,
    pickled as pickled,
)
from flyweight.core.files import digest, sha256
from flyweight.errors import FlyweightError, RequestError

VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "tiktoken.model",
    "tekken.json",
)
"""Files of which any one makes a tokenizer."""

TOKENIZER = (
    *VOCABULARIES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)
TEMPLATES = "additional_chat_templates"
"""A folder with more chat templates."""

TRUST = "FLYWEIGHT_TRUST_REMOTE_CODE"
"""A variable of the environment; 1 lets model folders run code of their own."""

_trusted: ContextVar[bool] = ContextVar("trusted", default=False)


@contextmanager
def trusting(allowed: bool) -> Iterator[None]:
    """Let model folders run code of their own inside this context, or not.

    The environment's word counts as well, and is not changed. A child process is told by its
    environment: pass TRUST=1 where `trusted()`.
    """
    before = _trusted.set(allowed)
    try:
        yield
    finally:
        _trusted.reset(before)


def trusted() -> bool:
    """Return whether a model's folder may run Python code of its own."""
    return _trusted.get() or os.environ.get(TRUST) == "1"


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose files have been checked.

    `raw` is its config; `weights` and `others` are the files that are read. `code` is true where it
    asks for Python code of its own, which the user has allowed by name.
    `unread` are other files with weights, such as variants in another float type.
    """

    path: Path
    raw: dict[str, Any]
    weights: tuple[str, ...]
    others: tuple[str, ...]
    code: bool = False
    unread: tuple[str, ...] = ()

    @property
    def model_type(self) -> str:
        """The architecture that its config names."""
        return str(self.raw.get("model_type"))

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that is read, relative to the folder."""
        return (CONFIG, *self.others, *self.weights)

    def fingerprint(self) -> str:
        """Return a hash of the content of all files that are read.

        Raises FlyweightError for a damaged file in the hub's cache, where a file's name is its
        checksum. Any other folder has no checksums to compare with.
        """
        sums = {name: sha256(self.path / name) for name in self.files}
        for name, actual in sums.items():
            blob = (self.path / name).resolve()
            hub_sum = blob.name if blob.parent.name == "blobs" else ""
            if re.fullmatch("[0-9a-f]{40}", hub_sum):
                actual = _git_sha1(blob)
            if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", hub_sum) and actual != hub_sum:
                raise FlyweightError(
                    f"{self.path / name}: its checksum is not the hub's, it is damaged; delete "
                    f"{blob} and fetch it"
                )
        return digest(sums)

    def elements(self) -> tuple[int, int]:
        """Return how many numbers the files hold, and in how many tensors.

        Reads the headers alone.
        """
        return weight_files.elements(self.path, self.weights)

    def headers(self) -> list[Header]:
        """Return every tensor, unread.

        Raises FlyweightError for a damaged or displaced one.
        """
        places = weight_files.files(self.path)[1]
        found = list(weight_files.headers(self.path, self.weights))
        for name in self.weights:
            inside = (header.name for header in found if header.file == name)
            weight_files.check_index(self.path / name, inside, places)
        return found

    def tensors(self) -> Iterator[tuple[str, Any]]:
        """Yield every tensor with its name, from memory-mapped shards.

        Raises FlyweightError for a damaged or displaced one.
        """
        places = weight_files.files(self.path)[1]
        for name in self.weights:
            with weight_files.opened(self.path / name) as shard:
                weight_files.check_index(self.path / name, shard.keys(), places)
                for key in shard.keys():  # noqa: SIM118
                    yield key, shard.get_tensor(key)


def is_checkpoint(path: Path) -> bool:
    """Return whether a folder claims to be a Hugging Face model, or an adapter of one."""
    try:  # reading something else than a file, such as a pipe, could wait for ever
        if (path / ADAPTER).is_file() and not (path / CONFIG).is_file():
            return True
        return (path / CONFIG).is_file() and "model_type" in json.loads(
            (path / CONFIG).read_text(encoding="utf-8")
        )
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def read(path: Path) -> Checkpoint:
    """Return the checkpoint in a folder.

    Raises RequestError that says what the folder is instead, or what is refused in it.
    """
    raw = _config(path)
    asks = bool(raw.get("auto_map"))
    if asks and not trusted():
        raise RequestError(
            f"{path}: its config.json asks for Python code of its own (auto_map: "
            f"{str(raw['auto_map'])[:200]}), which flyweight does not run; read that code, and if "
            "you trust it, say --trust-remote-code"
        )
    if raw["model_type"] != OWN:
        refusals.refuse(path, raw)
    weights, places = weight_files.files(path)
    others = tokenizer_names(path)
    if places is not None:
        others.insert(0, INDEX)
    if asks:
        others += sorted(file.name for file in path.glob("*.py"))
    source = Checkpoint(path, raw, weights, tuple(others), asks, weight_files.unread(path, weights))
    for name in source.files:
        _inside(path, name)
    if source.model_type != OWN:
        weight_files.refuse_packed(path, weights)
    return source


def tokenizer_names(path: Path) -> list[str]:
    """Return a folder's files of the tokenizer, the chat templates and the generation defaults."""
    more = sorted(file.name for file in (path / TEMPLATES).glob("*.jinja") if file.is_file())
    return [
        *(name for name in TOKENIZER if (path / name).is_file()),
        *(f"{TEMPLATES}/{name}" for name in more),
    ]


def _config(path: Path) -> dict[str, object]:
    file = path / CONFIG
    if path.is_file():
        raise RequestError(
            f"{path}: a file, and models come in as folders of the Hugging Face kind ({CONFIG} "
            f"beside safetensors); nothing else, such as GGUF, is read"
        )
    if not file.is_file() and (path / ADAPTER).is_file():
        raise RequestError(weight_files.adapter(path))
    if not file.is_file():
        raise RequestError(f"{path}: not a model folder ({CONFIG} is missing)")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FlyweightError(
            f"{file}: damaged, not valid JSON ({error}); copy the model again"
        ) from error
    if not isinstance(raw, dict) or not isinstance(raw.get("model_type"), str):
        raise RequestError(f"{file}: not the config of a Hugging Face model (it has no model_type)")
    return raw


def _git_sha1(path: Path) -> str:
    """Return the name that git gives to a file's content, which is the hub's for small files."""
    return hashlib.sha1(b"blob %d\0" % path.stat().st_size + path.read_bytes()).hexdigest()


def _inside(path: Path, name: str) -> None:
    """Raise RequestError where a link leads out of the folder.

    The hub's cache links within one repository, which is fine.
    """
    root = path.resolve()
    if path.parent.name == "snapshots" and root.parent.parent.name.startswith("models--"):
        root = root.parent.parent
    target = (path / name).resolve()
    if os.path.commonpath([root, target]) != str(root):
        raise RequestError(
            f"{path / name} is a link to {target}, outside of the model's folder; put the file "
            "itself there"
        )
