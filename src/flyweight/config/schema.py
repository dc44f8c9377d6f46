"""Everything that a user can write in a recipe, as frozen and validated models.

An unknown key is an error.

The fields of a model are in `architecture`, `layers`, `visiting` and `baselines` beside this file
and stand here under the same names.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, Union

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    PlainValidator,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    TypeAdapter,
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
from flyweight.config.messages import nearest
from flyweight.config.metrics import METRICS, metric_kind
from flyweight.config.mixture import Counts as Counts, Mixture as Mixture, Pointer as Pointer
from flyweight.config.model_rules import packed_kinds
from flyweight.config.plugins import load_plugins
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
from flyweight.config.stage import (
    EVERY_QUANTITY,
    INHERITED,
    Origin,
    StageConfig as StageConfig,
    TextUse,
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
from flyweight.config.units import Count, Seconds, Size, Tokens

SAME_AS = "train.same_as.stage"
"""The field that names the stage whose cost limits another; its model is not needed."""

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
    """Byte-level byte-pair encoding with `vocab` entries.

    It is trained on at most `sample` of the training text, taken evenly.
    """

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
    stands between the documents of a text file, such as `<|endoftext|>`. Windows run on across
    documents that are `joined`; `isolated` ones see nothing of each other, in training and in
    evaluation.
    """

    corpus: str | Annotated[tuple[str, ...], Field(min_length=1)]
    column: str | None = None
    separator: Annotated[str, Field(min_length=1)] | None = None
    tokenizer: Tokenizer | None = None
    context: PositiveInt = 256
    validation: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    test: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    documents: Literal["joined", "isolated"] = "joined"

    def packed(self) -> Data:
        """Return what packing depends on: windows are cut from the shards later."""
        return self.model_copy(update={"context": 1, "documents": "joined"})

    @model_serializer(mode="wrap")
    def _without_defaults(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave a later field out at its default: ids hash what is written, and older ones stay."""
        fields: dict[str, Any] = plain(self)
        if self.separator is None:
            fields.pop("separator", None)
        if self.documents == "joined":
            fields.pop("documents", None)
        return fields


# --- stages ---


def _scored(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the metrics that an evaluation has to be asked for, each once; refuse other names."""
    always = [name for name, kind in METRICS.items() if kind.score is None]
    optional = [name for name in METRICS if name not in always]
    for name in names:
        if name in always:
            raise ValueError(f"{name} is always measured; leave it out")
        if name not in METRICS:
            raise ValueError(f"unknown metric {name!r}{nearest(name, optional)}")
    return tuple(sorted(set(names)))


def _known(name: str) -> str:
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}{nearest(name, METRICS)}")
    return name


def _empty(value: object) -> bool:
    return not value


def _is_nll(value: object) -> bool:
    return value == "nll"


Metrics = Annotated[tuple[str, ...], AfterValidator(_scored)]
"""Metrics to measure beside the likelihood's own, which always are."""


class TrainingStage(StageConfig):
    """Base of the stages that train a model by `train` on the text of `data`.

    They compute in the configured precision, and a budget counts what they spend.
    """

    model: Architecture | None = None
    data: Data
    train: Train = Train()

    makes_model: ClassVar[bool] = True
    defaults: ClassVar[tuple[str, ...]] = ("data", "train", "model")
    spends: ClassVar[tuple[str, ...]] = EVERY_QUANTITY
    validated: ClassVar[bool] = True

    def no_validation(self) -> str:
        """Return why `select` cannot choose this stage by validation; empty where it can."""
        return "" if self.train.validations else "trains with validations: 0"

    def dependencies(self) -> dict[str, str]:
        """Return what the stage refers to, with the stage whose spending it is held to."""
        tied = self.train.same_as
        return super().dependencies() | ({} if tied is None else {SAME_AS: tied.stage})

    @classmethod
    def describe(cls, origin: Origin) -> str:
        """Return how a model came about, as a card says it."""
        if "input" in origin.parents:
            return f"trained from {origin.parent('input')}"
        return "trained from random weights"


