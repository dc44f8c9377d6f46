"""The text of a stage: its tokenizer, what its packing depends on, and when two are the same."""

from __future__ import annotations

from pathlib import Path

from flyweight.checkpoints import tokenizer_files
from flyweight.config import schema
from flyweight.config.stream import NOT_PACKED
from flyweight.core.files import reason, sha256
from flyweight.data.tokenizer import Tokenizer
from flyweight.data.tokenizer_file import tokenizer_path
from flyweight.errors import FlyweightError, RequestError
from flyweight.store.artifact import Artifact, Identity


def packing(data: schema.Data) -> schema.Data:
    """Return what packing depends on: windows are cut from the shards later."""
    return data.packed()


def packing_identity(packing: schema.Data) -> dict[str, object]:
    """Return what a corpus' id tells of its config.

    A field of later days only where it is set, so that ids stay.
    """
    later = {"column"} if packing.column is None else set()
    fields = packing.model_dump(mode="json", exclude={"context", *later})
    for name in NOT_PACKED:
        (fields.get("stream") or {}).pop(name, None)
    return fields


def tokenizer_file(data: schema.Data, data_dir: Path | None) -> str | None:
    """Return the checksum of a tokenizer that is a file: its path does not tell when it changes."""
    if not isinstance(data.tokenizer, schema.FileTokenizer):
        return None
    path = tokenizer_path(data.tokenizer, data_dir)
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        if file.exists() and not file.is_file():
            raise RequestError(
                f"data.tokenizer.path: {file} is not a file; "
                "name a tokenizer.json or a folder that has one"
            )
        content = sha256(file)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"data.tokenizer.path: {file} cannot be read ({reason(error)})"
        ) from error
    if path.is_dir():
        try:
            tokenizer_files.check_folder(path)
        except FlyweightError as error:
            raise RequestError(f"data.tokenizer.path: {error}") from error
    return Tokenizer.load(file).identity(content)


def model_tokenizer(task: str, model: Artifact | None) -> Tokenizer:
    """Return the tokenizer of the model that learns a task.

    Raises RequestError where it has none.
    """
    file = None if model is None else model.path / "model" / "tokenizer.json"
    if file is None or not file.is_file():
        what = "there is no model here" if model is None else f"{model.id} has no tokenizer"
        raise RequestError(f"data.task: {what}, so nothing can cut {task} into tokens")
    return Tokenizer.load(file)


def own_tokenizer(data: schema.Data, model: Artifact | None) -> tuple[schema.Data, schema.Data]:
    """Return a data config with the checksum of a model's tokenizer, and one with its file.

    The first tells texts apart, wherever the model is. Raises RequestError for a model without a
    tokenizer.
    """
    if model is None:
        raise RequestError(
            "data.tokenizer: kind model is the tokenizer of a stage's input or teacher, and there "
            "is none here; choose another kind"
        )
    file = model.path / "model" / "tokenizer.json"
    if not file.is_file():
        raise RequestError(
            f"data.tokenizer: {model.id} has no tokenizer, so it cannot read {data.label}"
        )
    own = schema.ModelTokenizer(sha256=sha256(file))
    of_file = schema.FileTokenizer(path=str(file))
    return data.model_copy(update={"tokenizer": own}), data.model_copy(
        update={"tokenizer": of_file}
    )


def recut(packed: Artifact, model: Artifact) -> schema.Data | None:
    """Return how to pack a model's text again where its tokenizer lost entries since; else None."""
    theirs = packed.manifest["files"].get("corpus/tokenizer.json")
    mine = model.manifest["files"].get("model/tokenizer.json")
    if theirs is None or mine is None or theirs["sha256"] == mine["sha256"]:
        return None
    fields = {**packed.identity["config"], "tokenizer": {"kind": "model"}, "context": 1}
    return schema.Data.model_validate(fields, context={"resolved": True})


def same_text(model: Artifact, identity: Identity) -> Artifact | None:
    """Return the corpus that a model was trained on, if it is the text of `identity`.

    The model's own tokenizer has to have cut it.
    """
    own = identity.config["tokenizer"]
    folder = model.path.parent / str(model.facts.get("corpus"))
    if own["kind"] != "model" or not (folder / "manifest.json").is_file():
        return None
    packed = Artifact.open(folder)
    other = {**packed.identity["config"], "tokenizer": own}
    if packed.identity["data"] != identity.data or other != identity.config:
        return None
    files = packed.manifest["files"]
    same = files["corpus/tokenizer.json"]["sha256"] == own["sha256"]
    return packed if same else None
