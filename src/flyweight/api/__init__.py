"""The Python interface: the same words as the command line, which calls these functions and nothing else.

Every function takes a `session`: the runs root (default `FLYWEIGHT_RUNS`, else `./runs`), the
folder of local copies of corpora (default `FLYWEIGHT_DATA`), the device, the threads. Errors are
RequestError (the request was wrong) and FlyweightError (it failed).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyweight.api import listing, model_references
from flyweight.api.measurements import (
    Measurement as Measurement,
    Model as Model,
    audit as audit,
    bench as bench,
    compare as compare,
    evaluate as evaluate,
    floors as floors,
    tasks as tasks,
)
from flyweight.api.one_stage import distill as distill, quantize as quantize
from flyweight.api.own_text import choose as choose, is_text as is_text, train as train
from flyweight.api.plans import plan as plan
from flyweight.api.results import Run as Run, StudyRun as StudyRun
from flyweight.api.runs import load as load, run as run, shipped as shipped, study as study
from flyweight.api.session import DEFAULT, Session as Session, in_use, shows_progress, working
from flyweight.checkpoints.fetch import imported
from flyweight.core.files import is_path, refuse_existing, refuse_link, write_text
from flyweight.errors import RequestError
from flyweight.records import run_summary, study_summary
from flyweight.reports.cards import card
from flyweight.reports.pages import run as page, study as study_page
from flyweight.store import gc as garbage
from flyweight.store.artifact import Artifact, Store
from flyweight.studies import cells as studies

if TYPE_CHECKING:
    from flyweight.decode.chat import Chat
    from flyweight.decode.drawing import Drawing
    from flyweight.diagnosis.examine import Health
    from flyweight.formats.exported import Exported

# --- text ---


@in_use
def generate(
    model: Model,
    prompt: str,
    max_new_tokens: int = 128,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int = 0,
    stop: Sequence[str] = (),
    on_text: Callable[[str], None] | None = None,
    on_drawing: Callable[[Drawing], None] | None = None,
    session: Session = DEFAULT,
) -> str:
    """Return the model's continuation of `prompt`, without the prompt.

    `temperature` 0 is greedy; `top_k`, `top_p` and `min_p` narrow what is drawn from, with `seed`.
    What is None is as the model's own files have it (generation_config.json), else temperature 0.8.
    The text ends before the first of the `stop` strings. `on_text` hears each new piece at once,
    `on_drawing` first how tokens are chosen.
    """
    from flyweight.decode import drawing, stream

    _refuse_other_encodings(prompt)
    artifact = model_references.find(model, session.store, watch=session.watch)
    folder = artifact.path / "model"
    drawn = drawing.of(folder, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    device = session.runtime().device
    tokenizer = stream.tokenizer_of(folder)
    if note := stream.unknown_note(tokenizer.unknown_words(stream.text_of(prompt))):
        session.watch("unknown", {"note": note})
    _tell(drawn, session)
    if on_drawing is not None:
        on_drawing(drawn)
    options = {**asdict(drawn.sampling), "seed": seed}
    return stream.text(folder, prompt, max_new_tokens, stop, on_text, device, options)


@in_use
def chat(
    model: Model,
    system: str | None = None,
    max_new_tokens: int = 256,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int = 0,
    stop: Sequence[str] = (),
    session: Session = DEFAULT,
) -> Chat:
    """Return a conversation with a model: `chat(...).say("Hello")` answers, its `turns` keep what was said.

    A model whose files bring a chat template is talked to in it, after `system`; any other goes on
    with one running text. `temperature`, `top_k`, `top_p` and `min_p` that are None are the model's
    own, as in `generate`.
    """
    from flyweight.decode.chat import Chat, Options

    artifact = model_references.find(model, session.store, watch=session.watch)
    options = Options(max_new_tokens, temperature, top_k, top_p, min_p, seed, tuple(stop))
    made = Chat(artifact.path / "model", session.runtime().device, system, options)
    _tell(made.drawing, session)
    return made


def _tell(drawn: Drawing, session: Session) -> None:
    """Tell which defaults come from the model's own files."""
    if drawn.note:
        session.watch("drawing", {"note": drawn.note})


