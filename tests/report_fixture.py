"""A made-up but realistic run: what the quickstart writes, with the numbers of one early sketch."""

from __future__ import annotations

import math
import random
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flyweight.records.audit import AuditResult, Check
from flyweight.records.floors import Floor
from flyweight.records.metric import Metric
from flyweight.records.run_summary import (
    BudgetLine,
    CorpusSummary,
    Curve,
    Difference,
    Environment,
    Evaluation,
    ModelSummary,
    PairedComparison,
    ParameterCount,
    Speed,
    SplitSummary,
    StageSummary,
    Summary,
    Training,
    Validation,
)
from flyweight.records.sample import Continuation

FINGERPRINT = "9c0f2b7d5a41e388"
BYTES_PER_TOKEN = 3.42

_TEXTS = {
    "teacher": """open(self, path, mode="r"):
        \"\"\"Open the file and return a stream.\"\"\"
        if mode not in ("r", "w"):
            raise ValueError("invalid mode: %r" % mode)
        return self._open(path, mode)""",
    "student": """_get_name(self, name):
        if name is None:
            return name
        self._name = name
        return self.name""",
    "student-alone": """_set(self, value, value):
        if value < 0 and value > 0:
            self.value = value & 0xff
        return None""",
    "student-compute": """parse_header(line):
    \"\"\"Parse a <header> line & return (key, value).\"\"\"
    if not line:
        return None
    key, value = line.split(":", 1)
    return key.lower(), value.strip()""",
    "int8": """parse_header(line):
    \"\"\"Parse a <header> line & return a pair.\"\"\"
    key, value = line.split(":", 1)
    return key, value""",
    "nf4": """parse_head(line, value):
    if line is None:
        return line\x00\x1b[31m
    return (line, value)""",
}


def metric(
    value: float, unit: str, better: Any = "lower", spread: float = 0.0, n: int = 1
) -> Metric:
    return Metric(value, unit, better, n, value * (1 - spread), value * (1 + spread))


def evaluation(bits: float, half: float = 0.014) -> Evaluation:
    def scaled(value: float, unit: str) -> Metric:
        return Metric(
            value, unit, "lower", 312, value - half * value / bits, value + half * value / bits
        )

    nats = bits * math.log(2) * BYTES_PER_TOKEN

    def exponential(power: float, unit: str) -> Metric:
        low, high = (min(nats * power * (1 + sign * half / bits), 700.0) for sign in (-1, 1))
        return Metric(
            math.exp(min(nats * power, 700.0)), unit, "lower", 312, math.exp(low), math.exp(high)
        )

    return Evaluation(
        corpus=FINGERPRINT,
        split="test",
        window=256,
        stride=128,
        nll=scaled(nats, "nats/token"),
        perplexity=exponential(1.0, "1/token"),
        word_perplexity=exponential(2.4, "1/word"),
        bits_per_byte=Metric(bits, "bits/byte", "lower", 312, bits - half, bits + half),
    )


def audit(bits: float, **failing: str) -> AuditResult:
    """Return an audit in which the named checks fail, each for the reason given."""
    rows: list[tuple[str, float | None, float | None]] = [
        ("causality", 0.0, 0.0),
        ("batch_invariance", 2.1e-7, 1e-6),
        ("padding_invariance", 3.4e-7, 1e-6),
        ("cached_logits", 4.4e-6, 1e-4),
        ("save_load", 0.0, 0.0),
        ("below_unigram_floor", bits, 2.931),
        ("stored_bytes", 0.0061, 0.02),
    ]
    checks = [
        Check(
            name=name,
            measured=measured,
            bound=bound,
            verdict="fail" if name in failing else "pass",
            why=failing.get(name, ""),
        )
        for name, measured, bound in rows
    ]
    why = "quantized weights cannot be initialised again"
    checks.append(
        Check(name="initial_token_sensitivity", measured=None, bound=0.2, verdict="n/a", why=why)
    )
    return AuditResult(passed=not failing, checks=tuple(checks))


