from typing import Any

import torch

from flyweight.config.schema import ModelConfig
from flyweight.model.decoder import Decoder


def model(bigram: Any, vocab: int = 5, **fields: Any) -> Decoder:
    config = {
        "vocab_size": vocab,
        "context": 8,
        "dim": 8,
        "layers": 0,
        "embedding": {"bigram": bigram},
        **fields,
    }
    return Decoder(ModelConfig.model_validate(config))


@torch.no_grad()
def test_exact_table_has_a_row_for_every_pair_and_for_beginnings() -> None:
    embedding = model("exact").embedding
    tokens = torch.tensor([[3, 1, 4, 1]])
    run = embedding.run_of(tokens, tokens.shape[1])
    assert run.tolist() == [[5, 3, 1, 4, 1]]
    assert embedding.bigram_index(run).tolist() == [[[5 * 5 + 3, 3 * 5 + 1, 1 * 5 + 4, 4 * 5 + 1]]]
    assert embedding.bigram is not None and embedding.bigram.out_features == 30


@torch.no_grad()
def test_the_table_starts_at_zero_and_is_added() -> None:
    built, tokens = model("exact"), torch.tensor([[3, 1]])
    table = built.embedding.bigram
    assert table is not None and not table.dense().any()
    table.dense()[3 * 5 + 1] = 7.0
    found = built.embedding(tokens, None, built.embedding.run_of(tokens, tokens.shape[1]), 0)
    torch.testing.assert_close(
        found - built.embedding.tokens.rows(tokens),
        torch.tensor([0.0, 7.0])[None, :, None].expand(1, 2, 8),
    )


def test_after_padding_comes_a_beginning() -> None:
    embedding = model("exact").embedding
    tokens, mask = torch.tensor([[0, 0, 2, 4]]), torch.tensor([[False, False, True, True]])
    assert embedding.run_of(embedding.marked(tokens, mask), tokens.shape[1]).tolist() == [
        [5, 5, 5, 2, 4]
    ]


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
    right = left.flip(1)
    forward, backward = (
        embedding.bigram_index(torch.cat(pair, 0).T) for pair in ((left, right), (right, left))
    )  # (1, n, 1)
    assert ((forward >= 0) & (forward < 4096)).all()
    assert (forward == backward).float().mean() < 0.01
    pairs = torch.cartesian_prod(torch.arange(100), torch.arange(200))  # (20000, 2)
    counts = torch.bincount(embedding.bigram_index(pairs).flatten(), minlength=4096).float()
    # 20,000 balls in 4,096 buckets: chance leaves 0.76 % empty and a variance of about the mean,
    # 4.9.
    assert (counts == 0).float().mean() < 0.02
    assert counts.var() < 6.5


def test_higher_orders_add_the_rows_of_longer_stretches() -> None:
    built = model({"kind": "hashed", "buckets": 4096, "order": 4})
    embedding = built.embedding
    tokens = torch.tensor(
        [[3, 1, 4, 1, 2], [0, 1, 4, 1, 2]]
    )  # (2, 5): they differ in the first token alone
    index = embedding.bigram_index(embedding.run_of(tokens, tokens.shape[1]))
    assert index.shape == (3, 2, 5)
    assert (index[:, 0] != index[:, 1]).tolist() == [
        [True, True, False, False, False],  # two tokens
        [True, True, True, False, False],
        [True, True, True, True, False],  # four tokens
    ]
    assert (
        len(index.unique()) == 2 * 15 - 6
    )  # what both rows share is one row of the table, all else is apart
    pairs = model({"kind": "hashed", "buckets": 4096}).embedding
    torch.testing.assert_close(
        pairs.bigram_index(pairs.run_of(tokens, tokens.shape[1]))[0], index[0]
    )
    table = embedding.bigram
    assert table is not None
    torch.nn.init.normal_(table.dense(), generator=torch.Generator().manual_seed(0))
    found = embedding(
        tokens, None, embedding.run_of(tokens, tokens.shape[1]), 0
    ) - embedding.tokens.rows(tokens)
    torch.testing.assert_close(
        found, table.dense()[index[0]] + table.dense()[index[1]] + table.dense()[index[2]]
    )


def test_the_cache_remembers_as_many_tokens_as_the_longest_stretch_needs() -> None:
    built = model({"kind": "hashed", "buckets": 64, "order": 4})
    cache = built.new_cache(1, 8)
    built(torch.tensor([[1, 2]]), cache)
    assert cache.last is not None and cache.last.tolist() == [[1, 2]]
    built(torch.tensor([[3, 4, 0]]), cache)
    assert cache.last.tolist() == [[3, 4, 0]]
    assert cache.truncate(4, torch.tensor([[1, 2, 3, 4]]))
    built(torch.tensor([[1]]), cache)
    assert cache.last.tolist() == [[3, 4, 1]]


def test_learned_positions_are_counted_over_real_tokens() -> None:
    built = model("none", position="learned")
    tokens, mask = torch.tensor([[0, 2, 4]]), torch.tensor([[False, True, True]])
    torch.testing.assert_close(built(tokens, mask=mask)[:, 1:], built(tokens[:, 1:]))
