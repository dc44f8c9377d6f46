import copy
import math

import pytest
import torch

from flyweight.config import schema
from flyweight.config.schema import ModelConfig
from flyweight.model.decoder import Decoder
from flyweight.model.position import LearnedPositions, RotaryTables, frequencies


def rope(**scaling: object) -> schema.Rope:
    return schema.Rope.model_validate({"base": 100.0, "scaling": scaling or None})


def test_frequencies() -> None:
    assert frequencies(rope(), 4) == [1.0, 0.1]
    assert frequencies(rope(kind="linear", factor=4), 4) == [0.25, 0.025]
    # NTK: the fastest pair stays, the slowest is stretched by exactly `factor`.
    fast, slow = frequencies(rope(kind="ntk", factor=4), 4)
    assert fast == 1.0
    assert slow == pytest.approx(0.1 / 4)
    assert frequencies(rope(kind="ntk", factor=4), 2) == [1.0]


def test_nothing_is_computed_for_a_model_that_is_only_described() -> None:
    attention = {"heads": 1, "head_dim": 2**30}  # as many angles would take minutes
    config = ModelConfig.model_validate(
        {"dim": 16, "layers": 1, "vocab_size": 8, "context": 4, "attention": attention}
    )
    with torch.device("meta"):
        model = Decoder(config.resolved())
    assert sum(parameter.numel() for parameter in model.parameters()) > 4 * 16 * 2**30


def test_llama3_keeps_short_waves_and_slows_long_ones() -> None:
    scaling = {
        "kind": "llama3",
        "factor": 8,
        "low_frequency_factor": 1,
        "high_frequency_factor": 4,
        "original_context": 64,
    }
    plain, found = frequencies(rope(), 8), frequencies(rope(**scaling), 8)
    turns = [64 * rate / (2 * math.pi) for rate in plain]
    assert turns[0] > 4 and 1 < turns[1] < 4 and turns[3] < 1
    assert found[0] == plain[0]
    assert found[3] == pytest.approx(plain[3] / 8)
    assert plain[1] / 8 < found[1] < plain[1]


def test_rotation_turns_each_pair_by_its_angle() -> None:
    tables = RotaryTables(rope(), 4)
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)
    found = tables.rotation(x, torch.float32, None, 7, 1)(x).flatten()
    expected = torch.empty(4)
    for pair, rate in enumerate((1.0, 0.1)):
        a, b, angle = pair + 1.0, pair + 3.0, 7 * rate
        expected[pair] = a * math.cos(angle) - b * math.sin(angle)
        expected[pair + 2] = b * math.cos(angle) + a * math.sin(angle)
    torch.testing.assert_close(found, expected)


def test_partial_rotation_leaves_the_other_channels_alone() -> None:
    tables = RotaryTables(schema.Rope(fraction=0.5), 8)
    x = torch.randn(2, 5, 3, 8)
    found = tables.rotation(x, torch.float32, None, 1, 5)(x)
    assert torch.equal(found[..., 4:], x[..., 4:])
    assert not torch.isclose(found[..., :4], x[..., :4]).all(-1).any()


def test_explicit_positions_are_those_of_the_table() -> None:
    tables, x = RotaryTables(rope(), 4), torch.randn(2, 3, 1, 4)
    positions = torch.tensor([[0, 0, 1], [4, 5, 6]])
    found = tables.rotation(x, torch.float32, positions, 4, 3)(x)
    assert torch.equal(found[1], tables.rotation(x, torch.float32, None, 4, 3)(x)[1])
    assert torch.equal(found[0, 0], x[0, 0])


def test_tables_grow_and_are_kept_per_dtype() -> None:
    tables, like = RotaryTables(rope(), 4), torch.zeros(1)
    short = tables.rotation(like, torch.float32, None, 0, 3)
    long = tables.rotation(like, torch.float32, None, 0, 1000)
    assert torch.equal(long.cos[:3], short.cos)
    assert tables.rotation(like, torch.float64, None, 0, 2).cos.dtype == torch.float64


def test_a_model_built_on_meta_rotates_as_any_other() -> None:
    config = ModelConfig(vocab_size=9, context=8, dim=16, layers=1)
    plain = Decoder(config)
    with torch.device("meta"):
        late = Decoder(config)
        late(torch.zeros(1, 4, dtype=torch.long))  # fills tables on meta
    late = late.to_empty(device="cpu")
    late.load_state_dict(plain.state_dict())
    tokens = torch.arange(8)[None]
    assert torch.equal(late(tokens), plain(tokens))


def test_training_works_after_inference_mode_made_the_tables() -> None:
    model = Decoder(ModelConfig(vocab_size=9, context=8, dim=16, layers=1))
    with torch.inference_mode():
        model(torch.zeros(1, 4, dtype=torch.long))
    model(torch.zeros(1, 4, dtype=torch.long)).sum().backward()


def test_a_copied_model_carries_no_tables() -> None:
    model = Decoder(ModelConfig(vocab_size=9, context=8, dim=16, layers=1))
    before = model(torch.arange(8)[None])
    twin = copy.deepcopy(model)
    assert twin._rotary is not None and not twin._rotary.by_size[16]._tables
    assert torch.equal(twin(torch.arange(8)[None]), before)
    assert not list(model.buffers())


def test_learned_positions_by_offset_and_by_index() -> None:
    layer = LearnedPositions(6, 2)
    torch.nn.init.normal_(layer.weight)
    assert torch.equal(layer(None, 2, 3), layer.weight[2:5])
    assert torch.equal(layer(torch.tensor([[5, 0]]), 0, 2), layer.weight[[5, 0]][None])
