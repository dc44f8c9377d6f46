"""The Python interface: the same words as the command line, which calls these functions and nothing else.

Every function takes a `session`: the runs root (default `FLYWEIGHT_RUNS`, else `./runs`), the folder of local copies of corpora
(default `FLYWEIGHT_DATA`), the device, the threads. Errors are RequestError (the request was wrong) and FlyweightError (it
failed).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyweight import garbage, models
from flyweight.core.artifact import Artifact
from flyweight.core.files import refuse_existing, write_text
from flyweight.errors import RequestError
from flyweight.hub.fetch import imported
from flyweight.measuring import (
    Measurement as Measurement,
    Model as Model,
    audit as audit,
    bench as bench,
    compare as compare,
    evaluate as evaluate,
    floors as floors,
    tasks as tasks,
)
from flyweight.report import card, page, study_page, study_summary, summary
from flyweight.running import (
    Run as Run,
    StudyRun as StudyRun,
    load as load,
    plan as plan,
    planned as planned,
    run as run,
    shipped as shipped,
    stage as stage,
    study as study,
    train as train,
)
from flyweight.session import DEFAULT, Session as Session, working
from flyweight.study import cells as studies

if TYPE_CHECKING:
    from flyweight.evaluate.chat import Chat
    from flyweight.plan.doctor import Health

# --- text ---


@working
def generate(
    model: Model,
    prompt: str,
    max_new_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int = 0,
    stop: Sequence[str] = (),
    on_text: Callable[[str], None] | None = None,
    session: Session = DEFAULT,
) -> str:
    """Return the model's continuation of `prompt`; `temperature` 0 is greedy. `on_text` hears each new piece as it comes."""
    from flyweight.evaluate import continuation

    artifact = models.find(model, session.store, watch=session.watch)
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed}
    device = session.runtime().device
    tokenizer = continuation.tokenizer_of(artifact.path / "model")
    if note := continuation.unknown_note(tokenizer.unknown_words(continuation.text_of(prompt))):
        session.watch("unknown", {"note": note})
    return continuation.text(artifact.path / "model", prompt, max_new_tokens, stop, on_text, device, options)


@working
def chat(
    model: Model,
    system: str | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int = 0,
    stop: Sequence[str] = (),
    session: Session = DEFAULT,
) -> Chat:
    """Return a conversation with a model: `chat(...).say("Hello")` answers, its `turns` keep what was said.

    A model whose files bring a chat template is talked to in it, after `system`; any other goes on with one running text.
    """
    from flyweight.evaluate.chat import Chat, Options

    artifact = models.find(model, session.store, watch=session.watch)
    options = Options(max_new_tokens, temperature, top_k, top_p, min_p, seed, tuple(stop))
    return Chat(artifact.path / "model", session.runtime().device, system, options)


# --- in and out ---


@working
def import_(reference: str | Path, out: Path | None = None, session: Session = DEFAULT) -> Artifact:
    """Return a GPT-2, Llama or Qwen3 model (a Hugging Face folder or `hf:owner/name`) as an artifact of ours.

    It lies in the runs root, and in the new folder `out` as well where one is named. Raises RequestError with every reason why
    the model cannot become one of ours.
    """
    session.store.prepare()
    artifact = imported(str(reference), session.store, card.write, session.watch, session.command, only_ours=True)
    return artifact if out is None else artifact.copy(out)


