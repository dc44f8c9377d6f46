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
from typing import Any

from flyweight.checkpoints import convert, foreign_model, proof, read, tokenizer_files
from flyweight.checkpoints.families import Inexpressible
from flyweight.checkpoints.read import TOKENIZER, Checkpoint
from flyweight.core.events import Watcher, ignore
from flyweight.core.files import copy_file, disk_errors
from flyweight.errors import FlyweightError, RequestError
from flyweight.model import folder
from flyweight.store.artifact import Artifact, Draft, Identity, Store

HUB = "hf:"
VERSION = 3


Describe = Callable[[Draft, dict[str, Any]], None]
"""Writes the card of a model into its draft, from its facts."""


def imported(
    reference: str,
    store: Store,
    describe: Describe,
    watch: Watcher = ignore,
    command: str = "",
    only_ours: bool = False,
) -> Artifact:
    """Return the artifact of a Hugging Face folder or of `hf:owner/name[@revision]`.

    Imports it, unless an artifact of files with the same content exists. GPT-2, Llama, Qwen3 and
    our own exports become a decoder of ours; any other causal language model keeps its files and
    goes behind an adapter, unless `only_ours` (then RequestError with every reason why it cannot
    become one).
    """
    path = download(reference.removeprefix(HUB)) if reference.startswith(HUB) else Path(reference)
    source = read.read(path)
    watch("stage", {"name": reference, "stage": "import"})
    if only_ours and (reasons := _reasons(source)):
        raise RequestError(
            f"{reference} cannot become a model of flyweight's own: {'; '.join(reasons)}. As it "
            "is, it can teach, generate, and be evaluated, timed and audited: name it where a "
            "command takes MODEL"
        )
    sums = source.fingerprint()
    identity = Identity(stage="import", version=VERSION, config={}, parents={"files": sums})

    def work(draft: Draft) -> dict[str, Any]:
        began, out = time.monotonic(), draft.new_folder("model")
        with _taken(source, draft, sums) as snapshot:
            reasons = _reasons(snapshot)
            if reasons:
                _refuse_without_transformers(snapshot, reasons)
                foreign_model.config_of(snapshot)
                _refuse_nan(snapshot)
                proved = proof.of_foreign(snapshot)
                _keep(snapshot, draft)
            else:
                config, state = convert.decoder(snapshot)
                proved = proof.of_ours(snapshot, config, state)
                folder.write(config, state, out)
                tokenizer_files.keep_generation(snapshot, out)
            tokenizer = tokenizer_files.keep(snapshot, out)
        facts = {
            "source": reference,
            "model_type": source.model_type,
            "adapter": reasons or None,
            "unread": list(source.unread) or None,
            "tokenizer": tokenizer,
            "proof": proved.json(),
        }
        describe(draft, facts)
        return {**facts, "took": round(time.monotonic() - began, 3)}

    return store.obtain(identity, work, command, watch)[0]


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
