"""How models stand to each other: which may be ranked, which difference is decided, which lie on a Pareto front.

Tables, plots and words all take their judgements from here, so that they cannot contradict each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from flyweight.core.files import digest
from flyweight.core.metric import Metric
from flyweight.evaluate.compare import LEVEL, honest
from flyweight.report.summary import Comparison, CorpusSummary, Floor, ModelSummary, Split, Summary, Training, Verdict
from flyweight.report.visible import visible

Standing = Literal["ok", "collapsed", "too short", "invalid", "unmeasured"]

UNRANKED: tuple[Standing, ...] = ("collapsed", "too short", "invalid")
"""Standings of models that were measured and may not be ranked."""

# A model that fails one of these learned nothing; the numbers of one that fails any other cannot be believed, unless that
# check is about the text, which is the same for all models.
_COLLAPSE = ("below_unigram_floor", "initial_token_sensitivity")
_TEXT = ("train_overlap",)

FEW_STEPS = 100
"""Steps below which a model that learned nothing was trained too shortly; it has not collapsed."""
FALLING = 0.01
"""Part of its validation loss that a model still gains between its last two validations where more steps would help."""
_OPPOSITE: dict[Verdict, Verdict] = {"better": "worse", "worse": "better", "undecided": "undecided"}


@dataclass(frozen=True)
class Contrast:
    """The difference in bits per byte of one model minus another's, with its 95 % bounds; `verdict` is about the first.

    `paired` tells a bootstrap over the same text from the cautious rule used without one: intervals that do not overlap.
    """

    difference: float
    low: float
    high: float
    verdict: Verdict
    paired: bool
    why: str = ""
    """Why it is undecided although the bounds leave out 0, as a clause."""


@dataclass(frozen=True)
class Text:
    """What models were evaluated on; texts are the same by content and split, whatever they are called."""

    name: str = field(compare=False)
    split: Split
    content: str

    @classmethod
    def of(cls, corpus: CorpusSummary, split: Split) -> Text:
        """Return the text of a corpus; early summaries, which lack the fingerprint of its source, tell it by name and sizes."""
        sizes = {name: size.bytes for name, size in corpus.splits.items()}
        return cls(corpus.name, split, corpus.source or digest({"name": corpus.name, "bytes": sizes}))


@dataclass(frozen=True)
class Fault:
    """Why a model may not be ranked, as a clause."""

    kind: Literal["collapsed", "too short", "invalid"]
    text: str


@dataclass(frozen=True)
class Entry:
    """One model on a report: `label` is unique there; `colour` is its lineage's number, `shape` its place in the lineage."""

    summary: Summary
    model: ModelSummary
    label: str
    colour: int = 0
    shape: int = 0

    @property
    def bits(self) -> Metric | None:
        """Bits per byte, where measured."""
        return self.model.evaluate.bits_per_byte if self.model.evaluate else None

    @property
    def text(self) -> Text | None:
        """What it was evaluated on: only models with the same text may be compared."""
        corpus = self.summary.corpus_of(self.model)
        return Text.of(corpus, self.model.evaluate.split) if corpus and self.model.evaluate else None

    @property
    def lossy(self) -> bool:
        """Whether its bits per byte are too good, because its tokens do not give the text back."""
        corpus = self.summary.corpus_of(self.model)
        return bool(corpus and self.model.evaluate and corpus.lossy(self.model.evaluate.split))

    @property
    def training(self) -> Training | None:
        """What training took, inherited from the model it was made from where it was not trained itself."""
        model, seen = self.model, set()
        while model.training is None and model.input is not None and model.name not in seen:
            seen.add(model.name)
            model = self.summary.model(model.input)
        return model.training

    @property
    def short(self) -> bool:
        """Whether its training ended before it could learn: after few steps, or while the validation loss still fell."""
        training, curve = self.training, self.model.curve
        if training is None:
            return False
        if training.steps < FEW_STEPS:
            return True
        losses = [each.nll for each in curve.validation] if curve else []
        return len(losses) > 1 and losses[-1] < (1 - FALLING) * losses[-2]

    @cached_property
    def faults(self) -> tuple[Fault, ...]:
        """Why its numbers may not be ranked; empty for a sound model."""
        faults: list[Fault] = []
        nothing: Literal["collapsed", "too short"] = "too short" if self.short else "collapsed"
        corpus, bits = self.summary.corpus_of(self.model), self.bits
        unigram = corpus.floors.get("unigram") if corpus else None
        if bits is not None and not math.isfinite(bits.value):
            faults.append(Fault("collapsed", "its likelihood is not a finite number"))
        elif bits is not None and unigram and bits.value >= unigram.bits_per_byte:
            floor = f"{bits.value:.3f} bits per byte is no better than the unigram floor ({unigram.bits_per_byte:.3f})"
            faults.append(Fault(nothing, floor))
        for check in self.model.audit.checks if self.model.audit else ():
            if check.verdict == "fail" and check.name not in _TEXT:
                why = f" ({check.why})" if check.why else ""
                kind = nothing if check.name in _COLLAPSE else "invalid"
                faults.append(Fault(kind, f'the audit\'s check "{check.name.replace("_", " ")}" fails{why}'))
        return tuple(faults)

    @property
    def standing(self) -> Standing:
        """Whether it may be ranked.

        `collapsed` learned nothing, `too short` had too few steps to learn, the numbers of an `invalid` one cannot be believed.
        """
        kinds = {fault.kind for fault in self.faults}
        for kind in ("collapsed", "too short", "invalid"):
            if kind in kinds:
                return kind
        return "ok" if self.bits is not None else "unmeasured"


