"""Checks of how a model was made: its training's log, its frozen tensors, its claimed zeros.

Like `evaluation.checks`: each takes the `Subject` and returns one `Check`. They read the model's
artifact, and the artifact that it was made from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch import Tensor

from flyweight.checkpoints import load_any
from flyweight.config.adapters import Method
from flyweight.config.training import Schedule
from flyweight.core.events import read_events
from flyweight.evaluation.checks import CACHE, History, Subject, at_most, not_applicable
from flyweight.model import folder
from flyweight.model.build import Model
from flyweight.model.sparsity import pruned_layers, sparsity_facts
from flyweight.records.audit import Check
from flyweight.spec.adapters import trained_tensors
from flyweight.store.artifact import EVENTS, Artifact

RATE = 1e-6
"""A rate may differ from its schedule by rounding, as a share of the peak rate."""
TIMED_RATE = 0.05
"""The same where time ends a training: when a step began is known to a few hundredths of it."""
LOGGED = 400
"""A training logs the first step after each of so many equal parts of it."""
SPARSITY = 1e-4
ROUNDED = 0.01
"""The share that is pruned may differ so much from the one that was asked for, in small layers."""

NO_LOG = "the model was not trained here, so there is no log of its training"


@dataclass(frozen=True)
class _Training:
    """What a finished training was asked for, and what it logged."""

    schedule: Schedule
    peak: float
    time: float | None
    facts: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, subject: Subject) -> _Training | None:
        """Return the training of a model; None for one that no training made."""
        history = subject.history
        if history is None or not (history.artifact.path / EVENTS).is_file():
            return None
        raw = history.artifact.identity["config"].get("train")
        facts = history.artifact.facts
        if not isinstance(raw, Mapping) or "steps" not in facts:
            return None
        events: Sequence[Mapping[str, Any]] = read_events(history.artifact.path / EVENTS)
        steps = [event for event in events if event["event"] == "step"]
        schedule = Schedule.model_validate(raw["schedule"])
        return cls(schedule, float(raw["optimizer"]["lr"]), raw["time"], facts, steps)


# --- the log of a training ---


def learning_rate(subject: Subject) -> Check:
    """Check that the logged learning rates follow the configured schedule.

    An event has the rate of its own step, and the lowest and the highest since the event before
    (earlier logs have the first alone). Measures the largest difference as a share of the peak.
    """
    training = _Training.of(subject)
    if training is None:
        return not_applicable("learning_rate", NO_LOG)
    events, facts = training.events, training.facts
    if not events:
        return at_most("learning_rate", math.inf, RATE, "the log has no step")
    plan = _Position.of(training)
    worst, where, before = -1.0, "", _START
    for event in events:
        low, high = plan.factors(before, event, training.schedule)
        rates = [event["lr"], event.get("lr_low", event["lr"]), event.get("lr_high", event["lr"])]
        for rate in rates:
            factor = rate / training.peak
            apart = max(low - factor, factor - high, 0.0)
            if apart > worst or math.isnan(apart):
                worst = apart
                where = (
                    f"step {event['step']}: rate {rate:.4g}, due {_range(low, high, training.peak)}"
                )
        before = event
    why = f"{len(events)} events of {facts['steps']:,} steps; furthest at {where}"
    return at_most("learning_rate", worst, plan.tolerance, why)


def _range(low: float, high: float, peak: float) -> str:
    if high - low < 1e-12:
        return f"{low * peak:.4g}"
    return f"{low * peak:.4g} to {high * peak:.4g}"


_START: Mapping[str, Any] = {"step": 0, "seconds": 0.0}


class _Position:
    """Where a step stands in its schedule: by steps exactly, by seconds to an interval."""

    def __init__(self, steps: int | None, seconds: float | None) -> None:
        self.steps, self.seconds = steps, seconds
        self.tolerance = RATE if seconds is None else TIMED_RATE

    @classmethod
    def of(cls, training: _Training) -> _Position:
        """Return the positions of a finished training."""
        facts = training.facts
        if facts["stopped_by"] == "steps":
            return cls(facts["steps"], training.time)
        return cls(None, min(facts["seconds"], training.time or math.inf))

    def factors(
        self, before: Mapping[str, Any], event: Mapping[str, Any], schedule: Schedule
    ) -> tuple[float, float]:
        """Return the lowest and the highest factor due in the steps after `before`, to `event`."""
        if self.seconds is None:
            steps = range(before["step"], event["step"])
            places = [self._at(step, 0.0, schedule) for step in steps]
        else:
            edges = [self._at(before["step"], before["seconds"], schedule)]
            edges.append(self._at(event["step"] - 1, event["seconds"], schedule))
            start = max(schedule.tail_from or 0.0, schedule.warmup)
            slack = 0.5 * TIMED_RATE  # of validations, which take time between two steps
            edges = [max(0.0, edges[0] - slack), min(1.0, edges[1] + slack)]
            corners = [p for p in (schedule.warmup, start) if edges[0] < p < edges[1]]
            places = [*edges, *corners]
        due = [_due(schedule, place) for place in places]
        return min(due), max(due)

    def _at(self, step: int, seconds: float, schedule: Schedule) -> float:
        """Return the fraction of the training that is done after a step."""
        done = step / self.steps if self.steps else 0.0
        if self.seconds:
            done = max(done, seconds / self.seconds)
        if self.steps and done < schedule.warmup:
            done += 1 / self.steps  # a warm-up counts the step itself
        return min(max(done, 1e-6), 1.0)


def _due(schedule: Schedule, done: float) -> float:
    """Return the factor at a place of the schedule, from its definition and not from the trainer.

    A line from 0 to 1 in the warm-up, then 1, then a cosine or a line down to `final`.
    """
    start = max(schedule.tail_from or 0.0, schedule.warmup)
    if done < schedule.warmup:
        return done / schedule.warmup
    if schedule.tail == "none" or done <= start:
        return 1.0
    share = 1.0 if start >= 1 else min(1.0, (done - start) / (1 - start))
    if schedule.tail == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    return 1.0 + (schedule.final - 1.0) * share


def no_gaps(subject: Subject) -> Check:
    """Check that no loss of the training was replaced or left out.

    Every logged loss is a finite number above 0, steps and FLOPs rise, and where steps end the
    training each step that is due to be logged is there. Measures the faults.
    """
    training = _Training.of(subject)
    if training is None:
        return not_applicable("no_gaps", NO_LOG)
    events, facts = training.events, training.facts
    faults = [*_bad_losses(events), *_order(events)]
    logged = {event["step"] for event in events}
    if facts["stopped_by"] == "steps" and training.time is None:
        missing = [step for step in _due_steps(facts["steps"]) if step not in logged]
        faults += [f"step {step} was not logged" for step in missing]
    elif facts["steps"] and not events:
        faults.append("no step was logged")
    why = "; ".join(faults[:3]) or f"{len(events)} events of {facts['steps']:,} steps, in order"
    return at_most("no_gaps", float(len(faults)), 0.0, why)


def _bad_losses(events: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for event in events:
        nll = event["nll"]
        if not isinstance(nll, int | float) or not math.isfinite(nll):
            yield f"step {event['step']} has the loss {nll}"
        elif nll <= 0:
            yield f"step {event['step']} has the loss {nll:g}: no text is that certain"


def _order(events: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    before: Mapping[str, Any] = {"step": 0, "flops": -1, "seconds": 0.0}
    for event in events:
        for key in ("step", "flops"):
            if not event[key] > before[key]:
                yield f"{key} {event[key]} follows {before[key]}"
        before = event


def _due_steps(steps: int) -> Iterator[int]:
    for step in range(1, steps + 1):
        if int(min(1.0, step / steps) * LOGGED) > int((step - 1) / steps * LOGGED):
            yield step


# --- the model that it was made from ---


def trained_subset(subject: Subject) -> Check:
    """Check that the tensors which a fine-tuning leaves alone are its input's, to the bit."""
    history = subject.history
    raw = None if history is None else history.artifact.identity["config"].get("method")
    if history is None or history.artifact.stage != "finetune" or not isinstance(raw, Mapping):
        return not_applicable("trained_subset", "the model is not a fine-tuned one")
    if raw["kind"] == "full":
        return not_applicable("trained_subset", "every tensor was trained")
    if history.parent is None:
        return not_applicable("trained_subset", "the model before it is not in the runs root")
    assert isinstance(subject.model, Model)
    method = TypeAdapter[Method](Method).validate_python(dict(raw))
    moves = trained_tensors(subject.model.config, method.trains)
    now, then = _tensors(subject.folder), _tensors(history.parent.path / "model")
    frozen = [name for name in now if not moves(name)]
    changed = [
        name for name in frozen if name not in then or not torch.equal(now[name], then[name])
    ]
    why = f"{len(frozen)} frozen tensors, {len(now) - len(frozen)} trained"
    if changed:
        why = f"{changed[0]} changed, of {why}"
    return at_most("trained_subset", float(len(changed)), 0.0, why)


