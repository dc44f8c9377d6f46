from dataclasses import replace

import pytest
from known_machine import CPU, RATES

from flyweight.config.schema import BpeTokenizer, ByteTokenizer, ModelConfig, Train
from flyweight.evaluation.floors import TRAIN_LIMIT
from flyweight.planning import rate, time
from flyweight.planning.time import MachineSpeed
from flyweight.spec import flops as cost
from flyweight.store.stage import Work
from flyweight.training.step_cost import StepCost

MODEL = ModelConfig(dim=64, layers=2).resolved(1000, 64)
LARGE = ModelConfig(dim=256, layers=6).resolved(4000, 64)
SPEED = MachineSpeed(RATES)
SLOW = MachineSpeed(RATES.model_copy(update={"packing": 0.3e6}))


def test_measuring_grows_with_the_text_and_the_model():
    short, long = (time.measuring_seconds(MODEL, tokens, SPEED) for tokens in (10_000, 1_000_000))
    assert list(short) == ["evaluate", "bench", "audit"]
    assert 50 < (long["evaluate"] - 0.4) / (short["evaluate"] - 0.4) < 150
    assert (short["bench"], short["audit"]) == (long["bench"], long["audit"])
    large = time.measuring_seconds(LARGE, 10_000, SPEED)
    assert all(large[kind] > short[kind] >= time.FIXED_SECONDS[kind] for kind in short)
    assert time.measuring_seconds(MODEL, 10_000, SPEED, ()) == {}
    assert list(time.measuring_seconds(MODEL, 10, SPEED, ("audit", "audit"))) == ["audit"]


def test_counts_and_a_pointer_take_time_for_every_token_they_score():
    alone, mixed = (
        time.measuring_seconds(MODEL, 77_000, SPEED, mixed=mixed) for mixed in (False, True)
    )
    assert mixed["evaluate"] - alone["evaluate"] == pytest.approx(77_000 * 4e-5)
    assert mixed["audit"] > alone["audit"] and mixed["bench"] == alone["bench"]


@pytest.mark.parametrize("width", [64, 256])
@pytest.mark.parametrize("speed", [SPEED, MachineSpeed(RATES, threads=2, precision="bf16")])
def test_the_training_that_was_timed_is_planned_as_it_was_timed(width, speed):
    model, train = rate.timed_model(width), rate.TIMED_TRAINING
    flops = StepCost.of(model, train, rate.TIMED_CONTEXT).mean
    seconds = time.step_seconds(model, train, rate.TIMED_CONTEXT, flops, speed)
    assert seconds == pytest.approx(flops / RATES.training[width])


def test_a_step_is_products_at_the_measured_rate_and_what_is_not_a_product():
    train, flops = Train(batch=16), 1e10
    step = time.step_seconds(LARGE, train, 64, flops, SPEED)
    twice = time.step_seconds(LARGE, train, 64, 2 * flops, SPEED)
    assert flops / 4e10 < step + 1e-2 and twice < 2 * step
    large_vocabulary = ModelConfig(dim=256, layers=6).resolved(50_000, 64)
    assert time.step_seconds(large_vocabulary, train, 64, flops, SPEED) > step


def test_small_steps_take_the_time_of_their_calls():
    seconds = time.step_seconds(MODEL, Train(batch=1), 1, 1.0, SPEED)
    assert seconds == pytest.approx(2.2e-3, rel=0.05)
    assert time.step_seconds(MODEL, Train(batch=1), 1, 1.0, SLOW) == pytest.approx(4 * seconds)


def test_a_machine_that_packs_slower_is_slower_in_all_that_has_no_rate():
    tokenizer = BpeTokenizer(vocab=512)
    for seconds in (
        lambda speed: time.packing_seconds(1_000_000, tokenizer, speed),
        lambda speed: time.floors_seconds(1e6, 1e5, speed),
        lambda speed: time.token_seconds(MODEL, speed),
    ):
        assert seconds(SLOW) == pytest.approx(4 * seconds(SPEED))
    fast = MachineSpeed(RATES.model_copy(update={"packing": 9e6}))
    assert time.packing_seconds(10**6, tokenizer, fast) == time.packing_seconds(
        10**6, tokenizer, SPEED
    )


def test_a_budgets_own_rate_takes_the_place_of_what_was_measured():
    given = CPU.speed("fp32", given=1e9)
    assert time.step_seconds(MODEL, Train(), 64, 5e9, given) == 5.0


def test_validations_read_no_more_than_there_is():
    train = Train(validations=4, validation_tokens=65_536)
    assert time.validation_seconds(MODEL, train, 1e9, SPEED) == pytest.approx(
        time.reading_seconds(MODEL, 4 * 65_536, SPEED)
    )
    assert time.validation_seconds(MODEL, train, 1000, SPEED) == pytest.approx(
        time.reading_seconds(MODEL, 4000, SPEED)
    )


def test_packing_trains_a_tokenizer_on_its_sample_alone():
    whole = time.packing_seconds(50_000_000, BpeTokenizer(sample="100MB"), SPEED)
    sampled = time.packing_seconds(50_000_000, BpeTokenizer(sample="1MB"), SPEED)
    assert whole - sampled == pytest.approx(49e6 * 3e-7)
    assert time.packing_seconds(50_000_000, ByteTokenizer(), SPEED) < sampled


def test_floors_count_no_more_than_their_limit():
    small, large = (time.floors_seconds(train, 10, SPEED) for train in (2e7, 9e8))
    assert small == large == pytest.approx(6e-7 * (TRAIN_LIMIT + 10))


def test_reading_drops_nothing():
    dropping = ModelConfig.model_validate({"dim": 64, "layers": 2, "dropout": 0.1})
    seconds = time.reading_seconds(dropping.resolved(1000, 64), 1e6, SPEED)
    assert seconds == time.reading_seconds(MODEL, 1e6, SPEED)


def test_what_saves_memory_takes_its_time():
    def step(held=False, **saving):
        train = Train.model_validate({"batch": 8, "memory": saving})
        return time.step_seconds(LARGE, train, 64, 1e9, SPEED, held=held)

    plain = step()
    assert step(held=True) == pytest.approx(time.HELD * plain)
    assert step(recompute="blocks") > plain
    parameters = cost.parameters(LARGE).unique
    for states in ("bf16", "int8"):
        slower = SPEED.slowed(time.UPDATE_SECONDS[states] * parameters)
        assert step(states=states) == pytest.approx(plain + slower)
    assert step(weights="bf16") == pytest.approx(step(states="bf16"))
    on_gpu = replace(SPEED, device="cuda")
    train = Train.model_validate({"memory": {"states": "int8"}})
    assert time.step_seconds(LARGE, train, 64, 1e9, on_gpu, held=True) == time.step_seconds(
        LARGE, Train(), 64, 1e9, on_gpu
    )


def test_the_work_of_a_stage_takes_the_rates_of_the_machine():
    read = time.work_seconds(Work(LARGE, 10_000), SPEED)
    assert read == time.reading_seconds(LARGE, 10_000, SPEED)
    beside = time.work_seconds(Work(LARGE, 10_000, 1e9), SPEED) - read
    assert beside == pytest.approx(SPEED.products(1e9, LARGE.dim))
    given = replace(SPEED, given=1e9)
    assert time.work_seconds(Work(LARGE, 0, 1e9), given) == pytest.approx(1.0)