def _refuse_other_encodings(prompt: str) -> None:
    """Raise RequestError for a prompt whose bytes were not UTF-8: they arrive as lone surrogates."""
    wrong = next((at for at, letter in enumerate(prompt) if "\ud800" <= letter <= "\udfff"), None)
    if wrong is None:
        return
    byte = f"0x{ord(prompt[wrong]) & 0xFF:02x}"
    raise RequestError(
        f"the prompt is not UTF-8 text: byte {byte} stands after {prompt[:wrong]!r}; the "
        f"terminal or"
        " the file it comes from uses another encoding (for a file: iconv -f latin1 -t utf-8)"
    )


# --- in and out ---


@working
def import_(
    reference: str | Path, out: str | Path | None = None, session: Session = DEFAULT
) -> Artifact:
    """Return a GPT-2, Llama or Qwen3 model (a Hugging Face folder or `hf:owner/name`) as an artifact of ours.

    It lies in the runs root, and in the new folder `out` as well where one is named. Raises
    RequestError with every reason why the model cannot become one of ours.
    """
    session.store.prepare()
    artifact = imported(
        str(reference), session.store, card.write, session.watch, session.command, only_ours=True
    )
    return artifact if out is None else artifact.copy(Path(out))


@working
def export(
    model: Model,
    to: str | None = None,
    out: str | Path | None = None,
    type: str | None = None,
    session: Session = DEFAULT,
) -> Exported:
    """Write a model for other programs and return what was written.

    `to` is `hf` (a folder) or `gguf` (a file); without it a name `out` that ends in `.gguf` says
    gguf, and any other hf. A model card with every measurement of the model in the runs root is
    written as the folder's README.md, or beside the file as FILE.md. `type` is that of a GGUF
    file's matrices: f32, f16 (unless named), q8_0 or q4_0.

    Raises RequestError with every reason why a format cannot hold the model, where `to`, `out`
    and `type` contradict each other, and where something is there already: nothing is replaced.
    """
    from flyweight.checkpoints.checkpoint import is_checkpoint
    from flyweight.formats import gguf, hf

    if out is None:
        raise RequestError("export needs to know where the model goes: out=")
    out, kind = Path(out), _format(to, Path(out), type)
    artifact = model_references.find(model, session.store, watch=session.watch)
    folder, title = artifact.path / "model", out.name or artifact.id
    if not folder.is_dir():
        raise RequestError(f"{artifact.id} holds no model")
    if kind == "hf":

        def folder_card(written_as: str, notes: Sequence[str]) -> str:
            return card.exported(artifact, session.store, title, "transformers", written_as, notes)

        return replace(hf.write(folder, out, folder_card), card=out / card.FILE)
    if is_checkpoint(folder):
        raise RequestError(
            f"{artifact.id} is behind an adapter; only models that became flyweight's own are "
            f"written as GGUF"
        )
    type = type or "f16"
    beside = out.with_name(f"{out.name}.md")
    refuse_existing(beside)
    done = gguf.write(folder, out, type)
    said = f"GGUF, {done.kind}, {type}"
    write_text(beside, card.exported(artifact, session.store, title, "gguf", said, done.notes))
    return replace(done, card=beside)


def _format(to: str | None, out: Path, type: str | None) -> str:
    """Return the format that is asked for.

    Raises RequestError where the request contradicts itself.
    """
    file = out.suffix.lower() == ".gguf"
    if to is None:
        to = "gguf" if file else "hf"
    if to not in ("hf", "gguf"):
        raise RequestError(f"--to {to}: known are hf and gguf")
    if to == "hf" and file:
        raise RequestError(
            f"--to hf writes a folder, but {out} is named like a GGUF file; use --to gguf, or "
            f"another name"
        )
    if to == "hf" and type is not None:
        raise RequestError(
            f"--type {type} is for GGUF files; a Hugging Face folder keeps the model's own types"
        )
    return to


# --- housekeeping ---


