"""Everything that a user can write in a recipe, as frozen and validated models.

An unknown key is an error.

The fields of a model are in `decoder`, `layers`, `sharing` and `baselines` beside this file, the
stages in `training_stages`, `distilling_stages`, `made_stages`, `measuring_stages` and in files
named after a single one. All of them stand here under the same names.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, Literal, Union

from pydantic import (
    Discriminator,
    Field,
    PlainValidator,
    SerializeAsAny,
    TypeAdapter,
)

from flyweight.config.adapters import (
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
    added,
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
from flyweight.config.distilling_stages import (
    Distill as Distill,
    Teach as Teach,
    Teachers as Teachers,
    teachers_in_words as teachers_in_words,
)
from flyweight.config.embedding import (
    Bigram as Bigram,
    Embedding as Embedding,
    ExactBigram as ExactBigram,
    HashedBigram as HashedBigram,
    NoBigram as NoBigram,
)
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
    Dense as Dense,
    Int3 as Int3,
    Int4 as Int4,
    Int8 as Int8,
    Int8Dynamic as Int8Dynamic,
    LinearKind as LinearKind,
)
from flyweight.config.made_stages import Initialise as Initialise, Mix as Mix, Select as Select
from flyweight.config.measuring_stages import (
    Audit as Audit,
    Evaluate as Evaluate,
    Floors as Floors,
    Metrics as Metrics,
    Sample as Sample,
    TrainingMemory as TrainingMemory,
)
from flyweight.config.mixture import Counts as Counts, Mixture as Mixture, Pointer as Pointer
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
    StageConfig as StageConfig,
)
from flyweight.config.tasks import TaskData as TaskData
from flyweight.config.trackers import Trackers
from flyweight.config.training import (
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
from flyweight.config.training_stages import (
    SAME_AS as SAME_AS,
    Finetune as Finetune,
    NewOrExisting as NewOrExisting,
    Pretrain as Pretrain,
    StageData as StageData,
    TrainingStage as TrainingStage,
)
from flyweight.config.units import Count, Seconds, Size
from flyweight.config.verification import Verify as Verify

# --- stages ---

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
    metrics: Metrics = added(())
    tasks: tuple[str | ScoredTask, ...] = added(())
    lm_eval: LmEvalTasks | None = added(None)
    prompts: tuple[str, ...] = ()
    sample_tokens: PositiveInt = 64
    layout: LayoutName | None = added(None)

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
    trackers: Trackers = added(())

    def __repr__(self) -> str:
        return f"<Recipe {self.name}: {', '.join(self.stages)}>"

    __str__ = __repr__
