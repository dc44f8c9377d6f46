"""How a model is trained: optimizers, schedule, limits, objectives."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, field_validator, model_validator

from flyweight.config.base import (
    Between,
    Depth,
    Fraction,
    LearningRate,
    PositiveInt,
    Probability,
    Rate,
    Strict,
    added,
    choice,
)
from flyweight.config.units import Count, Seconds, Steps, Tokens


class AdamW(Strict):
    """AdamW (Loshchilov and Hutter 2019), fused where torch can; decay acts on matrices only."""

    kind: Literal["adamw"] = "adamw"
    lr: LearningRate = 3e-3
    beta1: Probability = 0.9
    beta2: Probability = 0.95
    eps: Rate = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1


class Muon(Strict):
    """Muon (Jordan et al. 2024) for the blocks' matrices, AdamW for everything else."""

    kind: Literal["muon"] = "muon"
    lr: LearningRate = 0.02
    momentum: Probability = 0.95
    iterations: PositiveInt = 5
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    rest: AdamW = AdamW()


Optimizer = Annotated[Annotated[AdamW | Muon, Discriminator("kind")], choice("adamw")]


class Schedule(Strict):
    """Learning-rate factor by the fraction of the limit that is done.

    It rises linearly during the warm-up, stays flat, then falls to `final` in the tail.
    """

    warmup: Fraction = 0.02
    tail: Literal["cosine", "linear", "none"] = "cosine"
    tail_from: Fraction | None = None
    final: Fraction = 0.0


class SameAs(Strict):
    """A limit taken from another stage: the tokens, FLOPs or seconds that it spent.

    `total_*` includes its teachers. `same_as` is a stage's only limit: it replaces those of the
    recipe's defaults.
    """

    stage: str
    of: Literal["tokens", "flops", "seconds", "total_flops", "total_seconds"]


NO_BLOCKS = (
    "train.memory.recompute: blocks are those of a decoder, and this model is a baseline; leave it "
    "out, or save memory with train.accumulate"
)


FP16_SCALER = (
    "the scaler of fp16 looks at all gradients before a step; set precision to bf16 or fp32"
)
NO_BFLOAT16 = (
    "train.memory.weights: bf16 is for decoders, and this model is a baseline; leave weights at "
    "fp32"
)
FROZEN_IN_BFLOAT16 = (
    "train.memory.weights: bf16 would round the weights that this method leaves as they are; leave "
    "weights at fp32, or quantize the input"
)


class MemorySaving(Strict):
    """What a training gives up to need less memory: by default nothing.

    `recompute: blocks` keeps what goes into each visit of a block and computes the rest again in
    the backward pass. Gradients are the same to the bit, and a step takes about a third longer.
    `states` is how the optimizer's running means are stored: 4, 2 or about 1 byte for each number.
    `weights: bf16` holds a decoder's matrices in bfloat16, where products run in it too, and rounds
    each update at random; norms, gains and biases stay float32. The finished model is written in
    float32. `step: backward` moves each tensor as soon as its gradient is whole, and drops the
    gradient: the same update, of which no clipping and no accumulation is possible.
    """

    recompute: Literal["none", "blocks"] = added("none")
    states: Literal["fp32", "bf16", "int8"] = added("fp32")
    weights: Literal["fp32", "bf16"] = added("fp32")
    step: Literal["after", "backward"] = added("after")


class Average(Strict):
    """The running average of the weights, which is validated and kept in their place.

    After a step it moves by 1 - min(decay, (1 + step) / (10 + step)) towards the weights.
    """

    decay: Annotated[float, Field(gt=0, lt=1)]


