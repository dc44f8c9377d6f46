"""A sound model passes every check, and for every check there is a broken model that fails it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from audit.planted import MISTAKES
from audit_fixture import CONFIG, packed, text, trained_model
from safetensors.torch import load_file, save_file

from flyweight.compression.quantize import quantize
from flyweight.config import schema
from flyweight.data.corpus import Corpus
from flyweight.errors import RequestError
from flyweight.evaluation import checks
from flyweight.evaluation.audit import CHECKS, audit
from flyweight.evaluation.checks import Subject
from flyweight.evaluation.likelihood import target_nll
from flyweight.model import folder
from flyweight.model.decoder import Decoder
from flyweight.records.audit import AuditResult, Check


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return packed(tmp_path_factory.mktemp("corpus"), text(700, 0))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, corpus) -> Path:
    return trained_model(tmp_path_factory.mktemp("model"), corpus)


@pytest.fixture
def subject(trained, corpus) -> Subject:
    return Subject(trained, folder.load(trained).eval(), corpus)


def broken(subject: Subject, kind: type[Decoder]) -> Subject:
    """The same weights in a model of another class."""
    model = kind(subject.model.config).eval()
    model.load_state_dict(subject.model.state_dict())
    return replace(subject, model=model)


def with_weights(subject: Subject, change) -> Subject:
    model = folder.load(subject.folder).eval()
    with torch.no_grad():
        change(model)
    return replace(subject, model=model)


class FutureLeak(Decoder):
    def hidden(self, tokens, cache=None, mask=None, documents=None):
        return super().hidden(tokens, cache, mask) + 1e-6 * self.embedding.tokens.rows(tokens).mean(
            1, keepdim=True
        )


class BatchNorm(Decoder):
    def hidden(self, tokens, cache=None, mask=None, documents=None):
        hidden = super().hidden(tokens, cache, mask)
        return hidden + 1e-3 * hidden.mean(0, keepdim=True)


class DeafToMasks(Decoder):
    def hidden(self, tokens, cache=None, mask=None, documents=None):
        return super().hidden(tokens, cache)


class StaleCache(Decoder):
    """Loses the first position of the cache once a second piece comes."""

    def hidden(self, tokens, cache=None, mask=None, documents=None):
        if cache is not None and cache.length > 0:
            for keys in cache.keys:
                keys[:, :, 0] = 0
        return super().hidden(tokens, cache, mask)


class DeafWhenCached(Decoder):
    def hidden(self, tokens, cache=None, mask=None, documents=None):
        return super().hidden(tokens, cache, None if cache is not None else mask)


class Forgetful(Decoder):
    """Holds a weight that its state does not."""

    extra = None

    def logits(self, hidden):
        return super().logits(hidden) + (0.0 if self.extra is None else self.extra)


class Deaf(Decoder):
    """Starts with a constant so loud that tokens do not matter."""

    def hidden(self, tokens, cache=None, mask=None, documents=None):
        return super().hidden(tokens, cache, mask) * 0.05 + torch.ones(self.config.dim)


def pads_counted(model, tokens, window, stride, batch, device, precision, pad_to=0):
    """A scorer that pads the stream to whole windows and counts the padding."""
    extra = -len(tokens) % (window * batch) + max(0, pad_to - window)
    padded = np.concatenate([tokens, np.zeros(extra, tokens.dtype)])
    return target_nll(model, padded, window, stride, batch, device, precision, pad_to)


def unshifted(model, tokens, window, stride, batch, device, precision, pad_to=0):
    """A scorer whose targets are the inputs themselves."""
    with torch.no_grad():
        hidden = model.hidden(torch.from_numpy(tokens[None]))[0]
    yield 0, checks.token_nll(model, hidden, torch.from_numpy(tokens))


def forgetful(subject: Subject) -> Subject:
    changed = broken(subject, Forgetful)
    changed.model.extra = torch.linspace(0, 1, 256)
    return changed


def wrong_size(subject: Subject, tmp_path: Path) -> Subject:
    tensors = load_file(subject.folder / folder.WEIGHTS)
    size = sum(tensor.nbytes for tensor in tensors.values())
    save_file(
        {**tensors, "ballast": torch.zeros(size * 3 // 100, dtype=torch.uint8)},
        tmp_path / folder.WEIGHTS,
    )
    return replace(subject, folder=tmp_path)


def copies(subject: Subject) -> Subject:
    """What an unshifted loss teaches: the head repeats the current token."""

    class Copying(Decoder):
        def hidden(self, tokens, cache=None, mask=None, documents=None):
            return 10 * torch.nn.functional.normalize(self.embedding.tokens.rows(tokens), dim=-1)

        def logits(self, hidden):
            return hidden @ torch.nn.functional.normalize(self.embedding.tokens.dense(), dim=-1).T

    return broken(subject, Copying)


def barely_trained() -> Decoder:
    """A tied model whose blocks add nothing yet: its own input is what it finds likeliest."""
    return Decoder(
        CONFIG.model_copy(update={"init": CONFIG.init.model_copy(update={"zero_out": True})})
    ).eval()


def remembered(subject: Subject, tmp_path: Path) -> Subject:
    return replace(subject, corpus=packed(tmp_path, text(20, 0) * 30))


OF_HISTORY = {"merge_of_parent", "sparsity", "learning_rate", "no_gaps", "trained_subset"}
"""Checks that a folder without a history has nothing for; tests/audit plants what they catch."""

BROKEN = {
    "finite_outputs": lambda s, _: checks.finite(
        with_weights(s, lambda m: m.norm.weight.data[3:4].fill_(torch.nan))
    ),
    "causality": lambda s, _: checks.causality(broken(s, FutureLeak)),
    "batch_invariance": lambda s, _: checks.batch_invariance(broken(s, BatchNorm)),
    "padding_invariance": lambda s, _: checks.padding_invariance(broken(s, DeafToMasks)),
    "cached_logits": lambda s, _: checks.cache(broken(s, StaleCache)),
    "save_load": lambda s, _: checks.save_load(forgetful(s)),
    "loss_shift": lambda s, _: checks.loss_shift(s, unshifted),
    "stored_bytes": lambda s, place: checks.stored_bytes(wrong_size(s, place)),
    "initial_token_sensitivity": lambda s, _: checks.initial_sensitivity(s, Deaf),
    "predicts_next": lambda s, _: checks.predicts_next(copies(s)),
    "below_unigram_floor": lambda s, _: checks.below_unigram_floor(
        with_weights(s, lambda m: m.norm.weight.zero_())
    ),
    "train_overlap": lambda s, place: checks.train_overlap(remembered(s, place)),
}


@torch.no_grad()
@pytest.mark.parametrize("name", BROKEN)
def test_every_check_can_fail_and_passes_the_sound_model(name, subject, tmp_path):
    sound, failed = CHECKS[name](subject), BROKEN[name](subject, tmp_path)
    assert (sound.name, sound.verdict) == (name, "pass"), sound
    assert (failed.name, failed.verdict) == (name, "fail"), failed


def test_each_check_has_a_case_in_which_it_fails():
    planted = {each.by for each in MISTAKES if each.outcome == "caught"}
    assert set(CHECKS) <= planted | set(BROKEN)
    assert all(check.catches for check in CHECKS.values())


@torch.no_grad()
def test_counted_padding_is_found(subject):
    assert checks.padding_invariance(subject, pads_counted).verdict == "fail"
    assert checks.batch_invariance(subject, pads_counted).verdict == "fail"


@torch.no_grad()
def test_a_model_that_was_hardly_trained_is_not_condemned_for_its_start(subject):
    start = barely_trained()
    for change in (lambda m: None, lambda m: m.norm.weight.mul_(0.9)):
        model = barely_trained()
        change(model)
        check = checks.predicts_next(replace(subject, model=model))
        assert check.verdict == "n/a" and "too briefly" in check.why and check.measured is None
    taught = replace(subject, model=start)
    rows = torch.from_numpy(
        np.asarray(subject.corpus.split("train").tokens[:2048]).astype(np.int64)
    ).view(-1, 32)
    optimizer = torch.optim.AdamW(start.parameters(), lr=1e-2)
    with torch.enable_grad():
        for _ in range(20):
            loss = torch.nn.functional.cross_entropy(start(rows).flatten(0, 1), rows.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert checks.predicts_next(taught).verdict == "fail"


@torch.no_grad()
def test_evaluation_is_held_against_the_model_itself(subject):
    class Split(Decoder):
        """Whose parts, which evaluation uses, give other logits than the whole."""

        def logits(self, hidden):
            return super().logits(hidden) * (1.0 if hidden.ndim == 3 else 0.5)

    check = checks.loss_shift(broken(subject, Split))
    assert check.verdict == "fail" and "as evaluated" in check.why


@torch.no_grad()
def test_a_cache_that_is_wrong_only_beside_padding_is_found(subject):
    assert checks.cache(broken(subject, DeafWhenCached)).verdict == "fail"


@torch.no_grad()
def test_weights_that_come_back_rounded_are_found(subject, monkeypatch):
    true_save = folder.save

    def save_rounded(model, place):
        true_save(model, place)
        path = Path(place) / folder.WEIGHTS
        save_file(
            {name: tensor.bfloat16().float() for name, tensor in load_file(path).items()}, path
        )

    monkeypatch.setattr(folder, "save", save_rounded)
    check = checks.save_load(subject)
    assert check.verdict == "fail" and "comes back changed" in check.why


@torch.no_grad()
def test_a_leak_of_one_last_bit_is_a_leak(subject):
    check = checks.causality(broken(subject, FutureLeak))
    assert 0 < check.measured < 1e-3 and check.bound == 0


@pytest.mark.parametrize("kind", [None, schema.Int8(), schema.NF4(block=32)])
def test_the_audit_of_a_sound_model_passes_in_every_kind(trained, corpus, kind, tmp_path):
    place = trained
    if kind is not None:
        place = tmp_path
        folder.save(quantize(folder.load(trained), kind, schema.Int8()), place)
    result = audit(place, corpus)
    assert result.passed, [check for check in result.checks if check.verdict == "fail"]
    absent = {check.name for check in result.checks if check.verdict == "n/a"}
    assert absent == OF_HISTORY | {"merged"}
    if kind is not None:
        assert "dense" in next(
            c.why for c in result.checks if c.name == "initial_token_sensitivity"
        )


def test_bf16_has_its_own_bounds_and_causality_is_still_exact(trained):
    bounds = {check.name: check.bound for check in audit(trained, None, precision="bf16").checks}
    assert (bounds["batch_invariance"], bounds["padding_invariance"], bounds["cached_logits"]) == (
        2e-3,
        2e-3,
        2e-2,
    )
    assert bounds["causality"] == bounds["save_load"] == 0
    exact = {check.name: check.bound for check in audit(trained, None).checks}
    assert (exact["batch_invariance"], exact["cached_logits"]) == (1e-6, 1e-4)


def test_without_text_its_checks_do_not_apply_and_say_so(trained):
    result = audit(trained, None)
    absent = {check.name: check.why for check in result.checks if check.verdict == "n/a"}
    of_text = {"predicts_next", "below_unigram_floor", "train_overlap", "metric_arithmetic"}
    assert set(absent) == of_text | OF_HISTORY | {"merged"}
    assert all("--data" in absent[name] for name in of_text) and result.passed


def test_a_model_that_breaks_fails_with_what_it_said(trained, monkeypatch):
    def no_cache(self, batch, length):
        raise RuntimeError("no cache today")

    monkeypatch.setattr(Decoder, "new_cache", no_cache)
    result = audit(trained, None)
    check = next(check for check in result.checks if check.name == "cached_logits")
    assert check.verdict == "fail" and "no cache today" in check.why and not result.passed


def test_a_corpus_of_another_vocabulary_is_refused(corpus, tmp_path):
    folder.save(Decoder(CONFIG.model_copy(update={"vocab_size": 100})), tmp_path)
    with pytest.raises(RequestError, match="tokenizer"):
        audit(tmp_path, corpus)


def test_json_is_plain_even_where_a_number_is_infinite():
    result = AuditResult.of(
        (
            Check(name="causality", measured=float("inf"), bound=0.0, verdict="fail"),
            Check(name="floor", measured=None, bound=None, verdict="n/a", why="needs text"),
        )
    )
    back = json.loads(json.dumps(result.to_metrics(), allow_nan=False))
    assert back["passed"] is False and back["checks"][0]["measured"] == "Infinity"
    assert back["checks"][1] == {
        "name": "floor",
        "measured": None,
        "bound": None,
        "verdict": "n/a",
        "why": "needs text",
        "catches": "",
    }
