import pytest
from known_machine import CPU

from flyweight.config import load
from flyweight.config.schema import ModelConfig, Train
from flyweight.errors import RequestError
from flyweight.planning import budget, memory, planner
from flyweight.planning.recipe_plan import refuse


def recipe(**fields):
    raw = {
        "name": "x",
        "data": {
            "corpus": "python-stdlib",
            "tokenizer": {"kind": "bpe", "vocab": 500},
            "context": 32,
        },
        "train": {"steps": 10, "batch": 4},
        "stages": {
            "teacher": {"stage": "pretrain", "model": {"dim": 64, "layers": 2}},
            "student": {
                "stage": "distill",
                "teacher": "teacher",
                "model": {"dim": 32, "layers": 1},
            },
            "alone": {
                "stage": "pretrain",
                "model": {"dim": 32, "layers": 1},
                "train": {"steps": None, "same_as": {"stage": "student", "of": "total_flops"}},
            },
        },
        **fields,
    }
    return load.recipe(raw)


def test_a_recipe_is_planned_stage_by_stage():
    found = {stage.name: stage for stage in planner.plan(recipe(), CPU).stages}
    assert found["teacher"].tokens == 10 * 4 * 32
    assert (
        found["student"].flops > 10 * 4 * 32 * found["student"].model.training_per_token
    )  # the teacher's forward counts
    total = found["student"].flops + found["teacher"].flops
    assert total <= found["alone"].flops < 1.1 * total
    assert found["teacher"].memory.total > found["student"].memory.weights


def test_a_total_has_what_teachers_took_to_tell():
    stages = recipe().model_dump(mode="json", exclude_unset=True)["stages"]
    running = {stage.name: stage for stage in planner.plan(recipe(), CPU).stages}
    student = {**stages["student"], "told": {"k": 8}}
    told = recipe(stages={**stages, "student": student})
    found = {stage.name: stage for stage in planner.plan(told, CPU).stages}
    assert found["student"].flops < running["student"].flops
    assert found["alone"].steps == running["alone"].steps  # the teacher reads as much as before


@pytest.mark.parametrize("measure", [(), ("evaluate",), ("evaluate", "bench", "audit")])
def test_the_time_is_the_sum_of_its_rows_and_only_what_is_measured_is_one(measure):
    found = planner.plan(
        recipe(report={"measure": measure, "compare": ["teacher", "student"]}), CPU
    )
    assert found.totals["time"] == pytest.approx(sum(row.seconds for row in found.rows))
    words = {"evaluate": "2 evaluations", "bench": "2 benches", "audit": "2 audits"}
    names = [row.name for row in found.rows]
    assert [word in names for kind, word in words.items()] == [kind in measure for kind in words]
    assert names[0] == "packing python-stdlib" and "validating" in names
    assert (found.measuring > 0) == bool(measure)
    assert all(row.seconds > 0 for row in found.rows)
    answer = found.json()
    assert answer["total"]["time"] == pytest.approx(sum(row["seconds"] for row in answer["rows"]))


def test_a_stage_has_its_validations_in_its_seconds_and_the_rows_tell_them_apart():
    found = planner.plan(recipe(), CPU)
    rows = {row.name: row.seconds for row in found.rows}
    for stage in found.stages:
        assert rows[stage.name] == pytest.approx(stage.seconds - stage.validating)
    assert rows["validating"] == pytest.approx(sum(stage.validating for stage in found.stages))
    without = planner.plan(recipe(train={"steps": 10, "batch": 4, "validations": 0}), CPU)
    assert "validating" not in {row.name for row in without.rows}


def test_no_weights_are_validated_twice():
    seconds = []
    for validations in (10, 10_000_000):
        found = planner.plan(
            recipe(train={"steps": 10, "batch": 4, "validations": validations}), CPU
        )
        seconds.append(next(stage.validating for stage in found.stages if stage.name == "teacher"))
    assert seconds[0] == seconds[1]


