from typing import Any

import torch

from flyweight.config.schema import ModelConfig
from flyweight.model.decoder import Decoder


def model(bigram: Any, vocab: int = 5, **fields: Any) -> Decoder:
    config = {"vocab_size": vocab, "context": 8, "dim": 8, "layers": 0, "embedding": {"bigram": bigram}, **fields}
    return Decoder(ModelConfig.model_validate(config))


@torch.no_grad()
def test_exact_table_has_a_row_for_every_pair_and_for_beginnings() -> None:
    embedding = model("exact").embedding
    tokens = torch.tensor([[3, 1, 4, 1]])
    previous = embedding.previous(embedding.marked(tokens, None), None)
    assert previous.tolist() == [[5, 3, 1, 4]]
    assert embedding.pair_index(previous, tokens).tolist() == [[5 * 5 + 3, 3 * 5 + 1, 1 * 5 + 4, 4 * 5 + 1]]
    assert embedding.bigram is not None and embedding.bigram.out_features == 30


@torch.no_grad()
def test_the_table_starts_at_zero_and_is_added() -> None:
    built, tokens = model("exact"), torch.tensor([[3, 1]])
    table = built.embedding.bigram
    assert table is not None and not table.dense().any()
    table.dense()[3 * 5 + 1] = 7.0
    marked = built.embedding.previous(tokens, None)
    found = built.embedding(tokens, None, marked, 0)
    torch.testing.assert_close(
        found - built.embedding.tokens.rows(tokens), torch.tensor([0.0, 7.0])[None, :, None].expand(1, 2, 8)
    )


def test_after_padding_comes_a_beginning() -> None:
    embedding = model("exact").embedding
    tokens, mask = torch.tensor([[0, 0, 2, 4]]), torch.tensor([[False, False, True, True]])
    assert embedding.previous(embedding.marked(tokens, mask), None)[0, 2:].tolist() == [5, 2]


def test_the_cache_remembers_the_last_token() -> None:
    built = model("exact")
    cache = built.new_cache(2, 8)
    built(torch.tensor([[1, 2], [0, 3]]), cache)
    assert cache.last is not None and cache.last.tolist() == [[2], [3]]
    cache.select(torch.tensor([1]))
    assert cache.last.tolist() == [[3]]
    padded = built.new_cache(1, 8)
    built(torch.tensor([[0, 0]]), padded, torch.tensor([[False, False]]))
    assert padded.last is not None and padded.last.tolist() == [[5]]


def test_hash_spreads_pairs_and_knows_their_order() -> None:
    embedding = model({"kind": "hashed", "buckets": 4096}, vocab=200_000).embedding
    left = torch.arange(190_000, 200_000)[None]
    forward, backward = embedding.pair_index(left, left.flip(1)), embedding.pair_index(left.flip(1), left)
    assert ((forward >= 0) & (forward < 4096)).all()
    assert (forward == backward).float().mean() < 0.01
    pairs = torch.cartesian_prod(torch.arange(100), torch.arange(200))  # (20000, 2)
    counts = torch.bincount(embedding.pair_index(pairs[:, 0], pairs[:, 1]), minlength=4096).float()
    # 20,000 balls in 4,096 buckets: chance leaves 0.76 % empty and a variance of about the mean, 4.9.
    assert (counts == 0).float().mean() < 0.02
    assert counts.var() < 6.5


def test_learned_positions_are_counted_over_real_tokens() -> None:
    built = model("none", position="learned")
    tokens, mask = torch.tensor([[0, 2, 4]]), torch.tensor([[False, True, True]])
    torch.testing.assert_close(built(tokens, mask=mask)[:, 1:], built(tokens[:, 1:]))
