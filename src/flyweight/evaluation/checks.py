"""The audit's checks, one function each: what must hold for a model's numbers to count.

Each takes the same `Subject` and returns one `Check`; it runs in evaluation mode, without
gradients, in the subject's precision. Checks of the evaluator take its scoring function as an
argument: tests show with a broken one that they can fail.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from flyweight.checkpoints import load_any
from flyweight.checkpoints.load_any import AnyModel
from flyweight.core.runtime import Precision
from flyweight.evaluation.floors import CHOICE_LIMIT, TRAIN_LIMIT, Unigram
from flyweight.evaluation.likelihood import target_nll, token_nll
from flyweight.evaluation.resampling import interval
from flyweight.model import folder
from flyweight.model.build import Model, build as build_model
from flyweight.model.decoder import Decoder
from flyweight.records.audit import Check
from flyweight.spec import flops
from flyweight.store.artifact import Artifact

if TYPE_CHECKING:
    from flyweight.data.corpus import Corpus

Scorer = Callable[..., Iterable[tuple[int, np.ndarray]]]

INVARIANCE = {"fp32": 1e-6, "bf16": 2e-3, "fp16": 2e-3}
CACHE = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 2e-2}
SENSITIVITY = 0.2
STORED = 0.02
# Nats per token by which training must have improved a token of another shift: more than the
# starts of two seeds differ by.
GAIN = 0.1
# Standard texts have 0 to 3 % of their test pieces in the training text; DailyDialog, known for its
# repetitions, 16 %. Single lines repeat in any text (7 to 16 % of Python's own): of those, more
# than half.
OVERLAP = {"pieces": 0.1, "lines": 0.5}
LENGTH = 64
LONGEST = 1024
DATA_TARGETS = 8_192


@dataclass(frozen=True, eq=False)
class History:
    """How a model was made: its artifact, and the one that it was made from.

    `parent` is None where nothing was its input, or where that is no longer in the runs root.
    """

    artifact: Artifact
    parent: Artifact | None = None


@dataclass(frozen=True, eq=False)
class Subject:
    """What is audited: a model on a device, its folder, the corpus to try it on, and its history.

    Without a corpus or a history, checks that need one are `n/a`.
    """

    folder: Path
    model: AnyModel
    corpus: Corpus | None = None
    device: str = "cpu"
    precision: Precision = "fp32"
    seed: int = 0
    history: History | None = None

    @property
    def vocab_size(self) -> int:
        """Entries of the model's vocabulary."""
        assert self.model.config.vocab_size
        return self.model.config.vocab_size

    @property
    def length(self) -> int:
        """A sequence length that is long enough to show faults and short enough to be quick."""
        return min(self.model.config.context or LENGTH, LENGTH)

    @property
    def dtype(self) -> Precision:
        """The precision that sets the bounds: the narrower one of computation and weights."""
        names: dict[torch.dtype, Precision] = {torch.bfloat16: "bf16", torch.float16: "fp16"}
        return names.get(self.model.dtype, self.precision)

    def tokens(self, rows: int, length: int | None = None) -> Tensor:
        """Return random token ids (rows, length), the same at every call."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randint(
            self.vocab_size, (rows, length or self.length), generator=generator
        ).to(self.device)

    def others(self, tokens: Tensor) -> Tensor:
        """Return token ids of the same shape, each different from `tokens` where possible."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        steps = torch.randint(1, max(2, self.vocab_size), tokens.shape, generator=generator).to(
            tokens.device
        )
        return (tokens + steps) % self.vocab_size

    def text(self) -> np.ndarray:
        """Return the beginning of the test split (N,); only for checks that have a corpus."""
        assert self.corpus is not None
        return self.corpus.split("test").tokens[: DATA_TARGETS + 1]


def judged(name: str, measured: float, bound: float, passed: bool, why: str = "") -> Check:
    """Return a check with its verdict; NaN fails, as infinite."""
    if math.isnan(measured):
        return Check(name=name, measured=math.inf, bound=bound, verdict="fail", why=why)
    verdict = "pass" if passed else "fail"
    return Check(name=name, measured=measured, bound=bound, verdict=verdict, why=why)


def at_most(name: str, measured: float, bound: float, why: str = "") -> Check:
    """Return a check that passes up to its bound."""
    return judged(name, measured, bound, measured <= bound, why)


def no_faults(name: str, faults: Sequence[str], sound: str) -> Check:
    """Return a check that fails with its first faults, or passes with what was found."""
    return at_most(name, float(len(faults)), 0.0, "; ".join(faults[:3]) or sound)


