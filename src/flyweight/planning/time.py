"""Estimate how long work takes on this machine: products at a measured rate, and the rest.

Everything is an estimate for an idle machine, made without building a model. The constants were
measured on two cores of a common server; docs/log.md says how.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from flyweight.config import schema
from flyweight.planning import memory
from flyweight.spec import flops as cost
from flyweight.spec.visits import visits

PRODUCTS = {"fp32": 0.95, "bf16": 0.75, "fp16": 0.75}
"""Share of a large product's rate that the products of a training step reach."""

SECONDS_PER_BYTE = 5e-10
"""Seconds of one thread for each byte of activations and logits.

Norms, activation functions, softmax, casts and copies.
"""

STEP_SECONDS, VISIT_SECONDS = 1e-3, 6e-4
"""The least seconds of a training step and of each use of a layer in it.

They are calls, not arithmetic.
"""

NEW_TOKEN_SECONDS = 3e-4
"""Seconds of each use of a layer for one new token of a text."""

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
FLOOR_TOKENS = 10_000_000
"""Training tokens that the n-gram floors count at most (`evaluate.floors.TRAIN_LIMIT`)."""

READ_SECONDS_PER_BYTE = 3e-8
TOKENIZER_SECONDS_PER_BYTE = {"byte": 0.0, "char": 3e-8, "word": 6e-8, "bpe": 3e-7, "file": 0.0}
ENCODE_SECONDS_PER_BYTE = {"byte": 1e-7, "char": 2e-7, "word": 2e-7, "bpe": 2.5e-7, "file": 2.5e-7}


@dataclass(frozen=True)
class TextSize:
    """A text's size: its bytes in UTF-8, and the tokens of each split."""

    bytes: int
    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class Speed:
    """Where work is timed: device, threads, and the precision it computes in."""

    device: str = "cpu"
    threads: int = 1
    precision: str = "fp32"

    @property
    def seconds_per_byte(self) -> float:
        """Seconds for each byte that is read and written element by element.

        Nothing on devices other than a CPU.
        """
        return SECONDS_PER_BYTE / self.threads if self.device == "cpu" else 0.0

    @property
    def itemsize(self) -> int:
        """Bytes of a number in this precision."""
        return 4 if self.precision == "fp32" else 2

    def products(self, flops: float, width: int) -> float:
        """Return the seconds that the products of a model of this width take."""
        return flops / (PRODUCTS[self.precision] * product_rate(width, self.device, self.precision))


@cache
def product_rate(width: int, device: str = "cpu", precision: str = "fp32") -> float:
    """Return the FLOPs per second of a (1024 x width) by (width x 4 width) product.

    It is the best of a few short tries.
    """
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    a = torch.randn(1024, width, device=device, dtype=dtype)
    b = torch.randn(width, 4 * width, device=device, dtype=dtype)

    def once(repeats: int) -> float:
        began = time.perf_counter()
        for _ in range(repeats):
            torch.mm(a, b)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / repeats

    once(2)
    repeats = max(1, int(0.01 / max(once(1), 1e-6)))
    return 2 * 1024 * width * 4 * width / min(once(repeats) for _ in range(8))


def step_seconds(
    config: schema.Architecture, train: schema.Train, context: int, flops: float, speed: Speed
) -> float:
    """Return the seconds of one training step of `flops` FLOPs, teacher and optimizer included.

    `config` is resolved.
    """
    assert config.vocab_size
    kept = memory.kept_bytes(config, context, speed.itemsize, speed.device == "cpu")
    moved = train.batch * context * (kept + 4 * config.vocab_size)
    calls = STEP_SECONDS + VISIT_SECONDS * train.accumulate * uses_of_layers(config)
    return speed.products(flops, config.dim) + moved * speed.seconds_per_byte + calls


def reading_seconds(config: schema.Architecture, tokens: float, speed: Speed) -> float:
    """Return the seconds in which a resolved model reads `tokens` tokens in full windows."""
    assert config.context and config.vocab_size
    flops = cost.forward_flops(config, config.context) / config.context
    kept = memory.kept_bytes(config, config.context, speed.itemsize, speed.device == "cpu")
    moved = (kept + 4 * config.vocab_size) / 2
    return tokens * (speed.products(flops, config.dim) + moved * speed.seconds_per_byte)


def uses_of_layers(config: schema.Architecture) -> int:
    """Return how many layers a forward pass goes through; a linear model counts as one."""
    if isinstance(config, schema.ModelConfig):
        return len(visits(config))
    return int(getattr(config, "layers", 1))


def measuring_seconds(
    config: schema.Architecture,
    test_tokens: float,
    measures: Sequence[str] = MEASURES,
    speed: Speed | None = None,
) -> dict[str, float]:
    """Return the seconds that each measurement of one model takes, by its name.

    `config` is resolved; `test_tokens` is the length of the split that is scored; `speed` is one
    thread's by default. The sum is what a report adds for one model; `floors_seconds` are added
    once for each corpus.
    """
    speed = speed or Speed()
    return {
        kind: FIXED_SECONDS[kind] + _work_seconds(kind, config, test_tokens, speed)
        for kind in dict.fromkeys(measures)
    }


def _work_seconds(
    kind: str, config: schema.Architecture, test_tokens: float, speed: Speed
) -> float:
    assert config.context
    if kind != "bench":
        return reading_seconds(config, test_tokens if kind == "evaluate" else AUDIT_TOKENS, speed)
    bench = schema.Bench(stage="bench", input="")
    new = bench.new_tokens or min(64, max(1, config.context // 2))
    passes = BENCH_PASSES
    return passes * (
        reading_seconds(config, config.context * bench.batch, speed)
        + new * token_seconds(config, speed)
    )


def token_seconds(config: schema.Architecture, speed: Speed) -> float:
    """Return the seconds of one new token of one text: calls, and reading the weights once."""
    reading = cost.weight_bytes(config) * SECONDS_PER_BYTE / 5
    return reading + NEW_TOKEN_SECONDS * (uses_of_layers(config) + 1)


def sampling_seconds(
    config: schema.Architecture, prompts: int, new_tokens: int, speed: Speed
) -> float:
    """Return the seconds in which a model continues so many prompts, all at once."""
    if not prompts:
        return 0.0
    work = new_tokens * (1 + 0.1 * prompts) * token_seconds(config, speed)
    return FIXED_SECONDS["audit"] + work


def floors_seconds(text: TextSize) -> float:
    """Return the seconds of a corpus' n-gram floors.

    They count its training split and score its test split.
    """
    return FLOOR_SECONDS_PER_TOKEN * (min(text.train, FLOOR_TOKENS) + text.test)


def validation_seconds(
    config: schema.Architecture, train: schema.Train, validation_tokens: float, speed: Speed
) -> float:
    """Return the seconds of all validations of one training.

    `validation_tokens` is the length of the validation split.
    """
    return reading_seconds(
        config, train.validations * min(train.validation_tokens, validation_tokens), speed
    )


def packing_seconds(size: int, tokenizer: schema.Tokenizer) -> float:
    """Return the seconds of packing `size` bytes of text, with training the tokenizer."""
    sample = min(size, tokenizer.sample) if isinstance(tokenizer, schema.BpeTokenizer) else size
    per_byte = READ_SECONDS_PER_BYTE + ENCODE_SECONDS_PER_BYTE[tokenizer.kind]
    return size * per_byte + sample * TOKENIZER_SECONDS_PER_BYTE[tokenizer.kind]
