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
    Tag,
    TypeAdapter,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from flyweight.config.adapters import (
    MUON_REFUSED,
    Adapter as Adapter,
    Bottleneck as Bottleneck,
    Frozen as Frozen,
    Full as Full,
    Ia3 as Ia3,
    Lora as Lora,
    Method as Method,
    Prefix as Prefix,
    TrainedPart as TrainedPart,
)
from flyweight.config.base import (
    Fraction as Fraction,
    Name as Name,
    PositiveInt as PositiveInt,
    Probability as Probability,
    Rate as Rate,
    StageName as StageName,
    Strict as Strict,
)
from flyweight.config.baselines import (
    ARCHITECTURES as ARCHITECTURES,
    Architecture as Architecture,
    LinearConfig as LinearConfig,
    LstmConfig as LstmConfig,
    MlpConfig as MlpConfig,
)
from flyweight.config.compression import (
    Calibrated as Calibrated,
    Calibration as Calibration,
    Merge as Merge,
    Quantize as Quantize,
)
from flyweight.config.data import (
    BpeTokenizer as BpeTokenizer,
    ByteTokenizer as ByteTokenizer,
    CharTokenizer as CharTokenizer,
    Data as Data,
    FileTokenizer as FileTokenizer,
    ModelTokenizer as ModelTokenizer,
    Tokenizer as Tokenizer,
    WordTokenizer as WordTokenizer,
)
from flyweight.config.decoder import (
    Dropout as Dropout,
    Head as Head,
    Init as Init,
    ModelConfig as ModelConfig,
)
from flyweight.config.embedding import (
    Bigram as Bigram,
    Embedding as Embedding,
    ExactBigram as ExactBigram,
    HashedBigram as HashedBigram,
    NoBigram as NoBigram,
)
from flyweight.config.finetuning import tuned_config
from flyweight.config.importing import Import as Import
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
from flyweight.config.layouts import LayoutName as LayoutName
from flyweight.config.linear_kinds import (
    NF4 as NF4,
    REGISTRY,
    Dense as Dense,
    Int3 as Int3,
    Int4 as Int4,
    Int8 as Int8,
    Int8Dynamic as Int8Dynamic,
    LinearKind as LinearKind,
)
from flyweight.config.messages import nearest
from flyweight.config.metrics import METRICS, TASK_METRICS, metric_kind
from flyweight.config.mixture import Counts as Counts, Mixture as Mixture, Pointer as Pointer
from flyweight.config.model_rules import packed_kinds
from flyweight.config.plugins import load_plugins
from flyweight.config.pruning import Pack as Pack, Prune as Prune
from flyweight.config.scoring import (
    LmEval as LmEval,
    LmEvalTasks as LmEvalTasks,
    Score as Score,
    ScoredTask as ScoredTask,
)
from flyweight.config.seeds import Seed as Seed
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
from flyweight.config.snapshots import Snapshot as Snapshot
from flyweight.config.sparse_kinds import Masked as Masked, Sparse as Sparse, TwoFour as TwoFour
from flyweight.config.speed import (
    AttentionName as AttentionName,
    Bench as Bench,
    EngineName as EngineName,
    PrecisionName as PrecisionName,
    Profile as Profile,
)
from flyweight.config.stage import (
    EVERY_QUANTITY,
    Origin,
    StageConfig as StageConfig,
    TextUse,
)
from flyweight.config.tasks import TaskData as TaskData
from flyweight.config.trackers import Trackers
from flyweight.config.training import (
    FROZEN_IN_BFLOAT16,
    NO_BFLOAT16,
    NO_BLOCKS,
    AdamW as AdamW,
    Distillation as Distillation,
    FromTeacher as FromTeacher,
    HiddenMatching as HiddenMatching,
    MemorySaving as MemorySaving,
    Muon as Muon,
    NextToken as NextToken,
    Optimizer as Optimizer,
    SameAs as SameAs,
    Schedule as Schedule,
    Train as Train,
)
from flyweight.config.units import Count, Seconds, Size, Tokens
from flyweight.config.verification import Verify as Verify

SAME_AS = "train.same_as.stage"
"""The field that names the stage whose cost limits another; its model is not needed."""


def _is_random(value: object) -> bool:
    return value == "random"


def _no_fields(value: object) -> bool:
    return value == {}


def _none(value: object) -> bool:
    return value is None


