"""Models from elsewhere, and models for other programs.

Part of `flyweight.api`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from flyweight.api import model_references
from flyweight.api.measurements import Model
from flyweight.api.session import DEFAULT, Session, uses_runs_root
from flyweight.checkpoints.adapter_import import imported_adapter
from flyweight.checkpoints.fetch import HUB, imported
from flyweight.compression.packed_import import ImportPacking
from flyweight.config.linear_kinds import REGISTRY, LinearKind, read_kind
from flyweight.core.files import refuse_existing, write_text
from flyweight.errors import FlyweightError, RequestError
from flyweight.reports.cards import card
from flyweight.store.artifact import Artifact, Store

if TYPE_CHECKING:
    from flyweight.formats.exported import Exported


@uses_runs_root
def import_(
    reference: str | Path,
    out: str | Path | None = None,
    onto: Model | None = None,
    as_: str | Mapping[str, object] | None = None,
    session: Session = DEFAULT,
) -> Artifact:
    """Import a GPT-2, Llama or Qwen3 model and return it as an artifact of flyweight.

    `reference` is a Hugging Face folder or `hf:owner/name`. With `onto`, a model of flyweight's, it
    is the folder of an adapter of peft's that was trained around that model, and the artifact is
    the model with the adapter. It lies in the runs root, and in the new folder `out` as well where
    one is named. `as_` is the kind in which the matrices are packed as they are read, such as nf4,
    or a kind with its options: what `quantize` makes of the whole model, which is never held.
    Raises RequestError with every reason why the model or adapter cannot be imported.
    """
    if as_ is not None and onto is not None:
        raise RequestError("--as packs a whole model, and --onto brings an adapter; leave one out")
    if out is not None:
        refuse_existing(Path(out))  # before a large model is read
    packing = None if as_ is None else ImportPacking(_kind(as_))
    session.store.prepare()
    if onto is not None:
        artifact = imported_adapter(
            Path(reference),
            model_references.find(onto, session.store, "--onto", session.watch),
            session.store,
            card.write,
            session.watch,
            session.command,
        )
    else:
        artifact = imported(
            str(reference),
            session.store,
            card.write,
            session.watch,
            session.command,
            only_ours=True,
            packing=packing,
        )
    return artifact if out is None else artifact.copy(Path(out))


def _kind(value: str | Mapping[str, object]) -> LinearKind:
    """Return the kind that a name, or a mapping of options, stands for; raise RequestError."""
    try:
        return read_kind(value)
    except ValidationError as error:
        known = ", ".join(name for name, kind in REGISTRY.items() if not kind.lossless)
        raise RequestError(
            f"--as {value}: not a kind of packed matrices; known are {known}"
        ) from error


@uses_runs_root
def export(
    model: Model,
    to: str | None = None,
    out: str | Path | None = None,
    type: str | None = None,
    session: Session = DEFAULT,
) -> Exported:
    """Write a model for other programs and return what was written.

    `to` is `hf` (a folder), `gguf` (a file) or `peft` (a folder of the model's adapters alone).
    Without it a name `out` that ends in `.gguf` means
    gguf, and any other hf. A model card with every measurement of the model in the runs root is
    written as the folder's README.md, or beside the file as FILE.md. `type` is that of a GGUF
    file's matrices: f32, f16 (the default), q8_0 or q4_0.

    Raises RequestError with every reason why a format cannot hold the model. It also raises it
    where `to`, `out` and `type` contradict each other, and where `out` exists already: nothing is
    replaced.
    """
    if out is None:
        raise RequestError("export needs to know where the model goes: out=")
    target = Path(out)
    kind = _format(to, target, type)
    artifact = model_references.find(model, session.store, watch=session.watch)
    if not (artifact.path / "model").is_dir():
        raise RequestError(f"{artifact.id} holds no model")
    if kind == "hf":
        return _export_folder(artifact, target, session)
    if kind == "peft":
        return _export_adapters(artifact, target, session)
    return _export_gguf(artifact, target, type or "f16", session)


def _export_folder(artifact: Artifact, out: Path, session: Session) -> Exported:
    from flyweight.formats import hf

    title = out.name or artifact.id

    def folder_card(written_as: str, notes: Sequence[str]) -> str:
        return card.exported(artifact, session.store, title, "transformers", written_as, notes)

    return replace(hf.write(artifact.path / "model", out, folder_card), card=out / card.FILE)


def _export_adapters(artifact: Artifact, out: Path, session: Session) -> Exported:
    from flyweight.formats import peft

    title = out.name or artifact.id

    def folder_card(written_as: str, notes: Sequence[str]) -> str:
        return card.exported(artifact, session.store, title, written_as, written_as, notes)

    _refuse_changed_base(artifact, session.store)
    base = _hub_base(artifact, session.store)
    written = peft.write(artifact.path / "model", out, folder_card, base)
    return replace(written, card=out / card.FILE)


def _refuse_changed_base(artifact: Artifact, store: Store) -> None:
    """Raise RequestError where more than adapters was trained while they were there.

    A folder of peft's would leave that out. A model whose parents are gone is taken as it is.
    """
    from flyweight.checkpoints import load_any

    while "input" in artifact.identity["parents"]:
        try:
            parent = Artifact.glance(store.root / str(artifact.identity["parents"]["input"]))
            config = load_any.own_config(parent.path / "model", parent.id)
        except FlyweightError:
            return
        method = artifact.identity["config"].get("method")  # the name of one where it was pruned
        frozen = isinstance(method, Mapping) and method.get("kind") == "frozen"
        if frozen and getattr(config, "adapters", ()):
            raise RequestError(
                f"--to peft writes adapters alone, and {artifact.id} trained the head and the last "
                f"norm after them, which would be lost; use --to hf for the whole model"
            )
        artifact = parent


def _hub_base(artifact: Artifact, store: Store) -> str | None:
    """Return the hub's name of the model that an artifact was tuned from, or None."""
    parent = artifact.identity["parents"].get("input")
    try:
        facts = Artifact.glance(store.root / str(parent)).facts
    except FlyweightError:
        return None
    source = str(facts.get("source", ""))
    if "onto" in facts or not source.startswith(HUB):
        return None
    return source.removeprefix(HUB).partition("@")[0]


def _export_gguf(artifact: Artifact, out: Path, type: str, session: Session) -> Exported:
    from flyweight.checkpoints.read import is_checkpoint
    from flyweight.formats import gguf

    folder = artifact.path / "model"
    if is_checkpoint(folder):
        raise RequestError(
            f"{artifact.id} is behind an adapter; only models that became flyweight's own are "
            f"written as GGUF"
        )
    title = out.name or artifact.id
    beside = out.with_name(f"{out.name}.md")
    refuse_existing(beside)
    exported = gguf.write(folder, out, type)
    written_as = f"GGUF, {exported.kind}, {type}"
    text = card.exported(artifact, session.store, title, "gguf", written_as, exported.notes)
    write_text(beside, text)
    return replace(exported, card=beside)


def _format(to: str | None, out: Path, type: str | None) -> str:
    """Return the format that is asked for.

    Raises RequestError where the request contradicts itself.
    """
    file = out.suffix.lower() == ".gguf"
    if to is None:
        to = "gguf" if file else "hf"
    if to not in ("hf", "gguf", "peft"):
        raise RequestError(f"--to {to}: known are hf, gguf and peft")
    if to != "gguf" and file:
        raise RequestError(
            f"--to {to} writes a folder, but {out} is named like a GGUF file; use --to gguf, or "
            f"another name"
        )
    if to != "gguf" and type is not None:
        raise RequestError(f"--type {type} is for GGUF files; a folder keeps the model's own types")
    return to
