"""The stages that train a model on a text or on the examples of a task: pretrain and finetune."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Tag, field_validator

from flyweight.config.adapters import MUON_REFUSED, Full, Lora, Method
from flyweight.config.base import added
from flyweight.config.baselines import Architecture
from flyweight.config.data import Data, ModelTokenizer
from flyweight.config.decoder import ModelConfig
from flyweight.config.finetuning import tuned_config
from flyweight.config.linear_kinds import REGISTRY, LinearKind
from flyweight.config.seeds import Seed
from flyweight.config.stage import EVERY_QUANTITY, Origin, StageConfig
from flyweight.config.tasks import TaskData
from flyweight.config.training import FROZEN_IN_BFLOAT16, NO_BFLOAT16, NO_BLOCKS, Muon, Train

SAME_AS = "train.same_as.stage"
"""The field that names the stage whose cost limits another; its model is not needed."""


def _kind_of_data(value: object) -> str:
    examples = "task" in value if isinstance(value, Mapping) else isinstance(value, TaskData)
    return TaskData.union_tag if examples else Data.union_tag


StageData = Annotated[
    Annotated[Data, Tag(Data.union_tag)] | Annotated[TaskData, Tag(TaskData.union_tag)],
    Discriminator(_kind_of_data),
]
"""What a stage may train on: a text, or the examples of a task."""


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
    seed: Seed | None = added(None)
    round: LinearKind | None = added(None)
    round_layers: dict[str, LinearKind] = added({})

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
    input: str | None = added(None)

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

    start: Literal["input", "random"] = added("input")

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