class Pretrain(TrainingStage):
    """Train a model on a corpus; `input` starts from another stage's weights."""

    stage: Literal["pretrain"]
    input: str | None = None

    def faults(self) -> list[str]:
        """Refuse to train both a new model and an existing one, or neither."""
        if (self.model is None) != (self.input is None):
            return []
        return [
            "needs either model (a new one) or input (weights to go on from), and not both",
        ]


class Distill(TrainingStage):
    """Train a model to match a teacher's next-token distribution."""

    stage: Literal["distill"]
    teacher: str
    model: Architecture  # pyright: ignore - it has no default here
    objective: Distillation = Distillation()

    references: ClassVar[tuple[str, ...]] = ("teacher",)

    def role(self) -> str:
        """Return whom it learned from."""
        return f"distilled from {self.teacher}"

    @classmethod
    def describe(cls, origin: Origin) -> str:
        """Return how a model came about, as a card says it."""
        return f"distilled from {origin.parent('teacher')}"


class Select(StageConfig):
    """The best of several trained models: validation text chooses, so that test text can report.

    `by: nll` takes the best validation of each training; any other metric is measured on the whole
    validation split.
    """

    stage: Literal["select"]
    among: Annotated[tuple[str, ...], Field(min_length=2)]
    by: Annotated[str, AfterValidator(_known)] = Field(default="nll", exclude_if=_is_nll)

    makes_model: ClassVar[bool] = True
    references: ClassVar[tuple[str, ...]] = ("among",)
    spends: ClassVar[tuple[str, ...]] = EVERY_QUANTITY
    validated: ClassVar[bool] = True

    @property
    def text_of_input(self) -> TextUse:
        """Another metric than NLL is measured on the candidates' text."""
        return "none" if self.by == "nll" else "required"

    @classmethod
    def describe(cls, origin: Origin) -> str:
        """Return how a model came about, as a card says it."""
        by = origin.config.get("by", "nll")
        quality = "likelihood" if by == "nll" else origin.quote(by)
        count = sum(field != "corpus" for field in origin.parents)
        chosen = origin.quote(origin.facts["chosen"])
        return f"the one of {count} with the best validation {quality}: {chosen}"


class Initialise(StageConfig):
    """A model with random weights."""

    stage: Literal["init"]
    model: Architecture

    makes_model: ClassVar[bool] = True
    references: ClassVar[tuple[str, ...]] = ()

    def untrainable(self) -> str:
        """Return why its model cannot be trained further: its matrices are packed."""
        kinds = packed_kinds(self.model)
        if not kinds:
            return ""
        return f"has matrices stored as {' and '.join(kinds)}, which cannot be trained"

    @classmethod
    def describe(cls, origin: Origin) -> str:
        """Return how a model came about, as a card says it."""
        return "with random weights, not trained"


class Quantize(StageConfig):
    """Store a model's matrices in fewer bits.

    Embedding and head have their own kind, by default int8.

    The one matrix of a linear model is its head, which therefore is of `kind`.
    """

    stage: Literal["quantize"]
    input: str
    kind: LinearKind
    embedding: LinearKind = Int8()

    makes_model: ClassVar[bool] = True
    spends: ClassVar[tuple[str, ...]] = INHERITED
    compresses: ClassVar[bool] = True

    def untrainable(self) -> str:
        """Return why its model cannot be trained further."""
        return (
            f"stores its matrices in fewer bits, and these cannot be trained; start from "
            f"{self.input} and quantize the result"
        )

    @classmethod
    def describe(cls, origin: Origin) -> str:
        """Return how a model came about, as a card says it."""
        kind = origin.config["kind"]
        name = kind["kind"] if isinstance(kind, dict) else kind
        return f"{origin.parent('input')} with its matrices in {origin.quote(name)}"


