"""Estimate how long work takes on this machine, without building a model.

It is the only estimate of seconds: of `plan`, of the shares of a time budget, of what `train`
chooses and of a study's clock. Products take the time that this machine's kept rates tell. All
else takes constants, which were measured on two cores of a common server (docs/log.md), times the
slowness of this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

from flyweight.config import schema
from flyweight.core.events import Watcher, ignore
from flyweight.core.runtime import Precision, Runtime
from flyweight.evaluation.floors import TRAIN_LIMIT
from flyweight.planning import memory, rate
from flyweight.planning.rate import Kept, Rates
from flyweight.spec import flops as cost
from flyweight.spec.visits import visits
from flyweight.store.artifact import Store
from flyweight.store.stage import Work
from flyweight.training.step_cost import StepCost

SECONDS_PER_BYTE = 5e-10
"""Seconds of one thread for each byte of activations and logits.

Norms, activation functions, softmax, casts and copies.
"""

STEP_SECONDS, VISIT_SECONDS = 1e-3, 6e-4
"""The least seconds of a training step and of each use of a layer in it.

They are calls, not arithmetic.
"""

LEAST_PRODUCTS = 0.5
"""Share of a timed step that its products take at least."""

NEW_TOKEN_SECONDS = 3e-4
"""Seconds of each use of a layer for one new token of a text."""

HELD = 1.3
"""How many times as long steps take where freed memory goes back to a CPU's system at once.

1.2 to 1.4 were measured (docs/adr/0022).
"""

UPDATE_SECONDS = {"fp32": 0.0, "bf16": 1.0e-8, "int8": 1.6e-8}
"""Seconds of updating a parameter whose states are so short, over the fused update's 0.8 ns.

11 and 17 ns were measured on one core (docs/finetuning.md). Weights in bfloat16 are updated in the
same slices, with states of any length.
"""

MEASURES = ("evaluate", "bench", "audit")
FIXED_SECONDS = {name: schema.STAGE_CONFIGS[name].seconds for name in MEASURES}
"""Seconds of a measurement that do not depend on the model.

Loading it, resampling for intervals, starting the process of a bench.
"""

BENCH_PASSES = 12
"""Runs of a bench, warm-up included: five to fifteen, as many as fit two seconds."""

AUDIT_TOKENS = 30_000
"""Tokens that the checks of an audit read, counted as if each were read once with its logits."""

FLOOR_SECONDS_PER_TOKEN = 6e-7
"""Seconds of counting or scoring a token for the n-gram floors."""

MIXED_SECONDS_PER_TOKEN = 4e-5
"""Seconds of scoring a token by a mixture's counts and pointer, beside its network."""

REPORT_SECONDS = 0.6
"""Seconds of writing a report's page."""

READ_SECONDS_PER_BYTE = 3e-8
TOKENIZER_SECONDS_PER_BYTE = {
    "byte": 0.0,
    "char": 3e-8,
    "word": 6e-8,
    "bpe": 3e-7,
    "file": 0.0,
    "model": 0.0,
}
ENCODE_SECONDS_PER_BYTE = {
    "byte": 1e-7,
    "char": 2e-7,
    "word": 2e-7,
    "bpe": 2.5e-7,
    "file": 2.5e-7,
    "model": 2.5e-7,
}


@dataclass(frozen=True)
class MachineSpeed:
    """How fast this machine computes in one precision: its rates, device and threads.

    `given` are the training FLOPs per second that a budget names, which take the place of all that
    was measured.
    """

    rates: Rates
    device: str = "cpu"
    threads: int = 1
    precision: Precision = "fp32"
    given: float | None = None

    @property
    def seconds_per_byte(self) -> float:
        """Seconds for each byte that is read and written element by element.

        Nothing on devices other than a CPU.
        """
        if self.device != "cpu":
            return 0.0
        return SECONDS_PER_BYTE * self.rates.slowness / self.threads

    @property
    def itemsize(self) -> int:
        """Bytes of a number in this precision."""
        return 4 if self.precision == "fp32" else 2

    def slowed(self, seconds: float) -> float:
        """Return the seconds on this machine of what took `seconds` on the constants' machine."""
        return seconds * self.rates.slowness

    def products(self, flops: float, width: int) -> float:
        """Return the seconds that the products of a model of this width take."""
        return flops / rate.interpolated(self._product_rates, width)

    def beside_products(
        self, config: schema.Architecture, train: schema.Train, context: int
    ) -> float:
        """Return the seconds of a training step that are not products; `config` is resolved."""
        assert config.vocab_size
        kept = memory.kept_bytes(config, context, self.itemsize, self.device == "cpu")
        moved = train.batch * context * (kept + 4 * config.vocab_size)
        calls = STEP_SECONDS + VISIT_SECONDS * train.accumulate * uses_of_layers(config)
        return moved * self.seconds_per_byte + self.slowed(calls)

    @cached_property
    def _product_rates(self) -> dict[int, float]:
        """FLOPs per second of products alone, by the width of the training that was timed."""
        train, context = rate.TIMED_TRAINING, rate.TIMED_CONTEXT
        rates = dict[int, float]()
        for width, training_rate in self.rates.training.items():
            model = rate.timed_model(width)
            flops = StepCost.of(model, train, context).mean
            seconds = flops / training_rate
            rest = self.beside_products(model, train, context)
            rates[width] = flops / max(seconds - rest, LEAST_PRODUCTS * seconds)
        return rates


