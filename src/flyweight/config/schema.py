"""Everything that a user can write in a recipe, as frozen and validated models.

An unknown key is an error.

The fields of a model are in `architecture`, `layers`, `visiting` and `baselines` beside this file
and stand here under the same names.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from flyweight.config.base import (
    Fraction as Fraction,
    Name as Name,
    PositiveInt as PositiveInt,
    Probability as Probability,
    Rate as Rate,
    StageName as StageName,
    Strict as Strict,
    choice,
)
from flyweight.config.baselines import (
    ARCHITECTURES as ARCHITECTURES,
    Architecture as Architecture,
    LinearConfig as LinearConfig,
    LstmConfig as LstmConfig,
    MlpConfig as MlpConfig,
)
from flyweight.config.decoder import (
    Bigram as Bigram,
    Dropout as Dropout,
    Embedding as Embedding,
    ExactBigram as ExactBigram,
    HashedBigram as HashedBigram,
    Head as Head,
    Init as Init,
    ModelConfig as ModelConfig,
    NoBigram as NoBigram,
)
from flyweight.config.layers import (
    GATED as GATED,
    Add as Add,
    Alpha as Alpha,
    Attention as Attention,
    DoubleRelu as DoubleRelu,
    DoubleSilu as DoubleSilu,
    GeGLU as GeGLU,
    Gelu as Gelu,
    LayerNorm as LayerNorm,
    Learned as Learned,
    Mlp as Mlp,
    NoPosition as NoPosition,
    Norm as Norm,
    Position as Position,
    Relu as Relu,
    Relu2 as Relu2,
    Residual as Residual,
    RMSNorm as RMSNorm,
    Rope as Rope,
    RopeScaling as RopeScaling,
    Sinusoidal as Sinusoidal,
    SwiGLU as SwiGLU,
)
from flyweight.config.linear_kinds import (
    NF4 as NF4,
    Dense as Dense,
    Int8 as Int8,
    LinearKind as LinearKind,
)
from flyweight.config.mixture import Counts as Counts, Mixture as Mixture, Pointer as Pointer
from flyweight.config.sharing import (
    All as All,
    Cycle as Cycle,
    Deep as Deep,
    NoSharing as NoSharing,
    NoThinking as NoThinking,
    Repeat as Repeat,
    Sharing as Sharing,
    Span as Span,
    Thinking as Thinking,
)
from flyweight.config.training import (
    AdamW as AdamW,
    Distillation as Distillation,
    Muon as Muon,
    NextToken as NextToken,
    Optimizer as Optimizer,
    SameAs as SameAs,
    Schedule as Schedule,
    Train as Train,
)
from flyweight.config.units import Count, Seconds, Size

# --- data ---


class ByteTokenizer(Strict):
    """One token per byte of UTF-8: 256 tokens."""

    kind: Literal["byte"] = "byte"


class CharTokenizer(Strict):
    """One token per character of the training text; unseen characters become `<unk>`."""

    kind: Literal["char"] = "char"


class WordTokenizer(Strict):
    """The training text's own words, split at white space.

    Rare and unseen words become `<unk>`, line ends `<eos>`.
    """

    kind: Literal["word"] = "word"
    min_count: PositiveInt = 1
    vocab: Annotated[Count, Field(gt=2)] | None = None


class BpeTokenizer(Strict):
    """Byte-level byte-pair encoding with `vocab` entries, trained on at most `sample` of the training text, taken evenly."""

    kind: Literal["bpe"] = "bpe"
    vocab: Annotated[Count, Field(ge=257)] = 4096
    sample: Annotated[Size, Field(gt=0)] = 100_000_000


class FileTokenizer(Strict):
    """An existing `tokenizer.json`."""

    kind: Literal["file"] = "file"
    path: str


Tokenizer = Annotated[
    Annotated[
        ByteTokenizer | CharTokenizer | WordTokenizer | BpeTokenizer | FileTokenizer,
        Discriminator("kind"),
    ],
    choice("bpe"),
]


class Data(Strict):
    """Text and how it becomes windows of tokens.

    `corpus` is a registered name, a text file, folder or glob, `hf:owner/name[:config]`, or a list
    of files and folders. `column` is the column of text in files of rows (CSV, TSV, JSON lines,
    Parquet, the hub): `text`, or the only one of text, where it is left out. `validation` and
    `test` are the fractions held out where the corpus has no standard split. `separator` is what
    stands between the documents of a text file, such as `<|endoftext|>`.
    """

    corpus: str | Annotated[tuple[str, ...], Field(min_length=1)]
    column: str | None = None
    separator: Annotated[str, Field(min_length=1)] | None = None
    tokenizer: Tokenizer | None = None
    context: PositiveInt = 256
    validation: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    test: Annotated[float, Field(gt=0, lt=0.5)] = 0.05

    @model_serializer(mode="wrap")
    def _without_defaults(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave a later field out where it is at its default: ids are hashes of what is written, and older ones stay."""
        fields: dict[str, Any] = plain(self)
        return {
            name: value
            for name, value in fields.items()
            if value is not None or name != "separator"
        }


# --- stages ---


class Pretrain(Strict):
    """Train a model on a corpus; `input` starts from another stage's weights."""

    stage: Literal["pretrain"]
    model: Architecture | None = None
    input: str | None = None
    data: Data
    train: Train = Train()


