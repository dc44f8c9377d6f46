"""Mistakes of scoring, generation and models that cannot be believed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from audit.planted.mistake import Mistake
from audit_fixture import Lab
from torch.nn.attention import SDPBackend, sdpa_kernel

from flyweight.decode.generate import generate
from flyweight.evaluation import checks, scoring_checks
from flyweight.evaluation.checks import Subject
from flyweight.evaluation.likelihood import evaluate, target_nll
from flyweight.model.decoder import Decoder


def model_of(subject: Subject, kind: type[Decoder]) -> Subject:
    """Return the same weights in a model of another class."""
    model = kind(subject.model.config).eval()
    model.load_state_dict(subject.model.state_dict())
    return replace(subject, model=model)


def pads_counted(model, tokens, window, stride, batch, device, precision, pad_to=0):
    extra = -len(tokens) % (window * batch) + max(0, pad_to - window)
    padded = np.concatenate([tokens, np.zeros(extra, tokens.dtype)])
    return target_nll(model, padded, window, stride, batch, device, precision, pad_to)


def thousandth(*arguments, **options):
    scored = evaluate(*arguments, **options)
    perplexity = scored.likelihood.perplexity
    small = replace(perplexity, value=0.001 * perplexity.value)
    return replace(scored, likelihood=scored.likelihood.model_copy(update={"perplexity": small}))


def unshifted(model, tokens, window, stride, batch, device, precision, pad_to=0):
    with torch.no_grad():
        hidden = model.hidden(torch.from_numpy(tokens[None]))[0]
    yield 0, checks.token_nll(model, hidden, torch.from_numpy(tokens))


def knows_its_target(*arguments, **options):
    for first, nll in target_nll(*arguments, **options):
        yield first, 0.9 * nll


def copying(subject: Subject) -> Subject:
    """What an unshifted loss teaches: the head repeats the current token."""

    class Copying(Decoder):
        def hidden(self, tokens, cache=None, mask=None, documents=None):
            return 10 * torch.nn.functional.normalize(self.embedding.tokens.rows(tokens), dim=-1)

        def logits(self, hidden):
            return hidden @ torch.nn.functional.normalize(self.embedding.tokens.dense(), dim=-1).T

    return model_of(subject, Copying)


class WholeMemory(Decoder):
    """Every place sees the memory of all places, the later ones among them."""

    def hidden(self, tokens, cache=None, mask=None, documents=None):
        hidden = super().hidden(tokens, cache, mask)
        return hidden + 1e-3 * hidden.mean(1, keepdim=True)


class Collapsed(Decoder):
    """Starts with a constant so loud that tokens do not matter."""

    def hidden(self, tokens, cache=None, mask=None, documents=None):
        return super().hidden(tokens, cache, mask) * 0.05 + torch.ones(self.config.dim)


def always_math(subject: Subject) -> object:
    """A forward pass that takes one kernel of attention, whatever is asked for."""
    with sdpa_kernel(SDPBackend.MATH):
        return subject.model(subject.tokens(1))


def another_generate(model, prompts, **options):
    """Generation that reads the last eight tokens alone, which nobody scored."""
    texts = [list(prompt) for prompt in prompts]
    for _ in range(options["max_new_tokens"]):
        for row in texts:
            row += generate(model, [row[-8:]], max_new_tokens=1)[0]
    return [row[len(prompt) :] for row, prompt in zip(texts, prompts, strict=True)]


def untrained(lab: Lab) -> Subject:
    return replace(lab.subject, model=Decoder(lab.subject.model.config).eval())


def check(function):
    """Return a check as the sound model gives it."""
    return lambda lab: function(lab.subject)


MISTAKES = (
    Mistake(
        "pads_in_perplexity",
        "lightgpt2",
        1,
        "padding counts as targets, so that perplexity falls with the batch",
        "caught",
        "padding_invariance",
        lambda lab: checks.padding_invariance(lab.subject, pads_counted),
        check(checks.padding_invariance),
    ),
    Mistake(
        "pads_by_batch",
        "lightgpt2",
        1,
        "the score of a text depends on how many are scored at once",
        "caught",
        "batch_invariance",
        lambda lab: checks.batch_invariance(lab.subject, pads_counted),
        check(checks.batch_invariance),
    ),
    Mistake(
        "scaled_perplexity",
        "lightgpt2",
        2,
        "perplexity is printed times 0.001",
        "caught",
        "metric_arithmetic",
        lambda lab: scoring_checks.metric_arithmetic(lab.subject, thousandth),
        check(scoring_checks.metric_arithmetic),
    ),
    Mistake(
        "taught_to_copy",
        "lightgpt2",
        3,
        "the student's cross-entropy is not shifted, so that it learns the current token",
        "caught",
        "predicts_next",
        lambda lab: checks.predicts_next(copying(lab.subject)),
        check(checks.predicts_next),
    ),
    Mistake(
        "deaf_attention_switch",
        "lightgpt2",
        6,
        "a switch for flash attention sets a field that the model ignores",
        "caught",
        "attention_kernel",
        lambda lab: scoring_checks.attention_kernel(lab.subject, always_math),
        check(scoring_checks.attention_kernel),
    ),
    Mistake(
        "unshifted_loss",
        "distilqwen3",
        1,
        "training and perplexity score the current token instead of the next",
        "caught",
        "loss_shift",
        lambda lab: checks.loss_shift(lab.subject, unshifted),
        check(checks.loss_shift),
    ),
    Mistake(
        "never_trained",
        "compact-ladder",
        2,
        "a model is reported that was never trained on the text",
        "caught",
        "below_unigram_floor",
        lambda lab: checks.below_unigram_floor(untrained(lab)),
        check(checks.below_unigram_floor),
    ),
    Mistake(
        "leaky_memory",
        "compact-ladder",
        5,
        "the repaired mask shows a place the whole memory, later tokens among it",
        "caught",
        "causality",
        lambda lab: checks.causality(model_of(lab.subject, WholeMemory)),
        check(checks.causality),
    ),
    Mistake(
        "collapse_taken_for_a_baseline",
        "compact-ladder",
        6,
        "a collapsed model is the baseline, so that whatever avoids the collapse seems to think",
        "caught",
        "initial_token_sensitivity",
        lambda lab: checks.initial_sensitivity(lab.subject, Collapsed),
        check(checks.initial_sensitivity),
    ),
    Mistake(
        "generation_of_another_function",
        "compact-ladder",
        8,
        "generation runs another function than the one that was trained and scored",
        "caught",
        "generate_equals_score",
        lambda lab: scoring_checks.generate_equals_score(lab.subject, another_generate),
        check(scoring_checks.generate_equals_score),
    ),
    Mistake(
        "scores_that_sum_to_more",
        "others",
        1,
        "scores that know their target: the probabilities of all next tokens sum to more than 1",
        "caught",
        "probabilities",
        lambda lab: scoring_checks.probabilities(lab.subject, knows_its_target),
        check(scoring_checks.probabilities),
    ),
)
