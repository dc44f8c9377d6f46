"""The models that `flyweight train` can choose from, each with its training and its time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from flyweight.config import schema
from flyweight.planning import memory, mixing, time
from flyweight.planning.budget import LEAST_TRAINING, rounded_down
from flyweight.planning.text_size import TextSize, bytes_per_token
from flyweight.planning.time import Machine, MachineSpeed
from flyweight.planning.vocabulary import vocabulary
from flyweight.spec import flops as cost
from flyweight.store.budget import LIBRARIES
from flyweight.training.mix import mixing_seconds
from flyweight.training.step_cost import StepCost

TOKENS_PER_PARAMETER = 10
"""Tokens of training for each parameter of the blocks.

Half of the compute-optimal 20 (Hoffmann et al. 2022), which holds for models whose embedding is a
small part of them.
"""

MOST_PASSES = 20
"""Passes over the text beyond which more of them help little (Muennighoff et al. 2023)."""

DEFAULT_SECONDS = 600.0
"""The time to plan with where the budget names none."""

MANY_STEPS = 300
"""Steps that a short run should have: its steps are made smaller for it."""

LEAST_STEPS = 20
"""Steps that a limit of FLOPs has to allow."""

MOST_STEP_TOKENS, LEAST_STEP_TOKENS = 4096, 128
"""Tokens of a step: of a long run, and of a run of a few seconds."""

LONGEST_CONTEXT, LEAST_CONTEXT = 512, 8
MUON_RATE, REST_RATE = 0.02, 3e-3
"""Learning rates for the largest steps; smaller steps take the square root of their share."""

MOST_MEASURING = 0.4
"""Share of the time that packing and measuring may take.

Above it, the speed of the model is not measured, unless its user asks for it.
"""

MOST_VALIDATIONS, LEAST_VALIDATED = 10, 2048
"""Validations of a run, and the tokens that each reads at least."""

VALIDATING = 0.08
"""Share of the training time that validations may take."""

STORED_BESIDE = 30_000
"""Bytes that a model folder holds beside its weights, without the tokenizer."""

STORED_PER_ENTRY = 60
"""Bytes of tokenizer.json for each entry of the vocabulary."""

MEMORY_MARGIN = 0.7
"""Share of the memory left for training that the planned training may take."""

PACKING_BYTES = 120_000_000
"""Memory that packing a text takes, and that the process keeps while it trains."""


@dataclass(frozen=True)
class Setting:
    """Everything that a choice depends on; `stage` holds the user's settings.

    `kinds` are the report's measurements; `kinds_given`: the user asked for them. `mixes`: a
    `mix` stage may follow the training.
    """

    text: TextSize
    stage: schema.TrainingStage
    budget: schema.Budget
    kinds: tuple[str, ...]
    kinds_given: bool
    sample_tokens: int
    mixes: bool
    machine: Machine

    @property
    def seconds(self) -> float:
        """The time of the whole run."""
        return self.budget.time or DEFAULT_SECONDS

    def speed(self, width: int) -> MachineSpeed:
        """Return the speed of training a model of this width."""
        return self.machine.training_speed(self.stage.train, width, self.budget.rate)

    @property
    def scoring(self) -> MachineSpeed:
        """The speed of evaluation, which computes in float32."""
        return self.machine.speed("fp32", self.budget.rate)


@dataclass(frozen=True)
class Candidate:
    """One resolved model with the way it would be trained.

    `chosen` are the model's fields beside the user's.

    `tokens` are those of the whole training, `passes` how often they go through the text. `seconds`
    is the limit of training, `expected` what it will probably take. `faults` names the limits that
    it breaks; `enough`: the tokens are enough for its size.
    """

    shape: tuple[int, int]
    chosen: Mapping[str, Any]
    model: schema.ModelConfig
    data: schema.Data
    train: schema.Train
    kinds: tuple[str, ...]
    tokens: float
    passes: float
    seconds: float
    expected: float
    faults: tuple[str, ...]
    enough: bool

    @property
    def parameters(self) -> int:
        """Stored parameters."""
        return cost.parameters(self.model).unique

    @property
    def stored(self) -> int:
        """Bytes of the model's folder."""
        return stored_bytes(self.model)

    @property
    def balanced(self) -> bool:
        """Whether the embedding is at most half of the model."""
        return 2 * cost.parameters(self.model).by_part["embedding"] <= self.parameters


def model_fields(layers: int, dim: int, passes: float) -> dict[str, Any]:
    """Return the fields of the model for a shape and a number of passes over the text."""
    dropout = 0.0
    if passes >= 12:
        dropout = 0.2
    elif passes >= 3:
        dropout = 0.1
    return {"layers": layers, "dim": dim, "dropout": dropout}


