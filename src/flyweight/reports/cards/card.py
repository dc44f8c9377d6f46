"""Model cards in Markdown: what a model is, was made of, and took; what was measured and what not.

Two kinds. `birth` is the card inside of an artifact: it is written before the artifact is
published, from what is known then, so it has no measurements; and no times either, so that the same
work gives the same bytes. `full` is the card beside a model: a finished recipe writes one for each
of its models, and every export has one, with whatever the runs root knows by then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flyweight.checkpoints.flyweight_type import OWN
from flyweight.core.files import write_text
from flyweight.data.document import text_label
from flyweight.errors import FlyweightError
from flyweight.records.run_summary import Summary
from flyweight.reports.cards import metrics as numbers, sections, verdict
from flyweight.reports.cards.subject import CardSubject
from flyweight.store import measurements
from flyweight.store.artifact import Artifact, Damaged, Draft, Store
from flyweight.tables.markdown import block, front_matter

FILE = "README.md"


def birth(subject: CardSubject) -> str:
    """Return the card that goes into an artifact: the same bytes whenever it is made."""
    lines = [
        *sections.head(subject),
        *sections.model(subject),
        *sections.data(subject),
        *sections.training(subject, times=False),
        "## Metrics",
        "",
        "This card was written with the model, before anything was measured. Measurements are "
        "artifacts of their own, made by",
        "",
        *block(
            "\n".join(f"flyweight {words} {subject.id}" for words in ("eval", "bench", "audit"))
        ),
        "",
        f"`flyweight export {subject.id} --to hf --out DIR` writes those that there are into the "
        f"card of what it exports.",
        "",
        "## How it was made",
        "",
        "`manifest.json` beside this card has the command, the date, the seconds and the "
        "checksum of every file;"
        " `config.yaml` has every setting.",
        "",
        *sections.limits(subject, None),
    ]
    return "\n".join(lines) + "\n"


def write(
    draft: Draft, facts: Mapping[str, object], parents: Mapping[str, Artifact] | None = None
) -> None:
    """Write the card of a model into the draft that holds it; a draft without a model has none."""
    folder = draft.path / "model"
    if folder.is_dir():
        subject = CardSubject(
            draft.identity.id, asdict(draft.identity), facts, folder, parents or {}
        )
        write_text(draft.path / FILE, birth(subject))


def write_beside(folder: Path, run: str, store: Store) -> None:
    """Write `card-<stage>.md` into the folder of the finished run `run` for each of its models.

    A model that is gone or damaged keeps the card of an earlier day.
    """
    entries, summary = store.entries(), Summary.read(folder)
    verdicts = verdict.sections(summary)
    for stage in summary.stages:
        try:
            artifact = Artifact.open(store.root / stage.id)
        except FlyweightError:
            continue
        if (artifact.path / "model").is_dir():
            card = full(
                artifact,
                store,
                f"{run}:{stage.name}",
                entries=entries,
                verdict_lines=verdicts.get(stage.name, ()),
            )
            write_text(folder / f"card-{stage.name}.md", card)


def full(
    artifact: Artifact,
    store: Store,
    title: str = "",
    written_as: str = "",
    notes: Sequence[str] = (),
    entries: Sequence[Artifact | Damaged] | None = None,
    verdict_lines: Sequence[str] = (),
) -> str:
    """Return the card that stands beside a model, with every measurement of it under the runs root.

    `written_as` is what an export is (a family of transformers, `gguf ...`), `notes` what is not as
    one may expect of it. `entries` are the root's, where they have been read already.
    `verdict_lines` are what the run that made it says about it.
    """
    entries = store.entries() if entries is None else entries
    subject, measured = CardSubject.of(artifact, store), measurements.of(artifact, entries)
    texts = {each.id: _text_name(store, each) for each in measured.evaluations}
    lines = [
        *sections.head(subject, title),
        *verdict_lines,
        *sections.model(subject, written_as, notes),
        *sections.data(subject),
        *sections.training(subject, times=True),
        *numbers.section(measured, texts, measurements.of_base(artifact, measured, entries)),
        *sections.commands(artifact, measured),
        *sections.limits(subject, measured),
    ]
    return "\n".join(lines) + "\n"


def exported(
    artifact: Artifact,
    store: Store,
    title: str,
    library: str,
    written_as: str,
    notes: Sequence[str],
) -> str:
    """Return the card of an export: `full` with the front matter that the Hugging Face hub reads.

    `library` is what opens the files, transformers or gguf; our own type needs flyweight besides.
    """
    library = OWN if written_as == OWN else library
    matter: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": "text-generation",
        "tags": list(
            dict.fromkeys(["flyweight", artifact.stage, *(["gguf"] if library == "gguf" else [])])
        ),
    }
    subject = CardSubject.of(artifact, store)
    sources = [
        each.facts.get("source", "")
        for each in (artifact, *subject.parents.values())
        if each.stage == "import"
    ]
    if bases := [
        source.removeprefix("hf:").partition("@")[0]
        for source in sources
        if source.startswith("hf:")
    ]:
        matter["base_model"] = bases
    if corpus := subject.corpus:
        name = text_label(corpus.identity["config"])
        matter |= (
            {"datasets": [name.removeprefix("hf:").partition(":")[0]]}
            if name.startswith("hf:")
            else {}
        )
    remark = "license: yours to choose; that of the texts and models it was made from matters"
    return (
        "\n".join(front_matter(matter, remark))
        + "\n"
        + full(artifact, store, title, written_as, notes)
    )


def _text_name(store: Store, evaluation: Artifact) -> str:
    """Return the name of the text that a model was evaluated on."""
    try:
        corpus = Artifact.glance(store.root / evaluation.identity["parents"]["corpus"])
    except FlyweightError:
        return str(evaluation.identity["parents"]["corpus"])
    return text_label(corpus.identity["config"])
