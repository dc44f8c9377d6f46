from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from flyweight.config.schema import Architecture, ModelConfig
from flyweight.decode.generate import generate
from flyweight.decode.incremental import IncrementalDecoder
from flyweight.decode.sampling import Sampling
from flyweight.model.build import build
from flyweight.model.decoder import Decoder

FIELDS = {"vocab_size": 31, "context": 48, "dim": 16, "layers": 2, "attention": {"heads": 2}}


def decoder(**fields) -> Decoder:
    model, draws = (
        Decoder(ModelConfig.model_validate({**FIELDS, **fields}), seed=3).eval(),
        torch.Generator().manual_seed(1),
    )
    with torch.no_grad():  # tables that start at zero would hide what they remember
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draws))
    return model


def ngrams(order: int) -> dict[str, Any]:
    return {"embedding": {"bigram": {"kind": "hashed", "buckets": 64, "order": order}}}


def never(new: list[int]) -> bool:
    return False


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "fields",
    [{}, {"position": "rope"}, {"embedding": {"bigram": {"kind": "hashed", "buckets": 64}}}],
)
def test_a_fresh_text_goes_on_as_generate_does(temperature, fields):
    model = decoder(**fields)
    (expected,) = generate(model, [[3, 1, 4]], max_new_tokens=20, temperature=temperature, seed=5)
    made = IncrementalDecoder(model).extend([3, 1, 4], Sampling(temperature), 5, 20, (), never)
    assert (made.tokens, made.ended, made.read, made.known) == (expected, "length", 3, 0)


@pytest.mark.parametrize("order", [None, 2, 4])
def test_a_text_that_grew_or_was_cut_is_the_same_as_one_read_anew(order):
    model, greedy = decoder(**({} if order is None else ngrams(order))), Sampling()
    running = IncrementalDecoder(model)
    first = running.extend([3, 1, 4], greedy, 0, 6, (), never)
    grown = [3, 1, 4, *first.tokens, 9, 9]
    for tokens in (grown, [*grown[:5], 2, 2, 2], [3, 30], [8, 1, 4], grown):
        before = list(running.tokens)
        made = running.extend(tokens, greedy, 0, 5, (), never)
        assert (
            made.tokens == IncrementalDecoder(model).extend(tokens, greedy, 0, 5, (), never).tokens
        )
        shared = next(
            (at for at in range(len(tokens)) if before[at : at + 1] != tokens[at : at + 1]),
            len(tokens),
        )
        assert made.known == min(shared, len(tokens) - 1)
        assert made.read == len(tokens) - made.known


def test_the_cache_grows_with_the_text(monkeypatch):
    monkeypatch.setattr("flyweight.decode.incremental._FIRST", 4)
    model = decoder()
    (expected,) = generate(model, [[3, 1, 4]], max_new_tokens=30)
    running = IncrementalDecoder(model)
    assert running.extend([3, 1, 4], Sampling(), 0, 30, (), never).tokens == expected
    assert 32 <= running.cache.capacity <= 48


@pytest.mark.parametrize("kind", ["lstm", "linear", "mlp"])
def test_a_model_that_keeps_a_state_goes_on_and_reads_anew_what_was_cut(monkeypatch, kind):
    monkeypatch.setattr("flyweight.decode.incremental._FIRST", 4)
    own = {"lstm": {}, "linear": {"history": 3}, "mlp": {"history": 3, "hidden": 8}}[kind]
    fields = {"kind": kind, "vocab_size": 31, "context": 48, "dim": 8, **own}
    model = build(TypeAdapter(Architecture).validate_python(fields), seed=0)
    running = IncrementalDecoder(model)
    first = running.extend([3, 1, 4], Sampling(), 0, 20, (), never)
    assert first.tokens == generate(model, [[3, 1, 4]], max_new_tokens=20)[0]
    grown = [3, 1, 4, *first.tokens, 9, 9]
    for tokens, known in ((grown, 22), (grown[:5], 0), ([8, 1, 4], 0)):
        made = running.extend(tokens, Sampling(), 0, 5, (), never)
        assert (
            made.tokens
            == IncrementalDecoder(model).extend(tokens, Sampling(), 0, 5, (), never).tokens
        )
        assert made.known == known


@pytest.mark.parametrize("sinks", [0, 2])
def test_a_window_reads_anew_what_it_dropped_and_keeps_the_rest(monkeypatch, sinks):
    monkeypatch.setattr("flyweight.decode.incremental._FIRST", 4)
    model = decoder(attention={"heads": 2, "window": 8, "sinks": sinks})
    running = IncrementalDecoder(model)
    first = running.extend([3, 1, 4], Sampling(), 0, 3, (), never)
    grown = [3, 1, 4, *first.tokens]
    cut = [*grown[:4], 9]
    longer = [*cut, *range(10, 25)]
    for tokens, known in ((grown, 5), (cut, 4), (longer, 5), ([*longer, 7, 7], 20), (longer, 0)):
        made = running.extend(tokens, Sampling(), 0, 1, (), never)
        alone = IncrementalDecoder(model).extend(tokens, Sampling(), 0, 1, (), never)
        assert (made.tokens, made.known) == (alone.tokens, known)
        assert running.cache.nbytes() <= 2 * 2 * (8 + sinks) * 16 * 4


def test_an_interrupt_in_a_full_window_has_everything_read_anew():
    model = decoder(attention={"heads": 2, "window": 8})
    running = IncrementalDecoder(model)
    text = list(range(3, 15))
    running.extend(text, Sampling(), 0, 1, (), never)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    plain, model.blocks[1].forward = model.blocks[1].forward, interrupt
    with pytest.raises(KeyboardInterrupt):
        running.extend([*text, 5, 6], Sampling(), 0, 1, (), never)
    model.blocks[1].forward = plain
    made = running.extend([*text, 5, 6], Sampling(), 0, 4, (), never)
    alone = IncrementalDecoder(model).extend([*text, 5, 6], Sampling(), 0, 4, (), never)
    assert (made.tokens, made.known) == (alone.tokens, 0)


def test_it_ends_where_it_should():
    running = IncrementalDecoder(decoder())
    made = running.extend([3, 1, 4], Sampling(), 0, 100, (), never)
    assert (made.ended, len(made.tokens)) == ("context", 48 - 3 + 1)
    third = made.tokens[2]
    cut = made.tokens.index(third)
    made = running.extend([3, 1, 4], Sampling(), 0, 100, {third}, never)
    assert (made.ended, made.tokens, made.known) == ("end", made.tokens[:cut], 2)
    made = running.extend([3, 1, 4], Sampling(), 0, 100, (), lambda new: len(new) == 2)
    assert (made.ended, len(made.tokens)) == ("stop", 2)


def test_an_interrupt_leaves_a_cache_that_is_right():
    model, greedy = decoder(), Sampling()
    running, calls = IncrementalDecoder(model), []

    def interrupt(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    handle = model.blocks[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        running.extend([3, 1, 4], greedy, 0, 9, (), never)
    handle.remove()
    assert running.tokens[:3] == [3, 1, 4]
    assert (
        running.extend([3, 1, 4], greedy, 0, 9, (), never).tokens
        == IncrementalDecoder(model).extend([3, 1, 4], greedy, 0, 9, (), never).tokens
    )
