"""Measurements in a terminal: every figure has its unit."""

from flyweight.cli.show import measurements
from flyweight.records.bench import BenchResult
from flyweight.records.likelihood import MeasuredLikelihood


def metric(value, unit, low=None, high=None, n=8):
    return {
        "value": value,
        "unit": unit,
        "low": low or value,
        "high": high or value,
        "n": n,
        "better": "lower",
    }


def test_a_bench_has_units_and_says_how_it_was_measured(capsys):
    metrics = {
        "forward_ms": metric(24.797, "ms", 3.19, 27.8),
        "prefill_tokens_per_s": metric(6915.2, "tokens/s", 4913, 56136),
        "decode_tokens_per_s": metric(456.6, "tokens/s", 429, 1418),
        "generate_ms": metric(12.3, "ms", 12.1, 15.0),
        "samples_per_s": metric(81.3, "1/s", 66.7, 82.6),
        "peak_bytes": metric(10_424_320, "bytes"),
        "weight_bytes": metric(323_680, "bytes"),
        "disk_bytes": metric(435_780, "bytes"),
    }
    asked = {"batch": 1, "prompt": 64, "new_tokens": 64, "context": 256, "threads": 1}
    machine = {"device": "cpu", "precision": "fp32", "torch": "2.13.0"}
    chosen = {"attention": "auto", "kernel": "flash", "engine": "compiled", "generate_tokens": 5}
    rest = {
        "p95": {},
        "repeats": None,
        "memory": "resident",
        "baseline_bytes": 1000,
        "kernels": {"dense": 8},
        "seconds": {"forward": [0.02], "prefill": [0.01], "decode": [0.1], "generate": [0.01]},
    }
    written = {"id": "bench-d6c1f66c", "metrics": metrics, **asked, **machine, **chosen, **rest}
    measurements.bench(BenchResult.from_metrics(written), "quickstart:nf4")
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith(
        "quickstart:nf4 generates 457 tokens/s and takes 10.4 MB of memory measure median"
    )
    assert "Not shown" not in text
    assert "forward pass of 256 tokens 24.8 ms 3.19 to 27.8 ms" in text
    assert "generating 457 tokens/s 429 to 1,418 tokens/s" in text
    assert "10.4 MB" in text and "324 kB" in text and "436 kB" in text
    assert "an answer of 5 tokens 12.3 ms 12.1 to 15 ms" in text
    assert "8 runs; cpu, fp32, attention flash, engine compiled, 1 thread, torch 2.13.0" in text
    assert "bench-" not in text


def test_an_evaluation_names_its_model_and_text(capsys):
    values = {
        "id": "evaluate-c746aa26",
        "bits_per_byte": metric(2.1695, "bits/byte", 2.1312, 2.2201),
        "nll": metric(5.2657, "nats/token", 5.1728, 5.3885),
        "perplexity": metric(193.58, "perplexity/token", 176.41, 218.88),
        "word_perplexity": metric(3.6374e6, "perplexity/word", 2.7864e6, 5.1746e6),
        "split": "test",
        "window": 256,
        "stride": 128,
        "interval": {"level": 0.95, "over": "document", "units": 20},
    }
    measured = MeasuredLikelihood.from_metrics(values)
    measurements.evaluation(measured, "quickstart:nf4", "python-stdlib", ["some lines are lost"])
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("quickstart:nf4: 2.170 bits per byte on the test split of python-stdlib")
    assert (
        "bits per byte 2.170 2.131 to 2.220 lower" in text and "perplexity per word 3.64 M" in text
    )
    assert "stride 128 tokens; intervals over 20 documents" in text
    assert "note: some lines are lost" in text and "evaluate-" not in text


def test_what_is_infinite_is_called_so(capsys):
    endless = metric("Infinity", "perplexity/word")
    numbers = dict.fromkeys(("nll", "perplexity", "bits_per_byte"), metric(1.0, "nats"))
    values = {"word_perplexity": endless, "split": "test", "window": 8, "stride": 4, **numbers}
    interval = {"level": 0.95, "units": 1, "over": "block"}
    measured = MeasuredLikelihood.from_metrics({**values, "interval": interval})
    measurements.evaluation(measured, "toy:a", "one long word")
    assert "perplexity per word infinite infinite to infinite" in " ".join(
        capsys.readouterr().out.split()
    )