@dataclass(frozen=True)
class Machine:
    """What estimates ask about this machine: where it computes, and its rates by precision."""

    runtime: Runtime
    kept: Callable[[Precision], Kept]
    _speeds: dict[tuple[Precision, float | None], MachineSpeed] = field(
        default_factory=dict[tuple[Precision, float | None], MachineSpeed], repr=False
    )

    @classmethod
    def of(cls, store: Store, runtime: Runtime, watch: Watcher = ignore) -> Machine:
        """Return this machine, with the rates that the runs root keeps or that are measured now.

        They are measured when a precision is first asked for.
        """
        return cls(runtime, cache(lambda precision: rate.kept(store, runtime, precision, watch)))

    def speed(self, precision: Precision = "fp32", given: float | None = None) -> MachineSpeed:
        """Return the speed in a precision; `given` is a budget's own rate."""
        key = (precision, given)
        if key not in self._speeds:
            self._speeds[key] = MachineSpeed(
                rates=self.kept(precision).rates,
                device=self.runtime.device,
                threads=self.runtime.threads,
                precision=precision,
                given=given,
            )
        return self._speeds[key]

    def training_speed(
        self, train: schema.Train, width: int, given: float | None = None
    ) -> MachineSpeed:
        """Return the speed in the precision in which a model of this width is trained."""
        return self.speed(self.runtime.precision(train.products, width), given)


def step_seconds(
    config: schema.Architecture,
    train: schema.Train,
    context: int,
    flops: float,
    speed: MachineSpeed,
    *,
    trains: schema.TrainedPart = "full",
    held: bool = False,
) -> float:
    """Return the seconds of one training step of `flops` FLOPs, teacher and optimizer included.

    `config` is resolved, and `trains` is the part of it that does. `held`: a limit of memory is
    held. What saves memory and takes time for it is counted here and nowhere else.
    """
    if speed.given is not None:
        return flops / speed.given
    seconds = speed.products(flops, config.dim) + speed.beside_products(config, train, context)
    if train.memory.recompute == "blocks":
        seconds += reading_seconds(_blocks_alone(config), train.batch * context, speed)
    if speed.device != "cpu":
        return seconds
    update = UPDATE_SECONDS[train.memory.states]
    if train.memory.weights == "bf16":
        update = max(update, UPDATE_SECONDS["bf16"])
    seconds += speed.slowed(update * cost.trained_parameters(config, trains))
    return seconds * (HELD if held else 1.0)


def _blocks_alone(config: schema.Architecture) -> schema.Architecture:
    """Return a resolved config with next to no vocabulary: what is computed again has no head."""
    return config.model_copy(update={"vocab_size": 1, "embedding": schema.Embedding()})


def reading_seconds(config: schema.Architecture, tokens: float, speed: MachineSpeed) -> float:
    """Return the seconds in which a resolved model reads `tokens` tokens in full windows."""
    assert config.context and config.vocab_size
    flops = cost.forward_flops(config, config.context) / config.context
    if speed.given is not None:
        return tokens * flops / speed.given
    reads = config
    if isinstance(config, schema.ModelConfig):  # nothing is dropped while reading
        reads = config.model_copy(update={"dropout": schema.Dropout()})
    kept = memory.kept_bytes(reads, config.context, speed.itemsize, speed.device == "cpu")
    moved = (kept + 4 * config.vocab_size) / 2
    return tokens * (speed.products(flops, config.dim) + moved * speed.seconds_per_byte)