def not_applicable(name: str, why: str) -> Check:
    """Return a check that does not apply to this model, with the reason."""
    return Check(name=name, measured=None, bound=None, verdict="n/a", why=why)


def missing_text(name: str) -> Check:
    """Return a check that needs a text and has none."""
    return not_applicable(name, "needs text: name a corpus with --data")


def _foreign(name: str, subject: Subject) -> Check:
    kind = getattr(subject.model.config, "model_type", "foreign")
    return not_applicable(
        name, f"only for models that flyweight computes itself, not for the type {kind}"
    )


def _largest(difference: Tensor) -> float:
    """Return the largest magnitude; infinite where a value is NaN."""
    value = difference.float().abs().max().item()
    return math.inf if math.isnan(value) else value


def _relative(value: float, expected: float) -> float:
    return abs(value - expected) / max(abs(expected), 1e-12)


def finite(subject: Subject) -> Check:
    """Check that logits of random tokens are finite over the model's context, up to LONGEST."""
    length = min(subject.model.config.context or LONGEST, LONGEST)
    hidden = subject.model.hidden(subject.tokens(1, length))[0]  # (T, dim)
    wrong = sum(
        int((~torch.isfinite(subject.model.logits(part))).sum()) for part in hidden.split(128)
    )
    return at_most(
        "finite_outputs",
        wrong / (length * subject.vocab_size),
        0.0,
        f"share of the logits of {length} tokens",
    )