class Mix(StageConfig):
    """Mix a trained network's predictions with n-gram counts and a pointer into the context.

    The counts are those of its training text.

    The gates are fitted on up to `validation_tokens` of the validation split, which neither network
    nor counts have read. `counts: null` or `pointer: null` leaves that one out. `data: null` takes
    the corpus the network was trained on.
    """

    stage: Literal["mix"]
    input: str
    data: Data | None = None
    counts: Counts | None = Counts()
    pointer: Pointer | None = Pointer()
    validation_tokens: Tokens = 65_536

    makes_model: ClassVar[bool] = True
    spends: ClassVar[tuple[str, ...]] = EVERY_QUANTITY
    validated: ClassVar[bool] = True

    @property
    def text_of_input(self) -> TextUse:
        """The counts need the text that the network was trained on."""
        return "required"

    @model_validator(mode="after")
    def _something(self) -> Mix:
        if self.counts is None and self.pointer is None:
            raise ValueError(
                "counts and pointer are both null: nothing would be mixed; leave one of them in"
            )
        if self.counts is not None and self.counts.entries is not None:
            raise ValueError("counts.entries follows from the text; leave it out")
        return self

    @classmethod
    def describe(cls, origin: Origin) -> str:
        """Return how a model came about, as a card says it."""
        experts = []
        if origin.config["counts"] is not None:
            experts.append(f"n-gram counts of order {origin.config['counts']['order']}")
        if origin.config["pointer"] is not None:
            experts.append("a pointer into the context")
        return (
            f"{origin.parent('input')} mixed with {' and '.join(experts)}, "
            f"its gates fitted on validation text"
        )


class Evaluate(StageConfig):
    """Likelihood on one split with a fixed window and stride.

    `data: null` takes the corpus the model was trained on.

    `validation+test` is both as one text, where they adjoin: the last tenth of Tiny Shakespeare,
    which nanoGPT scores. `metrics` are measured beside the likelihood, such as `accuracy`.
    """

    stage: Literal["evaluate"]
    input: str
    data: Data | None = None
    split: Literal["train", "validation", "test", "validation+test"] = "test"
    window: PositiveInt | None = None
    stride: PositiveInt | None = None
    batch: PositiveInt = 16
    metrics: Metrics = Field(default=(), exclude_if=_empty)

    measures: ClassVar[str | None] = "input"
    of_machine: ClassVar[bool] = True
    seconds: ClassVar[float] = 0.4
    noun: ClassVar[str] = "evaluation"

    @property
    def text_of_input(self) -> TextUse:
        """Likelihood needs a text."""
        return "required"

    def identity_fields(self) -> dict[str, Any]:
        """Return the versions of the metrics, where one was raised."""
        versions = {name: metric_kind(name).version for name in self.metrics}
        raised = {name: version for name, version in versions.items() if version != 1}
        return {"metric_versions": raised} if raised else {}

    @classmethod
    def same_measurement(cls, identity: Mapping[str, Any]) -> Hashable:
        """Return the text and the split: of equal ones the newest counts."""
        return (identity["parents"].get("corpus"), identity["config"].get("split"))


class Bench(StageConfig):
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

    measures: ClassVar[str | None] = "input"
    of_machine: ClassVar[bool] = True
    seconds: ClassVar[float] = 3.5

    @classmethod
    def same_measurement(cls, identity: Mapping[str, Any]) -> Hashable:
        """Return the device and the lengths: of equal ones the newest counts."""
        config = identity["config"]
        lengths = (config.get("batch"), config.get("prompt"), config.get("new_tokens"))
        return (identity["device"], *lengths)


class Floors(StageConfig):
    """What any model has to beat: n-gram models of the corpus' own training split."""

    stage: Literal["floors"]
    data: Data
    split: Literal["train", "validation", "test"] = "test"

    references: ClassVar[tuple[str, ...]] = ()
    measures: ClassVar[str | None] = "corpus"
    of_machine: ClassVar[bool] = True

    @classmethod
    def same_measurement(cls, identity: Mapping[str, Any]) -> Hashable:
        """Return the text and the split: of equal ones the newest counts."""
        return (identity["parents"].get("corpus"), identity["config"].get("split"))


