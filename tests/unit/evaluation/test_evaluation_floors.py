import json
import math
from collections import Counter

import numpy as np
import pytest

from flyweight.config import schema
from flyweight.data.corpus import Corpus
from flyweight.data.pack import pack
from flyweight.errors import RequestError
from flyweight.evaluation import floors as floors_module
from flyweight.evaluation.floors import Bigram, Unigram, floors, mixture_weights
from flyweight.evaluation.kneser_ney import KneserNey
from flyweight.evaluation.likelihood import evaluate
from flyweight.model.decoder import Decoder

WORDS = (
    "share",
    "what",
    "can",
    "be",
    "shared",
    "and",
    "measure",
    "every",
    "step",
    "the",
    "same",
    "honest",
    "way",
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    place, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    word, words = 0, []
    for _ in range(6000):  # a chain with memory, so that longer contexts pay
        word = (word + int(rng.choice([1, 2, 5]))) % len(WORDS)
        words.append(WORDS[word])
    lines = [" ".join(words[at : at + 9]) for at in range(0, len(words), 9)]
    (place / "text.txt").write_text("\n".join(lines) + "\n")
    data = schema.Data(
        corpus=str(place / "text.txt"),
        tokenizer=schema.WordTokenizer(),
        context=32,
        validation=0.1,
        test=0.1,
    )
    return pack(data, None, place / "corpus")


def test_floors_of_a_text_with_memory_fall_with_the_context(corpus):
    found = floors(corpus)
    assert found.unigram.perplexity > 1.5 * found.bigram.perplexity
    assert found.kn5.perplexity < 1.2 * found.bigram.perplexity
    assert found.tokens == len(corpus.split("test").tokens) - 1
    assert found.train_tokens == found.train_tokens_available == len(corpus.split("train").tokens)
    for floor in (found.unigram, found.bigram, found.kn5):
        assert floor.perplexity == pytest.approx(math.exp(floor.nll)) and floor.seconds > 0
        assert floor.bits_per_byte == pytest.approx(
            floor.nll * found.tokens / math.log(2) / corpus.split("test").bytes
        )


def test_json_has_perplexities_under_the_interfaces_keys(corpus):
    found = floors(corpus)
    plain = json.loads(json.dumps(found.to_metrics(), allow_nan=False))
    assert (plain["unigram"], plain["bigram"], plain["kn5"]) == tuple(
        floor.perplexity for floor in (found.unigram, found.bigram, found.kn5)
    )
    assert (
        plain["details"]["kn5"]["stored"]
        > plain["details"]["bigram"]["stored"]
        > plain["details"]["unigram"]["stored"]
        > 0
    )
    assert plain["split"] == "test" and plain["vocab_size"] == corpus.meta.vocab_size
    for cost in ("seconds", "bytes", "peak_bytes"):
        assert plain[cost] == {
            name: plain["details"][name][cost] for name in ("unigram", "bigram", "kn5")
        }


def test_costs_are_those_of_the_tables_and_of_making_them(corpus):
    train, held_out = (np.asarray(corpus.split(name).tokens) for name in ("train", "validation"))
    vocab, found = corpus.meta.vocab_size, floors(corpus)
    tables = {
        "unigram": [Unigram(train, held_out, vocab)],
        "bigram": [Bigram(train, held_out, vocab), Bigram(train, held_out, vocab)._unigram],
        "kn5": KneserNey(train, vocab).levels,
    }
    for name, holders in tables.items():
        held = sum(
            value.nbytes
            for holder in holders
            for key, value in vars(holder).items()
            if isinstance(value, np.ndarray) and key != "counts"
        )
        floor = getattr(found, name)
        assert floor.bytes == held - (16 if name != "kn5" else 0) * len(
            holders
        )  # mixture weights are constants, not tables
        assert floor.peak_bytes > floor.bytes
    assert found.kn5.peak_bytes < 400 * len(train)


def test_unigram_by_hand(corpus):
    train, test = (np.asarray(corpus.split(name).tokens).tolist() for name in ("train", "test"))
    counts, vocab = Counter(train), corpus.meta.vocab_size
    weight = floors(corpus).unigram.constants[0]
    nll = -np.mean(
        [math.log(weight * counts[t] / len(train) + (1 - weight) / vocab) for t in test[1:]]
    )
    assert floors(corpus).unigram.nll == pytest.approx(nll, rel=1e-9)


def test_bigram_by_hand(corpus):
    train, held_out, test = (
        np.asarray(corpus.split(name).tokens) for name in ("train", "validation", "test")
    )
    vocab = corpus.meta.vocab_size
    model, unigram = Bigram(train, held_out, vocab), Unigram(train, held_out, vocab)
    pairs, before = (
        Counter(zip(train[:-1].tolist(), train[1:].tolist(), strict=True)),
        Counter(train[:-1].tolist()),
    )
    weight = model.constants[0]
    p = unigram.probabilities(test)
    expected = [
        weight * pairs[(a, b)] / before[a] + (1 - weight) * p[i + 1] if before[a] else p[i + 1]
        for i, (a, b) in enumerate(zip(test[:-1].tolist(), test[1:].tolist(), strict=True))
    ]
    np.testing.assert_allclose(model.score(test), expected, rtol=1e-9)


@pytest.mark.parametrize("kind", ["unigram", "bigram"])
def test_probabilities_sum_to_one_also_after_unseen_tokens(kind):
    train, held_out, vocab = np.array([0, 1, 1, 2, 0, 1]), np.array([0, 1, 2, 1]), 6
    model = Unigram(train, held_out, vocab) if kind == "unigram" else Bigram(train, held_out, vocab)
    for before in range(vocab):
        total = sum(model.score(np.array([before, token]))[0] for token in range(vocab))
        assert total == pytest.approx(1, abs=1e-12)


def test_unseen_tokens_cost_much_but_not_everything():
    model = Unigram(
        np.array([0, 1] * 50), np.array([0, 1] * 10), 4
    )  # nothing unseen in the held-out text
    # One more token than the hundred seen, spread over the vocabulary.
    assert model.probabilities(np.array([3]))[0] == pytest.approx(1 / 101 / 4, rel=0.02)


def test_mixture_weights_are_the_most_likely_ones():
    rng = np.random.default_rng(0)
    components = rng.random((400, 2)) * [1.0, 0.7]
    weight = mixture_weights(components, np.ones(400))[0]
    grid = np.linspace(0.001, 0.999, 999)
    best = grid[np.argmax([np.log(components @ [w, 1 - w]).sum() for w in grid])]
    assert weight == pytest.approx(best, abs=2e-3)
    often = rng.integers(1, 5, 400)
    assert mixture_weights(components, often) == pytest.approx(
        mixture_weights(components.repeat(often, 0), np.ones(often.sum())), rel=1e-6
    )


def test_the_limit_on_training_text_is_reported(corpus, monkeypatch):
    monkeypatch.setattr(floors_module, "CHOICE_LIMIT", 100)
    short = floors(corpus, train_limit=300)
    assert (short.train_tokens, short.train_tokens_available) == (
        300,
        len(corpus.split("train").tokens),
    )
    assert short.kn5.nll > floors(corpus).kn5.nll


def test_floors_and_models_are_scored_on_the_same_targets(corpus):
    config = schema.ModelConfig(vocab_size=corpus.meta.vocab_size, context=32, dim=16, layers=1)
    result = evaluate(Decoder(config), corpus.split("test"), window=32).likelihood
    assert result.nll.n == floors(corpus).tokens
    # An untrained model is about uniform: worse than any floor.
    assert result.nll.value > floors(corpus).unigram.nll


def test_a_split_that_does_not_exist_is_refused(corpus):
    with pytest.raises(RequestError, match="split"):
        floors(corpus, "dev")