class Distill(Strict):
    """Train a model to match a teacher's next-token distribution."""

    stage: Literal["distill"]
    teacher: str
    model: Architecture
    data: Data
    train: Train = Train()
    objective: Distillation = Distillation()


class Select(Strict):
    """The best of several trained models by validation likelihood: validation chooses, so that test can report."""

    stage: Literal["select"]
    among: Annotated[tuple[str, ...], Field(min_length=2)]


class Initialise(Strict):
    """A model with random weights."""

    stage: Literal["init"]
    model: Architecture


class Quantize(Strict):
    """Store a model's matrices in fewer bits.

    Embedding and head have their own kind, by default int8.

    The one matrix of a linear model is its head, which therefore is of `kind`.
    """

    stage: Literal["quantize"]
    input: str
    kind: LinearKind
    embedding: LinearKind = Int8()


class Mix(Strict):
    """Mix a trained network's predictions with n-gram counts of its training text and a pointer into the context.

    The gates are fitted on up to `validation_tokens` of the validation split, which neither network
    nor counts have read. `counts: null` or `pointer: null` leaves that one out. `data: null` takes
    the corpus the network was trained on.
    """

    stage: Literal["mix"]
    input: str
    data: Data | None = None
    counts: Counts | None = Counts()
    pointer: Pointer | None = Pointer()
    validation_tokens: Annotated[Count, Field(gt=0)] = 65_536

    @model_validator(mode="after")
    def _something(self) -> Mix:
        if self.counts is None and self.pointer is None:
            raise ValueError(
                "counts and pointer are both null: nothing would be mixed; leave one of them in"
            )
        if self.counts is not None and self.counts.entries is not None:
            raise ValueError("counts.entries follows from the text; leave it out")
        return self


class Evaluate(Strict):
    """Likelihood on one split with a fixed window and stride.

    `data: null` takes the corpus the model was trained on.

    `validation+test` is both as one text, where they adjoin: the last tenth of Tiny Shakespeare,
    which nanoGPT scores.
    """

    stage: Literal["evaluate"]
    input: str
    data: Data | None = None
    split: Literal["train", "validation", "test", "validation+test"] = "test"
    window: PositiveInt | None = None
    stride: PositiveInt | None = None
    batch: PositiveInt = 16


class Bench(Strict):
    """Speed and memory in a fresh process: warm-up, then `repeats` timed runs.

    A fixed number of new tokens.

    `prompt` and `new_tokens` are 64, or half the context where that is less. Without `repeats`
    there are at least five runs, and up to fifteen within two seconds: enough to leave slow
    outliers out of the interval.
    """

    stage: Literal["bench"]
    input: str
    batch: PositiveInt = 1
    prompt: PositiveInt | None = None
    new_tokens: PositiveInt | None = None
    repeats: PositiveInt | None = None


class Floors(Strict):
    """What any model has to beat: n-gram models of the corpus' own training split."""

    stage: Literal["floors"]
    data: Data
    split: Literal["train", "validation", "test"] = "test"


class Sample(Strict):
    """Continuations of prompts, the same way for every model."""

    stage: Literal["sample"]
    input: str
    prompts: Annotated[tuple[str, ...], Field(min_length=1)]
    new_tokens: PositiveInt = 64
    temperature: Annotated[float, Field(ge=0)] = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95


class Audit(Strict):
    """The checks without which a number is worth nothing: all of them, or those named."""

    stage: Literal["audit"]
    input: str
    data: Data | None = None
    checks: tuple[str, ...] = ()


StageConfig = Annotated[
    Pretrain
    | Distill
    | Select
    | Initialise
    | Quantize
    | Mix
    | Evaluate
    | Floors
    | Bench
    | Sample
    | Audit,
    Discriminator("stage"),
]


# --- recipe ---


class Budget(Strict):
    """Limits: planned before a run, enforced during it, reported after it.

    `parameters`, `bytes` (of the smallest model that the recipe compares), `memory` (peak, over the
    interpreter's own) and `flops` (all training) and `time` (the whole run). `over: stop` ends a
    run that overruns, `over: warn` only says so. `rate` is the training FLOPs per second to plan
    with, by default this machine's measured ones.
    """

    parameters: Annotated[Count, Field(gt=0)] | None = None
    bytes: Annotated[Size, Field(gt=0)] | None = None
    memory: Annotated[Size, Field(gt=0)] | None = None
    flops: Annotated[Count, Field(gt=0)] | None = None
    time: Annotated[Seconds, Field(gt=0)] | None = None
    over: Literal["stop", "warn"] = "stop"
    rate: Annotated[Count, Field(gt=0)] | None = None


class Report(Strict):
    """Which stages stand beside each other, how they are measured, and the prompts whose continuations are shown.

    `data: null` measures every model on the corpus that it was trained on.
    """

    compare: tuple[str, ...] = ()
    data: Data | None = None
    measure: tuple[Literal["evaluate", "bench", "audit"], ...] = ("evaluate", "bench", "audit")
    prompts: tuple[str, ...] = ()
    sample_tokens: PositiveInt = 64


class Recipe(Strict):
    """A DAG of stages under one budget.

    Top-level `data`, `train` and `model` are defaults of every stage that has them.
    """

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    budget: Budget = Budget()
    stages: Annotated[dict[StageName, StageConfig], Field(min_length=1)]
    report: Report = Report()

    def __repr__(self) -> str:
        return f"<Recipe {self.name}: {', '.join(self.stages)}>"

    __str__ = __repr__