def work_seconds(work: Work, speed: MachineSpeed) -> float:
    """Return the seconds of a stage's products: what a model reads, and FLOPs beside that."""
    beside = work.flops / speed.given if speed.given else speed.products(work.flops, work.model.dim)
    return reading_seconds(work.model, work.tokens, speed) + beside


def uses_of_layers(config: schema.Architecture) -> int:
    """Return how many layers a forward pass goes through; a linear model counts as one."""
    if isinstance(config, schema.ModelConfig):
        return len(visits(config))
    return int(getattr(config, "layers", 1))


def measuring_seconds(
    config: schema.Architecture,
    test_tokens: float,
    speed: MachineSpeed,
    measures: Sequence[str] = MEASURES,
    mixed: bool = False,
) -> dict[str, float]:
    """Return the seconds that each measurement of one model takes, by its name.

    `config` is resolved; `test_tokens` is the length of the split that is scored. `mixed`: the
    model's counts and pointer score with it. The sum is what a report adds for one model;
    `floors_seconds` are added once for each corpus.
    """
    return {
        kind: speed.slowed(schema.STAGE_CONFIGS[kind].seconds)
        + _work_seconds(kind, config, test_tokens, speed)
        + (speed.slowed(_mixed_seconds(kind, test_tokens)) if mixed else 0.0)
        for kind in dict.fromkeys(measures)
    }


def _mixed_seconds(kind: str, test_tokens: float) -> float:
    """Return the seconds that a mixture adds to a measurement of its network."""
    tokens = {"evaluate": test_tokens, "audit": AUDIT_TOKENS}.get(kind, 0.0)
    return MIXED_SECONDS_PER_TOKEN * tokens


def _work_seconds(
    kind: str, config: schema.Architecture, test_tokens: float, speed: MachineSpeed
) -> float:
    assert config.context
    if kind not in MEASURES:
        return 0.0  # its trait tells it all
    if kind != "bench":
        return reading_seconds(config, test_tokens if kind == "evaluate" else AUDIT_TOKENS, speed)
    bench = schema.Bench(stage="bench", input="")
    new = bench.new_tokens or min(64, max(1, config.context // 2))
    passes = BENCH_PASSES
    return passes * (
        reading_seconds(config, config.context * bench.batch, speed)
        + new * token_seconds(config, speed)
    )


def token_seconds(config: schema.Architecture, speed: MachineSpeed) -> float:
    """Return the seconds of one new token of one text: calls, and reading the weights once."""
    reading = cost.weight_bytes(config) * SECONDS_PER_BYTE / 5
    return speed.slowed(reading + NEW_TOKEN_SECONDS * (uses_of_layers(config) + 1))


TASK_ROWS, TASK_TOKENS = 1_000, 64
"""Rows and tokens of an answer that a plan assumes of a task whose recipe does not say."""


def sampling_seconds(
    config: schema.Architecture, prompts: int, new_tokens: int, speed: MachineSpeed
) -> float:
    """Return the seconds in which a model continues so many prompts, all at once."""
    if not prompts:
        return 0.0
    work = new_tokens * (1 + 0.1 * prompts) * token_seconds(config, speed)
    return speed.slowed(FIXED_SECONDS["audit"]) + work


def floors_seconds(train_tokens: float, test_tokens: float, speed: MachineSpeed) -> float:
    """Return the seconds of a corpus' n-gram floors.

    They count its training split and score its test split.
    """
    counted = min(train_tokens, TRAIN_LIMIT)
    return speed.slowed(FLOOR_SECONDS_PER_TOKEN * (counted + test_tokens))


def validation_seconds(
    config: schema.Architecture, train: schema.Train, validation_tokens: float, speed: MachineSpeed
) -> float:
    """Return the seconds of all validations of one training.

    `validation_tokens` is the length of the validation split.
    """
    return reading_seconds(
        config, train.validations * min(train.validation_tokens, validation_tokens), speed
    )


def packing_seconds(size: int, tokenizer: schema.Tokenizer, speed: MachineSpeed) -> float:
    """Return the seconds of packing `size` bytes of text, with training the tokenizer."""
    sample = min(size, tokenizer.sample) if isinstance(tokenizer, schema.BpeTokenizer) else size
    per_byte = READ_SECONDS_PER_BYTE + ENCODE_SECONDS_PER_BYTE[tokenizer.kind]
    learning = sample * TOKENIZER_SECONDS_PER_BYTE[tokenizer.kind]
    return speed.slowed(size * per_byte + learning)