class Train(Strict):
    """How long, how fast and how exactly to train. Whichever limit comes first ends the run.

    The schedule follows it. `epochs` are passes over the windows of a text, or over the examples of
    a task. `loss` is for tasks: by default completions alone are learned, with `all` the prompts
    too. Out of memory, `on_oom: halve` computes a step in micro-batches of half as many rows and
    goes on with the same update; `stop` ends the run. With `average`, what is validated and kept is
    a running average of the weights. `input_noise` is the share of input tokens that are exchanged
    for tokens drawn from the text, as often as they stand there, while targets stay (Xie et al.
    2017). Teachers read the text itself.

    `snapshots` are fractions of the training, such as [0.5, 0.75], at which the weights are kept in
    the artifact as well: the average, where there is one. `NAME@0.5` names such a model.
    """

    steps: Steps | None = None
    tokens: Tokens | None = None
    epochs: Annotated[float, Field(gt=0, le=1e6)] | None = added(None)
    flops: Annotated[Count, Field(gt=0)] | None = None
    time: Annotated[Seconds, Field(gt=0)] | None = None
    same_as: SameAs | None = None
    batch: PositiveInt = 16
    accumulate: PositiveInt = 1
    optimizer: Optimizer = AdamW()
    schedule: Schedule = Schedule()
    clip: Annotated[float, Field(ge=0)] = 1.0
    loss: Literal["completion", "all"] | None = added(None)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    validations: Annotated[int, Field(ge=0, lt=2**31)] = 8
    validation_tokens: Tokens = 65_536
    keep: Literal["best", "last"] = "best"
    checkpoint: Annotated[Seconds, Field(gt=0)] = 15.0
    average: Average | None = added(None)
    snapshots: tuple[Between, ...] = added(())
    input_noise: Probability = added(0.0)
    memory: MemorySaving = added(MemorySaving())
    on_oom: Literal["halve", "stop"] = added("halve")

    @property
    def products(self) -> Literal["auto", "fp32", "bf16", "fp16"]:
        """The precision asked for: weights in bfloat16 are multiplied in it."""
        return "bf16" if self.memory.weights == "bf16" else self.precision

    @property
    def counts_steps(self) -> bool:
        """Whether steps, tokens, epochs or FLOPs end it, which all come down to steps."""
        return bool(self.steps or self.tokens or self.epochs or self.flops)

    @model_validator(mode="after")
    def _whole_pieces(self) -> Train:
        if self.batch % self.accumulate:
            raise ValueError(
                f"accumulate: {self.accumulate} pieces do not divide batch {self.batch}: rows "
                f"would be left out"
            )
        return self

    @field_validator("snapshots", mode="after")
    @classmethod
    def _in_order(cls, points: tuple[float, ...]) -> tuple[float, ...]:
        """Sort the points of snapshots; refuse one that is named twice."""
        if len(set(points)) < len(points):
            raise ValueError(f"{', '.join(f'{at:g}' for at in points)} names a point twice")
        return tuple(sorted(points))

    @model_validator(mode="after")
    def _bfloat16_products(self) -> Train:
        if self.memory.weights == "bf16" and self.precision in ("fp32", "fp16"):
            raise ValueError(
                f"memory.weights: weights in bf16 are multiplied in bf16, and precision is "
                f"{self.precision}; set precision to bf16, or leave weights at fp32"
            )
        return self

    @model_validator(mode="after")
    def _averaged_exactly(self) -> Train:
        if self.average is not None and self.memory.weights == "bf16":
            raise ValueError(
                "average: weights in bf16 are too coarse for an average; leave memory.weights at "
                "fp32"
            )
        return self

    @model_validator(mode="after")
    def _step_in_backward(self) -> Train:
        """Refuse what needs all gradients at once, where each is dropped as soon as it is used."""
        if self.memory.step != "backward":
            return self
        reasons: list[str] = []
        if self.accumulate > 1:
            reasons.append(
                f"accumulate is {self.accumulate}, and gradients are dropped after the first "
                f"piece; set accumulate to 1"
            )
        if self.clip:
            reasons.append(
                f"clip is {self.clip:g}, and a norm of all gradients is never there; set clip to 0"
            )
        if isinstance(self.optimizer, Muon):
            reasons.append("Muon moves all matrices of a shape together; set optimizer to adamw")
        if self.precision == "fp16":
            reasons.append(FP16_SCALER)
        if reasons:
            raise ValueError(f"memory.step: backward cannot be: {'. Also, '.join(reasons)}")
        return self


class NextToken(Strict):
    """Cross-entropy of the next token."""

    kind: Literal["next_token"] = "next_token"


class HiddenMatching(Strict):
    """What a student's hidden states have to do with its teacher's, beside the predictions.

    `places` are pairs student: teacher of places in the unrolled stacks of layers, from 0: the
    residual stream behind them is compared. `by: values` is the squared distance as a share of the
    teacher's squared length, for streams of one width. `by: relations` compares, for each token,
    how alike it is to each token before it: a divergence of two softmaxes, for any widths (after
    Wang et al. 2020). `weight` multiplies the sum over places.
    """

    places: Annotated[dict[Depth, Depth], Field(min_length=1)]
    weight: Rate = 0.1
    by: Literal["values", "relations"] = "values"


class FromTeacher(Strict):
    """The first weights of a student are parts of its teacher's.

    `layers` are the teacher's layers, one for each of the student's; `even` spreads them from the
    first to the last. Of what the student has fewer (widths, heads, channels) it gets the first
    ones, or with `width: norm` those of the largest norm.
    """

    union_tag: ClassVar[str] = "from"

    layers: Literal["even"] | Annotated[tuple[Depth, ...], Field(min_length=1)] = "even"
    width: Literal["first", "norm"] = "first"

    @model_validator(mode="before")
    @classmethod
    def _from(cls, value: object) -> object:
        """Read `from: teacher`, which says what the other fields are about."""
        if not isinstance(value, dict) or "from" not in value:
            return value
        if value["from"] != "teacher":
            raise ValueError(f"{value['from']!r} is not known; use teacher, or start: random")
        return {key: field for key, field in value.items() if key != "from"}


class Distillation(Strict):
    """weight * T^2 * divergence(teacher, student at temperature T) + (1 - weight) * cross-entropy.

    `jsd` is the generalised Jensen-Shannon divergence with mixture weight `beta` on the teacher
    (Agarwal et al. 2024). `hidden` adds how far hidden states are from the teacher's.

    `rest` is for a teacher that has told its likeliest tokens alone. `bucket` compares the
    probability of all others as that of one more token. `renormalise` takes them for impossible.
    With `shuffled` the teacher's probabilities belong to other tokens, but for that of the next
    one: the control that shows whether a teacher teaches more than how sure to be.
    """

    kind: Literal["distillation"] = "distillation"
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    temperature: Rate = 1.0
    weight: Fraction = 0.5
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    hidden: HiddenMatching | None = added(None)
    rest: Literal["bucket", "renormalise"] = added("bucket")
    shuffled: bool = added(False)

    @model_validator(mode="after")
    def _known_divergence(self) -> Distillation:
        if self.beta != 0.5 and self.divergence != "jsd":
            raise ValueError("beta: belongs to divergence: jsd; leave it out")
        if self.rest == "renormalise" and self.divergence != "forward_kl":
            raise ValueError(
                f"rest: renormalise leaves tokens without probability, of which {self.divergence} "
                f"would be infinite; use bucket"
            )
        return self
