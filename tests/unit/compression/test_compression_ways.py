"""Ways to a smaller model: their order, their bytes without running, and what a limit leaves."""

from __future__ import annotations

import pytest
import torch

from flyweight.compression.pack import pack
from flyweight.compression.prune import prune
from flyweight.compression.quantize import quantize
from flyweight.compression.ways import Recovery, Way, first_fits, steps, ways
from flyweight.config.compression import Calibration, Quantize
from flyweight.config.decoder import ModelConfig
from flyweight.config.pruning import Prune
from flyweight.config.schema import Data, Train
from flyweight.model.build import build
from flyweight.spec import flops

CONFIG = ModelConfig.model_validate(
    {"dim": 32, "layers": 2, "vocab_size": 64, "context": 16, "attention": {"heads": 4}}
).resolved()
RECOVERY = Recovery(
    Data.model_validate({"corpus": "text.txt", "tokenizer": "byte", "context": 16}),
    Train(tokens=1000),
    Train(tokens=1000),
)


def all_ways() -> list[Way]:
    return ways(CONFIG, "run:model", Calibration(tokens=512), RECOVERY)


def test_cheap_ways_come_first_and_every_stage_follows_another() -> None:
    found = all_ways()
    names = [way.name for way in found]
    assert len(names) == len(set(names))
    assert [way.plain for way in found] == sorted((way.plain for way in found), reverse=True)
    trains = ["train" in " ".join(steps(way)) for way in found]
    assert trains == sorted(trains)
    for way in found:
        known = {"run:model"}
        for name, stage in way.stages.items():
            assert not stage.faults()
            assert stage.dependencies()["input"] in known
            known.add(name)


def test_without_texts_nothing_is_read_and_nothing_trains() -> None:
    found = ways(CONFIG, "run:model")
    assert not any("gptq" in way.name or "back" in way.name for way in found)
    for way in found:
        assert all(stage.text_of_input == "none" for stage in way.stages.values())


def test_bytes_are_exact_before_anything_runs() -> None:
    torch.manual_seed(0)
    model = build(CONFIG)
    for way in ways(CONFIG, "run:model"):
        made = model
        for stage in way.stages.values():
            if isinstance(stage, Quantize):
                made = quantize(made, stage.kind, stage.embedding)
            elif isinstance(stage, Prune) and stage.method == "structured":
                break
            elif isinstance(stage, Prune):
                made = prune(made, stage, stage.share)
            else:
                made = pack(made)
        else:
            few = 8 * len(dict(made.named_modules()))  # zeros are counted matrix by matrix
            slack = 0 if way.config is not None else few
            assert abs(flops.weight_bytes(made.config) - way.bytes) <= slack, way.name


def test_a_limit_takes_of_each_form_what_removes_least() -> None:
    found = all_ways()
    int4 = next(way for way in found if way.name == "int4-gptq")
    taken = first_fits(found, lambda way: way.bytes < int4.bytes)
    forms = [way.form for way in taken]
    assert len(forms) == len(set(forms))
    pruned = next(way for way in taken if way.form == "int4-gptq")
    assert pruned.left < 1
    assert "int3-gptq" in [way.name for way in taken]  # it fits whole
    assert all(way.bytes < int4.bytes for way in taken)


def test_a_model_of_one_head_loses_channels_alone() -> None:
    one = CONFIG.model_copy(
        update={"attention": CONFIG.attention.model_copy(update={"heads": 1, "kv_heads": 1})}
    )
    assert any("parts60" in way.name for way in ways(one, "m"))


@pytest.mark.parametrize("name", ["int8", "parts60-back-int4-gptq", "zeros80-back-packed"])
def test_steps_say_what_a_way_does(name: str) -> None:
    way = next(way for way in all_ways() if way.name == name)
    assert len(steps(way)) == len(way.stages)
