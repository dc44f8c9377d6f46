"""The only training loop: limits, schedule, accumulation, precision, validation, checkpoints, resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flyweight.config import schema
from flyweight.core.runtime import Precision, Runtime
from flyweight.data.windows import Windows
from flyweight.errors import DivergedError, FlyweightError, RequestError
from flyweight.evaluation.likelihood import autocast
from flyweight.model.build import Model
from flyweight.model.decoder import Decoder
from flyweight.store.artifact import Draft
from flyweight.store.budget import Meter
from flyweight.training import checkpoint, optimizers
from flyweight.training.objectives import Objective
from flyweight.training.step_cost import StepFlops

LOGGED_STEPS = 400
SHOWN_EVERY = 0.2

VALIDATING = 0.08
"""Share of a limit of time that validations may take."""

TRIED_TOKENS = 2048
"""Tokens of the validation that is timed to plan the others, and the fewest that a validation reads."""


@dataclass(frozen=True)
class Limits:
    """Where training ends: after `steps` (steps, token and FLOP limits all come down to that) or after `seconds`."""

    steps: int | None
    seconds: float | None

    @classmethod
    def of(cls, train: schema.Train, tokens_per_step: int, flops: StepFlops, name: str) -> Limits:
        """Return the limits of a config; raise RequestError when it names none."""
        counts = [
            train.steps,
            train.tokens and math.ceil(train.tokens / tokens_per_step),
            train.flops and flops.steps(train.flops),
        ]
        steps = min((count for count in counts if count), default=None)
        if steps is None and train.time is None:
            raise RequestError(
                f"{name}.train: no limit; give steps, tokens, flops, time or same_as (or a "
                f"budget.time to share)"
            )
        return cls(steps, train.time)

    def done(self, step: int, seconds: float) -> float:
        """Return the fraction of the nearest limit that is used up, at most 1."""
        by_steps = step / self.steps if self.steps else 0.0
        by_time = seconds / self.seconds if self.seconds else 0.0
        return min(1.0, max(by_steps, by_time))

    def reason(self, step: int) -> str:
        """Return which kind of limit ended the run."""
        return "steps" if self.steps and step >= self.steps else "time"


@dataclass
class Trainer:
    """Everything one run of the loop needs.

    `train` runs it to its limit, from wherever the draft's checkpoint stands.

    `validate` returns the mean NLL in nats per token on so many tokens of the validation text.
    `flops` of a step count model, teacher and optimizer, and say when a loop over a span of layers
    is switched on; a validation before that chooses no weights, because the model that is kept has
    its loop on.
    """

    model: Model
    objective: Objective
    windows: Windows
    validate: Callable[[int], float]
    config: schema.Train
    limits: Limits
    flops: StepFlops
    runtime: Runtime
    precision: Precision
    draft: Draft
    meter: Meter
    name: str

    def train(self) -> dict[str, Any]:
        """Train to the limit, leave the kept weights in the model, and return the facts: steps, tokens, flops, seconds."""
        with _memory_errors(self.name, self.config):
            return self._train()

    def _train(self) -> dict[str, Any]:
        config, device = self.config, self.runtime.device.split(":")[0]
        self.optimizers = optimizers.build(self.model, config.optimizer, self.precision)
        self.scaler = torch.amp.GradScaler(device, enabled=self.precision == "fp16")
        self.progress = (
            checkpoint.load(self.draft.state, self.model, self.optimizers) or checkpoint.Progress()
        )
        if self.progress.scaler:
            self.scaler.load_state_dict(self.progress.scaler)
        self.draft.events.rewind(self.progress.events, self.progress.events_sha256)
        if self.progress.step:
            self.draft.events.watch(
                "resumed", {"step": self.progress.step, "of": self.limits.steps}
            )
        self.began, self.before = time.monotonic(), self.progress.seconds
        self.saved = self.shown = self.began
        self.steps_at_start = self.progress.step
        self.meter.seconds_before += self.before
        self._plan_time()
        while (done := self.limits.done(self.progress.step, self._seconds())) < 1:
            self.model.train()
            self._loop(self.flops.looped(done))
            optimizers.set_rates(
                self.optimizers, optimizers.rate_factor(config.schedule, self._ahead(done))
            )
            nll, norm = self._step()
            self.progress.step += 1
            self.progress.tokens += self._tokens_per_step
            self.progress.flops += self.flops.at(done)
            self._after(done, nll, norm)
        self._loop(True)
        if (
            self.progress.validations < self.validations
            and self.progress.validated != self.progress.step
        ):
            self._validate()
            self._save()
        return self._finish()

    def _plan_time(self) -> None:
        """Shorten a limit of time to what the run's budget leaves, and plan as many validations as that has room for."""
        self.validations, self.validated_tokens = (
            self.config.validations,
            self.config.validation_tokens,
        )
        share = self.limits.seconds
        if share is None:
            return
        if share > self.before:
            left = self.meter.training_left(share - self.before)
            self.limits = replace(self.limits, seconds=self.before + left)
        if self.validations and self.progress.validation_tokens is None:
            self._plan_validations(self.limits.seconds or share)
        self.validations = min(
            self.validations, self.progress.validations_planned or self.validations
        )
        self.validated_tokens = self.progress.validation_tokens or self.validated_tokens

    def _plan_validations(self, seconds: float) -> None:
        """Time one short validation, and make validations shorter, then fewer, until they take at most their share."""
        tried = min(TRIED_TOKENS, self.validated_tokens)
        began = time.monotonic()
        self.validate(tried)
        a_token = (time.monotonic() - began) / tried
        affordable = VALIDATING * seconds / max(a_token, 1e-9)
        tokens = min(self.validated_tokens, max(tried, int(affordable / self.validations)))
        self.progress.validation_tokens = tokens
        self.progress.validations_planned = max(1, min(self.validations, int(affordable / tokens)))

    @property
    def _tokens_per_step(self) -> int:
        return self.config.batch * self.windows.context

    def _seconds(self) -> float:
        return self.before + time.monotonic() - self.began

    def _ahead(self, done: float) -> float:
        """Count the step that is about to be made, so that the first one of a warm-up moves at all."""
        return (
            done + 1 / self.limits.steps
            if self.limits.steps and done < self.config.schedule.warmup
            else max(done, 1e-6)
        )

    def _loop(self, on: bool) -> None:
        """Switch a decoder's loop over a span of layers on or off; other models have none."""
        if isinstance(self.model, Decoder):
            self.model.loop(on)

    def _step(self) -> tuple[float, float]:
        """Make one update; return the mean training NLL and the gradient's norm before clipping."""
        config, device = self.config, self.runtime.device
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        size = config.batch // config.accumulate
        losses: list[Tensor] = []
        for micro in range(config.accumulate):
            torch.manual_seed(
                (self.runtime.seed * 1_000_003 + self.progress.step * config.accumulate + micro)
                % 2**63
            )
            rows = slice(micro * size, (micro + 1) * size)
            inputs, targets = self.windows.batch(self.progress.step, rows)
            ids = self.windows.documents(self.progress.step, rows)
            documents = [] if ids is None else [torch.from_numpy(ids).to(device)]
            x, y = (
                torch.from_numpy(inputs).to(device),
                torch.from_numpy(targets).to(device),
            )  # (B, T) each
            with autocast(device, self.precision):
                loss, nll = self.objective(self.model, x, y, *documents)
            self.scaler.scale(loss / self._tokens_per_step).backward()
            losses.append(nll.detach())
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip or math.inf)
        nll_value, norm_value = float(sum(losses)) / self._tokens_per_step, float(norm)
        if not math.isfinite(nll_value) or (
            self.precision != "fp16" and not math.isfinite(norm_value)
        ):
            self._diverged(nll_value, norm_value)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        return nll_value, norm_value

    def _after(self, before: float, nll: float, norm: float) -> None:
        """Log, show, hold to the budget, validate and save: whatever is due after a step."""
        config, progress = self.config, self.progress
        done = self.limits.done(progress.step, self._seconds())
        if int(done * LOGGED_STEPS) > int(before * LOGGED_STEPS):
            rate = self.optimizers[0].param_groups[0]["lr"]
            fields = {
                "step": progress.step,
                "nll": round(nll, 6),
                "norm": round(norm, 6),
                "lr": rate,
            }
            self.draft.events.emit(
                "step", **fields, seconds=round(self._seconds(), 3), flops=self.progress.flops
            )
        now = time.monotonic()
        if now - self.shown > SHOWN_EVERY:
            self.shown = now
            self._show(done, nll)
            memory, timed = accelerator_bytes(self.runtime.device), self.limits.seconds is not None
            self.meter.observe(self.name, self.progress.flops, memory, ends_itself=timed)
        due = self.validations and int(done * self.validations + 1e-9) > progress.validations
        if due:
            self._validate()
        if due or now - self.saved > config.checkpoint:
            self._save()

    def _show(self, done: float, nll: float) -> None:
        speed = (self.progress.step - self.steps_at_start) / max(
            1e-9, time.monotonic() - self.began
        )
        left = (1 - done) * self._seconds() / done if done else math.nan
        self.draft.events.watch(
            "training",
            {
                "step": self.progress.step,
                "of": self.limits.steps,
                "done": done,
                "nll": nll,
                "tokens_per_s": speed * self._tokens_per_step,
                "eta": left,
                "memory": self.meter.peak_bytes,
            },
        )

    def _validate(self) -> None:
        progress = self.progress
        done = self.limits.done(progress.step, self._seconds())
        looped = self.flops.looped(done)
        self._loop(looped)
        nll = self.validate(self.validated_tokens)
        progress.validations = max(progress.validations + 1, int(done * self.validations + 1e-9))
        progress.validated = progress.step if looped else None
        if looped and math.isfinite(nll) and (progress.best_nll is None or nll < progress.best_nll):
            progress.best_nll, progress.best_step = nll, progress.step
        fields = {
            "step": progress.step,
            "nll": nll,
            "seconds": round(self._seconds(), 3),
            "flops": self.progress.flops,
        }
        self.draft.events.emit("validation", **fields)

    def _save(self) -> None:
        progress = self.progress
        progress.seconds = self._seconds()
        progress.events, progress.events_sha256 = self.draft.events.mark()
        progress.scaler = self.scaler.state_dict()
        checkpoint.save(self.draft.state, progress, self.model, self.optimizers)
        self.saved = time.monotonic()

    def _diverged(self, nll: float, norm: float) -> None:
        kept = self.draft.state / "current.json"
        where = (
            f"the last good checkpoint is kept in {kept.parent}"
            if kept.exists()
            else "no checkpoint had been written yet"
        )
        raise DivergedError(
            f"{self.name}: training diverged at step {self.progress.step + 1} (nll {nll:.4g}, "
            f"gradient norm {norm:.4g});"
            f" {where}. Try a lower train.optimizer.lr, a longer train.schedule.warmup, or "
            f"train.precision=fp32"
        )

    def _finish(self) -> dict[str, Any]:
        progress = self.progress
        if self.config.keep == "best" and (
            best := checkpoint.best_file(self.draft.state, progress)
        ):
            checkpoint.restore(self.model, best)
        self.model.eval()
        progress.seconds = self._seconds()
        return {
            "steps": progress.step,
            "tokens": progress.tokens,
            "seconds": progress.seconds,
            "best_step": progress.best_step,
            "best_nll": progress.best_nll,
            "flops": self.progress.flops,
            "stopped_by": self.limits.reason(progress.step),
            "tokens_per_s": round(progress.tokens / max(progress.seconds, 1e-9), 1),
            "precision": self.precision,
        }


def accelerator_bytes(device: str) -> int | None:
    """Return the peak memory allocated on a CUDA or MPS device, or None on a CPU."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    if device.startswith("mps"):
        return torch.mps.current_allocated_memory()
    return None


@contextmanager
def _memory_errors(name: str, config: schema.Train) -> Iterator[None]:
    """Turn running out of memory into advice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if (
            not isinstance(error, (MemoryError, torch.OutOfMemoryError))
            and "can't allocate memory" not in text
        ):
            raise
        finer = next(
            (n for n in range(config.accumulate + 1, config.batch) if config.batch % n == 0),
            config.batch,
        )
        raise FlyweightError(
            f"{name}: out of memory. The same update in smaller pieces: train.accumulate={finer};"
            f" otherwise a smaller train.batch (now {config.batch}), data.context or model. What "
            f"was done is kept"
        ) from error