def curve(final: float, steps: int, seconds: float, flops: float, seed: int) -> Curve:
    noise = random.Random(seed)

    def at(done: float) -> float:
        return final + (8.3 - final) * math.exp(-7 * done**0.55) + 0.25 * (1 - done) ** 2

    points = range(0, steps + 1, max(1, steps // 80))
    return Curve(
        step=tuple(points),
        train_nll=tuple(at(point / steps) + noise.gauss(0, 0.06) for point in points),
        lr=tuple(3e-3 * (0.5 + 0.5 * math.cos(math.pi * point / steps)) for point in points),
        validation=tuple(
            Validation(round(steps * part / 8), at(part / 8), seconds * part / 8, flops * part / 8)
            for part in range(1, 9)
        ),
    )


def model(name: str, bits: float = 1.9, stage: str = "pretrain", **changes: Any) -> ModelSummary:
    """Return one model, its likelihood at `bits` per byte; any field can be replaced."""
    steps, seconds, flops = 800, 38.0, 2.6e13
    nats = bits * math.log(2) * BYTES_PER_TOKEN
    training = Training(
        steps=steps,
        tokens=steps * 4096,
        seconds=seconds,
        total_seconds=seconds,
        flops=flops,
        total_flops=flops,
        stopped_by="steps",
    )
    fields: dict[str, Any] = {
        "name": name,
        "id": f"{stage}-{zlib.crc32(name.encode()):08x}",
        "stage": stage,
        "config_line": "4 x 128, 4 heads, swiglu 352, tied",
        "parameters": ParameterCount(total=1_328_256, unique=1_328_256),
        "disk_bytes": 5_640_211,
        "training": training,
        "evaluate": evaluation(bits),
        "bench": speed(5.9, 11_200, 690, 19_400_000, 5_313_024),
        "audit": audit(bits),
        "curve": curve(nats, steps, seconds, flops, len(name)),
        "samples": (
            Continuation(prompt="def ", text=_TEXTS.get(name, "f(x):\n    return x")),
            Continuation(
                prompt="import ",
                text="os\nimport sys\n\n__all__ = ["
                + f'"{name}"]'
                + "\nif a < b and b > c & 1:\n    pass",
            ),
        ),
    }
    fields.update(changes)
    return ModelSummary(**fields)


def speed(forward: float, prefill: float, decode: float, peak: float, weights: float) -> Speed:
    return Speed(
        forward_ms=metric(forward, "ms", "lower", 0.03, 5),
        prefill_tokens_per_s=metric(prefill, "tokens/s", "higher", 0.03, 5),
        decode_tokens_per_s=metric(decode, "tokens/s", "higher", 0.04, 5),
        peak_bytes=metric(peak, "bytes"),
        weight_bytes=metric(weights, "bytes"),
    )


def training(model: ModelSummary, **changes: Any) -> Training:
    """Return a model's training with some numbers replaced."""
    assert model.training is not None
    return Training(**{**model.training.model_dump(), **changes})


def compare(a: str, b: str, difference: float, half: float = 0.012) -> PairedComparison:
    verdict = "undecided" if abs(difference) <= half else "better" if difference < 0 else "worse"

    def scaled(scale: float, unit: str) -> Difference:
        low, high = (difference - half) * scale, (difference + half) * scale
        return Difference(value=difference * scale, low=low, high=high, unit=unit, verdict=verdict)

    per_byte = scaled(1.0, "bits/byte")
    per_token = scaled(math.log(2) * BYTES_PER_TOKEN, "nats/token")
    return PairedComparison(
        a=a,
        b=b,
        nll=per_token,
        bits_per_byte=per_byte,
        verdict=verdict,
        n_units=36,
        kind="document",
    )


def corpus(**changes: Any) -> CorpusSummary:
    fields: dict[str, Any] = {
        "name": "python-stdlib",
        "fingerprint": FINGERPRINT,
        "tokenizer": "bpe (4096)",
        "vocab_size": 4096,
        "context": 256,
        "splits": {
            "train": SplitSummary(tokens=2_641_208, bytes=9_032_931, words=893_204, documents=611),
            "validation": SplitSummary(tokens=141_532, bytes=484_039, words=47_101, documents=34),
            "test": SplitSummary(tokens=150_220, bytes=513_752, words=50_404, documents=36),
        },
        "overlap": {"validation": 0.081, "test": 0.093},
        "floors": {
            "unigram": Floor(
                nll=6.948, perplexity=1041.0, bits_per_byte=2.931, seconds=1.2, stored=91_000
            ),
            "bigram": Floor(
                nll=5.319, perplexity=204.2, bits_per_byte=2.244, seconds=1.2, stored=91_000
            ),
            "kn5": Floor(
                nll=4.414, perplexity=82.6, bits_per_byte=1.862, seconds=1.2, stored=91_000
            ),
        },
        "megabytes_per_second": 7.4,
    }
    fields.update(changes)
    return CorpusSummary(**fields)


def quickstart_models() -> list[ModelSummary]:
    """Return the quickstart's six models."""
    teacher = model(
        "teacher",
        1.674,
        role="the large one",
        config_line="6 x 256, 8 heads, swiglu 704, tied",
        parameters=ParameterCount(total=5_868_800, unique=5_868_800),
        disk_bytes=23_801_933,
        bench=speed(21.4, 4_310, 268, 61_000_000, 23_475_200),
    )
    teacher = teacher.model_copy(
        update={
            "training": training(
                teacher, flops=1.41e14, total_flops=1.41e14, seconds=131.0, total_seconds=131.0
            ),
            "curve": curve(3.97, 800, 131.0, 1.41e14, 3),
        }
    )
    student = model(
        "student", 1.960, "distill", teacher="teacher", role="distilled from the teacher"
    )
    student = student.model_copy(
        update={
            "training": training(
                student, flops=7.1e13, total_flops=2.12e14, seconds=61.0, total_seconds=192.0
            ),
            "curve": curve(4.647, 800, 61.0, 7.1e13, 4),
        }
    )
    alone = model("student-alone", 2.046, role="alone, same tokens")
    full = model("student-compute", 1.511, role="alone, same total compute")
    same = {"stage": "student", "of": "total_flops"}
    full = full.model_copy(
        update={
            "training": training(
                full,
                steps=6520,
                flops=2.12e14,
                total_flops=2.12e14,
                seconds=187.0,
                total_seconds=187.0,
                same_as=same,
            ),
            "curve": curve(3.582, 6520, 187.0, 2.12e14, 5),
        }
    )
    quantized: dict[str, Any] = {
        "stage": "quantize",
        "input": "student-compute",
        "training": None,
        "curve": None,
    }
    int8 = model(
        "int8",
        1.514,
        **quantized,
        disk_bytes=1_695_004,
        bench=speed(7.8, 8_100, 402, 15_800_000, 1_368_064),
    )
    nf4 = model(
        "nf4",
        1.549,
        **quantized,
        disk_bytes=1_321_770,
        bench=speed(11.9, 5_400, 171, 15_100_000, 994_816),
    )
    return [teacher, student, alone, full, int8, nf4]


def quickstart(**changes: Any) -> Summary:
    """Return the whole run; any field of the summary can be replaced."""
    models = quickstart_models()
    pairs = [(a, b) for i, a in enumerate(models) for b in models[i + 1 :]]
    widths = {("student-compute", "int8"): 0.0021, ("student-compute", "nf4"): 0.004}
    fields: dict[str, Any] = {
        "name": "quickstart",
        "seed": 0,
        "created": datetime(2025, 11, 22, 9, 41, 12, tzinfo=UTC),
        "command": "flyweight quickstart",
        "seconds": 318.4,
        "environment": Environment(
            flyweight="0.1.0",
            python="3.11.7",
            torch="2.13.0+cpu",
            numpy="2.4.6",
            tokenizers="0.23.3",
            safetensors="0.8.0",
            platform="Linux-6.1.0-x86_64-with-glibc2.36",
            processor="AMD EPYC 7B13",
            cores=2,
            threads=2,
            device="cpu",
            memory_bytes=25_200_000_000,
        ),
        "budget": (
            BudgetLine(name="time", unit="s", planned=284.0, used=318.4, limit=360.0, ok=True),
            BudgetLine(name="memory", unit="bytes", planned=4.1e8, used=4.6e8, limit=None, ok=True),
            BudgetLine(
                name="flops", unit="FLOPs", planned=4.5e14, used=4.5e14, limit=None, ok=True
            ),
        ),
        "corpus": (corpus(),),
        "models": tuple(models),
        "comparisons": tuple(
            compare(a.name, b.name, bits(a) - bits(b), widths.get((a.name, b.name), 0.013))
            for a, b in pairs
        ),
        "stages": tuple(
            StageSummary(
                name=each.name,
                id=each.id,
                stage=each.stage,
                seconds=total,
                reused=each.name == "teacher",
            )
            for each in models
            for total in [each.training.seconds if each.training else 1.3]
        ),
    }
    fields.update(changes)
    return Summary(**fields)


def bits(each: ModelSummary) -> float:
    assert each.evaluate is not None
    return each.evaluate.bits_per_byte.value


def write(runs: Path, **changes: Any) -> Path:
    """Write the run into `runs/quickstart` and return that folder."""
    summary = quickstart(**changes)
    folder = runs / summary.name
    folder.mkdir(parents=True)
    summary.write(folder)
    return folder