def candidate(
    setting: Setting, tokenizer: schema.Tokenizer, shape: tuple[int, int]
) -> Candidate | None:
    """Return the model of this shape with its training.

    None where the user's own fields do not go with the shape.
    """
    stage = setting.stage
    assert isinstance(stage.model, schema.ModelConfig)
    assert isinstance(stage.data, schema.Data)
    data = stage.data.model_copy(update={"tokenizer": tokenizer})
    train = stage.train
    weighed = None
    step_tokens = MOST_STEP_TOKENS
    # Twice: the size of a step follows from the tokens, which follow from the cost of a step.
    for _ in range(2):
        data, train = _steps(setting, data, train, step_tokens)
        try:
            weighed = _weighed(setting, data, train, shape)
        except (ValidationError, ValueError):
            return None
        step_tokens = weighed.tokens / MANY_STEPS
    return weighed


def _steps(
    setting: Setting, data: schema.Data, train: schema.Train, step_tokens: float
) -> tuple[schema.Data, schema.Train]:
    """Return data and training with windows and batches for steps of about `step_tokens`."""
    given, assigned = setting.stage, dict[str, Any]()
    tokens = 2 ** math.floor(math.log2(min(MOST_STEP_TOKENS, max(LEAST_STEP_TOKENS, step_tokens))))
    if "context" not in given.data.model_fields_set:
        assert data.tokenizer is not None
        held_out = min(
            setting.text.bytes["validation"], setting.text.bytes["test"]
        ) / bytes_per_token(data.tokenizer)
        longest = 2 ** math.floor(math.log2(max(LEAST_CONTEXT, 0.8 * held_out - 1)))
        data = data.model_copy(
            update={"context": int(min(LONGEST_CONTEXT, max(32, tokens // 4), longest))}
        )
    if "batch" not in given.train.model_fields_set:
        assigned["batch"] = max(train.accumulate, tokens // data.context)
    if "optimizer" not in given.train.model_fields_set:
        batch = assigned.get("batch", train.batch)
        slower = math.sqrt(min(1.0, batch * data.context / MOST_STEP_TOKENS))
        rest = schema.AdamW(lr=round(REST_RATE * slower, 5))
        assigned["optimizer"] = schema.Muon(lr=round(MUON_RATE * slower, 4), rest=rest)
    return data, train.model_copy(update=assigned)


def _weighed(
    setting: Setting, data: schema.Data, train: schema.Train, shape: tuple[int, int]
) -> Candidate:
    """Return the candidate with its limits, its validations and what it breaks."""
    assert isinstance(setting.stage.model, schema.ModelConfig) and data.tokenizer is not None
    own = setting.stage.model.model_dump(exclude_unset=True)
    fields = {**own, "layers": shape[0], "dim": shape[1]}
    unresolved = schema.ModelConfig.model_validate(fields)
    model = unresolved.resolved(vocabulary(data, unresolved), data.context)
    unique = max(1.0, setting.text.tokens("train", data.tokenizer))
    seconds, kinds = _time(setting, model, data.tokenizer)
    flops = StepCost.of(model, train, data.context)
    step_tokens = train.batch * data.context
    speed = setting.speed(model.dim)
    held = setting.budget.memory is not None
    step_seconds = time.step_seconds(model, train, data.context, flops.mean, speed, held=held)
    tokens = seconds / step_seconds * step_tokens
    limits: dict[str, Any] = {} if setting.budget.time is None else {"time": seconds}
    most = MOST_PASSES * unique
    if not train.counts_steps:
        if tokens > most / 2:
            limits["tokens"] = round(most)
            tokens = min(tokens, most)
        if setting.budget.flops is not None:
            limits["flops"] = max(1, round(setting.budget.flops - flops.looped))
            tokens = min(tokens, limits["flops"] / flops.mean * step_tokens)
    else:
        counts = (
            train.steps and train.steps * step_tokens,
            train.tokens,
            train.epochs and train.epochs * unique,
            train.flops and train.flops / flops.mean * step_tokens,
        )
        tokens = min(tokens, *(count for count in counts if count))
    held_out = setting.text.tokens("validation", data.tokenizer)
    train = train.model_copy(update={**limits, **_validations(setting, tokens, held_out)})
    chosen = model_fields(*shape, tokens / unique)
    regularised = schema.ModelConfig.model_validate({**chosen, **fields})
    # Dropout keeps more in memory and takes longer.
    model = regularised.resolved(model.vocab_size, data.context)
    train = _in_memory(setting, model, train, data.context)
    step_seconds = time.step_seconds(model, train, data.context, flops.mean, speed, held=held)
    validating = time.validation_seconds(model, train, held_out, speed)
    in_time = max(1, int((seconds - validating) / step_seconds)) * step_tokens
    tokens = min(tokens, in_time)
    return Candidate(
        shape=shape,
        chosen=chosen,
        model=model,
        data=data,
        train=train,
        kinds=kinds,
        tokens=tokens,
        passes=tokens / unique,
        seconds=seconds,
        expected=min(seconds, tokens / step_tokens * step_seconds + validating),
        faults=tuple(_faults(setting, model, train, data.context)),
        enough=tokens >= TOKENS_PER_PARAMETER * _block_parameters(model),
    )


def _block_parameters(model: schema.ModelConfig) -> int:
    parts = cost.parameters(model).by_part
    return parts["attention"] + parts["mlp"]


def _time(
    setting: Setting, model: schema.ModelConfig, tokenizer: schema.Tokenizer
) -> tuple[float, tuple[str, ...]]:
    """Return the seconds that training has, and the measurements.

    The bench is left out where time is short.
    """
    before = time.packing_seconds(setting.text.whole, tokenizer, setting.scoring)
    kinds = setting.kinds
    after = _after(setting, model, tokenizer, kinds)
    if before + after > MOST_MEASURING * setting.seconds and not setting.kinds_given:
        kinds = tuple(kind for kind in kinds if kind != "bench")
        after = _after(setting, model, tokenizer, kinds)
    if setting.stage.train.time is not None:
        return setting.stage.train.time, kinds
    left = max(setting.seconds - before - after, LEAST_TRAINING * setting.seconds)
    return rounded_down(left), kinds


def _after(
    setting: Setting,
    model: schema.ModelConfig,
    tokenizer: schema.Tokenizer,
    kinds: tuple[str, ...],
) -> float:
    """Return the seconds of all work after training: mixing, measuring, a sample, the report."""
    speed, text = setting.scoring, setting.text
    train, test = text.tokens("train", tokenizer), text.tokens("test", tokenizer)
    mixed = setting.mixes and text.tokens("validation", tokenizer) >= mixing.LEAST_VALIDATED
    seconds = speed.slowed(time.REPORT_SECONDS)
    if mixed:
        seconds += speed.slowed(mixing_seconds(train))
    measured = tuple(kind for kind in kinds if kind in time.MEASURES)
    seconds += sum(time.measuring_seconds(model, test, speed, measured, mixed).values())
    if "evaluate" in kinds:
        seconds += time.floors_seconds(train, test, speed)
    return seconds + time.sampling_seconds(model, 1, setting.sample_tokens, speed)


def _validations(setting: Setting, tokens: float, held_out: float) -> dict[str, int]:
    """Return how often to validate on how many tokens, within the share of time for it."""
    affordable = 3 * VALIDATING * tokens  # a forward pass takes a third of a training step
    at_once = min(max(1.0, held_out), 65_536, max(LEAST_VALIDATED, affordable / 8))
    given = setting.stage.train.model_fields_set
    chosen = {
        "validations": max(1, min(MOST_VALIDATIONS, int(affordable / at_once))),
        "validation_tokens": max(1, round(min(65_536, at_once))),
    }
    return {name: value for name, value in chosen.items() if name not in given}


def _in_memory(
    setting: Setting, model: schema.ModelConfig, train: schema.Train, context: int
) -> schema.Train:
    """Return the training with its batch in as many pieces as a limit of memory asks for."""
    limit = _memory(setting)
    if limit is None or "accumulate" in setting.stage.train.model_fields_set:
        return train
    for pieces in (count for count in range(1, train.batch + 1) if train.batch % count == 0):
        train = train.model_copy(update={"accumulate": pieces})
        if _planned_memory(setting, model, train, context) <= limit:
            break
    return train


def _memory(setting: Setting) -> float | None:
    """Return the bytes that the planned training may take, or None without a limit."""
    limit = setting.budget.memory
    return None if limit is None else MEMORY_MARGIN * max(limit - PACKING_BYTES, limit / 2)


def least_limit(candidate: Candidate) -> float:
    """Return the limit of memory, in bytes, that a candidate's training would hold to."""
    isolated = candidate.data.documents == "isolated"
    needed = memory.training(
        candidate.model, candidate.train, candidate.data.context, isolated=isolated
    )
    alone = (needed.total - needed.libraries) / MEMORY_MARGIN
    return max(LIBRARIES, min(alone + PACKING_BYTES, 2 * alone))


def _planned_memory(
    setting: Setting, model: schema.ModelConfig, train: schema.Train, context: int
) -> int:
    """Return the bytes of a training without libraries, which packing has loaded before."""
    isolated = setting.stage.data.documents == "isolated"
    # float32 takes the most
    needed = memory.training(model, train, context, isolated=isolated)
    return needed.total - needed.libraries


def _faults(
    setting: Setting, model: schema.ModelConfig, train: schema.Train, context: int
) -> list[str]:
    """Return the names of the limits that this model breaks."""
    budget = setting.budget
    share = mixing.NETWORK_SHARE
    needed = _planned_memory(setting, model, train, context)
    step = StepCost.of(model, train, context).looped
    used = {
        "parameters": (
            cost.parameters(model).unique,
            budget.parameters and share * budget.parameters,
        ),
        "bytes": (stored_bytes(model), budget.bytes and share * budget.bytes),
        "memory": (needed, _memory(setting)),
        "flops": (LEAST_STEPS * step, budget.flops),
    }
    return [name for name, (amount, limit) in used.items() if limit is not None and amount > limit]


def stored_bytes(model: schema.ModelConfig) -> int:
    """Return the bytes of a model's folder, its tokenizer included."""
    return cost.weight_bytes(model) + STORED_BESIDE + STORED_PER_ENTRY * (model.vocab_size or 0)