@dataclass(frozen=True)
class Group:
    """Models measured on the same text, which alone may stand in one table or plot; `text` is None for unmeasured ones.

    `flattered` has the floors that are too low for models of another tokenizer, as their own tokens lose some of the text.
    """

    text: Text | None
    entries: tuple[Entry, ...]
    floors: dict[str, Floor]
    flattered: frozenset[str] = frozenset()

    @property
    def sound(self) -> list[Entry]:
        """The entries that may be ranked, best quality first."""
        return sorted((each for each in self.entries if each.standing == "ok"), key=_bits)


def _bits(entry: Entry) -> float:
    return entry.bits.value if entry.bits else math.inf


def entries(summaries: Sequence[Summary]) -> tuple[Entry, ...]:
    """Return all models of some runs; with several runs, labels are `run:model`."""
    found: list[Entry] = []
    names = [summary.name for summary in summaries]
    lineages: dict[tuple[int, str], int] = {}
    members: dict[int, int] = {}
    for run, summary in enumerate(summaries):
        again = names[:run].count(summary.name)
        prefix = "" if len(summaries) == 1 else f"{summary.name}{f'#{again + 1}' if again else ''}:"
        for model in summary.models:
            colour = lineages.setdefault((run, _root(summary, model)), len(lineages))
            shape = members[colour] = members.get(colour, -1) + 1
            found.append(Entry(summary, model, prefix + visible(model.name), colour, shape))
    return tuple(found)


def _root(summary: Summary, model: ModelSummary) -> str:
    seen: set[str] = set()
    while model.input is not None and model.name not in seen:
        seen.add(model.name)
        model = summary.model(model.input)
    return model.name


def groups(found: Sequence[Entry]) -> tuple[Group, ...]:
    """Return the entries by the text they were evaluated on, in order of appearance; unmeasured ones join the first group.

    Different texts of one name have the beginning of their fingerprint in it.
    """
    texts = list(dict.fromkeys(each.text for each in found if each.text)) or [None]
    called = [(text.name, text.split) for text in texts if text]
    made = []
    for index, text in enumerate(texts):
        members = tuple(each for each in found if each.text == text or (each.text is None and index == 0))
        if text and called.count((text.name, text.split)) > 1:
            text = replace(text, name=f"{text.name} ({text.content[:8]})")
        made.append(Group(text, members, *_floors(members)))
    return tuple(made)


def _floors(members: Sequence[Entry]) -> tuple[dict[str, Floor], frozenset[str]]:
    """Return a group's floors and which are flattered; where several tokenizers give several, they stand in the names."""
    corpora, lossy = {}, set()
    for each in members:
        if corpus := each.summary.corpus_of(each.model):
            corpora.setdefault(corpus.fingerprint, corpus)
            lossy |= {corpus.fingerprint} if each.lossy else set()
    if len(corpora) == 1:
        return dict(next(iter(corpora.values())).floors), frozenset()
    named = [(f"{name}, {each.tokenizer}", floor, each) for each in corpora.values() for name, floor in each.floors.items()]
    return {name: floor for name, floor, _ in named}, frozenset(name for name, _, each in named if each.fingerprint in lossy)


