"""The sections of a model card: what the model is, was made from, and took.

The measured part is in `metrics`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flyweight.config import schema
from flyweight.config.schema import stage_class
from flyweight.config.stage import Origin
from flyweight.config.units import format_bits, format_count, format_flops, format_size, format_time
from flyweight.core import machine
from flyweight.core.files import read_json
from flyweight.reports import gather
from flyweight.reports.cards import metrics as numbers
from flyweight.reports.cards.subject import CardSubject
from flyweight.spec import flops
from flyweight.store import measurements
from flyweight.store.artifact import Artifact
from flyweight.tables.markdown import block, code, table, text


def head(subject: CardSubject, title: str = "") -> list[str]:
    """Return the title and the sentence under it: how large the model is, and how it was made."""
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


def model(subject: CardSubject, written_as: str = "", notes: Sequence[str] = ()) -> list[str]:
    """Return what the model is: its parents, shape and sizes, and the notes on what it misses."""
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


def data(subject: CardSubject) -> list[str]:
    """Return what the model learned from: the splits of its text, and its task."""
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


def training(subject: CardSubject, times: bool) -> list[str]:
    """Return budget and spending; with `times` what the clock measured as well."""
    facts, train = subject.facts, subject.trained["config"].get("train")
    lines = ["## Budget and what was spent", ""]
    if train is not None:
        spent = table(("", "limit", "spent"), _spent(facts, train, times), right=("limit", "spent"))
        return [*lines, *spent, "", text(_settings(subject) + _kept(facts, train)), ""]
    if "total_flops" not in facts:
        return [*lines, "Nothing was trained here.", ""]
    before = (
        f"Nothing was trained here. What it was made from had taken "
        f"{format_flops(facts['total_flops'])}"
    )
    after = f" and {format_time(facts['total_seconds'])}." if times else "."
    return [*lines, before + after, ""]


def _spent(
    facts: Mapping[str, Any], train: Mapping[str, Any], times: bool
) -> list[tuple[str, str, str]]:
    """Return what each limit was, beside what was spent of it."""
    seconds = format_time(facts["seconds"]) if times else "see `manifest.json`"
    rows = [
        ("steps", _limit("steps", train.get("steps")), f"{facts['steps']:,}"),
        ("tokens", _limit("tokens", train.get("tokens")), f"{facts['tokens']:,}"),
        ("FLOPs", _limit("flops", train.get("flops")), format_count(facts["flops"])),
        ("time", _limit("time", train.get("time")), seconds),
        ("FLOPs, with teachers and parents", "", format_count(facts["total_flops"])),
    ]
    if times:
        total = format_time(facts["total_seconds"])
        rows.append(("time, with teachers and parents", "", total))
    return rows


def _settings(subject: CardSubject) -> str:
    """Return how the training was set, and what ended it."""
    facts, identity = subject.facts, subject.trained
    train = identity["config"]["train"]
    optimizer = train["optimizer"]
    read = "rows of examples" if "task" in identity["config"].get("data", {}) else "windows"
    ended = facts["stopped_by"]
    ended = "the end of its stream" if ended == "stream" else ended
    said = (
        f"{train['batch']} {read} a step, {optimizer['kind']} at {optimizer['lr']:g}, "
        f"precision {identity['dtype']}, {identity['device']}, threads {identity['threads']}, "
        f"seed {identity['seed']}; ended by {ended}."
    )
    asked = train.get("accumulate", 1)
    pieces = facts.get("accumulate_used", asked)
    if pieces != asked:
        said += (
            f" Memory ran out: steps were computed in {pieces} pieces instead of {asked}, with "
            f"the same updates."
        )
    return said


def _kept(facts: Mapping[str, Any], train: Mapping[str, Any]) -> str:
    """Return which weights were kept; empty where nothing was validated."""
    best = facts.get("best_nll")
    if best is None:
        return ""
    return (
        f" Best validation during training: {format_bits(best)} nats/token at step "
        f"{facts['best_step']:,} (on at most {train['validation_tokens']:,} tokens); kept: the "
        f"{train['keep']} weights."
    )


def _limit(name: str, value: float | None) -> str:
    if value is None:
        return "none"
    if name == "time":
        return format_time(value)
    return format_count(value) if name == "flops" else f"{value:,}"


def commands(artifact: Artifact, measured: measurements.Measurements) -> list[str]:
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


def limits(subject: CardSubject, measured: measurements.Measurements | None) -> list[str]:
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