@working
def export(model: Model, to: str, out: str | Path, type: str = "f16", session: Session = DEFAULT) -> Any:
    """Write a model for other programs and return what was written: `to` is `hf` (a folder) or `gguf` (a file).

    A model card with every measurement of the model in the runs root is written as the folder's README.md, or beside the file
    as FILE.md. `type` is that of a GGUF file's matrices: f32, f16, q8_0 or q4_0. Raises RequestError with every reason why a
    format cannot hold the model, and where there is something already: nothing is replaced.
    """
    from flyweight.export import gguf, hf
    from flyweight.hub.checkpoint import is_checkpoint

    if to not in ("hf", "gguf"):
        raise RequestError(f"--to {to}: known are hf and gguf")
    artifact, out = models.find(model, session.store, watch=session.watch), Path(out)
    folder, title = artifact.path / "model", out.name or artifact.id
    if not folder.is_dir():
        raise RequestError(f"{artifact.id} holds no model")
    if to == "hf":
        done = hf.write(folder, out, lambda *written: card.exported(artifact, session.store, title, "transformers", *written))
        return replace(done, card=out / card.FILE)
    if is_checkpoint(folder):
        raise RequestError(f"{artifact.id} is behind an adapter; only models that became flyweight's own are written as GGUF")
    beside = out.with_name(f"{out.name}.md")
    refuse_existing(beside)
    done = gguf.write(folder, out, type)
    write_text(beside, card.exported(artifact, session.store, title, "gguf", f"GGUF, {done.kind}, {type}", done.notes))
    return replace(done, card=beside)


# --- housekeeping ---


@working
def report(runs: Sequence[str | Path], out: Path | None = None, session: Session = DEFAULT) -> Path:
    """Write one page over several finished runs, or a single run's or study's own report anew (and cards); return its path.

    `out` is a folder for the page and its tables, or a page of its own where it ends in `.html`. Unless it is named, the folder
    is `report` for several runs, and the run's own for one.
    """
    store = session.store
    folders = [path if path.is_dir() else store.root / path for path in map(Path, runs)]
    grids = [folder for folder in folders if (folder / study_summary.FILE).is_file()]
    if len(folders) > 1:
        if grids:
            raise RequestError(
                f"{', '.join(map(str, grids))}: a study has a page of its own, which it cannot share with recipes or other"
                " studies; report it alone"
            )
        return page.write_many(folders, out or Path("report"))
    if grids:
        return study_page.write(folders[0], out)
    if out is not None:
        return page.write_many(folders, out)
    if not _within(folders[0], store.root) or not (folders[0] / summary.FILE).is_file():
        return page.write(folders[0])
    with store.recipe_folder(folders[0].name) as folder:
        card.write_beside(folder, store)
        return page.write(folder)


def _within(path: Path, folder: Path) -> bool:
    """Return whether a path lies right in a folder; `Path.resolve` would fail for a link that leads to itself."""
    return os.path.dirname(os.path.realpath(path)) == os.path.realpath(folder)


def shipped_studies() -> list[str]:
    """Return the names of the studies that come with the package."""
    return studies.shipped()


def shipped_models() -> list[str]:
    """Return the names of the catalogue."""
    from flyweight.model import catalogue

    return list(catalogue.names())


def artifacts(session: Session = DEFAULT) -> dict[str, Any]:
    """Return what is under the runs root: `items` (artifacts, half-made and damaged ones too), `recipes`, `bytes` of all."""
    return models.listed(session.store)


def gc(
    among: Collection[str] | None = None, older_than: float = 0.0, dry_run: bool = False, session: Session = DEFAULT
) -> garbage.Garbage:
    """Remove what no recipe refers to, half-made artifacts that nobody makes and lock files that nobody holds.

    What unfinished runs and earlier runs of a name have made is kept, and `kept` says how to let it go. Returns
    what was removed, or with `dry_run` what would be. `among` restricts it to these names, `older_than` to what was made that
    many seconds ago. Raises FlyweightError where another process works in the runs root.
    """
    if dry_run:
        found = garbage.find(session.store, older_than)
        return replace(found, items=tuple(item for item in found.items if among is None or item.path.name in among))
    return garbage.collect(session.store, among, older_than, session.watch)


def doctor(session: Session = DEFAULT, quick: bool = False) -> Health:
    """Return what this machine can do, measured: devices, dtypes, kernels, memory, folders, libraries, each with a verdict.

    `quick` leaves out libraries that take seconds to import. `ok` is false where something that is needed is broken.
    """
    from flyweight.plan import doctor

    return doctor.examine(session.runtime(), session.store.root, session.data_dir, quick, session.watch)
