"""The models of a report, by run and by the text they were evaluated on.

Who may be ranked, and the floors beside them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from flyweight.config.units import format_bits
from flyweight.core.files import digest
from flyweight.records.floors import Floor
from flyweight.records.likelihood import EvaluatedSplit
from flyweight.records.metric import Metric
from flyweight.records.run_summary import (
    CorpusSummary,
    ModelSummary,
    PairedComparison,
    Summary,
    Training,
)
from flyweight.visible import visible

Standing = Literal["ok", "collapsed", "too short", "invalid", "unmeasured"]

# A model that fails one of these learned nothing; the numbers of one that fails any other cannot be
# believed, unless that check is about the text, which is the same for all models.
_COLLAPSE = ("below_unigram_floor", "initial_token_sensitivity")
_TEXT = ("train_overlap",)

FEW_STEPS = 100
"""Steps below which a model that learned nothing was trained too shortly; it has not collapsed."""
FALLING = 0.01
"""Share of its validation loss that a model still gains between its last two validations.

From here on more steps would help.
"""


@dataclass(frozen=True)
class Text:
    """What models were evaluated on.

    Texts are the same by content and split, whatever they are called.
    """

    name: str = field(compare=False)
    split: EvaluatedSplit
    content: str

    @classmethod
    def of(cls, corpus: CorpusSummary, split: EvaluatedSplit) -> Text:
        """Return the text of a corpus.

        Early summaries, which lack the fingerprint of its source, tell it by name and sizes.
        """
        sizes = {name: size.bytes for name, size in corpus.splits.items()}
        return cls(
            corpus.name, split, corpus.source or digest({"name": corpus.name, "bytes": sizes})
        )


@dataclass(frozen=True)
class ModelFault:
    """Why a model may not be ranked, as a clause."""

    kind: Literal["collapsed", "too short", "invalid"]
    text: str


@dataclass(frozen=True)
class RankedModel:
    """One model on a report: `label` is unique there.

    `colour` is its lineage's number, `shape` its place in the lineage.
    """

    summary: Summary
    model: ModelSummary
    label: str
    colour: int = 0
    shape: int = 0

    @cached_property
    def pairs(self) -> dict[tuple[str, str], PairedComparison]:
        """The paired comparisons of its run, by the names of the two models."""
        return {(pair.a, pair.b): pair for pair in self.summary.comparisons}

    @property
    def bits(self) -> Metric | None:
        """Bits per byte, where measured."""
        return self.model.evaluate.bits_per_byte if self.model.evaluate else None

    @property
    def text(self) -> Text | None:
        """What it was evaluated on: only models with the same text may be compared."""
        corpus = self.summary.corpus_of(self.model)
        return (
            Text.of(corpus, self.model.evaluate.split) if corpus and self.model.evaluate else None
        )

    @property
    def lossy(self) -> bool:
        """Whether its bits per byte are too good, because its tokens do not give the text back."""
        corpus = self.summary.corpus_of(self.model)
        return bool(corpus and self.model.evaluate and corpus.lossy(self.model.evaluate.split))

    @property
    def training(self) -> Training | None:
        """What training took: its own, or that of the model it was made from."""
        model, seen = self.model, set()
        while model.training is None and model.input is not None and model.name not in seen:
            seen.add(model.name)
            model = self.summary.model(model.input)
        return model.training

    def total(self, what: Literal["flops", "seconds"]) -> float | None:
        """Return what it cost with its teachers and parents, of which not all are compared."""
        inherited = getattr(self.model, f"total_{what}")
        if inherited is not None:
            return inherited
        return None if self.training is None else getattr(self.training, f"total_{what}")

    @property
    def short(self) -> bool:
        """Whether its training ended too early: after few steps, or while validation loss fell."""
        training, curve = self.training, self.model.curve
        if training is None:
            return False
        if training.steps < FEW_STEPS:
            return True
        losses = [each.nll for each in curve.validation] if curve else []
        return len(losses) > 1 and losses[-1] < (1 - FALLING) * losses[-2]

    @cached_property
    def faults(self) -> tuple[ModelFault, ...]:
        """Why its numbers may not be ranked; empty for a rankable model."""
        faults: list[ModelFault] = []
        nothing: Literal["collapsed", "too short"] = "too short" if self.short else "collapsed"
        corpus, bits = self.summary.corpus_of(self.model), self.bits
        unigram = corpus.floors.get("unigram") if corpus else None
        if bits is not None and not math.isfinite(bits.value):
            faults.append(ModelFault("collapsed", "its likelihood is not a finite number"))
        elif bits is not None and unigram and bits.value >= unigram.bits_per_byte:
            floor = (
                f"{format_bits(bits.value)} bits per byte is no better than the unigram floor "
                f"({format_bits(unigram.bits_per_byte)})"
            )
            faults.append(ModelFault(nothing, floor))
        for check in self.model.audit.checks if self.model.audit else ():
            if check.verdict == "fail" and check.name not in _TEXT:
                why = f" ({check.why})" if check.why else ""
                kind = nothing if check.name in _COLLAPSE else "invalid"
                faults.append(
                    ModelFault(
                        kind, f'the audit\'s check "{check.name.replace("_", " ")}" fails{why}'
                    )
                )
        return tuple(faults)

    @property
    def standing(self) -> Standing:
        """Whether it may be ranked.

        `collapsed` learned nothing, `too short` had too few steps to learn, the numbers of an
        `invalid` one cannot be believed.
        """
        kinds = {fault.kind for fault in self.faults}
        for kind in ("collapsed", "too short", "invalid"):
            if kind in kinds:
                return kind
        return "ok" if self.bits is not None else "unmeasured"


@dataclass(frozen=True)
class ModelGroup:
    """Models measured on the same text, which alone may stand in one table or plot.

    `text` is None for unmeasured ones.

    `flattered` has the floors that are too low for models of another tokenizer, as their own tokens
    lose some of the text.
    """

    text: Text | None
    models: tuple[RankedModel, ...]
    floors: dict[str, Floor]
    flattered: frozenset[str] = frozenset()

    @cached_property
    def rankable(self) -> list[RankedModel]:
        """The models that may be ranked, best quality first."""
        return sorted((each for each in self.models if each.standing == "ok"), key=bits_or_infinity)


def bits_or_infinity(ranked: RankedModel) -> float:
    """Return a model's bits per byte, infinite where unmeasured."""
    return ranked.bits.value if ranked.bits else math.inf