def _tensors(model: Path) -> dict[str, Tensor]:
    return load_file(model / folder.WEIGHTS)


def merge_of_parent(subject: Subject) -> Check:
    """Check that a merged model gives the logits of the model that it was merged from."""
    history = subject.history
    if history is None or history.artifact.stage != "merge":
        return not_applicable("merge_of_parent", "the model was not merged")
    if history.parent is None:
        return not_applicable("merge_of_parent", "the model before it is not in the runs root")
    parent = load_any.load(history.parent.path / "model", subject.device).eval()
    tokens = subject.tokens(2)
    due = parent(tokens).float()  # (2, T, V)
    apart = (subject.model(tokens).float() - due).abs().max() / due.abs().max().clamp(min=1e-12)
    why = f"the largest difference from {history.parent.id}, as a share of the largest logit"
    return at_most("merge_of_parent", float(apart), CACHE[subject.dtype], why)


def sparsity(subject: Subject) -> Check:
    """Check that a pruned model has the zeros that are claimed, and that were asked for.

    What was zero in the model that it was made from must still be zero, unless it was merged.
    Measures the largest difference of two shares.
    """
    history = subject.history
    claimed = _claims(history.artifact if history else None)
    before = _claims(history.parent if history else None)
    if history is None or not (claimed or before):
        return not_applicable("sparsity", "no sparsity is claimed: the model was not pruned")
    stage = history.artifact.stage
    found = sparsity_facts(subject.model, _pruned_names(subject, history))
    parts, worst = [], 0.0
    for name, share in claimed.items():
        parts.append(f"{name} {found.get(name, 0.0):.4g}, claimed {share:.4g}")
        worst = max(worst, abs(found.get(name, 0.0) - share))
    if stage == "prune":
        asked = _asked(history.artifact)
        share = found.get("adapter_sparsity", found.get("sparsity", 0.0))
        parts.append(f"asked for {asked:.4g}")
        worst = max(worst, abs(share - asked) - ROUNDED)
    elif stage == "finetune" and before and history.parent is not None:
        grown = _regrown(_tensors(history.parent.path / "model"), _tensors(subject.folder))
        parts.append(f"{grown:.4g} of its zeros grew back")
        worst = max(worst, grown)
    return at_most("sparsity", worst, SPARSITY, "; ".join(parts))


