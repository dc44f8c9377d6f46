"""The audit: look in a model for the mistakes that make small-model results worthless."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from flyweight.checkpoints import load_any
from flyweight.core.runtime import Precision
from flyweight.errors import FlyweightError, RequestError
from flyweight.evaluation import checks, history_checks, scoring_checks
from flyweight.evaluation.checks import History, Subject
from flyweight.model.precision import autocast
from flyweight.records.audit import AuditResult, Check

if TYPE_CHECKING:
    from flyweight.data.corpus import Corpus


def audit(
    folder: str | Path,
    corpus: Corpus | None,
    device: str = "cpu",
    precision: Precision = "fp32",
    seed: int = 0,
    only: Sequence[str] = (),
    history: History | None = None,
) -> AuditResult:
    """Run every check, or `only` those named, on the model in `folder`.

    Without a corpus, those that need text are `n/a`; without its history, those that look at how
    the model was made. Raises RequestError for an unknown check,
    where `folder` does not hold a model, or where the corpus has tokens that the model does not
    know.
    """
    if unknown := [name for name in only if name not in CHECKS]:
        raise RequestError(
            f"audit: the check {unknown[0]!r} does not exist; known are {', '.join(CHECKS)}"
        )
    model = load_any.load(Path(folder), device).eval()
    if corpus is not None:
        corpus.require_rows(model.config.vocab_size or 0)
    subject = Subject(Path(folder), model, corpus, device, precision, seed, history)
    return AuditResult.of([_run(name, CHECKS[name], subject) for name in only or CHECKS])


@dataclass(frozen=True)
class AuditCheck:
    """A check of the audit, and the mistake that it would catch, in a sentence."""

    run: Callable[[Subject], Check]
    catches: str

    def __call__(self, subject: Subject) -> Check:
        """Run the check; what it would catch is part of its answer."""
        return self.run(subject).model_copy(update={"catches": self.catches})


def _run(name: str, check: AuditCheck, subject: Subject) -> Check:
    """Run one check; an error of the model is a failure, with its message."""
    try:
        with torch.no_grad(), autocast(subject.device, subject.precision):
            return check(subject)
    except torch.OutOfMemoryError:
        raise
    except (FlyweightError, RuntimeError, LookupError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        return Check(
            name=name, measured=None, bound=None, verdict="fail", why=why, catches=check.catches
        )


CHECKS: dict[str, AuditCheck] = {
    "finite_outputs": AuditCheck(checks.finite, "outputs that are not numbers"),
    "causality": AuditCheck(checks.causality, "logits that see later tokens"),
    "batch_invariance": AuditCheck(
        checks.batch_invariance, "a score that depends on how many texts are scored at once"
    ),
    "padding_invariance": AuditCheck(
        checks.padding_invariance, "padding that counts in the score or changes it"
    ),
    "cached_logits": AuditCheck(
        checks.cache, "a cache that makes generation another function than the model"
    ),
    "save_load": AuditCheck(checks.save_load, "a file that is not the model in memory"),
    "loss_shift": AuditCheck(
        checks.loss_shift, "a score of the current token instead of the next one"
    ),
    "probabilities": AuditCheck(
        scoring_checks.probabilities, "scores that are no probabilities, or that know their target"
    ),
    "metric_arithmetic": AuditCheck(
        scoring_checks.metric_arithmetic, "a perplexity that is not exp(nll), scaled or rounded"
    ),
    "generate_equals_score": AuditCheck(
        scoring_checks.generate_equals_score, "generation by another function than was scored"
    ),
    "attention_kernel": AuditCheck(
        scoring_checks.attention_kernel, "a switch of the attention's kernel that does nothing"
    ),
    "merged": AuditCheck(
        scoring_checks.merged, "an adapter that computes something else once it is merged"
    ),
    "merge_of_parent": AuditCheck(
        history_checks.merge_of_parent, "adapters that were merged twice, or not at all"
    ),
    "sparsity": AuditCheck(
        history_checks.sparsity, "pruned weights that grew back, or were never pruned"
    ),
    "learning_rate": AuditCheck(
        history_checks.learning_rate, "a schedule that the steps did not follow"
    ),
    "no_gaps": AuditCheck(
        history_checks.no_gaps, "losses that were replaced by 0 or left out of the log"
    ),
    "trained_subset": AuditCheck(
        history_checks.trained_subset, "frozen weights that moved in a fine-tuning"
    ),
    "stored_bytes": AuditCheck(
        checks.stored_bytes, "a size that is claimed and not stored: scales left out, layers copied"
    ),
    "initial_token_sensitivity": AuditCheck(
        checks.initial_sensitivity, "a collapsed model, whose output hardly depends on its input"
    ),
    "predicts_next": AuditCheck(
        checks.predicts_next, "training on another token than the next one"
    ),
    "below_unigram_floor": AuditCheck(
        checks.below_unigram_floor, "a model that knows no more than how often each token comes"
    ),
    "train_overlap": AuditCheck(checks.train_overlap, "test text that was trained on"),
}
