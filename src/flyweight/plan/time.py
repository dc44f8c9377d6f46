"""How long work will take on this machine: FLOPs over a rate measured here, and what does not depend on FLOPs beside it.

Everything is an estimate for an idle machine, made without building a model. docs/log.md says how the constants were found.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from flyweight.config import schema
from flyweight.model import cost
from flyweight.model.schedule import slots

EFFICIENCY = 0.55
"""Share of a large product's rate that a whole training step keeps, measured on small decoders (docs/log.md)."""

MEASURES = ("evaluate", "bench", "audit")
FIXED_SECONDS = {"evaluate": 0.5, "bench": 5.0, "audit": 0.5}
"""What a measurement takes whatever the model: loading it, resampling for intervals, starting bench's own process."""

BENCH_PASSES = 12
"""Runs of a bench, warm-up included: five to fifteen, as many as fit two seconds."""

AUDIT_TOKENS = 8_192 + 2 * 3 * 4_096 + 12 * 1_024
"""Tokens that the audit's checks read, counted with their logits: the start of the test split, its shifts, and short pieces."""

FLOOR_SECONDS_PER_TOKEN = 2.5e-6
FLOOR_TOKENS = 10_000_000
"""Training tokens that the n-gram floors count at most (`evaluate.floors.TRAIN_LIMIT`)."""

VISIT_SECONDS = 1e-4
"""What one use of a layer takes for one new token, however small the layer is: calls, not arithmetic."""

READ_SECONDS_PER_BYTE = 4e-8
TOKENIZER_SECONDS_PER_BYTE = {"byte": 0.0, "char": 3e-8, "word": 6e-8, "bpe": 4e-7, "file": 0.0}
ENCODE_SECONDS_PER_BYTE = {"byte": 2e-8, "char": 2e-7, "word": 2e-7, "bpe": 3e-7, "file": 3e-7}


@dataclass(frozen=True)
class TextSize:
    """A text's size: its bytes in UTF-8, and the tokens of each split."""

    bytes: int
    train: int
    validation: int
    test: int


@cache
def product_rate(width: int, device: str = "cpu", precision: str = "fp32") -> float:
    """Return the FLOPs per second of a (1024 x width) by (width x 4 width) product, the best of a few short tries."""
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
    repeats = max(1, int(0.03 / max(once(1), 1e-6)))
    return 2 * 1024 * width * 4 * width / min(once(repeats) for _ in range(3))


def seconds(flops: float, width: int, device: str = "cpu", precision: str = "fp32") -> float:
    """Return an estimate of the seconds that `flops` of a model of this width take, in training or evaluation."""
    return flops / (EFFICIENCY * product_rate(width, device, precision))


def measuring_seconds(
    config: schema.Architecture, test_tokens: int, measures: Sequence[str] = MEASURES, device: str = "cpu"
) -> dict[str, float]:
    """Return the seconds that each measurement of one model takes, by its name, in float32.

    `config` is resolved; `test_tokens` is the length of the split that is scored. Its sum is what a report adds for one
    model; `floors_seconds` come once for each corpus on top.
    """
    wanted = dict.fromkeys(measures)
    return {kind: FIXED_SECONDS[kind] + _work_seconds(kind, config, test_tokens, device) for kind in wanted}


def _work_seconds(kind: str, config: schema.Architecture, test_tokens: int, device: str) -> float:
    assert config.context
    forward = seconds(cost.forward_flops(config, config.context), config.dim, device) / config.context  # one token
    if kind == "evaluate":
        return forward * test_tokens
    if kind == "audit":
        return forward * AUDIT_TOKENS
    bench = schema.Bench(stage="bench", input="")
    new = bench.new_tokens or min(64, max(1, config.context // 2))
    passes = BENCH_PASSES
    return passes * (forward * config.context * bench.batch + new * token_seconds(config, device))


def token_seconds(config: schema.Architecture, device: str = "cpu") -> float:
    """Return the seconds of one new token of one text, whose cost is calls and reading the weights once."""
    visits = len(slots(config)) if isinstance(config, schema.ModelConfig) else config_layers(config)
    arithmetic = seconds(cost.forward_flops(config, 1), config.dim, device)
    return 4 * arithmetic + VISIT_SECONDS * (visits + 2)


def config_layers(config: schema.Architecture) -> int:
    """Return the layers of a baseline; a linear model counts as one."""
    return int(getattr(config, "layers", 1))


def floors_seconds(text: TextSize) -> float:
    """Return the seconds that the n-gram floors of a corpus take: counting its training split, scoring the test split."""
    return FLOOR_SECONDS_PER_TOKEN * (min(text.train, FLOOR_TOKENS) + text.test)


def validation_seconds(
    config: schema.Architecture, train: schema.Train, validation_tokens: int, device: str = "cpu", precision: str = "fp32"
) -> float:
    """Return the seconds of all validations of one training; `validation_tokens` is the length of the validation split."""
    assert config.context
    tokens = train.validations * min(train.validation_tokens, validation_tokens)
    return seconds(cost.forward_flops(config, config.context) / config.context * tokens, config.dim, device, precision)


def packing_seconds(size: int, tokenizer: schema.Tokenizer) -> float:
    """Return the seconds that reading, tokenizer training and tokenizing `size` bytes of text take."""
    sample = min(size, tokenizer.sample) if isinstance(tokenizer, schema.BpeTokenizer) else size
    per_byte = READ_SECONDS_PER_BYTE + ENCODE_SECONDS_PER_BYTE[tokenizer.kind]
    return size * per_byte + sample * TOKENIZER_SECONDS_PER_BYTE[tokenizer.kind]


MEASURE_SECONDS = {"evaluate": 5.0, "bench": 8.0, "audit": 2.0}
