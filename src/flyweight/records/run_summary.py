"""The summary of a finished run, `summary.json`, from which every report is drawn.

The recipe writes it once. Unknown keys are refused, and all faults are named at once: the file is
our own. A number that can be infinite (the perplexity of a collapsed model) is written as the
string `Infinity`; `null` means "not measured". Units are plain: seconds, bytes, FLOPs, nats.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import AwareDatetime, Field, model_validator

from flyweight.config.schema import LayoutName, SameAs
from flyweight.records.audit import AuditResult
from flyweight.records.bench import BenchResult, Speed
from flyweight.records.difference import Difference as Difference, Verdict as Verdict
from flyweight.records.floors import Floor
from flyweight.records.likelihood import EvaluatedSplit, Evaluation
from flyweight.records.lm_eval import LmEvalScores
from flyweight.records.profile import ProfileResult
from flyweight.records.sample import Continuation
from flyweight.records.scores import TaskComparison, TaskScores
from flyweight.records.sealed import Record, SealedRecord
from flyweight.records.sweep import Pruning
from flyweight.records.training_memory import TrainingMemory
from flyweight.records.tuning import Tuning
from flyweight.records.verification import Verification

FILE = "summary.json"


class Environment(Record):
    """The machine and the libraries of a run, with the keys of `core.machine.describe`."""

    flyweight: str
    python: str
    torch: str
    numpy: str
    tokenizers: str
    safetensors: str
    platform: str
    processor: str
    cores: int
    threads: int
    device: str
    memory_bytes: int


class BudgetLine(Record):
    """One quantity of the budget.

    `limit` is None where the user set none, `planned` where the plan does not have it.
    """

    name: str
    unit: Literal["s", "bytes", "FLOPs", "parameters"]
    planned: float | None
    used: float | None
    limit: float | None
    ok: bool


class SplitSummary(Record):
    """Size of one split: tokens of the run's tokenizer; bytes, words and documents of the raw text.

    `lost` counts the lines that their tokens do not give back, or is None where they were not
    counted.
    """

    tokens: int
    bytes: int
    words: int
    documents: int
    lost: int | None = None


class CorpusSummary(Record):
    """One text under one tokenizer.

    `fingerprint` is unique in a summary. `source` is the fingerprint of the raw text, by which runs
    may be compared (None in early summaries). `lossless` says whether tokens give the text back,
    for splits that do not count lost lines. `overlap` is the share of a split's pieces of 50
    characters (`overlap_unit`) that train contains as well. `floors` are in the order in which they
    are shown, counted on the first `floors_train_tokens` tokens of the training split. `skipped`
    documents were left out; `left_out` has the first of them, each as `name: reason`.
    """

    name: str
    fingerprint: str
    tokenizer: str
    vocab_size: int
    context: int
    splits: dict[EvaluatedSplit, SplitSummary]
    overlap: dict[EvaluatedSplit, float] = Field(default_factory=dict)
    overlap_unit: Literal["pieces", "lines"] = "lines"
    floors: dict[str, Floor] = Field(default_factory=dict)
    floors_train_tokens: int | None = None
    megabytes_per_second: float | None = None
    source: str | None = None
    lossless: bool = True
    skipped: int = 0
    left_out: tuple[str, ...] = ()

    def parts(self, split: str) -> list[SplitSummary]:
        """Return the parts of a split: two of `validation+test`."""
        return [size for name, size in self.splits.items() if name in split.split("+")]

    def lossy(self, split: str) -> bool:
        """Return whether a split's bits per byte are too good.

        They are where its tokens do not give the text back.
        """
        for size in self.parts(split):
            lost = not self.lossless if size.lost is None else size.lost > 0
            if lost:
                return True
        return False


class ParameterCount(Record):
    """Parameters as used and as stored.

    `total` counts a shared matrix at every use, `unique` once.
    """

    total: int
    unique: int


class Training(Record):
    """The cost of training this model alone, and with all its teachers and parents (`total_*`).

    `peak_bytes` is the memory that its first steps took in a fresh process, over the interpreter's
    own, and `seconds_per_step` their mean; None where neither was measured. `pieces` is in
    how many each step was computed at the end: more than `asked_pieces` where memory ran out.
    """

    steps: int
    tokens: int
    seconds: float
    total_seconds: float
    flops: float
    total_flops: float
    stopped_by: str
    same_as: SameAs | None = None
    peak_bytes: int | None = None
    seconds_per_step: float | None = None
    pieces: int | None = None
    asked_pieces: int = 1


class Validation(NamedTuple):
    """A validation during training: after `step` steps; seconds and FLOPs of this stage alone."""

    step: int
    nll: float
    seconds: float
    flops: float


class Curve(Record):
    """The curve of a training: `step`, `train_nll` and `lr` have one length.

    `train_nll` is the cross-entropy in nats per token.
    """

    step: tuple[int, ...]
    train_nll: tuple[float, ...]
    lr: tuple[float, ...]
    validation: tuple[Validation, ...]

    @model_validator(mode="after")
    def _one_length(self) -> Curve:
        if not len(self.step) == len(self.train_nll) == len(self.lr):
            raise ValueError("step, train_nll and lr differ in length")
        return self


class ModelSummary(Record):
    """One model that the recipe compares.

    `name` is its stage's name in the recipe, `id` its artifact. `input` is the model that it was
    made from, `teacher` the one it was distilled from. Both are names of models of this summary, or
    None for one that is not compared. `shuffled` is a control, whose teacher was. `training` is
    None for a model made without training (quantized): it inherits its input's. `disk_bytes` is the
    size of the artifact's model folder.
    """

    name: str
    id: str
    stage: str
    measured: dict[str, str] = Field(default_factory=dict)
    """The artifacts that its numbers are from, by the kind of measurement."""
    role: str = ""
    input: str | None = None
    teacher: str | None = None
    shuffled: bool = False
    config_line: str
    parameters: ParameterCount
    disk_bytes: int | None
    training: Training | None
    evaluate: Evaluation | None
    bench: BenchResult | Speed | None
    """Its speed; an earlier version kept less of it."""
    audit: AuditResult | None
    curve: Curve | None = None
    samples: tuple[Continuation, ...] = ()
    scores: tuple[TaskScores, ...] = ()
    """Scores on the tasks that the report names, in their order."""
    lm_eval: LmEvalScores | None = None
    """Metrics of lm-eval's tasks, where the report names some."""
    sparsity: float | None = None
    """The share of zeros in its pruned matrices, with their adapters; None of one without."""
    adapter_sparsity: float | None = None
    """The share of zeros in its pruned adapters; None of a model without."""
    verification: Verification | None = None
    """Whether its exports are this model, where the report asks for it."""
    total_flops: float | None = None
    """FLOPs of all trainings before a model without one of its own; None where nothing was."""
    total_seconds: float | None = None
    """Seconds of all trainings before a model without one of its own."""


