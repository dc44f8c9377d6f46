import itertools
import json
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from flyweight.config.metrics import METRICS, MetricKind
from flyweight.config.schema import ModelConfig
from flyweight.errors import FlyweightError, RequestError
from flyweight.evaluation import likelihood
from flyweight.evaluation.likelihood import evaluate, quick, spans, target_nll
from flyweight.model.decoder import Decoder

VOCAB = 17


@dataclass
class FakeSplit:
    tokens: np.ndarray
    name: str = "test"
    bytes: int = 900
    words: int = 130
    documents: np.ndarray = field(default_factory=lambda: np.array([0]))
    opening: int = 0
    marks: tuple[int, ...] = ()
    vocab_size: int | None = None
    closing: int = 0


class Table(torch.nn.Module):
    """A bigram model whose likelihood is known without any of the evaluator's code."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.table = torch.nn.Parameter(logits)
        self.widest = 0

    def hidden(self, tokens):
        return torch.nn.functional.one_hot(tokens, len(self.table)).to(
            self.table.dtype
        )  # (B, T, V)

    def logits(self, hidden):
        self.widest = max(self.widest, len(hidden))
        return hidden @ self.table


def decoder(**changes) -> Decoder:
    fields = {
        "vocab_size": VOCAB,
        "context": 32,
        "dim": 16,
        "layers": 2,
        "attention": {"heads": 2},
        "init": {"std": 0.4},
    }
    return Decoder(ModelConfig.model_validate({**fields, **changes}))


def tokens(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, n).astype(np.uint16)


def table() -> Table:
    return Table(torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0)))


def test_nll_is_that_of_the_next_tokens_by_hand():
    model, stream = table(), tokens(301)
    p = torch.log_softmax(model.table.detach().double(), -1).numpy()
    expected = -p[stream[:-1].astype(int), stream[1:].astype(int)]
    result = evaluate(model, FakeSplit(stream), window=32)
    assert result.likelihood.nll.value == pytest.approx(expected.mean(), abs=1e-6)
    assert result.likelihood.nll.n == 300
    assert result.likelihood.perplexity.value == pytest.approx(math.exp(expected.mean()), rel=1e-6)
    assert result.likelihood.word_perplexity.value == pytest.approx(
        math.exp(expected.sum() / 130), rel=1e-5
    )
    assert result.likelihood.bits_per_byte.value == pytest.approx(
        expected.sum() / math.log(2) / 900, rel=1e-6
    )
    found = np.concatenate([nll for _, nll in target_nll(model, stream, 32, 32, 4, "cpu", "fp32")])
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("n", [3, 31, 32, 33, 34, 64, 65, 66, 200])
@pytest.mark.parametrize("stride", [1, 7, 31, 32])
def test_every_target_is_scored_exactly_once(n, stride):
    scored = np.zeros(n - 1, int)
    for start, stop, first in spans(n - 1, 32, stride):
        assert start <= first < stop <= n - 1 and stop - start <= 32
        scored[first:stop] += 1
    assert (scored == 1).all()


def test_later_windows_of_a_smaller_stride_score_only_their_last_targets():
    assert spans(100, 40, 20) == [(0, 40, 0), (20, 60, 40), (40, 80, 60), (60, 100, 80)]
    assert spans(90, 40, 40) == [(0, 40, 0), (40, 80, 40), (80, 90, 80)]
    assert spans(90, 40, 20)[-1] == (60, 90, 80)


@pytest.mark.parametrize("position", ["rope", "learned"])
def test_nll_is_the_same_for_every_batch_size_and_padding(position):
    model, split = decoder(position=position), FakeSplit(tokens(205))
    values = [
        evaluate(model, split, window=32, batch=batch).likelihood.nll.value
        for batch in (1, 2, 3, 5, 7, 64)
    ]
    assert max(values) - min(values) <= 1e-6
    for pad in (32, 40, 64) if position == "rope" else (32,):
        parts = [
            nll for _, nll in target_nll(model, split.tokens, 32, 32, 3, "cpu", "fp32", pad_to=pad)
        ]
        assert np.concatenate(parts).mean() == pytest.approx(values[0], abs=1e-6)


def test_window_by_window_without_the_evaluator():
    model, stream = decoder(), tokens(100).astype(np.int64)
    total = 0.0
    with torch.no_grad():
        for start in range(0, 99, 32):
            piece = torch.from_numpy(stream[start : start + 33])[None]
            logits = model(piece[:, :-1])
            total += torch.nn.functional.cross_entropy(
                logits[0], piece[0, 1:], reduction="sum"
            ).item()
    assert evaluate(
        model, FakeSplit(stream), window=32, batch=3
    ).likelihood.nll.value == pytest.approx(total / 99, abs=1e-6)


def test_a_smaller_stride_gives_more_context():
    # Period 5: a window's first tokens are its hardest for a model that copies from five tokens
    # ago.
    class Copier(Table):
        def hidden(self, tokens):
            past = torch.cat([torch.zeros_like(tokens[:, :4]), tokens], 1)[:, : tokens.shape[1]]
            return torch.nn.functional.one_hot(past, len(self.table)).float()

    stream = np.resize(np.array([1, 9, 4, 7, 12]), 400)
    model = Copier(torch.eye(VOCAB) * 20)
    plain, strided = (
        evaluate(model, FakeSplit(stream), window=20, stride=s).likelihood.nll for s in (20, 10)
    )
    assert plain.value > 2.0 and strided.value < plain.value / 5
    assert plain.n == strided.n == 399


def test_logits_are_never_held_for_all_tokens_at_once(monkeypatch):
    monkeypatch.setattr(likelihood, "LOGITS_AT_ONCE", 10 * VOCAB)
    model, split = table(), FakeSplit(tokens(301))
    value = evaluate(model, split, window=64, batch=16).likelihood.nll.value
    assert model.widest == 10
    monkeypatch.undo()
    assert evaluate(table(), split, window=64, batch=16).likelihood.nll.value == pytest.approx(
        value, abs=1e-7
    )


def test_softcap_counts():
    # Zero layers: the cap changes nothing but the logits.
    stream = FakeSplit(tokens(100))
    plain, capped = (
        evaluate(decoder(layers=0, head={"softcap": cap}, init={"std": 2.0}), stream, window=16)
        for cap in (None, 1)
    )
    assert capped.likelihood.nll.value < plain.likelihood.nll.value - 0.5
    assert capped.likelihood.nll.value <= math.log(VOCAB) + 2


def test_documents_are_the_units_where_there_are_enough():
    split = FakeSplit(tokens(401), documents=np.arange(0, 400, 16))
    result = evaluate(decoder(), split, window=32)
    assert result.units.kind == "document" and len(result.units.nll) == 25
    assert result.units.nll.sum() / result.units.counts.sum() == pytest.approx(
        result.likelihood.nll.value
    )
    assert result.likelihood.nll.low < result.likelihood.nll.value < result.likelihood.nll.high
    parts = list(target_nll(decoder(), split.tokens, 32, 32, 16, "cpu", "fp32"))
    nll = np.concatenate([part for _, part in parts])
    assert result.units.nll[1] == pytest.approx(
        nll[15:31].sum()
    )  # tokens 16 to 31 are targets 15 to 30


def test_progress_rises_to_one():
    heard: list[float] = []
    evaluate(table(), FakeSplit(tokens(301)), window=32, batch=3, progress=heard.append)
    assert heard == sorted(heard) and heard[0] < 0.2 and heard[-1] == 1.0


def test_json_has_the_interfaces_keys():
    result = evaluate(table(), FakeSplit(tokens(301)), window=32, stride=16).likelihood.to_metrics()
    for name in ("nll", "perplexity", "word_perplexity", "bits_per_byte"):
        assert (
            result[name]["low"] <= result[name]["value"] <= result[name]["high"]
            and result[name]["n"] > 0
        )
    assert (result["split"], result["window"], result["stride"]) == ("test", 32, 16)
    json.dumps(result, allow_nan=False)


def test_a_likelihood_that_is_not_a_number_is_infinite_and_still_json():
    result = evaluate(Table(torch.full((VOCAB, VOCAB), math.nan)), FakeSplit(tokens(50)), window=16)
    assert result.likelihood.nll.value == math.inf == result.likelihood.perplexity.high
    assert (
        json.loads(json.dumps(result.likelihood.to_metrics(), allow_nan=False))["nll"]["value"]
        == "Infinity"
    )


def test_a_text_without_words_has_no_word_perplexity():
    assert (
        evaluate(table(), FakeSplit(tokens(50), words=0), window=16).likelihood.to_metrics()[
            "word_perplexity"
        ]
        is None
    )


def test_dropout_is_off_and_the_mode_and_gradients_come_back():
    model, split = decoder(dropout=0.5), FakeSplit(tokens(100))
    model.train()
    assert quick(model, split, tokens=99, window=16) == quick(model, split, tokens=99, window=16)
    assert model.training and torch.is_grad_enabled()
    model.hidden(
        torch.zeros(1, 16, dtype=torch.long)
    ).sum().backward()  # nothing cached here is an inference tensor
    model.eval()
    quick(model, split, tokens=10, window=16)
    assert not model.training


def test_quick_is_the_mean_over_the_first_targets():
    model, stream = decoder(), tokens(200)
    part = evaluate(model, FakeSplit(stream[:65]), window=32).likelihood.nll.value
    assert quick(model, FakeSplit(stream), tokens=64, window=32, batch=3) == pytest.approx(
        part, abs=1e-6
    )
    whole = evaluate(model, FakeSplit(stream), window=32).likelihood.nll.value
    assert quick(model, FakeSplit(stream), tokens=10**6, window=32) == pytest.approx(
        whole, abs=1e-6
    )


def test_bf16_is_close_but_not_the_same():
    split = FakeSplit(tokens(100))
    exact, rough = (
        evaluate(decoder(), split, window=16, precision=p).likelihood.nll.value
        for p in ("fp32", "bf16")
    )
    assert 0 < abs(exact - rough) < 0.05 * exact


@pytest.mark.parametrize(
    "options", [{"window": 8, "stride": 9}, {"window": 8, "stride": 0}, {"window": 8, "batch": 0}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(RequestError):
        evaluate(table(), FakeSplit(tokens(50)), **options)


def test_a_split_without_targets_is_refused():
    with pytest.raises(RequestError, match="at least"):
        quick(table(), FakeSplit(tokens(1)), tokens=5, window=8)
    with pytest.raises(RequestError, match="at least"):
        evaluate(table(), FakeSplit(tokens(2)), window=8)


def test_rows_without_a_token_are_outside_the_softmax():
    model, stream = table(), tokens(201) % 11
    p = torch.log_softmax(model.table.detach().double()[:, :11], -1).numpy()
    expected = -p[stream[:-1].astype(int), stream[1:].astype(int)]
    split = FakeSplit(stream, vocab_size=11)
    assert evaluate(model, split, window=32).likelihood.nll.value == pytest.approx(
        expected.mean(), abs=1e-6
    )
    assert quick(model, split, tokens=500, window=32) == pytest.approx(expected.mean(), abs=1e-6)


def test_bits_per_byte_and_word_perplexity_leave_out_tokens_that_are_no_text():
    """25 documents of 15 tokens and an end: the ends count per token and nowhere else."""
    model, end = table(), VOCAB - 1
    stream = tokens(400) % (VOCAB - 1)
    stream[15::16] = end
    p = torch.log_softmax(model.table.detach().double(), -1).numpy()
    nats = -p[stream[:-1].astype(int), stream[1:].astype(int)]
    text = stream[1:] != end
    result = evaluate(
        model, FakeSplit(stream, documents=np.arange(0, 400, 16), marks=(end,)), window=32
    )
    assert (
        result.likelihood.nll.value == pytest.approx(nats.mean(), abs=1e-6)
        and result.likelihood.nll.n == 399
    )
    assert result.likelihood.bits_per_byte.value == pytest.approx(
        nats[text].sum() / math.log(2) / 900, rel=1e-6
    )
    assert result.likelihood.word_perplexity.value == pytest.approx(
        math.exp(nats[text].sum() / 130), rel=1e-5
    )
    assert result.units.marks.sum() == pytest.approx(nats[~text].sum(), rel=1e-6)
    assert result.units.bytes.sum() == pytest.approx(900) and result.units.bytes[
        1
    ] == pytest.approx(900 * 15 / 374)


def test_with_begin_tokens_each_document_is_read_by_itself():
    model, begin = decoder(), VOCAB - 1
    stream = tokens(400) % (VOCAB - 1)
    starts = np.cumsum([0, *np.random.default_rng(3).integers(10, 25, 22)])
    starts = np.append(starts[starts < 390], 396)
    stream[starts] = begin
    split = FakeSplit(stream, documents=starts, opening=1, marks=(begin,))
    result = evaluate(model, split, window=16, stride=8)
    total, count = 0.0, 0
    for start, end in zip(starts, [*starts[1:], 400], strict=True):
        parts = target_nll(model, stream[start:end], 16, 8, 1, "cpu", "fp32")
        nll = np.concatenate([part for _, part in parts])
        total, count = total + nll.sum(), count + len(nll)
    assert result.likelihood.nll.n == count == 400 - len(starts)
    assert result.likelihood.nll.value == pytest.approx(total / count, abs=1e-6)
    assert result.units.marks is None and result.units.counts.sum() == count
    whole = evaluate(model, split, window=16).likelihood.nll.value
    assert quick(model, split, tokens=10**6, window=16) == pytest.approx(whole, abs=1e-6)


def separated(lengths: list[int], opening: int = 0) -> FakeSplit:
    """Return documents that end in token 16, and begin with `opening` times token 15."""
    stream, documents = list[int](), list[int]()
    for number, length in enumerate(lengths):
        documents.append(len(stream))
        stream += [15] * opening + tokens(length, seed=number).tolist() + [16]
    split = FakeSplit(np.array(stream, np.uint16), documents=np.array(documents), opening=opening)
    split.closing = 1
    return split


@pytest.mark.parametrize("window", [1, 7, 32])
@pytest.mark.parametrize("stride", [1, 5, 32])
def test_isolated_documents_score_every_target_once_and_stay_inside(window, stride):
    split = separated([1, 40, 3, 90, 8, 31, 32, 33])
    starts = [0, *(split.documents[1:] - 1).tolist(), len(split.tokens) - 1]
    for size in (len(split.tokens), 60, 61, 2):
        scored = np.zeros(size - 1, int)
        plan = likelihood.windows(split, size, window, min(stride, window), isolated=True)
        for first, stop, begin in plan:
            scored[begin:stop] += 1
            assert not any(first < start < stop for start in starts), "a context crosses a boundary"
        assert (scored == 1).all()


def test_isolated_documents_are_scored_as_each_alone():
    model, split = decoder(), separated([20, 3, 31, 8, 12] * 5)
    found = evaluate(model, split, window=32, isolated=True)
    total, count = 0.0, 0
    edges = [0, *(split.documents[1:] - 1).tolist(), len(split.tokens) - 1]
    for start, stop in itertools.pairwise(edges):
        piece = torch.from_numpy(split.tokens[start : stop + 1].astype(np.int64))[None]
        with torch.no_grad():
            logits = model(piece[:, :-1])[0]
        total += float(torch.nn.functional.cross_entropy(logits, piece[0, 1:], reduction="sum"))
        count += stop - start
    assert found.likelihood.nll.n == count == len(split.tokens) - 1
    assert found.likelihood.nll.value == pytest.approx(total / count, abs=1e-5)
    assert found.likelihood.nll.value != pytest.approx(
        evaluate(model, split, window=32).likelihood.nll.value, abs=1e-4
    )
    alone = quick(model, split, tokens=10**6, window=32, isolated=True)
    assert alone == pytest.approx(found.likelihood.nll.value, abs=1e-6)


def test_accuracy_is_the_share_of_targets_that_are_most_probable():
    torch.manual_seed(3)
    logits = torch.randn(VOCAB, VOCAB)
    text = tokens(500)
    split = FakeSplit(text)
    result = evaluate(Table(logits), split, window=32, metrics=["accuracy"])
    right = logits.argmax(-1).numpy()[text[:-1]] == text[1:]
    assert result.likelihood.metric("accuracy").value == pytest.approx(right.mean())
    assert result.likelihood.metric("accuracy").n == len(right)
    assert result.likelihood.to_metrics()["metrics"]["accuracy"]["better"] == "higher"
    plain = evaluate(Table(logits), split, window=32)
    assert plain.likelihood.nll == result.likelihood.nll
    assert "metrics" not in plain.likelihood.to_metrics()


def test_a_metric_over_documents_counts_each_document_alike(monkeypatch):
    kind = MetricKind(
        name="first",
        title="first",
        unit="share",
        better="higher",
        about="share of targets that are token 0",
        score=lambda logits, targets: (targets == 0).float(),
        over="documents",
    )
    monkeypatch.setitem(METRICS, "first", kind)
    lengths = np.random.default_rng(0).integers(5, 40, 30)
    text, starts = tokens(int(lengths.sum())), np.append(0, lengths.cumsum()[:-1])
    result = evaluate(
        Table(torch.zeros(VOCAB, VOCAB)),
        FakeSplit(text, documents=starts),
        window=32,
        metrics=["first"],
    )
    edges = np.append(np.clip(starts - 1, 0, None), len(text) - 1)
    means = [(text[1:][first:last] == 0).mean() for first, last in itertools.pairwise(edges)]
    assert result.likelihood.metric("first").value == pytest.approx(np.mean(means))
    assert result.likelihood.metric("first").n == 30


def test_a_metric_that_does_not_score_every_target_is_refused(monkeypatch):
    kind = MetricKind(
        "sum", "sum", "x", "lower", "a sum", score=lambda logits, targets: targets.sum()
    )
    monkeypatch.setitem(METRICS, "sum", kind)
    with pytest.raises(FlyweightError, match="one score for each target, and returned"):
        evaluate(
            Table(torch.zeros(VOCAB, VOCAB)), FakeSplit(tokens(100)), window=32, metrics=["sum"]
        )
    with pytest.raises(RequestError, match=r"no metric 'acuracy' \(did you mean accuracy\?\)"):
        evaluate(
            Table(torch.zeros(VOCAB, VOCAB)), FakeSplit(tokens(100)), window=32, metrics=["acuracy"]
        )