def test_every_part_of_a_stages_memory_is_in_its_total_and_is_printed():
    found = planner.plan(recipe(), CPU)
    memory_of = found.json()["stages"]["student"]["memory"]
    assert memory_of["total"] == sum(size for part, size in memory_of.items() if part != "total")
    assert memory_of["libraries"] > 0 and memory_of["teacher"] > 0
    assert any("most memory: " in line and "libraries" in line for line in found.remarks())


@pytest.mark.parametrize("budget", [{}, {"memory": "1TB"}])
def test_freed_blocks_are_told_of_where_they_are_kept(budget):
    told = any(
        "freed blocks are kept" in line for line in planner.plan(recipe(budget=budget), CPU).assumed
    )
    assert told is (not budget)


def test_the_masks_of_isolated_documents_are_planned():
    raw = {"corpus": "python-stdlib", "tokenizer": {"kind": "bpe", "vocab": 500}, "context": 32}
    train = {"steps": 10, "batch": 4, "precision": "fp32"}
    found = planner.plan(recipe(data={**raw, "documents": "isolated"}, train=train), CPU)
    assert found.json()["stages"]["student"]["memory"]["masks"] == 4 * 32 * 32 * 5


def test_a_text_that_is_elsewhere_is_said_not_to_be_counted(monkeypatch, tmp_path):
    monkeypatch.delenv("FLYWEIGHT_DATA", raising=False)
    data = {"corpus": "wikitext-2", "tokenizer": "word", "context": 32}
    found = planner.plan(recipe(data=data), CPU, data_dir=None)
    assert not [row for row in found.rows if row.kind == "packing"]
    assert any("the size of wikitext-2 is not known yet" in note for note in found.assumed)