class PairedComparison(Record):
    """`a` minus `b` on the same text: below 0, `a` is better.

    The keys besides `a` and `b` are those of `evaluation.compare.Paired.json`. `nll` is None under
    different tokenizers. `verdict` is about `a`, by bits per byte, and corrected for `comparisons`
    comparisons (Holm), as in `flyweight compare`. A difference's own verdict is that of its
    interval.
    """

    a: str
    b: str
    nll: Difference | None
    bits_per_byte: Difference
    verdict: Verdict
    n_units: int
    kind: str
    why: str = ""
    p: float | None = None
    p_corrected: float | None = None
    comparisons: int = 1
    metrics: dict[str, Difference] = Field(default_factory=dict)
    """Differences in what both were measured in beside the likelihood, by name."""


class StageTraining(Record):
    """A training that the report does not compare: what it cost, and its curve."""

    training: Training
    curve: Curve


class StageSummary(Record):
    """A stage of the recipe.

    `reused` is true where its artifact was there already; `seconds` is always the time of making
    it. `input` is the model that it changes or measures: a stage's name or a MODEL. `evaluate`,
    `bench`, `profile` and `scores` are the results of a stage that itself measures, beside what the
    report measures of the models that it compares. `pruning` is that of a stage `prune`. Where a
    layout asks for them, `parameters` are those of the stage's model and `trained` tells a training
    which is not compared.
    """

    name: str
    id: str
    stage: str
    seconds: float
    reused: bool
    input: str | None = None
    evaluate: Evaluation | None = None
    bench: BenchResult | None = None
    profile: ProfileResult | None = None
    scores: TaskScores | None = None
    pruning: Pruning | None = None
    parameters: ParameterCount | None = None
    trained: StageTraining | None = None
    memory: TrainingMemory | None = None
    """Of a training: planned, and used where it was watched."""


class Summary(SealedRecord):
    """All results of a finished run."""

    file: ClassVar[str] = FILE
    again: ClassVar[str] = "run the recipe again, which writes it anew"
    unfinished: ClassVar[str] = (
        f"is not a finished run: it has no {FILE}; finish it with `flyweight run`, then report it"
    )

    format: Literal[1] = 1
    name: str
    seed: int
    created: AwareDatetime
    command: str
    request: str = ""
    """Digest of the recipe as it was run; empty where an earlier version wrote the summary."""
    seconds: float
    environment: Environment
    budget: tuple[BudgetLine, ...] = ()
    corpus: tuple[CorpusSummary, ...]
    models: Annotated[tuple[ModelSummary, ...], Field(min_length=1)]
    comparisons: tuple[PairedComparison, ...] = ()
    validation: tuple[PairedComparison, ...] = ()
    """Pairs of models that stages of the recipe evaluate on the validation split."""
    task_comparisons: tuple[TaskComparison, ...] = ()
    tuning: tuple[Tuning, ...] = ()
    """Each fine-tuning among the compared models, before and after."""
    stages: tuple[StageSummary, ...] = ()
    unmade: tuple[str, ...] = ()
    """Stages of the recipe that were not made, as a limit of the budget ended the run before."""
    layout: LayoutName | None = None
    """The paper whose tables and figures the page has as well."""

    @model_validator(mode="after")
    def _references_exist(self) -> Summary:
        names = [model.name for model in self.models]
        prints = [corpus.fingerprint for corpus in self.corpus]
        faults = [
            f"models: {name} is listed twice"
            for name in sorted({n for n in names if names.count(n) > 1})
        ]
        faults += [
            f"corpus: {fingerprint} is listed twice"
            for fingerprint in sorted({p for p in prints if prints.count(p) > 1})
        ]
        for model in self.models:
            faults += [
                f"{model.name}: no model {other!r}"
                for other in (model.input, model.teacher)
                if other and other not in names
            ]
            if model.evaluate and model.evaluate.corpus not in prints:
                faults.append(
                    f"{model.name}: evaluated on {model.evaluate.corpus!r}, which is not in corpus"
                )
        for pair in self.comparisons:
            faults += [
                f"comparisons: no model {other!r}"
                for other in (pair.a, pair.b)
                if other not in names
            ]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def model(self, name: str) -> ModelSummary:
        """Return the model called `name`; raise KeyError for an unknown name."""
        for model in self.models:
            if model.name == name:
                return model
        raise KeyError(name)

    def corpus_of(self, model: ModelSummary) -> CorpusSummary | None:
        """Return the corpus that a model was evaluated on, or None where it was not evaluated."""
        if model.evaluate is None:
            return None
        return next(corpus for corpus in self.corpus if corpus.fingerprint == model.evaluate.corpus)
