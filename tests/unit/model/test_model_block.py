from typing import Any

import pytest
import torch

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