def ranked_models(summaries: Sequence[Summary]) -> tuple[RankedModel, ...]:
    """Return all models of some runs; with several runs, labels are `run:model`."""
    models: list[RankedModel] = []
    names = [summary.name for summary in summaries]
    lineages: dict[tuple[int, str], int] = {}
    members: dict[int, int] = {}
    for run, summary in enumerate(summaries):
        again = names[:run].count(summary.name)
        number = f"#{again + 1}" if again else ""
        prefix = "" if len(summaries) == 1 else f"{summary.name}{number}:"
        for model in summary.models:
            colour = lineages.setdefault((run, _root(summary, model)), len(lineages))
            shape = members[colour] = members.get(colour, -1) + 1
            models.append(RankedModel(summary, model, prefix + visible(model.name), colour, shape))
    return tuple(models)


def _root(summary: Summary, model: ModelSummary) -> str:
    seen: set[str] = set()
    while model.input is not None and model.name not in seen:
        seen.add(model.name)
        model = summary.model(model.input)
    return model.name


def groups(models: Sequence[RankedModel]) -> tuple[ModelGroup, ...]:
    """Return the models by the text they were evaluated on, in order of appearance.

    Unmeasured ones join the first group.

    Different texts of one name have the beginning of their fingerprint in it.
    """
    texts = list(dict.fromkeys(each.text for each in models if each.text)) or [None]
    called = [(text.name, text.split) for text in texts if text]
    grouped = []
    for index, text in enumerate(texts):
        members = tuple(
            each for each in models if each.text == text or (each.text is None and index == 0)
        )
        if text and called.count((text.name, text.split)) > 1:
            text = replace(text, name=f"{text.name} ({text.content[:8]})")
        grouped.append(ModelGroup(text, members, *_floors(members)))
    return tuple(grouped)


def _floors(members: Sequence[RankedModel]) -> tuple[dict[str, Floor], frozenset[str]]:
    """Return a group's floors and which are flattered.

    Where several tokenizers give several, they stand in the names.
    """
    corpora, lossy = {}, set()
    for each in members:
        if corpus := each.summary.corpus_of(each.model):
            corpora.setdefault(corpus.fingerprint, corpus)
            lossy |= {corpus.fingerprint} if each.lossy else set()
    if len(corpora) == 1:
        return dict(next(iter(corpora.values())).floors), frozenset()
    named = [
        (f"{name}, {each.tokenizer}", floor, each)
        for each in corpora.values()
        for name, floor in each.floors.items()
    ]
    return {name: floor for name, floor, _ in named}, frozenset(
        name for name, _, each in named if each.fingerprint in lossy
    )