def _kind_of_data(value: object) -> str:
    examples = "task" in value if isinstance(value, Mapping) else isinstance(value, TaskData)
    return TaskData.union_tag if examples else Data.union_tag


StageData = Annotated[
    Annotated[Data, Tag(Data.union_tag)] | Annotated[TaskData, Tag(TaskData.union_tag)],
    Discriminator(_kind_of_data),
]
"""What a stage may train on: a text, or the examples of a task."""


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
    names = {**METRICS, **TASK_METRICS}
    if name not in names:
        raise ValueError(f"unknown metric {name!r}{nearest(name, names)}")
    return name


def _empty(value: object) -> bool:
    return not value


def _is_input(value: object) -> bool:
    return value == "input"


def _is_nll(value: object) -> bool:
    return value == "nll"


Metrics = Annotated[tuple[str, ...], AfterValidator(_scored)]
"""Metrics to measure beside the likelihood's own, which always are."""


class TrainingStage(StageConfig):
    """Base of the stages that train a model by `train` on the text or the examples of `data`.

    They compute in the configured precision, and a budget counts what they spend. `round` lets the
    blocks' matrices be read as a quantize stage of this kind would round them, while their float
    values are trained. `round_layers` gives some of them a kind of their own, by patterns, as
    `layers` does there. `seed` is that of this training; by default that of the recipe.
    """

    model: Architecture | None = None
    data: StageData
    train: Train = Train()
    seed: Seed | None = Field(default=None, exclude_if=_none)
    round: LinearKind | None = Field(default=None, exclude_if=_none)
    round_layers: dict[str, LinearKind] = Field(
        default_factory=dict[str, LinearKind], exclude_if=_no_fields
    )

    makes_model: ClassVar[bool] = True
    defaults: ClassVar[tuple[str, ...]] = ("data", "train", "model")
    spends: ClassVar[tuple[str, ...]] = EVERY_QUANTITY
    validated: ClassVar[bool] = True
    several: ClassVar[tuple[str, ...]] = ("seed",)

    def no_validation(self) -> str:
        """Return why `select` cannot choose this stage by validation; empty where it can."""
        return "" if self.train.validations else "trains with validations: 0"

    def dependencies(self) -> dict[str, str]:
        """Return what the stage refers to, with the stage whose spending it is held to."""
        tied = self.train.same_as
        return super().dependencies() | ({} if tied is None else {SAME_AS: tied.stage})

    @property
    def shapes(self) -> tuple[str, ...]:
        """The fields whose model gives its shape alone, so that its training is not counted."""
        return ()

    def tuning(self) -> Method:
        """Return what of the model trains: everything, unless it is fine-tuned another way."""
        return Full()

    def trains_all(self) -> bool:
        """Return whether every tensor of the model trains, so that none of them may be packed."""
        return isinstance(self.tuning(), Full)

    def beside_training_all(self) -> str:
        """Return what the stage could do with a packed model instead, as a clause; or nothing."""
        return ""

    def trained_config(self, source: Architecture) -> Architecture:
        """Return the config of the model that comes of one with the config `source`."""
        return tuned_config(source, self.tuning())

    def faults(self) -> list[str]:
        """Refuse the tokenizer of a model where the stage starts from none.

        Memory is saved only where the model and the method can.
        """
        faults = [*self._no_tokenizer(), *self._streamed_faults()]
        baseline = self.model is not None and not isinstance(self.model, ModelConfig)
        if baseline and self.train.memory.recompute == "blocks":
            faults.append(NO_BLOCKS)
        if self.train.memory.weights == "bf16" and baseline:
            faults.append(NO_BFLOAT16)
        elif self.train.memory.weights == "bf16" and not self.trains_all():
            faults.append(FROZEN_IN_BFLOAT16)
        return [*faults, *self._unrounded()]

    def _streamed_faults(self) -> list[str]:
        """Return why a text that is read on the way cannot be read as the stage asks for."""
        if isinstance(self.data, TaskData) or self.data.stream is None or not self.train.epochs:
            return []
        return [
            "train.epochs: how many windows a stream has is not known; give steps, tokens, flops "
            "or time, and how often it may be read with data.stream.epochs"
        ]

    def _unrounded(self) -> list[str]:
        """Return why the matrices of blocks cannot be rounded in this training."""
        if self.round is None:
            alone = "round_layers: the other matrices need a kind as well; set round"
            return [alone] if self.round_layers else []
        for kind in (self.round, *self.round_layers.values()):
            if not kind.rounds:
                known = ", ".join(name for name, each in REGISTRY.items() if each.rounds)
                return [f"round: {kind.label} is not a rounding of weights alone; use {known}"]
        if not self.trains_all():
            return [
                "round: this method leaves the matrices of blocks as they are; use method: full, "
                "or quantize the input"
            ]
        if self.train.memory.weights == "bf16":
            return ["round: weights in bf16 are rounded already; leave memory.weights at fp32"]
        return []

    def _no_tokenizer(self) -> list[str]:
        """Return what to change where a tokenizer is that of a model, and there is none."""
        starts = [name for name in ("input", "teacher") if getattr(self, name, None) is not None]
        if starts:
            return []
        if isinstance(self.data, TaskData):
            return [
                "data.task: examples are cut by the tokenizer of input or teacher, and this stage "
                "has neither; train a model on a text first"
            ]
        if not isinstance(self.data.tokenizer, ModelTokenizer):
            return []
        return [
            "data.tokenizer: kind model is the tokenizer of input or teacher, and this stage has "
            "neither; choose another kind"
        ]

    @classmethod
    def describe(cls, origin: Origin) -> str:
        """Return how a model came about, as a card says it."""
        if "input" in origin.parents:
            return f"trained from {origin.parent('input')}"
        return "trained from random weights"


