"""Checks of what is computed: probabilities, arithmetic, generation, adapters, attention kernels.

Like `evaluation.checks`: each takes the `Subject` and returns one `Check`. What a check tries (a
scorer, an evaluator, a generator) is an argument, so that tests can give a broken one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from flyweight.config.adapters import MERGEABLE
from flyweight.decode.generate import generate
from flyweight.evaluation.checks import (
    CACHE,
    DATA_TARGETS,
    INVARIANCE,
    Scorer,
    Subject,
    at_most,
    missing_text,
    not_applicable,
)
from flyweight.evaluation.likelihood import ScoredSplit, evaluate, target_nll
from flyweight.model.adapters import multiply
from flyweight.model.decoder import Decoder
from flyweight.model.linear_layer import LinearLayer, layers_of
from flyweight.model.lstm import LSTM
from flyweight.model.ngram import NGram
from flyweight.records.audit import Check
from flyweight.spec.adapters import sites

CANDIDATES = 512
"""Next tokens whose probabilities are summed; all of them where a vocabulary is smaller."""
CONTEXT = 4
ARITHMETIC = 1e-6
GENERATED = 16
"""New tokens that generation and scoring are compared on."""
KERNELS = {
    "math": (SDPBackend.MATH, "softmax"),
    "flash": (SDPBackend.FLASH_ATTENTION, "flash_attention"),
    "efficient": (SDPBackend.EFFICIENT_ATTENTION, "efficient_attention"),
}
"""Kernels of torch's attention: how each is asked for, and a part of its operator's name."""

_NO_KERNEL = ("No available kernel", "No viable backend")

Evaluator = Callable[..., ScoredSplit]
Forward = Callable[[Subject], object]
Generator = Callable[..., list[list[int]]]


def probabilities(subject: Subject, score: Scorer = target_nll) -> Check:
    """Check that the probabilities of all next tokens sum to 1, each scored as the target.

    The context is the same and the target alone changes. Each probability must also be that of the
    logits after the context. Of a large vocabulary CANDIDATES tokens are tried, and their sum is
    that of the logits' softmax.
    """
    context = subject.tokens(1, CONTEXT)[0].cpu().numpy()  # (C,)
    every = np.arange(subject.vocab_size)
    targets = every
    if len(every) > CANDIDATES:
        targets = np.random.default_rng(subject.seed).choice(every, CANDIDATES, replace=False)
    width = CONTEXT + 1
    stream = np.concatenate([np.append(context, target) for target in targets])
    starts = range(0, len(stream), width)
    plan = [(start, start + CONTEXT, start + CONTEXT - 1) for start in starts]
    parts = score(
        subject.model, stream, CONTEXT, CONTEXT, 64, subject.device, subject.precision, plan=plan
    )
    scored = np.concatenate([nll for _, nll in parts])  # (N,)
    logits = subject.model(torch.from_numpy(context[None]).to(subject.device))[0, -1]  # (V,)
    due = -logits.float().log_softmax(-1)[torch.from_numpy(targets).to(subject.device)]
    due_nll = due.double().cpu().numpy()  # (N,)
    total, expected = float(np.exp(-scored).sum()), float(np.exp(-due_nll).sum())
    if len(targets) == len(every):
        expected = 1.0
    apart = float((np.abs(scored - due_nll) / np.maximum(1.0, np.abs(due_nll))).max())
    why = (
        f"{len(targets):,} of {len(every):,} next tokens: their probabilities sum to {total:.7g}, "
        f"due {expected:.7g}"
    )
    bound = max(1e-5, INVARIANCE[subject.dtype])
    return at_most("probabilities", max(abs(total - expected), apart), bound, why)


def metric_arithmetic(subject: Subject, measure: Evaluator = evaluate) -> Check:
    """Check that an evaluation's perplexities and bits per byte follow from its NLL.

    perplexity = exp(nll), bits per byte = nll / ln 2 * tokens / bytes, and nll is the mean over the
    targets, each counted once.
    """
    if subject.corpus is None:
        return missing_text("metric_arithmetic")
    whole = subject.corpus.split("test")
    tokens = np.asarray(whole.tokens[: DATA_TARGETS + 1])
    starts = whole.documents[whole.documents < len(tokens)]
    part = replace(whole, tokens=tokens, documents=starts)
    window = min(subject.model.config.context or 256, 256)
    scored = measure(
        subject.model,
        part,
        window=window,
        device=subject.device,
        precision=subject.precision,
    )
    result, sums = scored.likelihood, scored.units
    nats, text, targets = (
        float(sums.nll.sum()),
        float(sums.text.sum()),
        int(sums.counts.sum()),
    )
    due = {
        "nll": nats / targets,
        "perplexity": _exp(nats / targets),
        "bits_per_byte": text / math.log(2) / part.bytes,
    }
    if part.words:
        due["word_perplexity"] = _exp(text / part.words)
    worst, why = 0.0, []
    for name, value in due.items():
        metric = result.metric(name)
        found = math.nan if metric is None else metric.value
        worst = max(worst, abs(found - value) / max(abs(value), 1e-12))
        why.append(f"{name} {found:.6g}, due {value:.6g}")
    return at_most("metric_arithmetic", worst, ARITHMETIC, "; ".join(why))


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


def generate_equals_score(subject: Subject, produce: Generator = generate) -> Check:
    """Check that greedy generation takes the tokens that scoring finds most probable.

    Scoring reads the finished text in one pass without a cache. Measures by how much of the largest
    logit the most probable token is ahead of the one that was generated.
    """
    length = subject.length
    prompt_length = max(1, min(length // 2, length - GENERATED))
    prompts = subject.tokens(2, prompt_length).tolist()
    prompts[1] = prompts[1][: max(1, prompt_length // 2)]  # a shorter one: padded on the left
    new = min(GENERATED, max(1, length - prompt_length))
    texts = produce(subject.model, prompts, max_new_tokens=new)
    worst = 0.0
    for prompt, added in zip(prompts, texts, strict=True):
        if len(added) != new:
            why = f"{len(added)} new tokens instead of {new}"
            return at_most("generate_equals_score", math.inf, CACHE[subject.dtype], why)
        text = torch.tensor([[*prompt, *added]], device=subject.device)  # (1, T)
        logits = subject.model(text[:, :-1])[0, len(prompt) - 1 :].float()  # (N, V)
        taken = logits.gather(1, text[0, len(prompt) :, None])[:, 0]  # (N,)
        ahead = (logits.amax(1) - taken) / logits.abs().amax(1).clamp(min=1e-12)
        worst = max(worst, float(ahead.max()))
    why = f"{new} new tokens after each of {len(prompts)} prompts"
    return at_most("generate_equals_score", worst, CACHE[subject.dtype], why)


def merged(subject: Subject) -> Check:
    """Check that each layer with adapters computes what its merged matrix computes.

    Where some adapters cannot become part of a matrix, there is nothing to compare.
    """
    model = subject.model
    adapted = (
        [layer for _, layer in layers_of(model) if layer.adapters]
        if isinstance(model, Decoder)
        else []
    )
    if not adapted:
        return not_applicable("merged", "the model has no adapters around its matrices")
    assert isinstance(model, Decoder)
    if any(adapter.kind not in MERGEABLE for adapter in model.config.adapters) or any(
        site.copies is not None for site in sites(model.config)
    ):
        return not_applicable("merged", "its adapters do not become part of one matrix")
    worst = max(_unlike_merged(layer, subject) for layer in adapted)
    why = f"the largest difference of {len(adapted)} layers, as a share of the largest output"
    return at_most("merged", worst, CACHE[subject.dtype], why)


@torch.no_grad()
def _unlike_merged(layer: LinearLayer, subject: Subject) -> float:
    """Return by how much a layer's output differs from that of its merged matrix."""
    generator = torch.Generator().manual_seed(subject.seed)
    x = torch.randn(32, layer.in_features, generator=generator).to(subject.device)
    weight, bias = layer.dense().float(), layer.bias
    bias = None if bias is None else bias.float()
    for adapter in layer.adapters:
        weight, bias = adapter.folded(weight, bias)
    due = F.linear(x, weight, bias)  # (32, out)
    found = multiply(layer, x.to(subject.model.dtype)).float()
    return float((found - due).abs().max() / due.abs().max().clamp(min=1e-12))


