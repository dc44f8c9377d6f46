"""What `train` chooses for a text, a budget and a machine."""

import pytest
from known_machine import machine

from flyweight.config import load, schema
from flyweight.config.units import format_count
from flyweight.errors import RequestError
from flyweight.planning import defaults, planner
from flyweight.planning.budget import rounded_down
from flyweight.planning.rate import Rates
from flyweight.planning.vocabulary import vocabulary

MODEL = {"model": {"stage": "pretrain"}}
FAST = machine(Rates(training={64: 4e10, 256: 9e10}, packing=1.2e6))
SLOW = machine(Rates(training={64: 4e9, 256: 9e9}, packing=1.2e6))


def words(path, size):
    path.write_text(("some words to learn, line by line\n" * (1 + size // 34))[:size])
    return path


def chosen(path, on=FAST, **fields):
    budget = {"time": "10min", **fields.pop("budget", {})}
    raw = {"name": "x", "data": {"corpus": str(path)}, "stages": MODEL, "budget": budget, **fields}
    return defaults.suggest(raw, on, None)


def trained(choice) -> tuple[schema.ModelConfig, schema.Train, schema.Data]:
    stage = choice.recipe.stages["model"]
    return (
        stage.model.resolved(vocabulary(stage.data, stage.model), stage.data.context),
        stage.train,
        stage.data,
    )


def test_more_time_a_faster_machine_and_more_text_give_a_larger_model(tmp_path):
    small, large = words(tmp_path / "small.txt", 100_000), words(tmp_path / "large.txt", 6_000_000)
    widths = {
        name: trained(chosen(path, kept, budget={"time": time}))[0].dim
        for name, path, kept, time in (
            ("short", large, FAST, "1min"),
            ("long", large, FAST, "10h"),
            ("slow", large, SLOW, "10h"),
            ("small", small, FAST, "10h"),
        )
    }
    assert widths["short"] < widths["slow"] < widths["long"]
    assert widths["small"] < widths["long"]


def test_the_same_command_chooses_the_same(tmp_path):
    text = words(tmp_path / "a.txt", 50_000)
    assert chosen(text, budget={"time": "1min"}) == chosen(text, budget={"time": "1min"})


@pytest.mark.parametrize(
    "budget",
    [
        {"parameters": "200k"},
        {"parameters": "20k"},
        {"bytes": "1MB"},
        {"memory": "300MB"},
        {"flops": 1e11},
    ],
)
def test_every_kind_of_budget_is_kept_by_choosing(tmp_path, budget):
    choice = chosen(words(tmp_path / "a.txt", 3_000_000), budget=budget)
    planned = planner.plan(choice.recipe, FAST)
    assert planned.faults == ()
    for name, limit in choice.recipe.budget:
        if name in planned.totals and limit is not None and name != "time":
            assert 0 < planned.totals[name] <= limit


def test_a_budget_that_no_model_fits_is_refused_with_its_name(tmp_path):
    with pytest.raises(
        RequestError, match=r"budget\.parameters: even the smallest model .* raise the limit"
    ):
        chosen(words(tmp_path / "a.txt", 100_000), budget={"parameters": 100})


def test_a_training_without_any_end_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"budget\.time: no limit is left; give"):
        chosen(words(tmp_path / "a.txt", 60_000), budget={"time": None})


def test_a_tiny_text_gets_a_small_model_and_a_short_run(tmp_path):
    choice = chosen(words(tmp_path / "tiny.txt", 2_000))
    _, train, data = trained(choice)
    assert isinstance(data.tokenizer, schema.ByteTokenizer)
    assert data.context < 0.1 * 2_000
    assert train.tokens and train.tokens <= 20 * 1_600
    (stage,) = planner.plan(choice.recipe, FAST).stages
    assert stage.seconds < 60
    assert any("20 times through the text" in line for line in choice.lines)


def test_the_test_of_a_long_text_is_no_longer_than_it_has_to_be(tmp_path):
    _, _, data = trained(chosen(words(tmp_path / "long.txt", 20_000_000)))
    assert 0.015 < data.test == data.validation < 0.017
    assert data.tokenizer.sample == defaults.TOKENIZER_SAMPLE


@pytest.mark.parametrize("time", ["20s", "1min", "10min"])
def test_validations_take_at_most_a_tenth_of_training(tmp_path, time):
    choice = chosen(words(tmp_path / "a.txt", 3_000_000), budget={"time": time})
    _, train, _ = trained(choice)
    (stage,) = planner.plan(choice.recipe, FAST).stages
    assert train.validations >= 1
    assert 0 < stage.validating <= 0.1 * stage.seconds


@pytest.mark.parametrize("time", [20, 60, 3600])
def test_a_plan_of_what_was_chosen_fills_the_time_and_is_not_over_it(tmp_path, time):
    """The choice and its plan ask the same estimate."""
    choice = chosen(words(tmp_path / "a.txt", 6_000_000), budget={"time": f"{time}s"})
    planned = planner.plan(choice.recipe, FAST)
    assert not planned.warnings
    assert 0.9 * time <= planned.totals["time"] <= time
    expected = format_count(planned.stages[0].tokens)
    assert any(f"about {expected} tokens" in line for line in choice.lines)


def test_the_users_own_choice_is_kept(tmp_path):
    text = words(tmp_path / "a.txt", 60_000)
    choice = chosen(
        text,
        data={"corpus": str(text), "tokenizer": "char", "context": 48},
        model={"dim": 48, "layers": 3, "dropout": 0.3},
        train={"batch": 5, "validations": 2, "time": "7s", "optimizer": "adamw"},
        report={"measure": ["evaluate"], "prompts": ["so"]},
    )
    model, train, data = trained(choice)
    assert (model.dim, model.layers, data.context, data.tokenizer.kind) == (48, 3, 48, "char")
    assert (train.batch, train.validations, train.time, train.optimizer.kind) == (
        5,
        2,
        7.0,
        "adamw",
    )
    assert choice.recipe.report.measure == ("evaluate",)
    assert choice.recipe.report.prompts == ("so",)
    assert choice.raw["model"]["dropout"] == 0.3


def test_no_shape_is_suggested_for_another_kind_of_model(tmp_path):
    choice = chosen(words(tmp_path / "a.txt", 60_000), model={"kind": "linear", "dim": 8})
    assert choice.raw["model"] == {"kind": "linear", "dim": 8}
    assert choice.raw["data"]["tokenizer"] == {"kind": "bpe", "vocab": 512}


def test_a_users_steps_still_end_with_the_time(tmp_path):
    _, train, _ = trained(
        chosen(words(tmp_path / "a.txt", 60_000), budget={"time": "1min"}, train={"steps": 10**6})
    )
    assert train.steps == 10**6
    assert 15 <= train.time < 60


def test_the_rate_of_the_budget_counts_instead_of_the_measured_one(tmp_path):
    text = words(tmp_path / "a.txt", 6_000_000)
    slow = trained(chosen(text, SLOW, budget={"time": "1h"}))[0].dim
    told = chosen(text, SLOW, budget={"time": "1h", "rate": "90G"})
    assert trained(told)[0].dim > slow
    assert any(line == "rate: 90 GFLOPs/s" for line in told.lines)


def test_what_was_chosen_is_said_with_how_to_change_it(tmp_path):
    lines = "\n".join(chosen(words(tmp_path / "a.txt", 3_000_000), budget={"time": "1min"}).lines)
    for part in (
        "parameters",
        "model.dim=N",
        "data.tokenizer.vocab=N",
        "data.context=N",
        "times through the text",
        "rates.json",
    ):
        assert part in lines


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(47.9, 47), (312.4, 310), (9.99, 9.9), (0.2, 1.0), (-5, 1.0), (100, 100)],
)
def test_shares_are_rounded_down_to_two_digits(seconds, expected):
    assert rounded_down(seconds) == pytest.approx(expected)


def test_a_choice_is_a_whole_recipe(tmp_path):
    choice = chosen(words(tmp_path / "a.txt", 60_000))
    assert load.recipe(choice.raw) == choice.recipe
