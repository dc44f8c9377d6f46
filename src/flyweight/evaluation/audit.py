"""The audit: look in a model for the mistakes that make small-model results worthless."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from flyweight.checkpoints import load_any
from flyweight.core.runtime import Precision
from flyweight.errors import FlyweightError, RequestError
from flyweight.evaluation import checks
from flyweight.evaluation.checks import Subject
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
) -> AuditResult:
    """Run every check, or `only` those named, on the model in `folder`.

    Without a corpus, those that need text are `n/a`. Raises RequestError for an unknown check,
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
    subject = Subject(Path(folder), model, corpus, device, precision, seed)
    return AuditResult.of([_run(name, CHECKS[name], subject) for name in only or CHECKS])


def _run(name: str, check: Callable[[Subject], Check], subject: Subject) -> Check:
    """Run one check; an error of the model is a failure, with its message."""
    try:
        with torch.no_grad(), autocast(subject.device, subject.precision):
            return check(subject)
    except torch.OutOfMemoryError:
        raise
    except (FlyweightError, RuntimeError, LookupError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        return Check(name=name, measured=None, bound=None, verdict="fail", why=why)


CHECKS: dict[str, Callable[[Subject], Check]] = {
    "finite_outputs": checks.finite,
    "causality": checks.causality,
    "batch_invariance": checks.batch_invariance,
    "padding_invariance": checks.padding_invariance,
    "cached_logits": checks.cache,
    "save_load": checks.save_load,
    "loss_shift": checks.loss_shift,
    "stored_bytes": checks.stored_bytes,
    "initial_token_sensitivity": checks.initial_sensitivity,
    "predicts_next": checks.predicts_next,
    "below_unigram_floor": checks.below_unigram_floor,
    "train_overlap": checks.train_overlap,
}
