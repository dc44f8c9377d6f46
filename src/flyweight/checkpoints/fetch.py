"""Import checkpoints into the runs root.

A Hugging Face folder or hub name becomes an artifact once, which is then used like any other.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from flyweight.checkpoints import convert, foreign_model, proof, read, tokenizer_files
from flyweight.checkpoints.family import Inexpressible
from flyweight.checkpoints.read import TOKENIZER, Checkpoint
from flyweight.config.schema import Architecture, ModelConfig
from flyweight.core.events import Watcher, ignore
from flyweight.core.files import copy_file, disk_errors
from flyweight.errors import FlyweightError, RequestError
from flyweight.model import folder
from flyweight.store.artifact import Artifact, Draft, Identity, Store

HUB = "hf:"
VERSION = 3


Describe = Callable[[Draft, dict[str, Any]], None]
"""Writes the card of a model into its draft, from its facts."""


class Packing(Protocol):
    """How matrices are packed while a checkpoint is read."""

    def json(self) -> dict[str, Any]:
        """Return what it is, as plain data, for ids and facts."""
        ...

    def config(self, config: ModelConfig) -> Architecture:
        """Return the config of the packed model; raise RequestError where there is none."""
        ...

    def write(self, source: convert.Source, out: Path, progress: Callable[[float], None]) -> None:
        """Write the packed model into a folder, one tensor after another."""
        ...


def imported(
    reference: str,
    store: Store,
    describe: Describe,
    watch: Watcher = ignore,
    command: str = "",
    only_ours: bool = False,
    packing: Packing | None = None,
) -> Artifact:
    """Return the artifact of a Hugging Face folder or of `hf:owner/name[@revision]`.

    Imports it, unless an artifact of files with the same content exists. GPT-2, Llama, Qwen3 and
    our own exports become a decoder of ours; any other causal language model keeps its files and
    goes behind an adapter, unless `only_ours` (then RequestError with every reason why it cannot
    become one). `packing` packs a decoder as it is read: of its float tensors a few are held.
    """
    source = checkpoint_of(reference)
    watch("stage", {"name": reference, "stage": "import"})
    if only_ours or packing:
        refuse_others(reference, source, packing)

    def work(draft: Draft) -> dict[str, Any]:
        began = time.monotonic()
        facts = write(reference, source, packing, draft)
        describe(draft, facts)
        return {**facts, "took": round(time.monotonic() - began, 3)}

    return store.obtain(identity(source, packing), work, command, watch)[0]


def checkpoint_of(reference: str) -> Checkpoint:
    """Return the checkpoint in a folder or of `hf:owner/name[@revision]`, fetched if need be."""
    if reference.startswith(HUB):
        return read.read(download(reference.removeprefix(HUB)))
    return read.read(Path(reference))


def identity(source: Checkpoint, packing: Packing | None) -> Identity:
    """Return the identity of an import: the content of its files, and how they are packed."""
    return Identity(
        stage="import",
        version=VERSION,
        config={} if packing is None else packing.json(),
        parents={"files": source.fingerprint()},
    )


def refuse_others(reference: str, source: Checkpoint, packing: Packing | None) -> None:
    """Raise RequestError where a checkpoint cannot become a decoder of ours, or not a packed one.

    The message has every reason.
    """
    if reasons := _reasons(source):
        raise RequestError(
            f"{reference} cannot become a model of flyweight's own: {'; '.join(reasons)}. As it "
            "is, it can teach, generate, and be evaluated, timed and audited: name it where a "
            "command takes MODEL"
        )
    if packing is not None:
        packing.config(convert.source_of(source).config)


def write(
    reference: str, source: Checkpoint, packing: Packing | None, draft: Draft
) -> dict[str, Any]:
    """Write the model and the tokenizer of a checkpoint into a draft, and return the facts.

    The draft's identity is that of the checkpoint. Raises FlyweightError where the files are no
    longer those.
    """
    out = draft.new_folder("model")
    with _taken(source, draft, draft.identity.parents["files"]) as snapshot:
        reasons = _reasons(snapshot)
        if reasons:
            _refuse_without_transformers(snapshot, reasons)
            foreign_model.config_of(snapshot)
            _refuse_nan(snapshot)
            proved = proof.of_foreign(snapshot)
            _keep(snapshot, draft)
        else:
            proved = _write(snapshot, out, packing, draft.events.watch)
            tokenizer_files.keep_generation(snapshot, out)
        tokenizer = tokenizer_files.keep(snapshot, out)
    return {
        "source": reference,
        "model_type": source.model_type,
        "adapter": reasons or None,
        "unread": list(source.unread) or None,
        "tokenizer": tokenizer,
        "proof": proved.json(),
        **({} if packing is None else {"packed": packing.json()}),
    }


def _write(snapshot: Checkpoint, out: Path, packing: Packing | None, watch: Watcher) -> proof.Proof:
    """Write a checkpoint's decoder into a folder, and return the proof that it is that.

    One that is packed is compared before that, as far as a few of its layers go.
    """
    if packing is None:
        config, state = convert.decoder(snapshot)
        proved = proof.of_ours(snapshot, config, state)
        folder.write(config, state, out)
        return proved
    source = convert.source_of(snapshot)
    proved = proof.of_part(snapshot, source.config, source.rows)
    name = snapshot.model_type
    packing.write(
        source, out, lambda done: watch("packing", {"what": f"{name} matrices", "done": done})
    )
    return proved


def _reasons(source: Checkpoint) -> list[str]:
    """Return why a checkpoint cannot become a decoder of ours; nothing where it can."""
    try:
        convert.config_of(source)
    except Inexpressible as error:
        return error.reasons
    return []


def _refuse_without_transformers(source: Checkpoint, reasons: list[str]) -> None:
    """Raise RequestError where transformers, which a model of another kind needs, is missing."""
    if find_spec("transformers") is None:
        raise RequestError(
            f"{source.path}: this {source.model_type} model cannot become one of flyweight's own "
            f"({'; '.join(reasons)}); as it is, it needs the transformers library: pip install "
            "'flyweight[hub]'"
        )


def _refuse_nan(source: Checkpoint) -> None:
    """Read every tensor once.

    Raises FlyweightError for one with NaN in it. Some families have infinity in their masks.
    """
    for name, tensor in source.tensors():
        if tensor.is_floating_point() and tensor.element_size() > 1 and tensor.isnan().any():
            raise FlyweightError(
                f"{source.path}: {name} holds NaN; copy the model again, or it was saved broken"
            )


@contextmanager
def _taken(source: Checkpoint, draft: Draft, sums: str) -> Iterator[Checkpoint]:
    """Yield a copy of a checkpoint in a folder of the draft, which is gone in the end.

    The copy is what is read, proved and published, because the originals may change at any time.
    Errors name the original. Raises FlyweightError where its files no longer have the fingerprint
    `sums`.
    """
    place = draft.new_folder("source")
    try:
        with disk_errors(place):
            for name in source.files:
                # Asks for the draft's folder again for each file: it must still be that one.
                copy = draft.path / place.name / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy_file(source.path / name, copy)
        snapshot = read.read(place)
        if snapshot.fingerprint() != sums:
            raise FlyweightError(
                f"{source.path}: its files changed while they were read; run the same command again"
            )
        yield snapshot
    except FlyweightError as error:
        error.args = tuple(str(part).replace(str(place), str(source.path)) for part in error.args)
        raise
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _keep(snapshot: Checkpoint, draft: Draft) -> None:
    """Move the weights of a copy into `model/` of the draft, and copy its other files.

    Those are still to be read.
    """
    with disk_errors(draft.path):
        for name in snapshot.files:
            out = draft.path / "model" / name
            out.parent.mkdir(parents=True, exist_ok=True)
            if name in snapshot.weights:
                (snapshot.path / name).rename(out)
            else:
                copy_file(snapshot.path / name, out)


def download(repository: str) -> Path:
    """Return the folder of a hub repository's files; fetch the missing ones.

    `repository` is `owner/name[@revision]`.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError
    except ImportError as error:
        raise RequestError(
            f"hf:{repository} needs the `huggingface_hub` package: pip install 'flyweight[hub]'"
        ) from error
    name, _, revision = repository.partition("@")
    patterns = ["*.safetensors", "config.json", read.INDEX, read.ADAPTER, *TOKENIZER]
    patterns.append(f"{read.TEMPLATES}/*.jinja")
    if read.trusted():
        patterns.append("*.py")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except HFValidationError as error:
        raise RequestError(
            f"hf:{repository}: not a repository's name ({error}); write hf:owner/name"
        ) from error
    except Exception as error:  # of whatever HTTP library huggingface_hub uses
        if type(error).__module__.split(".")[0] in ("builtins",) and not isinstance(
            error, OSError | ValueError
        ):
            raise
        raise RequestError(
            f"hf:{repository} could not be read from the hub ({type(error).__name__}: "
            f"{str(error)[:300]}); check the name and the network, or name a local folder"
        ) from error
