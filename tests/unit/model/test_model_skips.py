"""Connections past layers: who reads what, first scalars, gradients, loops and passes, refusals."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from flyweight.config.schema import ModelConfig
from flyweight.model.block import Block
from flyweight.model.decoder import Decoder
from flyweight.model.masks import causal_mask
from flyweight.spec.visits import unet_sources

V, T = 19, 9
TOKENS = torch.randint(V, (2, T), generator=torch.Generator().manual_seed(0))
BOTH = ["unet", "embedding"]


def decoder(skips: Any = (), **fields: Any) -> Decoder:
    base = {"dim": 16, "layers": 5, "init": {"std": 0.3}, "attention": {"heads": 2}}
    config = {**base, "position": "learned", "skips": skips, **fields}
    return Decoder(ModelConfig.model_validate(config).resolved(V, T))


def skipping(skips: Any = BOTH, **fields: Any) -> Decoder:
    """Return a model whose scalars are not what they begin with."""
    model = decoder(skips, **fields)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.skips.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    return model


def test_a_second_half_reads_the_first_backwards() -> None:
    def sources(**fields: Any) -> dict[int, int]:
        return unet_sources(ModelConfig.model_validate({"dim": 8, "layers": 5, **fields}))

    assert sources() == {4: 0, 3: 1}
    assert sources(layers=6) == {5: 0, 4: 1}, "3 reads what 2 puts out anyway"
    assert sources(layers=2) == {}
    assert sources(layers=2, sharing={"kind": "cycle", "times": 3}) == {5: 0, 4: 1}


def test_scalars_begin_so_that_the_embedding_adds_nothing_and_other_weights_stay() -> None:
    plain, skipped = decoder(), decoder(BOTH)
    own = skipped.state_dict()
    assert all(torch.equal(own.pop(name), tensor) for name, tensor in plain.state_dict().items())
    assert {name: tensor.tolist() for name, tensor in own.items()} == {
        "skips.unet": [1.0, 1.0],
        "skips.stream": [1.0] * 4,
        "skips.embedding": [0.0] * 4,
    }
    assert torch.equal(decoder("embedding")(TOKENS), plain(TOKENS))
    assert not torch.allclose(decoder("unet")(TOKENS), plain(TOKENS))
    assert "skips" not in plain.config.model_dump()
    assert skipped.config.skips == ("embedding", "unet") == decoder(BOTH[::-1]).config.skips


@torch.no_grad()
@pytest.mark.parametrize("skips", ["unet", "embedding", BOTH])
def test_what_each_layer_reads(skips: Any) -> None:
    model = skipping(skips).eval()
    seen = causal_mask(0, T, None, TOKENS.device)
    embedded = model.embedding(TOKENS, None, None, 0)
    x, behind = embedded, []
    for place, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        if "unet" in model.config.skips and place > 2:
            x = x + model.skips.unet[model.skips.rows[place]] * behind[4 - place]
        if "embedding" in model.config.skips and place:
            x = model.skips.stream[place - 1] * x + model.skips.embedding[place - 1] * embedded
        x, _ = block(x, seen)
        behind.append(x)
    torch.testing.assert_close(model.hidden(TOKENS), model.norm(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"layers": 2, "sharing": {"kind": "cycle", "times": 2}},
        {"sharing": {"kind": "span", "span": [1, 2], "times": 2}},
        {"norm": {"placement": "post"}},
        {"layers": 3, "thinking": {"passes": 1}},
        {"layers": 3, "thinking": {"passes": 2, "memory": "first", "input": "embedding"}},
    ],
    ids=str,
)
def test_gradients_are_those_of_finite_differences(fields: dict[str, Any]) -> None:
    model = skipping(**fields).double()
    named = dict(model.named_parameters())

    def loss(**moved: torch.Tensor) -> torch.Tensor:
        logits = torch.func.functional_call(model, moved, TOKENS)
        return F.cross_entropy(logits.flatten(0, 1), TOKENS.roll(-1, 1).flatten())

    model.zero_grad()
    loss().backward()
    draw = torch.Generator().manual_seed(1)
    for name in ("skips.unet", "skips.stream", "skips.embedding", "embedding.tokens.weight"):
        value = named[name].detach()
        direction = torch.randn(value.shape, generator=draw, dtype=torch.float64)
        losses = [loss(**{name: value + step * direction}) for step in (1e-6, -1e-6)]
        slope = (losses[0] - losses[1]).item() / 2e-6
        assert slope == pytest.approx(
            (named[name].grad * direction).sum().item(), rel=1e-4, abs=1e-7
        )


def test_before_a_loop_is_switched_on_a_missing_mirror_adds_nothing() -> None:
    model = skipping(layers=4, sharing={"kind": "span", "span": [0, 1], "times": 3})
    model.loop(False)
    found = model(TOKENS)
    with torch.no_grad():
        model.skips.unet.add_(1)  # 0 1 0 1 0 1 2 3: places 6 and 7 read 1 and 0
    assert not torch.allclose(model(TOKENS), found)
    assert model.skips.sources == {7: 0, 6: 1, 5: 2}
    model = skipping(layers=3, sharing={"kind": "span", "span": [0, 1], "times": 4}, skips="unet")
    model.loop(False)  # places 0, 1 and 8 of nine
    found = model(TOKENS)
    with torch.no_grad():
        model.skips.unet[1:].add_(1)
    assert torch.equal(model(TOKENS), found)


def test_computing_blocks_again_gives_the_same_gradients() -> None:
    model, found = skipping().train(), []
    for recompute in (None, lambda block, *reads: checkpoint(block, *reads, use_reentrant=False)):
        model.recompute = recompute
        model.zero_grad()
        model(TOKENS).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@torch.no_grad()
def test_tokens_through_the_cache_one_by_one() -> None:
    model = skipping(position="rope").eval()
    cache = model.new_cache(2, T)
    one_by_one = torch.cat([model(TOKENS[:, n : n + 1], cache) for n in range(T)], 1)
    torch.testing.assert_close(one_by_one, model(TOKENS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("skips", "fields", "message"),
    [
        ("unet", {"layers": 2}, r"skips\.unet: 2 uses of layers have none between"),
        ("embedding", {"layers": 1}, r"skips\.embedding: the first use of a layer reads"),
        (BOTH, {"layers": 0}, r"skips\.unet: 0 uses"),
        (["unet", "unet"], {}, "each is named once at most"),
        ("net", {}, r"skips\.0"),
    ],
)
def test_what_passes_no_layer_is_refused(skips: Any, fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decoder(skips, **fields)