class NewOrExisting(TrainingStage):
    """Base of the stages that train a new `model`, or the weights of `input` further."""

    data: Data  # pyright: ignore - a task is learned by fine-tuning
    input: str | None = Field(default=None, exclude_if=_none)

    def faults(self) -> list[str]:
        """Refuse to train both a new model and an existing one, or neither."""
        if (self.model is None) != (self.input is None):
            return super().faults()
        return [
            "needs either model (a new one) or input (weights to go on from), and not both",
        ]


class Pretrain(NewOrExisting):
    """Train a model on a corpus; `input` starts from another stage's weights."""

    stage: Literal["pretrain"]


class Finetune(TrainingStage):
    """Train a finished model further on a text or the examples of a task, all of it or a part.

    The text is cut into tokens by the model's own tokenizer, unless `data` names another that is
    equal to it. `start: random` trains the same shape from new random weights: the control that
    shows what the model's own training was worth.
    """

    stage: Literal["finetune"]
    input: str
    model: None = None  # pyright: ignore - the model is that of `input`
    method: Method

    defaults: ClassVar[tuple[str, ...]] = ("data", "train")

    @field_validator("data", mode="after")
    @classmethod
    def _own_tokenizer(cls, data: Data | TaskData) -> Data | TaskData:
        """Read the text with the model's own tokenizer where no other is named."""
        if isinstance(data, TaskData) or data.tokenizer is not None:
            return data
        return data.model_copy(update={"tokenizer": ModelTokenizer()})

    start: Literal["input", "random"] = Field(default="input", exclude_if=_is_input)

    @property
    def shapes(self) -> tuple[str, ...]:
        """Random weights have nothing of the input but its shape."""
        return ("input",) if self.start == "random" else ()

    def tuning(self) -> Method:
        """Return what of the model trains."""
        return self.method

    def faults(self) -> list[str]:
        """Refuse an optimizer for what it cannot train, and random weights that do not train."""
        faults = super().faults()
        if self.method.trains == "adapters" and isinstance(self.train.optimizer, Muon):
            faults.append(MUON_REFUSED)
        if isinstance(self.method, Lora) and self.method.masked:
            faults.append("method.masked: the stage prune sets it; leave it out")
        if self.start == "random" and self.method.kind != "full":
            faults.append(f"start: random trains every weight, which {self.method.kind} does not")
        return faults

    def beside_training_all(self) -> str:
        """Return that another method leaves packed matrices as they are."""
        return "; or leave them as they are with method: lora"

    def role(self) -> str:
        """Return what it was made from, and how."""
        if self.start == "random":
            return f"the shape of {self.input}, from random weights"
        how = self.method.kind if self.round is None else f"to be rounded to {self.round.label}"
        return f"{self.input}, fine-tuned ({how})"

    @classmethod
    def describe(cls, origin: Origin) -> str:
        """Return how a model came about, as a card says it."""
        kind = origin.quote(origin.config["method"]["kind"])
        task = origin.config["data"].get("task")
        on = "" if task is None else f" on the task {origin.quote(task)}"
        made = f"fine-tuned from {origin.parent('input')} by the method {kind}{on}"
        rounded = origin.config.get("round")
        return (
            made if rounded is None else f"{made}, to be rounded to {origin.quote(rounded['kind'])}"
        )


