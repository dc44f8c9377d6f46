import pytest
import torch

from flyweight.config.schema import LinearConfig, LstmConfig, MlpConfig
from flyweight.errors import RequestError
from flyweight.model.build import build
from flyweight.model.ngram import NGram

TOKENS = torch.randint(20, (2, 7), generator=torch.Generator().manual_seed(0))


def linear(**fields) -> NGram:
    return NGram(LinearConfig(vocab_size=20, context=12, dim=4, **fields), seed=1)


def mlp(**fields) -> NGram:
    return NGram(MlpConfig(vocab_size=20, context=12, dim=4, hidden=6, **fields), seed=1)


def test_the_linear_model_by_hand() -> None:
    model = linear(history=3)
    rows, nothing, head = (
        model.embedding.tokens.weight,
        model.embedding.padding,
        model.head.linear.weight,
    )
    first, third = TOKENS[0, 0], TOKENS[0, :3]
    assert torch.allclose(
        model(TOKENS)[0, 0], head @ torch.cat((nothing, nothing, rows[first])), atol=1e-6
    )
    assert torch.allclose(model(TOKENS)[0, 2], head @ rows[third].flatten(), atol=1e-6)


def test_the_mlp_by_hand() -> None:
    model = mlp(history=2).eval()
    seen = torch.cat(
        (model.embedding.tokens.weight[TOKENS[1, 3]], model.embedding.tokens.weight[TOKENS[1, 4]])
    )
    for layer in model.blocks:
        seen = (layer.weight @ seen + layer.bias).relu()
    assert torch.allclose(model(TOKENS)[1, 4], model.head.linear.weight @ seen, atol=1e-6)


def test_every_hidden_layer_has_dropout() -> None:
    one = mlp(dropout=0.5, layers=1)
    torch.manual_seed(0)
    dropped = one.hidden(TOKENS)
    one.eval()
    kept = one.hidden(TOKENS)
    assert torch.allclose(dropped[dropped != 0], 2 * kept[dropped != 0])
    assert 0 < (dropped[kept != 0] == 0).float().mean() < 1


def test_the_cache_holds_the_last_tokens_and_no_more() -> None:
    model = linear(history=4)
    cache = model.new_cache(2, 100)
    model.hidden(TOKENS, cache)
    assert cache.state[0].tolist() == TOKENS[:, -3:].tolist()
    cache.select(torch.tensor([1]))
    expected = model.hidden(torch.cat((TOKENS, TOKENS[:, :1]), 1))[1:, -1:]
    assert torch.equal(model.hidden(TOKENS[1:, :1], cache), expected)


def test_a_model_of_one_token_keeps_nothing() -> None:
    model = linear(history=1)
    cache = model.new_cache(2, 100)
    assert torch.equal(
        torch.cat((model(TOKENS[:, :5], cache), model(TOKENS[:, 5:], cache)), 1), model(TOKENS)
    )
    assert cache.nbytes() == 0


def test_faults_are_refused() -> None:
    with pytest.raises(RequestError, match="do not fit its length 6"):
        linear().hidden(TOKENS, linear().new_cache(2, 6))
    with pytest.raises(RequestError, match="vocab_size and context"):
        NGram(LinearConfig(dim=4))
    with pytest.raises(RequestError, match=r"names are embedding\.tokens, head\.linear"):
        linear(linears={"blocks": "int8"})


@torch.no_grad()
def test_documents_are_read_as_each_alone() -> None:
    model = build(MlpConfig(kind="mlp", vocab_size=9, context=16, dim=4, history=3, hidden=8))
    text = torch.randint(9, (1, 12), generator=torch.Generator().manual_seed(0))
    sizes = [1, 4, 2, 5]
    ids = torch.repeat_interleave(torch.arange(4), torch.tensor(sizes))[None]
    alone = torch.cat([model.hidden(piece) for piece in text.split(sizes, 1)], 1)
    torch.testing.assert_close(model.hidden(text, documents=ids), alone)
    assert not torch.allclose(model.hidden(text), alone)


def test_an_lstm_has_no_documents() -> None:
    model = build(LstmConfig(kind="lstm", vocab_size=9, context=16, dim=4))
    with pytest.raises(RequestError, match="an LSTM carries its state across documents"):
        model.hidden(torch.zeros(1, 4, dtype=torch.long), documents=torch.zeros(1, 4).long())
