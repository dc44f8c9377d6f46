import pytest

from flyweight.config.schema import BpeTokenizer, ByteTokenizer, ModelConfig, Train
from flyweight.planning import time
from flyweight.planning.time import Speed, TextSize

MODEL = ModelConfig(dim=64, layers=2).resolved(1000, 64)
LARGE = ModelConfig(dim=256, layers=6).resolved(4000, 64)


@pytest.fixture(autouse=True)
def rate(monkeypatch):
    """A machine of 100 GFLOP/s in float32, and four times that in bfloat16."""
    monkeypatch.setattr(
        time, "product_rate", lambda width, device, precision: 1e11 if precision == "fp32" else 4e11
    )


def test_measuring_grows_with_the_text_and_the_model():
    short, long = (time.measuring_seconds(MODEL, tokens) for tokens in (10_000, 1_000_000))
    assert list(short) == ["evaluate", "bench", "audit"]
    assert 50 < (long["evaluate"] - 0.4) / (short["evaluate"] - 0.4) < 150
    assert (short["bench"], short["audit"]) == (long["bench"], long["audit"])
    large = time.measuring_seconds(LARGE, 10_000)
    assert all(large[kind] > short[kind] >= time.FIXED_SECONDS[kind] for kind in short)
    assert time.measuring_seconds(MODEL, 10_000, ()) == {}
    assert list(time.measuring_seconds(MODEL, 10, ("audit", "audit"))) == ["audit"]


def test_a_step_is_products_at_the_measured_rate_and_what_is_not_a_product():
    train, flops = Train(batch=16), 1e10
    step = time.step_seconds(LARGE, train, 64, flops, Speed(threads=2))
    assert step > flops / 0.95e11
    assert step < time.step_seconds(LARGE, train, 64, flops, Speed(threads=1))
    half = time.step_seconds(LARGE, train, 64, flops, Speed(threads=2, precision="bf16"))
    assert half < step < 4 * half  # the products are four times as fast, the rest is not


def test_small_steps_take_the_time_of_their_calls():
    assert time.step_seconds(MODEL, Train(batch=1), 1, 1.0, Speed()) == pytest.approx(
        2.2e-3, rel=0.05
    )


def test_validations_read_no_more_than_there_is():
    train = Train(validations=4, validation_tokens=65_536)
    assert time.validation_seconds(MODEL, train, 1e9, Speed()) == pytest.approx(
        time.reading_seconds(MODEL, 4 * 65_536, Speed())
    )
    assert time.validation_seconds(MODEL, train, 1000, Speed()) == pytest.approx(
        time.reading_seconds(MODEL, 4000, Speed())
    )


def test_packing_trains_a_tokenizer_on_its_sample_alone():
    whole = time.packing_seconds(50_000_000, BpeTokenizer(sample="100MB"))
    sampled = time.packing_seconds(50_000_000, BpeTokenizer(sample="1MB"))
    assert whole - sampled == pytest.approx(49e6 * 3e-7)
    assert time.packing_seconds(50_000_000, ByteTokenizer()) < sampled


def test_floors_count_no_more_than_their_limit():
    small, large = (TextSize(10, train, 10, 10) for train in (20_000_000, 900_000_000))
    assert time.floors_seconds(small) == time.floors_seconds(large) > 5