Across = Literal["tokenizers"]
"""What a teacher and its student need not share: see docs/distillation.md."""


def _named_teachers(value: object, checked: ValidatorFunctionWrapHandler) -> object:
    """Check the name of a teacher or a list of names; a list of one is that one.

    Raises ValueError for anything else, and for one that is named twice.
    """
    names = list(value) if isinstance(value, list | tuple) else [value]
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"expected the name of a teacher, or a list of several; found {value!r}")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{twice} is named twice")
    return checked(names[0] if len(names) == 1 else names)


Teachers = Annotated[
    str | Annotated[tuple[str, ...], Field(min_length=2)], WrapValidator(_named_teachers)
]
"""A teacher, or several."""


def teachers_in_words(teacher: Teachers) -> str:
    """Return the name of a teacher, or the names of several."""
    return teacher if isinstance(teacher, str) else " and ".join(teacher)


class Distill(NewOrExisting):
    """Train a model to match a teacher's next-token distribution.

    `input` starts from another stage's weights, such as those of the teacher without some parts. A
    new `model` starts at random, or from the layers and widths of the teacher that `start` names.
    `told` is a stage `teach`, whose record stands in for running the teacher. Several teachers tell
    the mean of their probabilities. `across: tokenizers` is for teachers with other tokenizers.
    """

    stage: Literal["distill"]
    teacher: Teachers
    across: Across | None = Field(default=None, exclude_if=_none)
    told: str | None = Field(default=None, exclude_if=_none)
    start: FromTeacher | Literal["random"] = Field(default="random", exclude_if=_is_random)
    objective: Distillation = Distillation()

    references: ClassVar[tuple[str, ...]] = ("input", "told", "teacher")

    def faults(self) -> list[str]:
        """Refuse to begin with parts of the teacher where there are weights already.

        A record has neither hidden states nor the order of all tokens.
        """
        faults = super().faults()
        if self.input is not None and self.start != "random":
            faults.append("start: input has weights to start from; leave start out")
        if not isinstance(self.teacher, str) and self.told is None:
            faults.append(
                "teacher: several teachers tell before a student learns; add told: {k: 64}, or "
                "name one"
            )
        if not isinstance(self.teacher, str) and self.start != "random":
            faults.append("start: there are several teachers; use start: random, or name one")
        faults += self._across_faults()
        if self.told is not None and self.data.stream is not None:
            faults.append(f"told: {NO_RECORD}")
        if self.told is not None and self.objective.hidden is not None and self.across is None:
            faults.append("objective.hidden: a record has no hidden states; leave told out")
        if self.told is not None and not self.train.counts_steps and self.train.same_as is None:
            faults.append(
                "told: how many rows are read has to be known; give train.steps, tokens, epochs or "
                "flops"
            )
        if self.told is not None and self.seed is not None:
            faults.append("seed: a record is of the recipe's seed; leave told or seed out")
        if self.told is None and self.objective.rest != "bucket":
            faults.append("objective.rest: is about a record; name one with told, or leave it out")
        return faults

    def _across_faults(self) -> list[str]:
        """Return what cannot be compared across tokenizers."""
        if self.across is None:
            return []
        faults: list[str] = []
        if self.told is None:
            faults.append("across: such a teacher tells before a student learns; add told: {k: 64}")
        if self.objective.hidden is not None:
            faults.append(
                "objective.hidden: hidden states of other tokens do not compare; leave hidden out"
            )
        if self.start != "random":
            faults.append(
                "start: the teacher's rows belong to other tokens; use start: random, or input"
            )
        if self.input is None and isinstance(self.data.tokenizer, ModelTokenizer):
            faults.append(OWN_TOKENIZER)
        return faults

    def role(self) -> str:
        """Return whom it learned from, and what it was before."""
        start = "" if self.input is None else f"{self.input}, "
        how = "" if self.across is None else ", across tokenizers"
        how += ", shuffled" if self.objective.shuffled else ""
        return f"{start}distilled from {teachers_in_words(self.teacher)}{how}"

    @classmethod
    def describe(cls, origin: Origin) -> str:
        """Return how a model came about, as a card says it."""
        teachers = [name for name in origin.parents if name.split(".")[0] == "teacher"]
        made = f"distilled from {' and '.join(map(origin.parent, teachers))}"
        if origin.config["objective"].get("shuffled"):
            made += " with its probabilities shuffled, as a control"
        if "told" in origin.parents:
            made += f" by its record {origin.parent('told')}"
        if origin.config.get("across") is not None:
            made += _aligned(origin)
        if "input" in origin.parents:
            return f"{made}, starting from {origin.parent('input')}"
        if origin.config.get("start", "random") != "random":
            return f"{made}, starting with parts of its weights"
        return made