def contrast(first: Entry, second: Entry) -> Contrast | None:
    """Return the difference in bits per byte between two models, or None where they were not measured on the same text."""
    if first.summary is second.summary:
        for pair in first.summary.comparisons:
            gap = pair.bits_per_byte
            if (pair.a, pair.b) == (first.model.name, second.model.name):
                return Contrast(gap.value, gap.low, gap.high, pair.verdict, True, _undecided(pair))
            if (pair.b, pair.a) == (first.model.name, second.model.name):
                return Contrast(-gap.value, -gap.high, -gap.low, _OPPOSITE[pair.verdict], True, _undecided(pair))
    a, b = first.bits, second.bits
    if a is None or b is None or first.text != second.text:
        return None
    low, high = a.low - b.high, a.high - b.low
    apart: Verdict = "better" if high < 0 else "worse" if low > 0 else "undecided"
    same = first.model.evaluate and second.model.evaluate and first.model.evaluate.corpus == second.model.evaluate.corpus
    verdict = apart if same else honest(apart, first.lossy, second.lossy)
    return Contrast(a.value - b.value, low, high, verdict, False, _FLATTERED if verdict != apart else "")


_FLATTERED = "the better one's tokens do not give the text back, which makes its figure too good"


def _undecided(pair: Comparison) -> str:
    """Return why a pair is undecided although its interval leaves out 0."""
    if pair.verdict == pair.bits_per_byte.verdict:
        return ""
    by_chance = pair.p_corrected is not None and pair.p_corrected >= LEVEL
    return f"its own interval leaves 0 out, but {pair.comparisons} comparisons were made" if by_chance else _FLATTERED


def leaders(sound: Sequence[Entry]) -> list[Entry]:
    """Return the best entry and every other that is not decidedly worse; `sound` is sorted, best first."""
    return [each for each in sound if each is sound[0] or (gap := contrast(each, sound[0])) is None or gap.verdict != "worse"]


def pareto(points: Sequence[tuple[float, float]], more_is_better: bool = False) -> list[int]:
    """Return the indices of the points (x, y) that no other beats on both, ordered by x.

    Lower y is better; lower x too, unless `more_is_better`. A point is beaten by one that is at least as good on both and
    better on one; equal points stay together. Points that are not finite are left out.
    """
    sign = -1 if more_is_better else 1
    finite = [index for index, point in enumerate(points) if all(map(math.isfinite, point))]
    cost = {index: (sign * points[index][0], points[index][1]) for index in finite}

    def beaten(x: float, y: float) -> bool:
        return any(a <= x and b <= y and (a, b) != (x, y) for a, b in cost.values())

    return sorted((index for index in finite if not beaten(*cost[index])), key=lambda index: points[index])


@dataclass(frozen=True)
class Axis:
    """What quality is set against: a value per model, how it is written, and which direction is better."""

    key: str
    title: str
    better: Literal["lower", "higher"]
    metric: Callable[[Entry], Metric | None]

    def front(self, sound: Sequence[Entry]) -> list[Entry]:
        """Return the entries on the Pareto front of quality against this axis, ordered along it."""
        placed = [(each, value.value) for each in sound if (value := self.metric(each)) and each.bits]
        points = [(x, _bits(each)) for each, x in placed]
        return [placed[index][0] for index in pareto(points, self.better == "higher")]


def _disk(entry: Entry) -> Metric | None:
    return None if entry.model.disk_bytes is None else Metric.exact(entry.model.disk_bytes, "bytes")


def _decode(entry: Entry) -> Metric | None:
    return entry.model.bench.decode_tokens_per_s if entry.model.bench else None


def _flops(entry: Entry) -> Metric | None:
    return Metric.exact(entry.training.total_flops, "FLOPs") if entry.training else None


AXES = {
    "disk": Axis("disk", "bytes on disk", "lower", _disk),
    "speed": Axis("speed", "generated tokens per second", "higher", _decode),
    "flops": Axis("flops", "total training FLOPs", "lower", _flops),
}
