"""Bytes shared out among matrices: what rounding costs is near the truth, and the limit is filled."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flyweight.compression.mix import GPTQ_LEAVES, KINDS, Cost, rounding_costs, share_out
from flyweight.compression.quantize import quantize, quantized
from flyweight.compression.ways import mixed, steps
from flyweight.config.compression import Calibration, Quantize
from flyweight.config.linear_kinds import Dense, Int3, Int4, Int8
from flyweight.config.schema import ModelConfig
from flyweight.errors import RequestError
from flyweight.model.build import build
from flyweight.model.decoder import Decoder
from flyweight.spec import flops
from flyweight.spec.linears import kind_of, linear_names

CONFIG = ModelConfig.model_validate(
    {"dim": 32, "layers": 2, "vocab_size": 48, "context": 16, "attention": {"heads": 4}}
).resolved()


def trained() -> tuple[Decoder, list[Tensor]]:
    """Return a model that has learned to count, and the text it has learned."""
    torch.manual_seed(0)
    model = build(CONFIG, seed=0)
    assert isinstance(model, Decoder)
    starts = torch.arange(48)[:, None]
    text = (starts + torch.arange(17) * (1 + starts % 3)) % 48  # (48, 17)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        nats(model, text).backward()
        optimizer.step()
    return model, [text]


def nats(model: Decoder, text: Tensor) -> Tensor:
    return F.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())


def test_a_cost_is_about_what_rounding_one_matrix_alone_loses() -> None:
    model, text = trained()
    costs = rounding_costs(model, text)
    assert list(costs) == linear_names(CONFIG)
    whole = nats(model, text[0]).item()
    told, found = list[float](), list[float]()
    for name, cost in costs.items():
        assert cost.nats[0] > cost.nats[1] > cost.nats[2]
        rounded = quantize(model, Dense(), Dense(), layers={name: KINDS[0]})
        assert isinstance(rounded, Decoder)
        share = GPTQ_LEAVES if name.startswith("blocks.") else 1.0
        told.append(cost.nats[0] / share)
        found.append(nats(rounded, text[0]).item() - whole)
    both = torch.tensor([told, found]).clamp(min=1e-6).log()
    assert torch.corrcoef(both)[0, 1] > 0.7


def test_the_limit_is_filled_by_what_saves_most_a_byte() -> None:
    names = linear_names(CONFIG)
    model = build(CONFIG, seed=0)
    assert isinstance(model, Decoder)
    sizes = rounding_costs(model, [torch.arange(32).view(2, 16)])
    costs = {name: Cost(sizes[name].bytes, (3.0, 1.0, 0.5)) for name in names}
    dear = "blocks.1.mlp.down"
    costs[dear] = Cost(sizes[dear].bytes, (300.0, 100.0, 0.0))
    least = flops.weight_bytes(quantized(CONFIG, KINDS[0], KINDS[0]))
    most = flops.weight_bytes(quantized(CONFIG, KINDS[2], KINDS[2]))
    assert share_out(CONFIG, costs, least - 1) is None
    assert set((share_out(CONFIG, costs, least) or {}).values()) == {KINDS[0]}
    assert set((share_out(CONFIG, costs, most) or {}).values()) == {KINDS[2]}
    largest = max(
        after - before for cost in costs.values() for before, after in pairwise(cost.bytes)
    )
    limit = (least + most) // 2
    kinds = share_out(CONFIG, costs, limit)
    assert kinds is not None
    assert kinds[dear] == KINDS[2]
    for way in mixed(CONFIG, "run:model", kinds, Calibration(tokens=64), None):
        assert limit - largest < way.bytes <= limit
        assert way.config is not None
        assert {name: kind_of(way.config, name) for name in names} == kinds
        assert len(steps(way)) == len(way.stages)
        for stage in way.stages.values():
            assert Quantize.model_validate(stage.model_dump()) == stage


def test_patterns_give_matrices_a_kind_of_their_own() -> None:
    layers = {"blocks.0.*": Int8(), "blocks.*.mlp.down": Int4()}
    small = quantize(build(CONFIG, seed=0), Int3(), Int8(), layers=layers)
    kinds = {name: kind_of(small.config, name) for name in linear_names(CONFIG)}
    assert kinds["blocks.0.mlp.down"] == kinds["embedding.tokens"] == Int8()
    assert kinds["blocks.1.mlp.down"] == Int4()
    assert kinds["blocks.1.attention.q"] == Int3()
    tokens = torch.arange(16)[None]
    assert torch.isfinite(small(tokens)).all()
    with pytest.raises(RequestError, match=r"quantize: layers\.blocks\.0\.nose: no layer has"):
        quantize(build(CONFIG, seed=0), Int3(), Int8(), layers={"blocks.0.nose": Int8()})
    stage = {"stage": "quantize", "input": "m", "kind": "int3"}
    assert "layers" not in Quantize.model_validate(stage).model_dump()  # old ids stay
    odd = Quantize.model_validate({**stage, "layers": {"head": {"kind": "nf4", "block": 3}}})
    assert odd.faults() == ["layers.head.block: 3 is odd; 4-bit values are packed in pairs"]