OWN_TOKENIZER = (
    "data.tokenizer: model is the teacher's own tokenizer here; name the student's, or leave "
    "across out"
)


NO_RECORD = (
    "a record is of the windows of a packed text, and a stream is read on the way; let the teacher "
    "run beside the student (leave told out), or name a corpus"
)


def _aligned(origin: Origin) -> str:
    """Return how much of a text could be compared across tokenizers, as a card says it."""
    share = origin.facts.get("aligned")
    where = " where tokens of both end at the same byte"
    return f", across tokenizers{where}" + (f" ({share:.0%} of its positions)" if share else "")


class Teach(StageConfig):
    """Write down a teacher's `k` likeliest next tokens for the first `rows` windows of a text.

    A distillation from the record (`told`) does not run the teacher. The windows are those that a
    training with the same text, context and seed reads. `temperature` is that of the objective, and
    `store` the format of a logarithm. Of several teachers it is the mean of their probabilities.

    With `across: tokenizers` teachers read the same text in their own tokens. They tell of groups
    of tokens that begin with the same shared token, where tokens of all end at the same byte.
    """

    stage: Literal["teach"]
    teacher: Teachers
    across: Across | None = Field(default=None, exclude_if=_none)
    data: Data
    rows: Annotated[int, Field(gt=0, lt=2**31)]
    k: PositiveInt = 64
    temperature: Rate = 1.0
    store: Literal["fp16", "fp32"] = "fp16"

    references: ClassVar[tuple[str, ...]] = ("teacher",)
    defaults: ClassVar[tuple[str, ...]] = ("data",)
    spends: ClassVar[tuple[str, ...]] = EVERY_QUANTITY

    def faults(self) -> list[str]:
        """Refuse to take the text's tokenizer from a teacher that has another one."""
        own = isinstance(self.data.tokenizer, ModelTokenizer)
        faults = [OWN_TOKENIZER] if own and self.across is not None else []
        return faults if self.data.stream is None else [*faults, f"data.stream: {NO_RECORD}"]

    def own_texts(self) -> tuple[str, ...]:
        """Teachers with other tokenizers read the text in their own tokens."""
        return tuple(self.dependencies()) if self.across is not None else ()


class Select(StageConfig):
    """The best of several trained models: validation text chooses, so that test text can report.

    `by: nll` takes the best validation of each training; any other metric is measured on the whole
    validation split. A metric of answers, such as f1, is measured on a `task`: its name, its file,
    or the fields of a stage `score`.
    """

    stage: Literal["select"]
    among: Annotated[tuple[str, ...], Field(min_length=2)]
    by: Annotated[str, AfterValidator(_known)] = Field(default="nll", exclude_if=_is_nll)
    task: str | ScoredTask | None = Field(default=None, exclude_if=_empty)

    makes_model: ClassVar[bool] = True
    references: ClassVar[tuple[str, ...]] = ("among",)
    spends: ClassVar[tuple[str, ...]] = EVERY_QUANTITY
    validated: ClassVar[bool] = True

    @property
    def text_of_input(self) -> TextUse:
        """Another metric than NLL is measured on the candidates' text."""
        return "none" if self.by == "nll" or self.task is not None else "required"

    @property
    def score(self) -> Score | None:
        """The stage that scores a candidate on the task; None where a text decides."""
        if self.task is None:
            return None
        task = ScoredTask(task=self.task) if isinstance(self.task, str) else self.task
        return task.stage("").model_copy(update={"metrics": (self.by,)})

    def faults(self) -> list[str]:
        """Refuse a metric of answers without a task, and a task for any other metric."""
        answers = self.by in TASK_METRICS
        if answers and self.task is None:
            return [f"by: {self.by} is measured on a task; name one, such as task: squad"]
        if self.task is not None and not answers:
            return [f"task: {self.by} is of a text; name a metric of answers, such as by: f1"]
        return []

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
    several: ClassVar[tuple[str, ...]] = ("input", "split")
    seconds: ClassVar[float] = 0.4
    noun: ClassVar[str] = "evaluation"

    @property
    def text_of_input(self) -> TextUse:
        """Likelihood needs a text."""
        return "required"

    def identity_fields(self) -> dict[str, object]:
        """Return the versions of the metrics, where one was raised."""
        versions = {name: metric_kind(name).version for name in self.metrics}
        raised = {name: version for name, version in versions.items() if version != 1}
        return {"metric_versions": raised} if raised else {}

    @classmethod
    def same_measurement(cls, identity: Mapping[str, Any]) -> Hashable:
        """Return the text and the split: of equal ones the newest counts."""
        return (identity["parents"].get("corpus"), identity["config"].get("split"))


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


