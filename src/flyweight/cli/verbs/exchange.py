"""The verbs that exchange models with other programs: import and export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flyweight.cli.options import MACHINE, ModelName, Shared, verb


def import_(
    shared: Shared,
    model: Annotated[
        str,
        typer.Argument(metavar="HF", help="A Hugging Face folder, or hf:owner/name[@revision]."),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A new folder for it, besides the runs root.")
    ] = None,
) -> None:
    """Make a GPT-2, Llama or Qwen3 model one of flyweight's own."""
    from flyweight import api
    from flyweight.cli.show import results

    with shared.session() as session:
        artifact = api.import_(model, out=out, session=session)
    found = {"id": artifact.id, "path": str(artifact.path), **artifact.facts}
    unread = artifact.facts.get("unread")
    beside = f" (other weights beside it were not read: {', '.join(unread)})" if unread else ""
    shared.answer(found, lambda _: results.say(f"{artifact.id}: {artifact.path}{beside}"))


def export(
    shared: Shared,
    model: ModelName,
    out: Annotated[
        Path, typer.Option(metavar="DIR|FILE", help="Where it goes; it must not exist yet.")
    ],
    to: Annotated[
        str | None, typer.Option(help="hf or gguf [gguf for FILE.gguf, else hf].")
    ] = None,
    type: Annotated[
        str | None, typer.Option(help="Of a GGUF file's matrices: f32, f16, q8_0 or q4_0 [f16].")
    ] = None,
) -> None:
    """Write MODEL for other programs: a Hugging Face folder or a GGUF file."""
    from flyweight import api
    from flyweight.cli.show import results
    from flyweight.config.units import format_size

    with shared.session() as session:
        done = api.export(model, to=to, out=out, type=type, session=session)
    lines = [
        f"{done.path}: {done.kind}, {format_size(done.bytes)}",
        *(f"note: {note}" for note in done.notes),
        f"card: {done.card}",
    ]
    shared.answer(done.json(), lambda _: results.say(*lines))


def add(app: typer.Typer) -> None:
    """Register these verbs."""
    verb(app, *MACHINE, name="import")(import_)
    verb(app, *MACHINE)(export)
