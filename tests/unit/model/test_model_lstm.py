import pytest
import torch

from flyweight.config.schema import LstmConfig
from flyweight.errors import RequestError
from flyweight.model.lstm import LSTM


def model(**fields) -> LSTM:
    return LSTM(LstmConfig(vocab_size=20, context=12, dim=8, **fields), seed=1)


TOKENS = torch.randint(20, (3, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("fields", [{}, {"layers": 3}, {"hidden": 5, "layers": 2, "tied": False}])
def test_it_is_torchs_lstm(fields) -> None:
    ours = model(**fields).double()
    size, layers = ours.size, len(ours.blocks)
    theirs = torch.nn.LSTM(8, size, layers, batch_first=True).double()
    with torch.no_grad():
        for index, layer in enumerate(ours.blocks):
            getattr(theirs, f"weight_ih_l{index}").copy_(layer.input.weight)
            getattr(theirs, f"weight_hh_l{index}").copy_(layer.recurrent.weight)
            getattr(theirs, f"bias_ih_l{index}").copy_(layer.input.bias)
            getattr(theirs, f"bias_hh_l{index}").zero_()
    expected = theirs(ours.embedding.tokens.weight[TOKENS])[0]
    assert torch.allclose(ours.hidden(TOKENS), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_step_by_step_is_the_fused_kernel_with_its_gradients(dtype) -> None:
    ours = model(layers=2).to(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    results = []
    for mask in (None, torch.ones(3, 7, dtype=torch.bool)):
        ours.zero_grad()
        hidden = ours.hidden(TOKENS, mask=mask)
        hidden.square().sum().backward()
        results.append(
            [hidden.detach(), *(p.grad.clone() for p in ours.parameters() if p.grad is not None)]
        )
    assert len(results[0]) == len(results[1]) == 1 + 1 + 2 * 3
    for fused, unrolled in zip(*results, strict=True):
        assert torch.allclose(fused, unrolled, atol=tolerance * max(1.0, fused.abs().max().item()))


def test_forget_gates_start_open_and_other_biases_at_zero() -> None:
    bias = model(forget_bias=1.5).blocks[0].input.bias
    assert bias[8:16].eq(1.5).all() and bias[:8].eq(0).all() and bias[16:].eq(0).all()


def test_the_state_is_all_that_is_kept() -> None:
    ours = model(layers=2)
    cache = ours.new_cache(3, 100)
    before = cache.nbytes()
    ours.hidden(TOKENS, cache)
    assert cache.nbytes() == before == 2 * 2 * 3 * 8 * 4
    cache.select(torch.tensor([2, 0]))
    assert torch.allclose(
        ours.hidden(TOKENS[[2, 0], :1], cache),
        ours.hidden(torch.cat((TOKENS, TOKENS[:, :1]), 1))[[2, 0], -1:],
    )


def test_a_full_cache_and_wrong_shapes_are_refused() -> None:
    ours = model()
    with pytest.raises(RequestError, match="do not fit its length 6"):
        ours.hidden(TOKENS, ours.new_cache(3, 6))
    with pytest.raises(RequestError, match="non-empty sequences"):
        ours.hidden(TOKENS[0])
    with pytest.raises(RequestError, match=r"need torch.bool of shape \(3, 7\)"):
        ours.hidden(TOKENS, mask=torch.ones(3, 6, dtype=torch.bool))
    with pytest.raises(RequestError, match=r"names are blocks\.0\.input"):
        model(linears={"blocks.3": "int8"})


def test_dropout_is_off_when_evaluated() -> None:
    ours = model(dropout=0.5)
    assert not torch.equal(ours.hidden(TOKENS), ours.hidden(TOKENS))
    ours.eval()
    assert torch.equal(ours.hidden(TOKENS), ours.hidden(TOKENS))
