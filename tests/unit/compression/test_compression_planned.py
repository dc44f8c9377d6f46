"""What calibrating is planned to cost."""

import pytest

import flyweight as fw
from flyweight.compression.planned import (
    COLUMN_SECONDS,
    column_seconds,
    gathering,
    input_sizes,
    weighing,
)
from flyweight.config.schema import Calibration, LstmConfig, ModelConfig

MODEL = ModelConfig.model_validate(
    {"dim": 32, "layers": 3, "mlp": {"kind": "gelu", "hidden": 64}}
).resolved(100, 64)
LINES = Calibration(tokens=1000)
READ = 960
"""Tokens of the 15 windows of 64 that 1,000 tokens hold."""


def test_a_decoder_reads_each_block_twice_and_sums_each_input_once():
    work = gathering(LINES, MODEL)
    assert work.tokens == 2 * READ
    # q, k and v read the same; out and up read 32 numbers, down 64
    assert work.flops == READ * 3 * 2 * (32**2 + 32**2 + 32**2 + 64**2)


def test_a_shared_block_counts_at_every_visit():
    fields = {"dim": 32, "layers": 1, "mlp": {"kind": "gelu", "hidden": 64}}
    once = ModelConfig.model_validate(fields).resolved(100, 64)
    shared = {**fields, "sharing": {"kind": "cycle", "times": 3}}
    thrice = ModelConfig.model_validate(shared).resolved(100, 64)
    assert gathering(LINES, thrice).flops == 3 * gathering(LINES, once).flops


def test_other_models_begin_anew_for_each_part():
    lstm = LstmConfig(dim=32, layers=3).resolved(100, 64)
    assert gathering(LINES, lstm).tokens == READ * 2


def test_columns_and_gradients_are_counted():
    assert set(input_sizes(MODEL).values()) == {32, 64}
    assert column_seconds(MODEL) == pytest.approx(COLUMN_SECONDS * 3 * (5 * 32 + 64))
    assert weighing(LINES, MODEL).tokens == 3 * READ


def test_stages_that_calibrate_have_rows_of_their_own(text_file):
    prune = {"stage": "prune", "input": "m"}
    stages = {
        "m": {"stage": "pretrain", "model": {"dim": 64, "layers": 2, "attention": {"heads": 2}}},
        "plain": {**prune, "sparsity": 0.5},
        "gptq": {"stage": "quantize", "input": "m", "kind": "int4", "rounding": "gptq"},
        "sparse": {**prune, "method": "sparsegpt", "sparsity": 0.5},
        "wanda": {**prune, "method": "wanda", "sparsity": 0.5},
        "taylor": {**prune, "method": "structured", "hidden": 64, "score": "taylor"},
        "swept": {
            **prune,
            "method": "wanda",
            "sparsity": {"among": [0.2, 0.4], "within": {"perplexity": 1.0}},
        },
    }
    for name in ("gptq", "sparse", "wanda", "taylor", "swept"):
        stages[name]["calibration"] = {"tokens": 4096}
    data = {"corpus": str(text_file), "tokenizer": "byte", "context": 32}
    recipe = {"name": "r", "data": data, "train": {"steps": 1}, "stages": stages}
    recipe["report"] = {"measure": []}
    planned = fw.plan(recipe)
    seconds = {row.name: row.seconds for row in planned.rows}
    assert seconds["sparse"] > seconds["wanda"] > seconds["plain"]
    assert seconds["gptq"] == pytest.approx(seconds["sparse"])
    assert seconds["swept"] > 3 * (seconds["wanda"] - seconds["plain"])
    assert seconds["taylor"] > seconds["plain"]