def causality(subject: Subject) -> Check:
    """Check that later tokens do not change earlier logits, not even in the last bit."""
    tokens, worst = subject.tokens(2), 0.0
    others, base = subject.others(tokens), subject.model(tokens)  # (2, T, V)
    for cut in sorted({1, tokens.shape[1] // 2, tokens.shape[1] - 1} - {0}):
        changed = torch.cat((tokens[:, :cut], others[:, cut:]), 1)
        worst = max(worst, _largest(subject.model(changed)[:, :cut] - base[:, :cut]))
    return at_most("causality", worst, 0.0)


def batch_invariance(subject: Subject, score: Scorer = target_nll) -> Check:
    """Check that the NLL of a text does not depend on how many windows are scored at once."""
    stream = _stream(subject)
    values = [_mean_nll(subject, score, stream, batch, 0) for batch in (1, 2, 3, 8)]
    worst = max(_relative(value, values[0]) for value in values)
    return at_most("batch_invariance", worst, INVARIANCE[subject.dtype])


def padding_invariance(subject: Subject, score: Scorer = target_nll) -> Check:
    """Check that padding does not count.

    It is tried on the right in the evaluator, and on the left under a mask.
    """
    stream = _stream(subject)
    window = max(1, subject.length // 2)
    plain, padded = (
        _mean_nll(subject, score, stream, 2, pad, window) for pad in (0, subject.length)
    )
    worst, length = _relative(padded, plain), subject.length
    tokens = subject.tokens(3)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    for row, real in enumerate((length, -(-length * 2 // 3), -(-length // 3))):
        mask[row, : length - real] = False
    hidden = subject.model.hidden(torch.where(mask, tokens, 0), mask=mask)  # (3, T, dim)
    for row in range(len(tokens)):
        real = tokens[row][mask[row]]
        if len(real) < 2:
            continue
        alone = token_nll(subject.model, subject.model.hidden(real[None])[0, :-1], real[1:])
        together = token_nll(subject.model, hidden[row][mask[row]][:-1], real[1:])
        worst = max(worst, _relative(float(together.sum()), float(alone.sum())))
    return at_most("padding_invariance", worst, INVARIANCE[subject.dtype])


def _stream(subject: Subject) -> np.ndarray:
    """Return a few windows of the test split or of random tokens, the last one short."""
    length_of_text = 5 * subject.length + subject.length // 3 + 1
    if subject.corpus is not None:
        return subject.text()[:length_of_text]
    return subject.tokens(1, length_of_text)[0].cpu().numpy()


def _mean_nll(
    subject: Subject,
    score: Scorer,
    stream: np.ndarray,
    batch: int,
    pad_to: int,
    window: int | None = None,
) -> float:
    window = window or subject.length
    parts = score(
        subject.model,
        stream,
        window,
        window,
        batch,
        subject.device,
        subject.precision,
        pad_to=pad_to,
    )
    return float(np.concatenate([nll for _, nll in parts]).mean())


def cache(subject: Subject) -> Check:
    """Check that reading in pieces through the cache gives the logits of one pass.

    Tries this with and without left padding.
    """
    tokens, worst = subject.tokens(2), 0.0
    length = tokens.shape[1]
    padded = torch.ones_like(tokens, dtype=torch.bool)
    padded[1, : length // 4] = False
    # A first piece, a second that follows cached tokens, then one token at a time.
    edges = sorted({0, length // 3, 2 * length // 3, *range(2 * length // 3, length + 1)})
    for mask in (None, padded):
        full = subject.model(tokens, mask=mask)  # (2, T, V)
        kv_cache: Any = subject.model.new_cache(2, length)
        pieces = [
            subject.model(tokens[:, start:stop], kv_cache, None if mask is None else mask[:, :stop])
            for start, stop in itertools.pairwise(edges)
        ]
        real = slice(None) if mask is None else mask
        difference = (torch.cat(pieces, 1) - full)[real]
        worst = max(worst, _largest(difference) / max(_largest(full[real]), 1e-12))
    return at_most("cached_logits", worst, CACHE[subject.dtype])


def save_load(subject: Subject) -> Check:
    """Check that saving and loading keeps weights and logits, to the last bit."""
    tokens = subject.tokens(2)
    with tempfile.TemporaryDirectory() as place:
        source = subject.folder  # a foreign model keeps its own files
        if isinstance(subject.model, Model):
            folder.save(subject.model, place)
            source = Path(place)
        again = load_any.load(source, subject.device).eval()
        worst = _largest(again(tokens) - subject.model(tokens))
        theirs = again.state_dict()
        for name, tensor in subject.model.state_dict().items():
            if name not in theirs or not torch.equal(theirs[name], tensor):
                return Check(
                    name="save_load",
                    measured=math.inf,
                    bound=0.0,
                    verdict="fail",
                    why=f"{name} comes back changed",
                )
    return at_most("save_load", worst, 0.0)


def stored_bytes(subject: Subject) -> Check:
    """Check that the tensors in the file take the bytes that the cost model claims.

    The file's header is not counted.
    """
    if not isinstance(subject.model, Model):
        return _foreign("stored_bytes", subject)
    path = subject.folder / folder.WEIGHTS
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    stored = path.stat().st_size - 8 - length
    # A loaded model has its file's dtype.
    claimed = flops.weight_bytes(subject.model.config, subject.model.dtype.itemsize)
    return at_most(
        "stored_bytes",
        _relative(stored, claimed),
        STORED,
        f"{stored:,} bytes stored, {claimed:,} claimed",
    )


def _initial(model: Model, subject: Subject, build: Callable[..., Model]) -> Model:
    """Return a model of ours before training.

    A packed model or a mixture becomes the dense network that it was made from.
    """
    plain = {"linears": {}, "mixture": None} if isinstance(model, Decoder) else {"linears": {}}
    dense = model.config.model_copy(update=plain)
    return build(dense, seed=subject.seed).to(subject.device).eval()


def initial_sensitivity(subject: Subject, build: Callable[..., Model] = build_model) -> Check:
    """Check that at initialisation the last hidden state depends on the tokens.

    Measures its relative change when all tokens are replaced. The model is built anew from its
    config and the subject's seed; a quantized one as the dense model that it was made from, a
    mixture as its network.
    """
    if not isinstance(subject.model, Model):
        return _foreign("initial_token_sensitivity", subject)
    config, fresh = subject.model.config, _initial(subject.model, subject, build)
    tokens = subject.tokens(4)
    before = fresh.hidden(tokens)[:, -1].float()  # (4, dim)
    after = fresh.hidden(subject.others(tokens))[:, -1].float()  # (4, dim)
    change = ((after - before).norm(dim=1) / before.norm(dim=1).clamp(min=1e-12)).mean().item()
    why = "of the dense model that its packed layers were made from" if config.linears else ""
    return judged("initial_token_sensitivity", change, SENSITIVITY, change > SENSITIVITY, why)


def loss_shift(subject: Subject, score: Scorer = target_nll) -> Check:
    """Check that evaluation scores the next tokens.

    Its NLL must be that of every token under the logits of the position before it.
    """
    window = subject.length
    stream, expected = _stream(subject)[: 2 * window + 1].astype(np.int64), []
    for start in range(0, len(stream) - 1, window):
        piece = torch.from_numpy(stream[start : start + window + 1]).to(subject.device)
        log = subject.model(piece[None, :-1])[0].float().log_softmax(-1)  # (T, V)
        expected.append(-log.gather(1, piece[1:, None])[:, 0].double().cpu().numpy())
    parts = score(subject.model, stream, window, window, 2, subject.device, subject.precision)
    nll, due = (
        float(np.concatenate(losses).mean()) for losses in ([nll for _, nll in parts], expected)
    )
    why = f"nats per token: {nll:.4f} as evaluated, {due:.4f} of the next tokens"
    # Log-probabilities are off by so much each, however small their mean is.
    apart = abs(nll - due) / max(1.0, abs(due))
    return at_most("loss_shift", apart, INVARIANCE[subject.dtype], why)


def predicts_next(subject: Subject, build: Callable[..., Model] = build_model) -> Check:
    """Check that the model was trained on the right shift.

    The next token must have a lower NLL than the current one and the one after next. Tied
    embeddings start by predicting the current token. So where another token is ahead, the model
    fails only if training brought it there. The model as initialised decides this, or unigrams
    where the model cannot be initialised again.
    """
    if subject.corpus is None:
        return missing_text("predicts_next")
    text = subject.text()[:4097]
    totals, counts = _by_shift(subject, subject.model, text)  # (P, 3), (P,)
    nll = totals.sum(0) / counts.sum()  # (3,)
    current, following, later = map(float, nll)
    why = f"nats per token: next {following:.3f}, current {current:.3f}, after next {later:.3f}"
    rival = 0 if current <= later else 2
    margin = following - float(nll[rival])
    if margin < 0 or not np.isfinite(nll).all():
        return judged("predicts_next", margin, 0.0, margin < 0, why)
    decided = len(counts) > 1 and interval(totals[:, 1] - totals[:, rival], counts)[0] > 0
    if decided and _taught(subject, text, nll, rival, build):
        return judged("predicts_next", margin, 0.0, False, why)
    return Check(
        name="predicts_next",
        measured=None,
        bound=0.0,
        verdict="n/a",
        why=f"trained too briefly to tell; {why}",
    )


def _by_shift(subject: Subject, model: AnyModel, text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the summed NLL of current, next and later token in every piece of a text, (P, 3).

    Also returns the pieces' sizes (P,).
    """
    totals, counts = [], []
    for start in range(0, len(text) - 2, subject.length):
        piece = torch.from_numpy(text[start : start + subject.length + 2].astype(np.int64)).to(
            subject.device
        )
        hidden = model.hidden(piece[None, :-2])[0]  # (T, dim)
        shifted = (piece[shift : shift + len(hidden)] for shift in range(3))
        totals.append([float(token_nll(model, hidden, targets).sum()) for targets in shifted])
        counts.append(len(hidden))
    return np.array(totals), np.array(counts, np.float64)


def _taught(
    subject: Subject, text: np.ndarray, nll: np.ndarray, rival: int, build: Callable[..., Model]
) -> bool:
    """Return whether training put a token of another shift ahead of the next one.

    `nll` is the model's NLL by shift, (3,).
    """
    if not isinstance(subject.model, Model):
        return bool(nll[rival] < _unigram_nll(subject, text))
    totals, counts = _by_shift(subject, _initial(subject.model, subject, build), text)
    gained = totals.sum(0) / counts.sum() - nll
    return bool(gained[rival] > max(GAIN, gained[1]))


def _unigram_nll(subject: Subject, text: np.ndarray) -> float:
    """Return the NLL per token of a text (N,) under the training split's unigrams."""
    assert subject.corpus is not None
    train = np.asarray(subject.corpus.split("train").tokens[:TRAIN_LIMIT])
    held_out = np.asarray(subject.corpus.split("validation").tokens[:CHOICE_LIMIT])
    return float(-np.log(Unigram(train, held_out, subject.vocab_size).score(text)).mean())


def below_unigram_floor(subject: Subject) -> Check:
    """Check that the model's NLL on test text is below that of the training split's unigrams."""
    if subject.corpus is None:
        return missing_text("below_unigram_floor")
    text, window = subject.text(), min(subject.model.config.context or 256, 256)
    floor = _unigram_nll(subject, text)
    parts = target_nll(subject.model, text, window, window, 16, subject.device, subject.precision)
    nll = float(np.concatenate([part for _, part in parts]).mean())
    return judged(
        "below_unigram_floor",
        nll,
        floor,
        nll < floor,
        f"on the first {len(text) - 1:,} targets of test",
    )


def train_overlap(subject: Subject) -> Check:
    """Check how much of the test split the training text contains too."""
    if subject.corpus is None:
        return missing_text("train_overlap")
    meta = subject.corpus.meta
    share = meta.splits["test"].overlap
    if share is None:
        return not_applicable(
            "train_overlap", f"the test split has no {meta.overlap_unit} to look for"
        )
    of = {"pieces": "pieces of 50 characters", "lines": "lines of at least 20 characters"}[
        meta.overlap_unit
    ]
    return at_most("train_overlap", share, OVERLAP[meta.overlap_unit], f"of the test split's {of}")