def test_models_that_are_chosen_or_quantized_are_measured_as_what_they_come_from(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("some words to learn " * 20_000)
    stages = {
        "a": {"stage": "pretrain", "model": {"dim": 64, "layers": 2}},
        "b": {"stage": "pretrain", "model": {"dim": 64, "layers": 2}},
        "best": {"stage": "select", "among": ["a", "b"]},
        "small": {"stage": "quantize", "input": "best", "kind": "int8"},
    }
    report = {"compare": ["best", "small"], "measure": ["evaluate"]}
    data = {"corpus": str(text), "tokenizer": "byte", "context": 64}
    found = {
        row.name: row.seconds
        for row in planner.plan(recipe(stages=stages, report=report, data=data), CPU).rows
    }
    one = planner.plan(recipe(stages=stages, report={**report, "compare": ["a"]}, data=data), CPU)
    alone = {row.name: row.seconds for row in one.rows}
    assert found["2 evaluations"] == pytest.approx(2 * alone["1 evaluation"])
    assert found["best, small"] == alone["best, small"]
    assert any(name.startswith("n-gram floors of ") for name in found)


@pytest.mark.parametrize(
    ("limit", "name"),
    [
        ({"memory": "1MB"}, "memory"),
        ({"flops": 100}, "flops"),
        ({"parameters": 10}, "parameters"),
        ({"bytes": "1kB"}, "bytes"),
    ],
)
def test_a_limit_that_cannot_hold_is_refused_with_its_name(limit, name):
    planned = planner.plan(recipe(budget=limit), CPU)
    with pytest.raises(RequestError, match=rf"budget\.{name}") as refused:
        refuse(planned)
    if name != "memory":  # whose nearest limit a dry run finds
        nearest = str(refused.value).rpartition(f"budget.{name}=")[2]
        assert not planner.plan(recipe(budget={name: nearest}), CPU).faults


def test_every_model_that_cannot_be_made_is_named_with_its_stage():
    stages = {
        "a": {
            "stage": "pretrain",
            "model": {"dim": 32, "layers": 1, "linears": {"foo": "dense", "bar": "dense"}},
        },
        "b": {"stage": "pretrain", "model": {"dim": 1024, "layers": 1, "embedding": {"rank": 600}}},
    }
    with pytest.raises(RequestError) as refused:
        planner.plan(recipe(stages=stages), CPU)
    for part in (
        "stages.a.model.linears.foo: no",
        "stages.a.model.linears.bar: no",
        "embedding.rank: 600 is larger than vocab",
    ):
        assert part in str(refused.value)
    assert "top level" not in str(refused.value)


def test_generous_limits_hold():
    planned = planner.plan(
        recipe(budget={"memory": "2GB", "flops": "1e15", "parameters": "1M", "time": "9h"}), CPU
    )
    refuse(planned)
    assert not planned.warnings


def test_bytes_are_those_of_the_smallest_model_compared_quantized_ones_too():
    stages = {
        "model": {"stage": "pretrain", "model": {"dim": 64, "layers": 2}},
        "small": {"stage": "quantize", "input": "model", "kind": "int8"},
    }
    dense = planner.plan(recipe(stages=stages, report={"compare": ["model"]}), CPU)
    both = planner.plan(recipe(stages=stages, budget={"bytes": "150kB"}), CPU)
    assert both.totals["bytes"] < 0.35 * dense.totals["bytes"]
    assert dense.totals["bytes"] == dense.stages[0].model.weight_bytes > 150_000
    assert both.totals["parameters"] == dense.totals["parameters"]
    refuse(both)


def test_a_time_that_will_not_do_is_a_warning():
    planned = planner.plan(recipe(budget={"time": "1ms"}), CPU)
    assert "budget.time" in planned.warnings[0]
    assert any("probably over" in str(line) for line in planned.verdict())


def test_training_without_a_limit_shares_the_time_budget():
    shared = budget.shared_time(
        recipe(
            budget={"time": "10min"},
            train={"batch": 4},
            stages={
                "a": {"stage": "pretrain", "model": {"dim": 8, "layers": 1}},
                "b": {"stage": "pretrain", "model": {"dim": 8, "layers": 1}},
                "c": {
                    "stage": "pretrain",
                    "model": {"dim": 8, "layers": 1},
                    "train": {"time": "1min"},
                },
            },
        )
    )
    times = [stage.train.time for stage in shared.stages.values()]
    assert times[0] == times[1] == (600 * 0.85 - 60) / 2
    assert times[2] == 60


def test_accumulation_needs_less_memory_and_muon_less_than_adamw():
    model = ModelConfig(dim=64, layers=2).resolved(1000, 64)
    whole = memory.training(model, Train(batch=16), 64)
    parts = memory.training(model, Train(batch=16, accumulate=4), 64)
    muon = memory.training(model, Train.model_validate({"batch": 16, "optimizer": "muon"}), 64)
    assert parts.activations * 4 == whole.activations and parts.libraries == whole.libraries
    assert muon.optimizer < whole.optimizer
    assert whole.weights == whole.gradients


def test_a_guess_about_time_is_no_failure(flyweight, toy_recipe):
    status, out, _ = flyweight("plan", toy_recipe, "--time", "1s")
    assert (status, "probably over" in out) == (0, True)
    status, out, _ = flyweight("plan", toy_recipe, "--parameters", "1")
    assert (status, "does not fit" in out) == (1, True)


@pytest.mark.parametrize(
    ("verb", "word", "meant"),
    [("plan", "gtp2", "gpt2"), ("plan", "quikstart", "quickstart"), ("bench", "gtp2", "gpt2")],
)
def test_a_name_that_is_nearly_one_is_told(flyweight, verb, word, meant):
    status, _, err = flyweight(verb, word)
    assert (status, f"did you mean {meant}?" in err) == (2, True)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"method": "full"}, "stages.second.input: this model has adapters"),
        (
            {"method": "ia3", "data": {"corpus": "python-stdlib", "context": 64}},
            "stages.second.data.context: 64 is longer than the 32 tokens",
        ),
    ],
)
def test_what_a_finetuning_cannot_start_from_is_refused_before_the_base_is_trained(second, message):
    stages = {
        "base": {"stage": "pretrain", "model": {"dim": 32, "layers": 1}},
        "first": {
            "stage": "finetune",
            "input": "base",
            "method": "lora",
            "data": {"corpus": "python-stdlib", "tokenizer": "model"},
        },
        "second": {"stage": "finetune", "input": "first", "data": {"tokenizer": "model"}, **second},
    }
    with pytest.raises(RequestError, match=message):
        planner.plan(recipe(stages=stages), CPU)