class TrainingMemory(StageConfig):
    """Peak memory and seconds of a training's first `steps`, made again in a fresh process.

    `input` is what a training made; its text and its inputs have to be in the runs root.
    """

    stage: Literal["memory"]
    input: str
    steps: PositiveInt = 4

    measures: ClassVar[str | None] = "input"
    of_machine: ClassVar[bool] = True
    seconds: ClassVar[float] = 6.0

    @classmethod
    def same_measurement(cls, identity: Mapping[str, object]) -> Hashable:
        """Return the device: of equal ones the newest counts."""
        return identity["device"]


STAGE_CONFIGS: dict[str, type[StageConfig]] = {
    "pretrain": Pretrain,
    "finetune": Finetune,
    "distill": Distill,
    "teach": Teach,
    "select": Select,
    "snapshot": Snapshot,
    "init": Initialise,
    "import": Import,
    "quantize": Quantize,
    "prune": Prune,
    "pack": Pack,
    "merge": Merge,
    "mix": Mix,
    "evaluate": Evaluate,
    "floors": Floors,
    "bench": Bench,
    "profile": Profile,
    "sample": Sample,
    "audit": Audit,
    "memory": TrainingMemory,
    "verify": Verify,
    "score": Score,
    "lm_eval": LmEval,
}
"""Every kind of stage by name; `flyweight.register_stage` adds those of other packages."""


OTHER_ARTIFACTS = ("corpus", "examples")
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


def read_stage(raw: object) -> StageConfig:
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
    beside the likelihood, such as `accuracy`. `tasks` are those that every model answers: a name, a
    file, or the fields of a stage `score`. `lm_eval` are tasks of the Language Model Evaluation
    Harness, by the fields of a stage `lm_eval`. `layout` adds a paper's tables and figures, whose
    roles are names of stages.
    """

    compare: tuple[str, ...] = ()
    data: Data | None = None
    measure: tuple[Literal["evaluate", "bench", "audit", "memory", "verify"], ...] = (
        "evaluate",
        "bench",
        "audit",
    )
    metrics: Metrics = Field(default=(), exclude_if=_empty)
    tasks: tuple[str | ScoredTask, ...] = Field(default=(), exclude_if=_empty)
    lm_eval: LmEvalTasks | None = Field(default=None, exclude_if=_none)
    prompts: tuple[str, ...] = ()
    sample_tokens: PositiveInt = 64
    layout: LayoutName | None = Field(default=None, exclude_if=_none)

    def scored(self) -> tuple[ScoredTask, ...]:
        """Return the tasks with all their fields."""
        return tuple(
            ScoredTask(task=each) if isinstance(each, str) else each for each in self.tasks
        )


class Recipe(Strict):
    """A DAG of stages under one budget.

    Top-level `data`, `train` and `model` are defaults of every stage that has them. `trackers` are
    told the run's curves, table and numbers. They change no id.
    """

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    budget: Budget = Budget()
    stages: Annotated[dict[StageName, AnyStage], Field(min_length=1)]
    report: Report = Report()
    trackers: Trackers = Field(default=(), exclude_if=_empty)

    def __repr__(self) -> str:
        return f"<Recipe {self.name}: {', '.join(self.stages)}>"

    __str__ = __repr__
