"""Sliding windows with sinks, and attention inside documents, against masks that are written out."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from flyweight.config.schema import ModelConfig
from flyweight.decode.generate import generate
from flyweight.errors import RequestError
from flyweight.model import masks
from flyweight.model.decoder import Decoder
from flyweight.model.masks import AttentionMask, document_starts
from flyweight.spec import flops
from flyweight.spec.windows import query_blocks

LENGTH = 50
WINDOWS = [(1, 0), (5, 0), (6, 3), (14, 5), (16, 1), (20, 9), (49, 2)]
THOUGHTS: list[Any] = ["none", {"passes": 1}, {"passes": 1, "memory": "first"}]


@pytest.fixture(autouse=True)
def blocks_of_sixteen(monkeypatch: Any) -> None:
    """Make a short text several blocks long."""
    monkeypatch.setattr("flyweight.spec.windows.QUERIES", 16)


def decoder(window: tuple[int, int] | None = None, seed: int = 0, **fields: Any) -> Decoder:
    attention = {"heads": 4, "kv_heads": 2, "head_dim": 4, **fields.pop("attention", {})}
    if window is not None:
        attention |= {"window": window[0], "sinks": window[1]}
    base = {"vocab_size": 31, "context": 200, "dim": 16, "layers": 2, "init": {"std": 0.2}}
    config = ModelConfig.model_validate({**base, "attention": attention, **fields})
    return Decoder(config, seed).double().eval()


def tokens(length: int = LENGTH, rows: int = 2, seed: int = 0) -> Tensor:
    return torch.randint(31, (rows, length), generator=torch.Generator().manual_seed(seed))


def written_out(length: int, window: int | None, sinks: int, documents: list[int]) -> Tensor:
    """Return who sees whom, (T, T), token by token."""
    seen = torch.zeros(length, length, dtype=torch.bool)
    begins = [documents.index(document) for document in documents]
    for query, key in itertools.product(range(length), range(length)):
        own = begins[query]
        near = window is None or query - key < window or key - own < sinks
        seen[query, key] = key <= query and documents[query] == documents[key] and near
    return seen


def reference(model: Decoder, text: Tensor, monkeypatch: Any) -> Tensor:
    """Return the logits of a windowed model as one without a window and a mask written out."""
    options = model.config.attention
    plain = {**options.model_dump(), "window": None, "sinks": 0}
    config = ModelConfig.model_validate({**model.config.model_dump(), "attention": plain})
    full = Decoder(config).double().eval()
    full.load_state_dict(model.state_dict())
    length = text.shape[1]
    seen = written_out(length, options.window, options.sinks, [0] * length)
    with monkeypatch.context() as patch:
        mask = AttentionMask(causal=False, mask=seen[None, None])
        patch.setattr(masks, "causal_mask", lambda *_: mask)
        return full(text)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("thinking", THOUGHTS, ids=str)
@torch.no_grad()
def test_a_window_is_the_mask_written_out(window: Any, thinking: Any, monkeypatch: Any) -> None:
    model = decoder(window, thinking=thinking)
    expected = reference(model, tokens(), monkeypatch)
    torch.testing.assert_close(model(tokens()), expected, rtol=0, atol=1e-9)
    single = model.float()(tokens())
    torch.testing.assert_close(single, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("thinking", THOUGHTS[::2], ids=str)
@pytest.mark.parametrize("edges", [(0, 33, 34, 35, 50), (0, 1, 2, 30, 50), (0, 3, 8, 43)])
@torch.no_grad()
def test_a_cache_that_is_bounded_gives_the_same(window: Any, thinking: Any, edges: Any) -> None:
    model = decoder(window, thinking=thinking)
    text = tokens(edges[-1])
    cache = model.new_cache(2, 200)
    pieces = [model(text[:, start:stop], cache) for start, stop in itertools.pairwise(edges)]
    torch.testing.assert_close(torch.cat(pieces, 1), model(text), rtol=0, atol=1e-9)
    for keys in cache.keys:
        assert keys.shape[2] == sum(window)
    assert cache.nbytes() == 2 * flops.kv_bytes(model.config, 200, itemsize=8)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@torch.no_grad()
def test_token_by_token_through_a_bounded_cache(window: Any) -> None:
    model = decoder(window)
    cache = model.new_cache(2, LENGTH)
    pieces = [model(tokens()[:, at : at + 1], cache) for at in range(LENGTH)]
    torch.testing.assert_close(torch.cat(pieces, 1), model(tokens()), rtol=0, atol=1e-9)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@torch.no_grad()
def test_padded_rows_have_windows_and_sinks_of_their_own(window: Any) -> None:
    model = decoder(window)
    text = tokens()
    mask = torch.ones_like(text, dtype=torch.bool)
    mask[0, :26] = False
    alone = model(text[:1, 26:])
    torch.testing.assert_close(model(text, mask=mask)[:1, 26:], alone, rtol=0, atol=1e-9)
    for edges in ((0, 20, 33, 34, 50), (0, 27, *range(28, 51)), (0, 25, 26, 28, 50)):
        cache = model.new_cache(2, LENGTH)
        pieces = [
            model(text[:, start:stop], cache, mask[:, :stop])
            for start, stop in itertools.pairwise(edges)
        ]
        found = torch.cat(pieces, 1)
        torch.testing.assert_close(found[:1, 26:], alone, rtol=0, atol=1e-9)
        torch.testing.assert_close(found[1:], model(text[1:]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("window", [(50, 3), (51, 0), (150, 9)])
@torch.no_grad()
def test_a_window_as_long_as_the_text_is_full_attention_to_the_bit(window: Any) -> None:
    model, full = decoder(window).float(), decoder().float()
    assert torch.equal(model(tokens()), full(tokens()))
    mine, theirs = model.new_cache(2, LENGTH), full.new_cache(2, LENGTH)
    for start, stop in itertools.pairwise((0, 30, 31, 47, 50)):
        piece = tokens()[:, start:stop]
        assert torch.equal(model(piece, mine), full(piece, theirs))


@torch.no_grad()
def test_what_a_window_and_its_sinks_reach() -> None:
    """One layer: a token depends on the sinks and on the window, and on nothing between."""
    model = decoder((10, 2), layers=1)
    base = model(tokens(rows=1))
    for at, reaches in ((0, True), (1, True), (2, False), (39, False), (40, True), (49, True)):
        changed = tokens(rows=1)
        changed[0, at] = (changed[0, at] + 1) % 31
        found = model(changed)
        assert torch.equal(found[0, :at], base[0, :at]), "the future leaks"
        assert torch.equal(found[0, -1], base[0, -1]) != reaches


@pytest.mark.parametrize("window", [(6, 3), (20, 9)])
def test_gradients_are_those_of_the_mask_written_out(window: Any, monkeypatch: Any) -> None:
    model = decoder(window)
    expected = torch.autograd.grad(
        F.cross_entropy(model(tokens()).flatten(0, 1), tokens(seed=1).flatten()),
        list(model.parameters()),
    )
    monkeypatch.setattr(masks, "query_blocks", lambda *_: [masks.QueryBlock(0, LENGTH, 0, 0)])
    found = torch.autograd.grad(
        F.cross_entropy(model(tokens()).flatten(0, 1), tokens(seed=1).flatten()),
        list(model.parameters()),
    )
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("length", [10, 16, 17, 50, 100])
def test_flops_are_those_that_torch_counts(window: Any, length: int) -> None:
    config = decoder(window).config
    with torch.device("meta"):
        model, text = Decoder(config), torch.zeros(1, length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        loss = F.cross_entropy(model(text).flatten(0, 1), text.flatten())
        forward = counter.get_total_flops()
        loss.backward()
    assert forward == flops.forward_flops(config, length)
    assert counter.get_total_flops() == flops.training_flops(config, length)
    assert forward <= flops.forward_flops(decoder().config, length)


def test_a_token_costs_no_more_in_a_longer_text() -> None:
    config = decoder((32, 4)).config
    at, longer = (flops.forward_flops(config, length) for length in (1024, 2048))
    assert longer == pytest.approx(2 * at, rel=0.02)
    assert max(b.stop - b.first + b.sinks for b in query_blocks(0, 1024, 32, 4)) == (
        32 + 4 + 16 - 1
    )


@torch.no_grad()
def test_generation_beyond_the_window_is_that_of_the_whole_text_read_anew() -> None:
    model = decoder((10, 3))
    prompts = [tokens(rows=1)[0, :40].tolist(), tokens(rows=1, seed=4)[0, :21].tolist()]
    for prompt, new in zip(prompts, generate(model, prompts, max_new_tokens=20), strict=True):
        text = list(prompt)
        for token in new:
            assert int(model(torch.tensor([text]))[0, -1].argmax()) == token
            text.append(token)


# --- documents ---

LENGTHS = (1, 17, 9, 2, 21)
IDS = [number for number, length in enumerate(LENGTHS) for _ in range(length)]


def documents(rows: int = 2) -> Tensor:
    ids = torch.tensor(IDS)
    return torch.stack([ids, *(7 + ids.flip(0) for _ in range(rows - 1))])


def pieces(text: Tensor, ids: Tensor) -> list[Tensor]:
    """Return every document of a batch by itself, (1, T) each, row by row."""
    found = []
    for row, numbers in zip(text, ids, strict=True):
        sizes = torch.unique_consecutive(numbers, return_counts=True)[1].tolist()
        found += [piece[None] for piece in row.split(sizes)]
    return found


POSITIONS = ["rope", "learned", "sinusoidal", "none", {"kind": "rope", "fraction": 0.5}]
SHARING: list[Any] = ["none", {"kind": "cycle", "times": 2, "index": True}]


@pytest.mark.parametrize("position", POSITIONS, ids=str)
@pytest.mark.parametrize("sharing", SHARING, ids=str)
@pytest.mark.parametrize("window", [None, (4, 0), (8, 3), (18, 5)], ids=str)
def test_documents_in_a_window_are_each_document_alone(
    position: Any, sharing: Any, window: Any
) -> None:
    model = decoder(window, position=position, sharing=sharing).float()
    text, ids = tokens(), documents()
    together = model(text, documents=ids).flatten(0, 1)
    alone = torch.cat([model(piece)[0] for piece in pieces(text, ids)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(together, model(text).flatten(0, 1), atol=1e-3)


@pytest.mark.parametrize("thinking", THOUGHTS[1:], ids=str)
@pytest.mark.parametrize(
    "bigram", ["none", "exact", {"kind": "hashed", "buckets": 9, "order": 4}], ids=str
)
@torch.no_grad()
def test_memories_and_ngrams_end_with_their_document(thinking: Any, bigram: Any) -> None:
    model = decoder((6, 3), thinking=thinking, embedding={"bigram": bigram})
    if model.embedding.bigram is not None:  # it starts at zero
        for parameter in model.embedding.bigram.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator()))
    text, ids = tokens(), documents()
    together = model(text, documents=ids).flatten(0, 1)
    alone = torch.cat([model(piece)[0] for piece in pieces(text, ids)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)


def test_where_documents_begin() -> None:
    ids = torch.tensor([[3, 3, 5, 5, 5], [1, 2, 2, 1, 1]])
    assert document_starts(ids).tolist() == [[0, 0, 2, 2, 2], [0, 1, 1, 3, 3]]


def test_documents_that_cannot_be_read_are_refused() -> None:
    model = decoder()
    with pytest.raises(RequestError, match="a cache holds one text a row"):
        model(tokens(), model.new_cache(2, LENGTH), documents=documents())
    with pytest.raises(RequestError, match=r"documents: torch.int32 of shape"):
        model(tokens(), documents=documents().int())
    with pytest.raises(RequestError, match=r"documents: torch.int64 of shape \(1, 50\)"):
        model(tokens(), documents=documents(1))
