"""One class a measurement: what a stage writes into `metrics.json` comes back as it was."""

import json
import math

import pytest

from flyweight.core.files import write_json
from flyweight.records.audit import AuditResult, Check
from flyweight.records.bench import BenchResult, PassSeconds, Speed
from flyweight.records.floors import Floor, NgramFloors
from flyweight.records.likelihood import Evaluation, Interval, Likelihood, MeasuredLikelihood
from flyweight.records.metric import Metric
from flyweight.records.sample import Continuation, samples_json, samples_of


def _floor(nll: float) -> Floor:
    return Floor(
        nll=nll,
        perplexity=math.exp(nll),
        bits_per_byte=nll / 2,
        seconds=0.5,
        peak_bytes=900,
        bytes=800,
        stored=12,
        constants=(0.7, 0.9),
    )


FLOORS = NgramFloors(
    unigram=_floor(5.0),
    bigram=_floor(4.0),
    kn5=_floor(3.0),
    split="test",
    tokens=100,
    train_tokens=900,
    train_tokens_available=1000,
    vocab_size=64,
)
AUDIT = AuditResult.of(
    [
        Check(name="causality", measured=math.inf, bound=0.0, verdict="fail", why="leaks"),
        Check(name="predicts_next", measured=None, bound=0.0, verdict="n/a", why="too brief"),
    ]
)


def _written(tmp_path, content):
    write_json(tmp_path / "metrics.json", content)
    return json.loads((tmp_path / "metrics.json").read_text())


def test_floors_come_back_and_keep_their_keys(tmp_path):
    written = _written(tmp_path, FLOORS.to_metrics())
    assert NgramFloors.from_metrics(written) == FLOORS
    assert written["kn5"] == FLOORS.kn5.perplexity and written["bytes"]["bigram"] == 800
    assert list(FLOORS.to_metrics()) == [
        "unigram",
        "bigram",
        "kn5",
        "seconds",
        "bytes",
        "peak_bytes",
        "split",
        "tokens",
        "train_tokens",
        "train_tokens_available",
        "vocab_size",
        "details",
    ]


NLL = Metric(value=2.0, unit="nats/token", better="lower", n=90, low=1.9, high=math.inf)
LIKELIHOOD = MeasuredLikelihood(
    split="test",
    window=32,
    stride=16,
    nll=NLL,
    perplexity=NLL,
    bits_per_byte=NLL,
    metrics={"accuracy": Metric(0.5, "share", "higher", 90, 0.4, 0.6)},
    interval=Interval(level=0.95, over="document", units=30),
)
TIME = Metric(value=3.0, unit="ms", better="lower", n=5, low=2.0, high=4.0)
BENCH = BenchResult(
    forward_ms=TIME,
    prefill_tokens_per_s=TIME,
    decode_tokens_per_s=TIME,
    generate_ms=TIME,
    samples_per_s=TIME,
    peak_bytes=Metric.exact(900, "bytes"),
    weight_bytes=Metric.exact(800, "bytes"),
    disk_bytes=Metric.exact(850, "bytes"),
    p95={"forward_ms": 4.0},
    batch=1,
    prompt=8,
    new_tokens=4,
    repeats=None,
    device="cpu",
    precision="fp32",
    generate_tokens=5,
    attention="auto",
    kernel="flash",
    engine="eager",
    context=16,
    memory="resident",
    baseline_bytes=10_000,
    kernels={"dense": 8},
    threads=1,
    torch="2",
    seconds=PassSeconds(forward=(0.003,), prefill=(0.1,), decode=(0.2,), generate=(0.1,)),
)


def test_a_likelihood_comes_back_and_keeps_its_keys(tmp_path):
    written = _written(tmp_path, LIKELIHOOD.to_metrics())
    assert MeasuredLikelihood.from_metrics(written) == LIKELIHOOD
    assert written["nll"]["high"] == "Infinity" and written["word_perplexity"] is None
    assert list(LIKELIHOOD.to_metrics()) == [
        "nll",
        "perplexity",
        "word_perplexity",
        "bits_per_byte",
        "metrics",
        "split",
        "window",
        "stride",
        "interval",
    ]


def test_a_summary_has_the_likelihood_with_its_text_and_not_how_its_interval_was_made():
    likelihood = Likelihood.from_metrics(LIKELIHOOD.to_metrics())
    evaluation = Evaluation.on("c0ffee", likelihood)
    assert evaluation.metric("accuracy") == LIKELIHOOD.metrics["accuracy"]
    assert set(evaluation.model_dump()) == {
        "corpus",
        "split",
        "window",
        "stride",
        "nll",
        "perplexity",
        "bits_per_byte",
        "word_perplexity",
        "metrics",
    }


def test_a_bench_comes_back_and_keeps_its_keys(tmp_path):
    written = _written(tmp_path, BENCH.to_metrics())
    assert BenchResult.from_metrics(written) == BENCH
    assert Speed.from_metrics(written).forward_ms == TIME
    assert written["forward_ms"] == 3.0 and written["seconds"]["decode"] == [0.2]
    assert list(BENCH.to_metrics()) == [
        "forward_ms",
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
        "peak_bytes",
        "weight_bytes",
        "generate_ms",
        "samples_per_s",
        "disk_bytes",
        "metrics",
        "p95",
        "batch",
        "prompt",
        "new_tokens",
        "repeats",
        "device",
        "precision",
        "generate_tokens",
        "attention",
        "kernel",
        "engine",
        "context",
        "memory",
        "baseline_bytes",
        "kernels",
        "threads",
        "torch",
        "seconds",
    ]


def test_an_audit_comes_back_with_its_infinity(tmp_path):
    written = _written(tmp_path, AUDIT.to_metrics())
    assert AuditResult.from_metrics(written) == AUDIT
    assert not AUDIT.passed and written["checks"][0]["measured"] == "Infinity"
    assert list(AUDIT.checks[0].to_metrics()) == [
        *("name", "measured", "bound", "verdict", "why", "catches")
    ]


def test_samples_come_back(tmp_path):
    samples = (Continuation(prompt="a", text="b\n"), Continuation(prompt="", text="c"))
    assert samples_of(_written(tmp_path, samples_json(samples))) == samples


@pytest.mark.parametrize(
    "read",
    [
        NgramFloors.from_metrics,
        AuditResult.from_metrics,
        Likelihood.from_metrics,
        Speed.from_metrics,
        samples_of,
    ],
)
def test_numbers_of_something_else_are_refused(read):
    with pytest.raises((KeyError, ValueError)):
        read({"passed": True, "checks": [{"name": "x"}], "samples": [{"prompt": "a"}]})
