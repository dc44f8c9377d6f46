"""Is the exported file the model that was measured? Compare the two on held-out text."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flyweight.checkpoints import load_any, read
from flyweight.config.schema import ModelConfig
from flyweight.errors import FlyweightError, RequestError
from flyweight.evaluation.agreement import Logits, agreement
from flyweight.formats import gguf, hf, peft
from flyweight.formats.readings import Opened, Reading, Source, own_logits, readings
from flyweight.records.verification import Agreement, Limits, Loss, Verification, VerifiedExport

LIMITS: dict[Loss, Limits] = {
    "lossless": Limits(within=1e-4, top_1=0.999, kl=1e-5),
    "rounded": Limits(within=1e-3, top_1=0.99),
    "quantized": Limits(within=0.05, top_1=0.0),
}
"""What an export may lose, by how it holds the weights."""

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Request:
    """What is verified: a model on tokens (N,) of its text, and how much may be lost."""

    source: Source
    tokens: np.ndarray
    vocab_size: int
    within: float | None = None
    progress: Progress = lambda _what, _done: None

    def limits(self, loss: Loss) -> Limits:
        """Return what an export may lose: the share that was asked for, else that of its kind."""
        limits = LIMITS[loss]
        return limits if self.within is None else limits.model_copy(update={"within": self.within})


def verify(request: Request, export: Path, label: str | None = None) -> list[VerifiedExport]:
    """Return how an export agrees with the model, in each program that reads it.

    Raises RequestError for a path that is not an export, and where no program can read it.
    """
    ways = readings(export, request.source)
    if all(way.missing for way in ways):
        raise RequestError(f"{export}: {ways[0].missing}")
    return [_verified(request, way, label or str(export)) for way in ways]


def verify_all(request: Request, before: Path | None = None, name: str = "") -> Verification:
    """Write a model in each format that can hold it, and verify each; then the model before it.

    `before` is the folder of the model that this one was merged or quantized from, and `name` what
    it is called.
    """
    model = own_logits(request.source.folder)  # an unreadable model is no export's fault
    del model
    exports: list[VerifiedExport] = []
    with tempfile.TemporaryDirectory() as place:
        for label, write in _writers(request.source.folder, Path(place)):
            try:
                exports += verify(request, write(), label)
            except RequestError as error:  # the format cannot hold it, or nothing here reads it
                exports.append(_not_run(label, label, "", str(error)))
    if before is not None:
        exports += verify(request, before, f"the model before it, {name}")
    return Verification.of(exports)


def _writers(source: Path, place: Path) -> Iterator[tuple[str, Callable[[], Path]]]:
    def card(_kind: str, _notes: object) -> str:
        return ""

    yield "Hugging Face folder", lambda: hf.write(source, place / "hf", card).path
    if read.is_checkpoint(source):
        return
    yield "GGUF file, f32", lambda: gguf.write(source, place / "f32.gguf", "f32").path
    config = load_any.config(source)
    if isinstance(config, ModelConfig) and config.adapters:
        yield "adapter of peft's", lambda: peft.write(source, place / "peft", card).path


def _verified(request: Request, way: Reading, label: str) -> VerifiedExport:
    if way.missing:
        return _not_run(label, way.format, way.program, way.missing)
    try:
        opened = way.open()
    except RequestError as error:
        if way.weaker:
            return _not_run(label, way.format, way.program, str(error))
        return _failed(label, way, str(error))
    except FlyweightError as error:
        return _failed(label, way, str(error))
    if opened.tokens_differ:
        return _failed(label, way, opened.tokens_differ, opened.loss)
    return _compared(request, way, opened, label)


def _compared(request: Request, way: Reading, opened: Opened, label: str) -> VerifiedExport:
    model: Logits = own_logits(request.source.folder)
    try:
        found = agreement(
            model,
            opened.logits,
            request.tokens,
            request.source.window,
            request.vocab_size,
            lambda done: request.progress(f"{label} in {way.program}", done),
        )
    except RequestError as error:
        return _failed(label, way, str(error), opened.loss)
    limits = request.limits(opened.loss)
    faults = _faults(found, limits)
    return VerifiedExport(
        export=label,
        format=way.format,
        program=way.program,
        verdict="fail" if faults else "pass",
        why="; ".join(faults),
        weaker=way.weaker,
        loss=opened.loss,
        limits=limits,
        agreement=found,
    )


def _faults(found: Agreement, limits: Limits) -> list[str]:
    faults = []
    if not found.relative <= limits.within:
        faults.append(
            f"its NLL is {found.nll.value:.6g} and the model's {found.nll_of_model.value:.6g} nats "
            f"per token: {found.relative:.3g} of it, at most {limits.within:g}"
        )
    if limits.kl is not None and not found.kl.value <= limits.kl:
        faults.append(
            f"the mean divergence is {found.kl.value:.3g} nats per token, at most {limits.kl:g}"
        )
    if not found.top_1.value >= limits.top_1:
        faults.append(
            f"{found.top_1.value:.2%} of the most probable tokens agree, at least "
            f"{limits.top_1:.2%} have to"
        )
    return faults


def _failed(label: str, way: Reading, why: str, loss: Loss = "lossless") -> VerifiedExport:
    return VerifiedExport(
        export=label,
        format=way.format,
        program=way.program,
        verdict="fail",
        why=why,
        weaker=way.weaker,
        loss=loss,
    )


def _not_run(label: str, format: str, program: str, why: str) -> VerifiedExport:
    return VerifiedExport(export=label, format=format, program=program, verdict="not run", why=why)
