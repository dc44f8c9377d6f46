from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from flyweight.config.schema import ModelConfig
from flyweight.model.block import Block
from flyweight.model.decoder import Decoder
from flyweight.model.masks import causal_mask


def decoder(**fields: Any) -> Decoder:
    base = {
        "vocab_size": 9,
        "context": 8,
        "dim": 16,
        "layers": 1,
        "position": "none",
        "init": {"std": 0.4},
    }
    return Decoder(ModelConfig.model_validate({**base, **fields})).eval()


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("residual", ["add", {"kind": "alpha", "start": 0.7}])
@torch.no_grad()
def test_branches_norms_and_residuals(placement: str, residual: Any) -> None:
    model = decoder(norm={"kind": "layernorm", "placement": placement}, residual=residual)
    block, x = model.blocks[0], torch.randn(2, 5, 16)
    assert isinstance(block, Block)
    seen = causal_mask(0, 5, None, x.device)
    keep, take = (1.0, 1.0) if residual == "add" else (0.7, 0.3)
    if placement == "pre":
        h = keep * x + take * block.attention(block.attention_norm(x), seen, None, None)[0]
        expected = keep * h + take * block.mlp(block.mlp_norm(h))
    else:
        h = block.attention_norm(keep * x + take * block.attention(x, seen, None, None)[0])
        expected = block.mlp_norm(keep * h + take * block.mlp(h))
    torch.testing.assert_close(block(x, seen)[0], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_without_a_final_norm_the_last_block_is_what_the_head_reads() -> None:
    model, tokens = decoder(norm={"final": False}), torch.arange(5)[None]
    block = model.blocks[0]
    assert isinstance(block, Block) and model.norm is None
    seen = causal_mask(0, 5, None, tokens.device)
    torch.testing.assert_close(
        model.hidden(tokens), block(model.embedding.tokens.rows(tokens), seen)[0]
    )


def test_dropout_on_what_the_mlp_reads() -> None:
    model, tokens = decoder(dropout={"mlp": 0.5}).train(), torch.arange(8)[None]
    torch.manual_seed(0)
    assert not torch.equal(model(tokens), model(tokens))
    assert torch.equal(model.eval()(tokens), model(tokens))


@torch.no_grad()
def test_an_index_tells_the_uses_of_a_layer_apart() -> None:
    plain = decoder(sharing={"kind": "all", "times": 3})
    told = decoder(sharing={"kind": "all", "times": 3, "index": True})
    tokens = torch.arange(8)[None]
    assert torch.equal(told(tokens), plain(tokens))  # it starts at zero
    assert told.index is not None and told.index.weight.shape == (3, 16)
    for place in range(3):
        before = told(tokens)
        told.index.weight[place] += 1
        assert not torch.equal(told(tokens), before)


@torch.no_grad()
def test_sinusoids_are_those_of_the_paper() -> None:
    model, tokens = (
        decoder(position="sinusoidal", layers=0, dim=5),
        torch.zeros(1, 7, dtype=torch.long),
    )
    found = (model.embedding(tokens, None, None, 0) - model.embedding.tokens.rows(tokens))[0]
    for place in range(7):
        for pair in range(3):
            angle = torch.tensor(place / 10_000 ** (2 * pair / 5))
            assert found[place, 2 * pair].item() == pytest.approx(angle.sin().item(), abs=1e-5)
            if 2 * pair + 1 < 5:
                assert found[place, 2 * pair + 1].item() == pytest.approx(
                    angle.cos().item(), abs=1e-5
                )


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_a_dropped_branch_leaves_the_stream_as_it_was(placement: str) -> None:
    model = decoder(layers=3, dropout={"depth": 0.6}, norm={"placement": placement}).train()
    x, seen = torch.randn(64, 5, 16), causal_mask(0, 5, None, torch.device("cpu"))
    block = model.blocks[2]
    assert isinstance(block, Block) and block.depth is not None
    torch.manual_seed(5)
    attention, mlp = (block.depth.factors(x, 0).view(-1, 1, 1) for _ in range(2))
    torch.manual_seed(5)
    found = block(x, seen)[0]
    if placement == "pre":
        h = x + attention * block.attention(block.attention_norm(x), seen, None, None)[0]
        expected = h + mlp * block.mlp(block.mlp_norm(h))
    else:
        h = block.attention_norm(x + attention * block.attention(x, seen, None, None)[0])
        expected = block.mlp_norm(h + mlp * block.mlp(h))
    torch.testing.assert_close(found, expected)
    both = (attention == 0) & (mlp == 0)
    assert both.any()
    if placement == "pre":
        assert torch.equal(found[both.flatten()], x[both.flatten()])


def test_the_rate_of_depth_grows_over_the_uses_of_layers() -> None:
    rates = [block.depth.rates for block in decoder(layers=4, dropout={"depth": 0.4}).blocks]
    assert [rate for uses in rates for rate in uses] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    shared = decoder(
        layers=3,
        dropout={"depth": 0.5},
        sharing={"kind": "span", "span": [1, 1], "times": 3},
        thinking={"passes": 1},
    )
    rates = [block.depth.rates for block in shared.blocks]
    once = ([0.1], [0.2, 0.3, 0.4], [0.5])
    for found, expected in zip(rates, once, strict=True):
        assert list(found) == pytest.approx(expected * 2), "each pass drops alike"
    assert all(block.depth is None for block in decoder(layers=2).blocks)


def test_depth_is_dropped_by_row_beside_recomputation_and_not_while_reading() -> None:
    model, tokens = decoder(layers=2, dropout={"depth": 0.5}).train(), torch.arange(8)[None]
    many = tokens.expand(16, 8)
    torch.manual_seed(0)
    found = model(many)
    assert len(found.unique(dim=0)) > 1
    assert torch.equal(model.eval()(many), model(many))
    model.train()
    gradients = []
    for recompute in (None, lambda block, *reads: checkpoint(block, *reads, use_reentrant=False)):
        model.recompute = recompute
        model.zero_grad()
        torch.manual_seed(0)
        model(many).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_depth_is_not_written_where_it_is_not_asked_for() -> None:
    assert "depth" not in decoder().config.model_dump()["dropout"]
    with pytest.raises(ValueError, match=r"dropout\.depth: a model without layers"):
        ModelConfig.model_validate({"dim": 8, "layers": 0, "dropout": {"depth": 0.1}})