def _claims(artifact: Artifact | None) -> dict[str, float]:
    facts = {} if artifact is None else artifact.facts
    return {name: facts[name] for name in ("sparsity", "adapter_sparsity") if name in facts}


def _pruned_names(subject: Subject, history: History) -> set[str]:
    """Return the layers that were pruned: those of the model, or of the one before it."""
    own = pruned_layers(subject.model)
    if own or history.parent is None:
        return own
    return pruned_layers(load_any.load(history.parent.path / "model"))


def _asked(artifact: Artifact) -> float:
    """Return the share that a stage `prune` was asked for, or that its sweep chose."""
    asked = artifact.identity["config"].get("sparsity")
    if isinstance(asked, Mapping):
        return float(artifact.facts["chosen"])
    return 0.5 if asked is None else float(asked)


def _regrown(before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> float:
    """Return the share of the pruned numbers of a model that are not zero in a later one."""
    grown = pruned = 0
    for name in before:
        weight = name.removesuffix("_mask") if name.endswith("_mask") else f"{name[:-4]}weight"
        if not name.endswith("mask") or weight not in before:
            continue
        zero = before[weight] == 0
        pruned += int(zero.sum())
        grown += int((now[weight][zero] != 0).sum()) if weight in now else int(zero.sum())
    return grown / max(1, pruned)