def attention_kernel(subject: Subject, run: Forward | None = None) -> Check:
    """Check that the model's attention runs the kernel that is asked for.

    Each kernel that this device has for the model's shapes is asked for in turn, and torch's
    dispatcher tells which operators ran. Measures the share of kernels that did not run.
    """
    if isinstance(subject.model, NGram | LSTM):
        return not_applicable("attention_kernel", "the model has no attention")
    asked, wrong, every = [], [], set[str]()
    for name, (backend, operator) in KERNELS.items():
        ran = _operators(subject, backend, run or _forward)
        if ran is None:
            continue  # this device has no such kernel for these shapes
        asked.append(name)
        every |= _kernels(ran)
        seen = _kernels(ran) - _softmax_elsewhere(subject) | ({name} & _kernels(ran))
        if seen != {name}:
            others = " and ".join(sorted(seen)) or "no kernel of attention"
            wrong.append(f"{name} was asked for and {others} ran ({operator} was looked for)")
    if not asked:
        return not_applicable("attention_kernel", "no kernel can be chosen for its attention here")
    if not isinstance(subject.model, Decoder) and every <= {"math"}:
        return not_applicable("attention_kernel", "its attention is written out: it has no kernel")
    why = "; ".join(wrong) or f"asked for and seen: {', '.join(asked)}"
    return at_most("attention_kernel", len(wrong) / len(asked), 0.0, why)


def _forward(subject: Subject) -> object:
    return subject.model(subject.tokens(1))


class _Operators(TorchDispatchMode):
    """Notes the names of all operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names = set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def _operators(subject: Subject, backend: SDPBackend, run: Forward) -> set[str] | None:
    """Return the operators of a forward pass under one kernel; None where it does not exist."""
    try:
        with sdpa_kernel(backend), _Operators() as seen:
            run(subject)
    except RuntimeError as error:
        if any(part in str(error) for part in _NO_KERNEL):
            return None
        raise
    return seen.names


def _softmax_elsewhere(subject: Subject) -> set[str]:
    """Return `math` for a model that may compute a softmax outside of its attention."""
    model = subject.model
    plain = isinstance(model, Decoder) and model.mixture is None
    return set() if plain else {"math"}


def _kernels(operators: set[str]) -> set[str]:
    """Return the kernels of attention among some operators; `math` is a softmax of its own."""
    fused = {
        name
        for name, (_, part) in KERNELS.items()
        if name != "math" and any(part in operator for operator in operators)
    }
    written_out = any("softmax" in operator for operator in operators)
    return fused | ({"math"} if written_out else set())
