"""A mixture is exactly normalised, causal, the same with a cache, and says what its definition says."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch

from flyweight.config.mixture import Counts, Mixture, Pointer
from flyweight.config.schema import ModelConfig
from flyweight.decode.generate import generate
from flyweight.errors import RequestError
from flyweight.evaluation.kneser_ney import KneserNey
from flyweight.model import folder, kernels
from flyweight.model.decoder import Decoder
from flyweight.model.mixture import CountTables, point, repeating
from flyweight.spec import flops
from flyweight.training.mix import count_tables

VOCAB, CONTEXT = 7, 24
KINDS: list[dict[str, Any]] = [
    {"counts": {"order": 3, "min_count": 1}},
    {"pointer": {"longest": 3, "places": 4}},
    {"counts": {"order": 4, "min_count": 2}, "pointer": {"longest": 4}},
    {"counts": {"order": 2}, "pointer": {"longest": 1, "places": 1}},
]


def text(length: int = 600, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    words = [random.integers(0, VOCAB, random.integers(2, 6)) for _ in range(9)]
    return np.concatenate([words[random.integers(0, 9)] for _ in range(length)])[:length]


def mixture(fields: dict[str, Any], seed: int = 0, **model: Any) -> Decoder:
    options, tables = dict(fields), {}
    if "counts" in options:
        options["counts"], tables = count_tables(text(), VOCAB, Counts(**options["counts"]))
    described = {"dim": 16, "layers": 2, "vocab_size": VOCAB, "context": CONTEXT, **model}
    config = ModelConfig.model_validate({**described, "mixture": Mixture.model_validate(options)})
    built = Decoder(config, seed).eval()
    assert built.mixture is not None
    if built.mixture.counts is not None:
        built.mixture.counts.load_state_dict(tables)
    torch.manual_seed(seed)
    with torch.no_grad():
        built.mixture.gate.normal_(std=0.3)
        built.mixture.cases.normal_(std=0.3)
    return built


def tokens(rows: int = 3, length: int = 20) -> torch.Tensor:
    return torch.from_numpy(np.stack([text(length, seed) for seed in range(1, rows + 1)]))


@pytest.mark.parametrize("fields", KINDS)
@torch.no_grad()
def test_probabilities_sum_to_one(fields: dict[str, Any]) -> None:
    logits = mixture(fields)(tokens())
    assert logits.shape == (3, 20, VOCAB)
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(3, 20), rtol=2e-6, atol=0)


@pytest.mark.parametrize("fields", KINDS)
@torch.no_grad()
def test_the_future_changes_nothing(fields: dict[str, Any]) -> None:
    model, before = mixture(fields), tokens()
    after = before.clone()
    after[:, 12:] = (after[:, 12:] + 3) % VOCAB
    assert torch.equal(model(before)[:, :12], model(after)[:, :12])


@pytest.mark.parametrize("bigram", ["none", {"kind": "hashed", "buckets": 11, "order": 3}])
@pytest.mark.parametrize("fields", KINDS)
@torch.no_grad()
def test_cached_is_uncached(fields: dict[str, Any], bigram: Any) -> None:
    model, row = mixture(fields, embedding={"bigram": bigram}), tokens()
    whole, cache = model(row), model.new_cache(3, CONTEXT)
    parts = [model(row[:, a:b], cache) for a, b in ((0, 5), (5, 6), (6, 13), (13, 20))]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fields", KINDS)
@torch.no_grad()
def test_left_padding_is_nothing(fields: dict[str, Any]) -> None:
    model, row = mixture(fields), tokens(1, 14)
    padded = torch.cat((torch.zeros(1, 4, dtype=torch.long), row), 1)
    mask = torch.arange(18)[None] >= 4
    torch.testing.assert_close(model(padded, mask=mask)[:, 4:], model(row), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fields", KINDS)
@torch.no_grad()
def test_counts_and_bytes_are_the_claimed_ones(fields: dict[str, Any], tmp_path: Any) -> None:
    model = mixture(fields)
    numbers = sum(p.numel() for p in model.parameters())
    counts = model.config.mixture and model.config.mixture.counts
    if counts is not None:
        numbers += sum(counts.entries or ())
    assert flops.parameters(model.config).unique == numbers
    stored = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert flops.weight_bytes(model.config) == stored
    folder.save(model, tmp_path)
    assert torch.equal(folder.load(tmp_path)(tokens()), model(tokens()))


def tables(order: int, min_count: int, of: np.ndarray) -> CountTables:
    config, tensors = count_tables(of, VOCAB, Counts(order=order, min_count=min_count))
    built = CountTables(config, VOCAB)
    built.load_state_dict(tensors)
    return built


def test_unpruned_tables_are_kneser_ney() -> None:
    train, test = text(), text(200, 5)
    built, exact = tables(4, 1, train), KneserNey(train, VOCAB, 4).probabilities(test)
    contexts = built.contexts(torch.from_numpy(test)[None], len(test))[0]
    rows = built.distribution(contexts)
    mine = rows[torch.arange(199), torch.from_numpy(test[1:])].double().numpy()
    # Shares are rounded down by at most 1 / 1024 of an octave; what is lost goes to shorter
    # contexts.
    assert np.abs(np.log(mine) - np.log(exact[1:])).max() < 0.02
    assert abs(np.log(mine).mean() - np.log(exact[1:]).mean()) < 1e-3


def test_pruned_tables_keep_frequent_ngrams_and_their_contexts() -> None:
    train = text()
    pruned, whole = tables(3, 3, train), tables(3, 1, train)
    counted: dict[tuple[int, ...], int] = defaultdict(int)
    for at in range(len(train) - 2):
        counted[tuple(int(token) for token in train[at : at + 3])] += 1
    frequent = {ngram for ngram, times in counted.items() if times >= 3}
    assert len(pruned.get_buffer("tokens_3")) == len(frequent)
    assert len(pruned.get_buffer("tokens_2")) < len(whole.get_buffer("tokens_2"))
    for first, second, _ in frequent:
        assert pruned.contexts(torch.tensor([[first, second]]), 1)[0, 0, 1] >= 0


def test_unknown_contexts_fall_back_to_single_tokens() -> None:
    built = tables(3, 1, np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 3] * 3))
    nothing = built.distribution(torch.tensor([[-1, -1]]))
    torch.testing.assert_close(nothing[0], built.levels()[1])
    assert (nothing > 0).all(), "a token that the text lacks has probability too"


def test_the_pointer_points_at_what_followed() -> None:
    history = torch.tensor([[1, 2, 3, 4, 2, 3, 5, 2, 3]])
    pointed = point(Pointer(longest=4, rate=1.0, places=3), history, 1, VOCAB)
    assert pointed.match.tolist() == [[2]]
    assert pointed.tokens[0, 0, :2].tolist() == [5, 4], "later places come first"
    torch.testing.assert_close(pointed.weights[0, 0], torch.tensor([0.5, 0.5, 0.0]))


def test_longer_matches_weigh_more() -> None:
    history = torch.tensor([[6, 2, 3, 4, 0, 3, 5, 2, 3]])
    pointed = point(Pointer(longest=4, rate=1.5, places=4), history, 1, VOCAB)
    assert pointed.tokens[0, 0, :2].tolist() == [4, 5]
    weights = pointed.weights[0, 0]
    assert float(weights[0] / weights[1]) == pytest.approx(math.exp(1.5))
    assert float(weights.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("period", [0, 1, 3, 5])
def test_repeating_is_what_a_search_says(period: int) -> None:
    history = torch.from_numpy(np.random.default_rng(period).integers(0, 2, (4, 40)))
    history[0, :6] = VOCAB  # padding
    loops = repeating(history, 33, period, VOCAB)
    for row, tokens in enumerate(history.tolist()):
        for place in range(7, 40):
            parts = [
                (tokens[place - d + 1 : place + 1], tokens[place - 2 * d + 1 : place - d + 1])
                for d in range(1, period + 1)
            ]
            wanted = any(len(b) == len(a) and a == b and VOCAB not in b for a, b in parts if len(a))
            assert bool(loops[row, place - 7]) == wanted, (row, place)


def test_the_pointer_is_silent_where_a_text_repeats_itself() -> None:
    history = torch.tensor([[1, 2, 3, 4, 5, 1, 2, 1, 2]])
    assert point(Pointer(period=2), history, 1, VOCAB).match.tolist() == [[0]]
    assert point(Pointer(period=0), history, 1, VOCAB).match.tolist() == [[2]]


def test_without_a_match_the_pointer_is_silent() -> None:
    model = mixture(KINDS[1])
    hidden = model.hidden(torch.tensor([[0, 1, 2]]))[0]
    assert model.mixture is not None
    network = torch.log_softmax(model.network_logits(hidden), -1)
    shares = model.mixture.gates(hidden, network).exp()
    assert shares[:, 1].tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(model.logits(hidden), network, rtol=1e-5, atol=1e-6)


def test_a_mixture_generates_and_is_not_trained() -> None:
    model = mixture(KINDS[2])
    new = generate(model, [[1, 2], [3]], max_new_tokens=30, temperature=0.0)
    assert [len(row) for row in new] == [30, 30]
    with pytest.raises(RequestError, match="train its network"):
        model.output(model.hidden(tokens()))


@pytest.mark.skipif(bool(kernels.refusal()), reason=kernels.refusal())
@pytest.mark.parametrize("fields", KINDS)
@pytest.mark.parametrize("kind", ["dense", "int8"])
def test_the_compiled_engine_leaves_counts_and_pointer_as_they_are(
    fields: dict[str, Any], kind: str
) -> None:
    linears = {"blocks": {"kind": kind}}
    model = mixture(fields, linears=linears, init={"std": 0.5})
    prompts = [[1, 2], [3], [4, 5, 1, 2]]
    eager, ours = (
        generate(model, prompts, max_new_tokens=20, temperature=0.0, engine=engine)
        for engine in ("eager", "compiled")
    )
    assert eager == ours
    drawn = [
        generate(model, prompts, max_new_tokens=20, temperature=0.9, seed=4, engine=engine)
        for engine in ("eager", "compiled")
    ]
    assert drawn[0] == drawn[1]
