"""The verbs that exchange models with other programs: import, export and verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flyweight.cli.options import MACHINE, WORK, CommonOptions, Data, ModelName, verb


def import_(
    shared: CommonOptions,
    model: Annotated[
        str,
        typer.Argument(metavar="HF", help="A Hugging Face folder, or hf:owner/name[@revision]."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A new folder for a copy, besides the runs root."),
    ] = None,
    onto: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="HF is an adapter of peft's, trained around MODEL."),
    ] = None,
    as_: Annotated[
        str | None,
        typer.Option(
            "--as", metavar="KIND", help="Pack matrices as they are read: nf4, int8, int4 ..."
        ),
    ] = None,
) -> None:
    """Import a GPT-2, Llama or Qwen3 model as one of flyweight's own."""
    from flyweight import api
    from flyweight.cli.show import results

    with shared.session() as session:
        artifact = api.import_(model, out=out, onto=onto, as_=as_, session=session)
    answer = {"id": artifact.id, "path": str(artifact.path), **artifact.facts}
    line = f"{artifact.id}: {artifact.path}"
    if unread := artifact.facts.get("unread"):
        line += f" (other weights beside it were not read: {', '.join(unread)})"
    shared.answer(answer, lambda _: results.say(line))


def export(
    shared: CommonOptions,
    model: ModelName,
    out: Annotated[
        Path, typer.Option(metavar="DIR|FILE", help="Where to write; it must not exist yet.")
    ],
    to: Annotated[
        str | None, typer.Option(help="hf, gguf or peft [gguf for FILE.gguf, else hf].")
    ] = None,
    type: Annotated[
        str | None,
        typer.Option(help="Type of a GGUF file's matrices: f32, f16, q8_0 or q4_0 [f16]."),
    ] = None,
) -> None:
    """Write MODEL for other programs: a Hugging Face folder, a GGUF file, or its adapters."""
    from flyweight import api
    from flyweight.cli.show import results
    from flyweight.config.units import format_size

    with shared.session() as session:
        exported = api.export(model, to=to, out=out, type=type, session=session)
    lines = [
        f"{exported.path}: {exported.kind}, {format_size(exported.bytes)}",
        *(f"note: {note}" for note in exported.notes),
        f"card: {exported.card}",
    ]
    shared.answer(exported.json(), lambda _: results.say(*lines))


def verify(
    shared: CommonOptions,
    model: ModelName,
    export: Annotated[
        str | None,
        typer.Argument(
            metavar="EXPORT",
            help="A Hugging Face folder, a GGUF file, an adapter, or a model [every format].",
        ),
    ] = None,
    data: Data = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of the validation split [16,384].")
    ] = None,
    within: Annotated[
        float | None,
        typer.Option(help="Share of the NLL that may be lost [1e-4; 1e-3 in f16; 0.05 in fewer]."),
    ] = None,
) -> None:
    """Say whether an export is the model that was measured, in the program that will use it.

    Exit status 1: one of them is not, or none could be read.
    """
    from flyweight import api
    from flyweight.cli.show import measurements
    from flyweight.records.verification import Verification

    with shared.session() as session:
        result = api.verify(
            model, export=export, data=data, tokens=tokens, within=within, session=session
        )
    verified = Verification.from_metrics(result.values)
    shared.answer(result.json(), lambda _: measurements.verification(verified, model))
    if not verified.passed:
        raise typer.Exit(1)


def add(app: typer.Typer) -> None:
    """Register these verbs."""
    verb(app, *MACHINE, name="import")(import_)
    verb(app, *MACHINE)(export)
    verb(app, *WORK)(verify)