class Sample(StageConfig):
    """Continuations of prompts, the same way for every model."""

    stage: Literal["sample"]
    input: str
    prompts: Annotated[tuple[str, ...], Field(min_length=1)]
    new_tokens: PositiveInt = 64
    temperature: Annotated[float, Field(ge=0)] = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95

    measures: ClassVar[str | None] = "input"

    @classmethod
    def same_measurement(cls, identity: Mapping[str, Any]) -> Hashable:
        """Return the prompts: of equal ones the newest counts."""
        return tuple(identity["config"].get("prompts", ()))


class Audit(StageConfig):
    """The checks without which a number is worth nothing: all of them, or those named."""

    stage: Literal["audit"]
    input: str
    data: Data | None = None
    checks: tuple[str, ...] = ()

    measures: ClassVar[str | None] = "input"
    of_machine: ClassVar[bool] = True
    seconds: ClassVar[float] = 0.5

    @property
    def text_of_input(self) -> TextUse:
        """Some checks read text; the others need none."""
        return "optional"

    @classmethod
    def same_measurement(cls, identity: Mapping[str, Any]) -> Hashable:
        """Return the text: of equal ones the newest counts."""
        return identity["parents"].get("corpus")


STAGE_CONFIGS: dict[str, type[StageConfig]] = {
    "pretrain": Pretrain,
    "distill": Distill,
    "select": Select,
    "init": Initialise,
    "quantize": Quantize,
    "mix": Mix,
    "evaluate": Evaluate,
    "floors": Floors,
    "bench": Bench,
    "sample": Sample,
    "audit": Audit,
}
"""Every kind of stage by name; `flyweight.register_stage` adds those of other packages."""


OTHER_ARTIFACTS = ("corpus", "import")
"""Kinds of artifacts that no recipe can name as a stage."""


def stage_class(name: object) -> type[StageConfig] | None:
    """Return the config class of a stage's name; None for a name that no stage has.

    A name that is not known yet may be that of a plug-in, which is imported then.
    """
    if not isinstance(name, str) or name in OTHER_ARTIFACTS:
        return None
    if name not in STAGE_CONFIGS:
        load_plugins()
    return STAGE_CONFIGS.get(name)


def any_stage() -> Any:
    """Return the annotation of a stage of any registered kind."""
    return Annotated[Union[tuple(STAGE_CONFIGS.values())], Discriminator("stage")]  # noqa: UP007


@lru_cache(maxsize=4)
def _reader(configs: tuple[type[StageConfig], ...]) -> TypeAdapter[StageConfig]:
    return TypeAdapter(any_stage())


def read_stage(raw: Any) -> StageConfig:
    """Return one checked stage config of a registered kind.

    Raises pydantic's ValidationError.
    """
    return _reader(tuple(STAGE_CONFIGS.values())).validate_python(raw)


AnyStage = Annotated[SerializeAsAny[StageConfig], PlainValidator(read_stage)]
"""A stage of any registered kind."""


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
    """Which stages are compared, how they are measured, and the prompts that they continue.

    `data: null` measures every model on the corpus that it was trained on. `metrics` are measured
    beside the likelihood, such as `accuracy`.
    """

    compare: tuple[str, ...] = ()
    data: Data | None = None
    measure: tuple[Literal["evaluate", "bench", "audit"], ...] = ("evaluate", "bench", "audit")
    metrics: Metrics = Field(default=(), exclude_if=_empty)
    prompts: tuple[str, ...] = ()
    sample_tokens: PositiveInt = 64


class Recipe(Strict):
    """A DAG of stages under one budget.

    Top-level `data`, `train` and `model` are defaults of every stage that has them.
    """

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    budget: Budget = Budget()
    stages: Annotated[dict[StageName, AnyStage], Field(min_length=1)]
    report: Report = Report()

    def __repr__(self) -> str:
        return f"<Recipe {self.name}: {', '.join(self.stages)}>"

    __str__ = __repr__