@in_use
def report(
    *runs: str | Path | Run | StudyRun, out: str | Path | None = None, session: Session = DEFAULT
) -> Path:
    """Write one page over several finished runs, or a single run's or study's own anew.

    Return its path.

    `runs` are names, folders, or what `run` and `study` returned. `out` is a folder for the page
    and its tables, or a page of its own where it ends in `.html`. Unless it is named, the folder is
    `report` for several runs, and the run's own for one, whose model cards are written anew as
    well. Raises RequestError where a run is not finished.
    """
    if not runs:
        raise RequestError("report needs at least one finished run")
    out = None if out is None else Path(out)
    store = session.store
    folders = [
        run.folder if isinstance(run, Run | StudyRun) else _run_folder(run, store) for run in runs
    ]
    alone = (
        folders[0] if len(folders) == 1 and out is None else None
    )  # written into, so that it has to be the run's own
    if alone is not None and os.path.realpath(alone.parent) == os.path.realpath(store.root):
        refuse_link(alone)
    grids = [folder for folder in folders if (folder / study_summary.FILE).is_file()]
    if len(folders) > 1:
        if grids:
            raise RequestError(
                f"{', '.join(map(str, grids))}: a study has a page of its own, which it cannot "
                f"share with recipes or other"
                " studies; report it alone"
            )
        return page.write_many(folders, out or Path("report"))
    if grids:
        return study_page.write(folders[0], out)
    if out is not None:
        return page.write_many(folders, out)
    if not _within(folders[0], store.root) or not (folders[0] / run_summary.FILE).is_file():
        return page.write(folders[0])
    with store.recipe_folder(os.path.basename(os.path.realpath(folders[0]))) as folder:
        card.write_beside(folder, store)
        return page.write(folder)


def _run_folder(run: str | Path, store: Store) -> Path:
    """Return the folder of a run: a name is looked up in the runs root before it is taken for a path (write `./name`)."""
    named, path = store.root / run, Path(run)
    results = (run_summary.FILE, study_summary.FILE)
    if (
        isinstance(run, str)
        and not is_path(run)
        and any((named / file).is_file() for file in results)
    ):
        return named
    return path if path.is_dir() else named


def _within(path: Path, folder: Path) -> bool:
    """Return whether a path lies right in a folder.

    `Path.resolve` would fail for a link that leads to itself.
    """
    return os.path.dirname(os.path.realpath(path)) == os.path.realpath(folder)


def shipped_studies() -> list[str]:
    """Return the names of the studies that come with the package."""
    return studies.shipped()


def shipped_models() -> list[str]:
    """Return the names of the catalogue."""
    from flyweight.config import catalogue

    return list(catalogue.names())


def artifacts(session: Session = DEFAULT) -> dict[str, Any]:
    """Return what is under the runs root: `items` (artifacts, half-made and damaged ones too), `recipes`, `bytes` of all."""
    return model_references.listed(session.store)


def listed_models(session: Session = DEFAULT) -> list[dict[str, Any]]:
    """Return every finished model of the runs root, oldest first; see `flyweight.api.listing`."""
    return listing.listed_models(session.store)


@shows_progress
def gc(
    among: Collection[str] | None = None,
    older_than: float = 0.0,
    dry_run: bool = False,
    session: Session = DEFAULT,
) -> garbage.Garbage:
    """Remove what no recipe refers to, half-made artifacts that nobody makes and lock files that nobody holds.

    What unfinished runs and earlier runs of a name have made is kept, and `kept` says how to let it
    go. Returns what was removed, or with `dry_run` what would be. `among` restricts it to these
    names, `older_than` to what was made that many seconds ago. Raises FlyweightError where another
    process works in the runs root.
    """
    if dry_run:
        found = garbage.find(session.store, older_than)
        return replace(
            found,
            items=tuple(item for item in found.items if among is None or item.path.name in among),
        )
    return garbage.collect(session.store, among, older_than, session.watch)


@shows_progress
def doctor(quick: bool = False, session: Session = DEFAULT) -> Health:
    """Return what this machine can do, measured: devices, dtypes, kernels, memory, folders, libraries, each with a verdict.

    `quick` leaves out libraries that take seconds to import. `ok` is false where something that is
    needed is broken.
    """
    from flyweight.diagnosis import examine as doctor

    return doctor.examine(
        session.runtime(), session.store.root, session.data_dir, quick, session.watch
    )
