"""Model cards in Markdown: what a model is, was made of, and took; what was measured and what not.

Two kinds. `birth` is the card inside of an artifact: it is written before the artifact is
published, from what is known then, so it has no measurements; and no times either, so that the same
work gives the same bytes. `full` is the card beside a model: a finished recipe writes one for each
of its models, and every export has one, with whatever the runs root knows by then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flyweight.checkpoints.flyweight_type import OWN
from flyweight.checkpoints.read import is_checkpoint
from flyweight.config import load, schema
from flyweight.config.schema import stage_class
from flyweight.config.stage import Origin
from flyweight.config.units import format_bits, format_count, format_flops, format_size, format_time
from flyweight.core import machine
from flyweight.core.files import read_json, write_text
from flyweight.data.document import text_label
from flyweight.errors import FlyweightError
from flyweight.records.run_summary import Summary
from flyweight.reports import gather
from flyweight.reports.cards import metrics as numbers, verdict
from flyweight.spec import flops
from flyweight.store import measurements
from flyweight.store.artifact import Artifact, Damaged, Draft, Store
from flyweight.tables.markdown import block, code, front_matter, table, text

FILE = "README.md"


@dataclass(frozen=True)
class CardSubject:
    """A model to be described, finished or about to be.

    `parents` are the artifacts that it was made from, by role.
    """

    id: str
    identity: Mapping[str, Any]
    facts: Mapping[str, Any]
    folder: Path
    parents: Mapping[str, Artifact] = field(default_factory=dict)

    @classmethod
    def of(cls, artifact: Artifact, store: Store) -> CardSubject:
        """Return a finished artifact with those of its parents that are under the runs root."""
        parents = {}
        corpus = artifact.facts.get(
            "corpus"
        )  # a model made from a trained one was not given its text, but knows it
        for role, name in {
            **({"corpus": corpus} if corpus else {}),
            **artifact.identity["parents"],
        }.items():
            try:
                parents[role] = Artifact.glance(store.root / name)
            except FlyweightError:
                continue  # gone, or no artifact at all: the card then names it and tells no more
        return cls(artifact.id, artifact.identity, artifact.facts, artifact.path / "model", parents)

    @property
    def stage(self) -> str:
        """The kind of stage that makes it."""
        return self.identity["stage"]

    @property
    def corpus(self) -> Artifact | None:
        """The packed text that it was trained on."""
        return self.parents.get("corpus")

    @property
    def trained(self) -> Mapping[str, Any]:
        """The identity of the training whose weights these are.

        That is the training that `select` chose, else its own.
        """
        if self.stage != "select":
            return self.identity
        same = [
            each
            for each in self.parents.values()
            if each.facts.get("seconds") == self.facts.get("seconds")
        ]
        return same[0].identity if same else self.identity

    def config(self) -> schema.Architecture | None:
        """Return the model's config, or None for a model of another library's."""
        if is_checkpoint(self.folder):
            return None
        where = str(self.folder / "config.json")
        return load.resolved(
            load.model_config(read_json(self.folder / "config.json"), where), where
        )


def birth(subject: CardSubject) -> str:
    """Return the card that goes into an artifact: the same bytes whenever it is made."""
    lines = [
        *_head(subject),
        *_model(subject),
        *_data(subject),
        *_training(subject, times=False),
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
        *_limits(subject, None),
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
    texts = {each.id: _known(store, each) for each in measured.evaluations}
    lines = [
        *_head(subject, title),
        *verdict_lines,
        *_model(subject, written_as, notes),
        *_data(subject),
        *_training(subject, times=True),
        *numbers.section(measured, texts, measurements.of_base(artifact, measured, entries)),
        *_commands(artifact, measured),
        *_limits(subject, measured),
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


# --- sections ---


def _head(subject: CardSubject, title: str = "") -> list[str]:
    config = subject.config()
    size = (
        "A language model"
        if config is None
        else f"A language model of {flops.parameters(config).unique:,} parameters"
    )
    return [
        f"# {text(title or subject.id)}",
        "",
        f"{size}, {_made(subject)}. Made by flyweight {machine.libraries()['flyweight']}.",
        "",
    ]


def _made(subject: CardSubject) -> str:
    """Return how a model came about, as its stage describes it."""
    identity, facts = subject.identity, subject.facts
    origin = Origin(identity["config"], identity["parents"], facts, code)
    config = stage_class(subject.stage)
    if config is None:
        return f"made by {code(subject.stage)}, a stage of another package"
    return config.describe(origin) + _noise(origin.config)


def _noise(config: Mapping[str, Any]) -> str:
    """Return what a training did to its inputs; empty where it read them as they are."""
    rate = (config.get("train") or {}).get("input_noise", 0)
    return f", {rate:.3g} of its inputs exchanged for other tokens at random" if rate else ""


def _model(subject: CardSubject, written_as: str = "", notes: Sequence[str] = ()) -> list[str]:
    config = subject.config()
    rows = [
        ("artifact", code(subject.id)),
        ("stage", f"{code(subject.stage)}, version {subject.identity['version']}"),
    ]
    rows += [
        (f"made from ({text(role)})", code(name))
        for role, name in subject.identity["parents"].items()
    ]
    if config is None:
        raw = read_json(subject.folder / "config.json")
        rows += [
            (
                "architecture",
                f"{code(raw['model_type'])} of transformers, behind an adapter; parameters are "
                f"not counted",
            )
        ]
    else:
        counts, context = flops.parameters(config), config.context
        assert context  # resolved: what is in a model's folder has all its sizes
        is_decoder = isinstance(config, schema.ModelConfig)
        rows += [
            ("architecture", text(gather.config_line(config))),
            *(
                [("position, norm", text(f"{config.position.kind}, {config.norm.kind}"))]
                if is_decoder
                else []
            ),
            (
                "parameters",
                f"{counts.unique:,} stored, {counts.total:,} as used (a shared layer counts at "
                f"every use)",
            ),
            ("vocabulary", f"{config.vocab_size or 0:,} tokens"),
            ("context", f"{context:,} tokens"),
            (
                "forward pass",
                f"{format_flops(flops.forward_flops(config, context) / context)}/token at "
                f"full context",
            ),
        ]
    if unread := subject.facts.get("unread"):
        rows.append(
            ("weights beside it that were not read", ", ".join(code(name) for name in unread))
        )
    if written_as:
        rows.append(("written as", text(written_as)))
    size = sum(file.stat().st_size for file in sorted(subject.folder.rglob("*")) if file.is_file())
    rows.append(("model folder", format_size(size)))
    lines = ["## Model", "", *table(("", ""), rows), ""]
    return [*lines, *(f"- {text(note)}" for note in notes), ""] if notes else lines


def _task(subject: CardSubject) -> list[str]:
    """Return what the model was fine-tuned on, where that was a task and not a text."""
    examples = subject.parents.get("examples")
    if examples is None:
        return []
    facts = examples.facts
    rows = ", ".join(f"{count:,} {split}" for split, count in facts["rows"].items())
    learned = "Completions alone were learned."
    if subject.identity["config"]["train"].get("loss") == "all":
        learned = "Prompts were learned as well as completions."
    return [
        f"Fine-tuned on the task {code(facts['name'])} ({rows} examples). {learned}",
        *(f"- {text(remark)}" for remark in facts["remarks"]),
        "",
    ]


def _learned(subject: CardSubject) -> str:
    """Return what a model was trained on: the training split, or a stream of which it is a sample.

    Documents are counted where this very artifact learned from them.
    """
    assert subject.corpus is not None
    stream = subject.corpus.facts.get("stream")
    if stream is None:
        return "Trained on train"
    at = "" if stream["revision"] is None else f" at {code(stream['revision'][:12])}"
    facts, read = subject.facts, ""
    if "documents_read" in facts:
        read = (
            f": {facts['documents_read']:,} documents of {format_size(facts['bytes_read'])} of text"
        )
        if facts["shards_skipped"]:
            read += f"; of its shards {facts['shards_skipped']} could not be read to the end"
    return (
        f"A stream of {stream['shards']} shards ({format_size(stream['bytes'])}){at} was read on "
        f"the way{read}. Train is its sample for tokenizers, floors and counts"
    )


def _data(subject: CardSubject) -> list[str]:
    lines = ["## Data", "", *_task(subject)]
    if subject.corpus is None:
        known = subject.facts.get("corpus") or subject.identity["parents"].get("corpus")
        why = {"import": "It came without its training text.", "init": "None: it was not trained."}
        named = "Its training text is not known."
        if known:
            named = f"Packed as {code(known)}; that artifact has the details."
            if "examples" in subject.parents:
                named = f"The text of the model it began with is {code(known)}."
        return [*lines, why.get(subject.stage, named), ""]
    corpus = gather.corpus(subject.corpus, 1, None)
    sizes = [
        (
            name,
            f"{split.tokens:,}",
            f"{split.bytes:,}",
            f"{split.documents:,}",
            numbers.share(corpus.overlap.get(name)),
        )
        for name, split in corpus.splits.items()
    ]
    head = ("split", "tokens", "bytes", "documents", f"{corpus.overlap_unit} also in train")
    return [
        *lines,
        f"{code(corpus.name)}, tokenizer {text(corpus.tokenizer)}, packed as "
        f"{code(subject.corpus.id)} (fingerprint"
        f" {code(corpus.fingerprint[:16])}). {_learned(subject)}; validation chooses, test only "
        f"reports.",
        "",
        *table(head, sizes, right=head[1:]),
        "",
    ]


def _training(subject: CardSubject, times: bool) -> list[str]:
    """Return budget and spending; with `times` what the clock measured as well."""
    facts, identity = subject.facts, subject.trained
    train = identity["config"].get("train")
    lines = ["## Budget and what was spent", ""]
    if train is None:
        if "total_flops" not in facts:
            return [*lines, "Nothing was trained here.", ""]
        before = (
            f"Nothing was trained here. What it was made from had taken "
            f"{format_flops(facts['total_flops'])}"
        )
        return [
            *lines,
            before + (f" and {format_time(facts['total_seconds'])}." if times else "."),
            "",
        ]
    spent = {
        "steps": f"{facts['steps']:,}",
        "tokens": f"{facts['tokens']:,}",
        "flops": format_count(facts["flops"]),
    }
    rows = [
        ("FLOPs" if name == "flops" else name, _limit(name, train.get(name)), value)
        for name, value in spent.items()
    ]
    rows.append(
        (
            "time",
            _limit("time", train.get("time")),
            format_time(facts["seconds"]) if times else "see `manifest.json`",
        )
    )
    rows.append(("FLOPs, with teachers and parents", "", format_count(facts["total_flops"])))
    if times:
        total = format_time(facts["total_seconds"])
        rows.append(("time, with teachers and parents", "", total))
    optimizer = train["optimizer"]
    read = "rows of examples" if "task" in identity["config"].get("data", {}) else "windows"
    stopped = facts["stopped_by"]
    settings = (
        f"{train['batch']} {read} a step, {optimizer['kind']} at {optimizer['lr']:g}, precision "
        f"{identity['dtype']},"
        f" {identity['device']}, threads {identity['threads']}, seed {identity['seed']}; ended "
        f"by {'the end of its stream' if stopped == 'stream' else stopped}."
    )
    asked = train.get("accumulate", 1)
    pieces = facts.get("accumulate_used", asked)
    if pieces != asked:
        settings += (
            f" Memory ran out: steps were computed in {pieces} pieces instead of {asked}, with "
            f"the same updates."
        )
    best = facts.get("best_nll")
    kept = (
        ""
        if best is None
        else (
            f" Best validation during training: {format_bits(best)} nats/token at step "
            f"{facts['best_step']:,}"
        )
    )
    kept += (
        f" (on at most {train['validation_tokens']:,} tokens); kept: the {train['keep']} weights."
        if kept
        else ""
    )
    return [
        *lines,
        *table(("", "limit", "spent"), rows, right=("limit", "spent")),
        "",
        text(settings + kept),
        "",
    ]


def _limit(name: str, value: float | None) -> str:
    if value is None:
        return "none"
    if name == "time":
        return format_time(value)
    return format_count(value) if name == "flops" else f"{value:,}"


def _commands(artifact: Artifact, measured: measurements.Measurements) -> list[str]:
    """Return the commands that made and measured the model, each once."""
    made = artifact.manifest["command"]
    lines = ["## How it was made and measured", "", f"Made {artifact.manifest['created']}:", ""]
    lines += block(made, "sh") if made else ["By the Python interface, without a command."]
    others = dict.fromkeys(each.manifest["command"] for each in measured.all())
    if measured_by := [command for command in others if command and command != made]:
        lines += ["", "Measured by:", "", *block("\n".join(measured_by), "sh")]
    elif any(measured.all()):
        lines += [
            "",
            "The same command measured it."
            if others == {made: None}
            else "Measured by the Python interface.",
        ]
    return [*lines, ""]


def _limits(subject: CardSubject, measured: measurements.Measurements | None) -> list[str]:
    """Return what the numbers do not say, what is missing first."""
    lines = [] if measured is None else numbers.missing(measured)
    config = stage_class(subject.stage)
    if subject.stage != "import" and (config is None or config.spends):
        lines.append(
            f"One training with one seed ({subject.identity['seed']}): intervals do not cover "
            f"what another would give."
        )
    lines += [
        "A base model: it continues text as its training text went on. It follows no "
        "instructions, and nothing was done or"
        " measured about false, private or harmful output.",
        "Its license is not set here; those of the texts and models it was made from matter.",
    ]
    return ["## Limits", "", *(f"- {line}" for line in lines)]


def _known(store: Store, evaluation: Artifact) -> str:
    """Return the name of the text that a model was evaluated on."""
    try:
        corpus = Artifact.glance(store.root / evaluation.identity["parents"]["corpus"])
    except FlyweightError:
        return str(evaluation.identity["parents"]["corpus"])
    return text_label(corpus.identity["config"])
