"""The only training loop: schedule, accumulation, precision, validation, checkpoints, resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from flyweight.config import schema
from flyweight.core.runtime import Precision, Runtime
from flyweight.data.batch import Batch, BatchSource
from flyweight.data.streams.windows import StreamWindows
from flyweight.errors import DivergedError, FlyweightError
from flyweight.model.build import Model
from flyweight.model.decoder import Decoder
from flyweight.model.dropout import dropouts_of, number_rows
from flyweight.model.precision import autocast
from flyweight.store.artifact import Draft
from flyweight.store.budget import Meter
from flyweight.training import checkpoint, out_of_memory
from flyweight.training.averages import Averages
from flyweight.training.contradictions import check_pieces, check_training
from flyweight.training.limits import Limits
from flyweight.training.memory_saving import BackwardSteps, hold_in_float32, save_memory
from flyweight.training.objectives import Objective
from flyweight.training.optimizers import build_optimizers, rate_factor, set_rates
from flyweight.training.out_of_memory import Pieces
from flyweight.training.state import Clock, TrainerState
from flyweight.training.step_cost import StepCost
from flyweight.training.world import OneProcess, World

LOGGED_STEPS = 400
"""Steps that are logged in a whole training, evenly over its limit."""

SHOWN_EVERY = 0.2
"""Seconds between two looks at the budget, and between two updates of the display."""

VALIDATING = 0.08
"""Share of a limit of time that validations may take."""

TRIED_TOKENS = 2048
"""Tokens of the validation that is timed to plan the others, and the fewest that one reads."""


@dataclass(frozen=True)
class Trainer:
    """Everything that one training is given; what changes on the way is its TrainerState.

    `validate` returns the mean NLL in nats per token on so many tokens of the validation text, so
    many rows at a time.
    `cost` counts the FLOPs of a step: model, teacher and optimizer. It also says when a loop over a
    span of layers is switched on. A validation before that chooses no weights, because the model
    that is kept has its loop on. `stream` is there where the source reads a text on the way: it is
    told where to go on, and may end the training.
    """

    model: Model
    objective: Objective
    source: BatchSource
    validate: Callable[[int, int], float]
    config: schema.Train
    limits: Limits
    cost: StepCost
    runtime: Runtime
    precision: Precision
    draft: Draft
    meter: Meter
    name: str
    stream: StreamWindows | None = None
    world: World = field(default_factory=OneProcess)

    def train(self) -> dict[str, Any]:
        """Train to the limit, from wherever the draft's checkpoint stands, and return the facts.

        The kept weights are left in the model. The facts are steps, tokens, flops, seconds and what
        else the artifact records. Raises RequestError where the rows of a step cannot be shared or
        memory cannot be saved as asked, DivergedError, BudgetSpent, and FlyweightError where memory
        runs out.
        """
        rows = self.config.batch // self.world.size
        to_do = out_of_memory.advice(self.config, self.config.accumulate, rows)
        with out_of_memory.advised(self.name, to_do):
            try:
                return self.run(self.start())
            finally:
                if self.stream is not None:
                    self.stream.close()

    def start(self) -> TrainerState:
        """Return the state to train from: of the draft's checkpoint, or that of a new training."""
        where, processes = f"stages.{self.name}", self.world.size
        check_training(self.config, self.limits, self.cost, self.precision, processes, where)
        saving = self.config.memory
        save_memory(self.model, saving, where)
        optimizers = build_optimizers(
            self.model,
            self.config.optimizer,
            self.precision,
            saving.states,
            self.runtime.seed,
        )
        averages = None
        if self.config.average is not None:
            averages = Averages(self._trainable(), self.config.average.decay)
        stored = optimizers if averages is None else [*optimizers, averages]
        progress = checkpoint.load(self.draft.state, self.draft.name, self.model, stored)
        if progress is None:
            progress = checkpoint.Progress()
        elif averages is not None:
            averages.swap()  # a checkpoint's weights are those that would be kept
        progress.accumulate = max(progress.accumulate, self.config.accumulate)
        check_pieces(self.config, progress.accumulate, processes, where)
        device = self.runtime.device.split(":")[0]
        scaler = torch.amp.GradScaler(device, enabled=self.precision == "fp16")
        if progress.scaler:
            scaler.load_state_dict(progress.scaler)
        self.draft.events.rewind(progress.events, progress.events_sha256)
        if progress.step:
            self.draft.events.watch("resumed", {"step": progress.step, "of": self.limits.steps})
        self.meter.seconds_before += progress.seconds
        if self.stream is not None:
            self.stream.start(progress.step, progress.stream)
        pieces = Pieces(
            self.name, self.config, progress, self.world, device, self.meter, self.draft.events
        )
        state = TrainerState(
            progress=progress,
            pieces=pieces,
            optimizers=optimizers,
            scaler=scaler,
            clock=Clock(progress.seconds),
            first_step=progress.step,
            limits=self.limits,
            validations=self.config.validations,
            validation_tokens=self.config.validation_tokens,
            averages=averages,
            backward_steps=BackwardSteps(optimizers) if saving.step == "backward" else None,
            dropouts=dropouts_of(self.model),
        )
        self._plan_time(state)
        return state

    def run(self, state: TrainerState) -> dict[str, Any]:
        """Train from a state to the limit and return the facts."""
        progress = state.progress
        while (fraction := state.fraction_done()) < 1:
            if not self._has_rows(progress.step):
                state.stream_ended = True
                break
            nll, norm = self.step(state)
            self._after_step(state, fraction, nll, norm)
        self._set_layer_loop(True)
        if progress.validations < state.validations and progress.validated != progress.step:
            self._validate(state)
            self._save(state)
        return self._finish(state)

    def _has_rows(self, step: int) -> bool:
        """Return whether every process has rows for a step: a stream may have no more."""
        if self.stream is None:
            return True
        ended = not self.stream.ready(step, self.world.rank, self.world.size)
        return not self.world.sum(int(ended))

    def step(self, state: TrainerState) -> tuple[float, float]:
        """Make the next step and nothing else.

        Returns the mean training NLL of its real targets, and the gradient's norm before clipping.
        """
        progress, fraction = state.progress, state.fraction_done()
        self.model.train()
        self._set_layer_loop(self.cost.is_looped(fraction))
        factor = rate_factor(self.config.schedule, self._schedule_position(state, fraction))
        set_rates(state.optimizers, factor)
        nll, norm = self._update(state)
        if state.averages is not None:
            state.averages.step()
        state.rates.append(state.optimizers[0].param_groups[0]["lr"])
        progress.step += 1
        progress.tokens += self._tokens_per_step
        progress.flops += self.cost.at(fraction)
        return nll, norm

    # --- the time that is left ---

    def _plan_time(self, state: TrainerState) -> None:
        """Shorten a limit of time to what the run's budget leaves.

        As many validations are planned as that has room for.
        """
        progress, seconds_before = state.progress, state.clock.seconds_before_resume
        share = state.limits.seconds
        if share is None:
            return
        if share > seconds_before:
            remaining = self.meter.training_left(share - seconds_before)
            state.limits = replace(state.limits, seconds=seconds_before + remaining)
        if state.validations and progress.validation_tokens is None:
            self._plan_validations(state, state.limits.seconds or share)
        state.validations = min(
            state.validations, progress.validations_planned or state.validations
        )
        state.validation_tokens = progress.validation_tokens or state.validation_tokens

    def _plan_validations(self, state: TrainerState, seconds: float) -> None:
        """Time one short validation and plan the others, so that all take at most their share.

        They are made shorter first, then fewer.
        """
        tried = min(TRIED_TOKENS, state.validation_tokens)
        began = time.monotonic()
        self._validated(state, tried)
        seconds_per_token = (time.monotonic() - began) / tried
        affordable = VALIDATING * seconds / max(seconds_per_token, 1e-9)
        tokens = min(state.validation_tokens, max(tried, int(affordable / state.validations)))
        progress = state.progress
        progress.validation_tokens = tokens
        progress.validations_planned = max(1, min(state.validations, int(affordable / tokens)))

    def _schedule_position(self, state: TrainerState, fraction: float) -> float:
        """Return the fraction that the schedule reads for the next step.

        A warm-up counts the step itself, so that the first one moves at all.
        """
        steps = state.limits.steps
        if steps and fraction < self.config.schedule.warmup:
            return fraction + 1 / steps
        return max(fraction, 1e-6)

    # --- one step ---

    @property
    def _tokens_per_step(self) -> int:
        return self.config.batch * self.source.context

    def _set_layer_loop(self, on: bool) -> None:
        """Switch a decoder's loop over a span of layers on or off; other models have none."""
        if isinstance(self.model, Decoder):
            self.model.loop(on)

    def _update(self, state: TrainerState) -> tuple[float, float]:
        """Learn from the batch of the next step; return as `step` does."""
        nll = self._gradients(state)
        norm = self._clip(state)
        finite = math.isfinite(norm) or self.precision == "fp16"  # whose scaler skips the step
        if not (math.isfinite(nll) and finite):
            self._refuse_divergence(state, nll, norm)
        if state.backward_steps is not None:
            return nll, norm
        with out_of_memory.advised(self.name, out_of_memory.IN_THE_STEP):
            for optimizer in state.optimizers:
                state.scaler.step(optimizer)
        state.scaler.update()
        return nll, norm

    def _micro_batches(self, state: TrainerState) -> list[Batch]:
        """Return what this process reads in a step, in as many pieces as it has now."""
        step, rank, processes = state.progress.step, self.world.rank, self.world.size
        return [self.source.batch(step, rows, rank, processes) for rows in state.pieces.slices()]

    def _gradients(self, state: TrainerState) -> float:
        """Compute the gradients of a step, and return the mean NLL over its real targets."""
        batches = self._micro_batches(state)
        targets = self._count_targets(batches, state.progress.step)

        def compute() -> float:
            nonlocal batches
            if len(batches) != state.progress.accumulate:
                batches = self._micro_batches(state)
            return self._add_gradients(state, batches, targets)

        summed = state.pieces.fitted(compute)
        self.world.sum_gradients(self._trainable())
        return self.world.sum(summed) / targets

    def _count_targets(self, batches: Sequence[Batch], step: int) -> int:
        """Return the number of real targets of a step, over all micro-batches and processes.

        Raises FlyweightError where there are none.
        """
        targets = self.world.sum(sum(batch.real_targets for batch in batches))
        if not targets:
            raise FlyweightError(f"{self.name}: step {step + 1} has no target to learn from")
        return targets

    def _add_gradients(self, state: TrainerState, batches: Sequence[Batch], targets: int) -> float:
        """Add up this process's gradients over all micro-batches; return its summed NLL."""
        for optimizer in state.optimizers:
            optimizer.zero_grad(set_to_none=True)
        device, sums = self.runtime.device, list[Tensor]()
        first = self.world.rank * self.config.batch // self.world.size
        for rows, batch in zip(state.pieces.slices(), batches, strict=True):
            torch.manual_seed(self._dropout_seed(state.progress.step))
            number_rows(state.dropouts, first + rows.start)
            with autocast(device, self.precision):
                summed = self.objective(self.model, batch.to(device))
            state.scaler.scale(summed.loss / targets).backward()
            sums.append(summed.nll.detach())
        return float(sum(sums))

    def _dropout_seed(self, step: int) -> int:
        """Return the seed of a step, the same for each micro-batch: masks are drawn by row."""
        return (self.runtime.seed * 1_000_003 + step) % 2**63

    def _trainable(self) -> list[Tensor]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def _clip(self, state: TrainerState) -> float:
        """Clip the gradient; return its norm before."""
        if state.backward_steps is not None:
            return state.backward_steps.norm()
        for optimizer in state.optimizers:
            state.scaler.unscale_(optimizer)
        limit = self.config.clip or math.inf
        return float(torch.nn.utils.clip_grad_norm_(self._trainable(), limit))

    def _refuse_divergence(self, state: TrainerState, nll: float, norm: float) -> None:
        where = "no checkpoint had been written yet"
        if (self.draft.state / "current.json").exists():
            where = f"the last good checkpoint is kept in {self.draft.state}"
        raise DivergedError(
            f"{self.name}: training diverged at step {state.progress.step + 1} (nll {nll:.4g}, "
            f"gradient norm {norm:.4g}); {where}. Try a lower train.optimizer.lr, a longer "
            f"train.schedule.warmup, or train.precision=fp32"
        )

    # --- after a step ---

    def _after_step(
        self, state: TrainerState, fraction_before: float, nll: float, norm: float
    ) -> None:
        """Log, show, hold to the budget, validate and save: whatever is due after a step."""
        fraction, now = state.fraction_done(), time.monotonic()
        if int(fraction * LOGGED_STEPS) > int(fraction_before * LOGGED_STEPS):
            self._log(state, nll, norm)
        if now - state.clock.shown > SHOWN_EVERY:
            state.clock.shown = now
            self._show(state, fraction, nll)
            self._hold_to_budget(state)
        planned = int(fraction * state.validations + 1e-9)
        validation_due = bool(state.validations) and planned > state.progress.validations
        if validation_due:
            self._validate(state)
        taken = self._take_snapshots(state, fraction)
        if validation_due or taken or now - state.clock.saved > self.config.checkpoint:
            self._save(state)

    def _take_snapshots(self, state: TrainerState, fraction: float) -> bool:
        """Keep the weights at every point that is reached now; return whether there was one.

        They are those that would be kept if the training ended here: the average where there is
        one.
        """
        progress = state.progress
        taken = {snapshot.at for snapshot in progress.snapshots}
        due = [at for at in self.config.snapshots if at <= fraction + 1e-9 and at not in taken]
        for at in due:
            self._set_layer_loop(True)
            nll = self._validated(state, state.validation_tokens) if state.validations else None
            with state.averaged():
                file = checkpoint.snapshot_file(self.draft.state, at)
                sha256 = checkpoint.save_weights(file, self.model)
            known = nll if nll is not None and math.isfinite(nll) else None
            progress.snapshots.append(checkpoint.Snapshot(at, progress.step, known, sha256))
            self.draft.events.emit("snapshot", at=at, step=progress.step, nll=known)
        return bool(due)

    def _log(self, state: TrainerState, nll: float, norm: float) -> None:
        self.draft.events.emit(
            "step",
            step=state.progress.step,
            nll=round(nll, 6),
            norm=round(norm, 6),
            lr=state.rates[-1],
            lr_low=min(state.rates),
            lr_high=max(state.rates),
            seconds=round(state.clock.seconds(), 3),
            flops=state.progress.flops,
        )
        state.rates.clear()

    def _show(self, state: TrainerState, fraction: float, nll: float) -> None:
        steps = state.progress.step - state.first_step
        speed = steps / max(1e-9, state.clock.seconds_since_resume())
        eta = math.nan
        if fraction:
            eta = (1 - fraction) * state.clock.seconds() / fraction
        self.draft.events.watch(
            "training",
            {
                "step": state.progress.step,
                "of": state.limits.steps,
                "done": fraction,
                "nll": nll,
                "tokens_per_s": speed * self._tokens_per_step,
                "eta": eta,
                "memory": self.meter.peak_bytes,
            },
        )

    def _hold_to_budget(self, state: TrainerState) -> None:
        """Raise BudgetSpent where the run has spent its budget.

        Past the limit of memory, micro-batches are halved first. Processes would not do so
        together.
        """
        if self.world.size == 1 and state.pieces.can_halve() and self.meter.past_memory():
            state.pieces.halve("budget.memory was passed")
            return
        self.meter.observe(
            self.name,
            state.progress.flops,
            ends_itself=state.limits.seconds is not None,
        )

    def _validated(self, state: TrainerState, tokens: int) -> float:
        """Return the NLL of so many tokens of the validation text, in rows of a micro-batch."""
        with state.averaged():
            return state.pieces.fitted(lambda: self.validate(tokens, state.pieces.rows))

    def _validate(self, state: TrainerState) -> None:
        progress, fraction = state.progress, state.fraction_done()
        looped = self.cost.is_looped(fraction)
        self._set_layer_loop(looped)
        nll = self._validated(state, state.validation_tokens)
        planned = int(fraction * state.validations + 1e-9)
        progress.validations = max(progress.validations + 1, planned)
        progress.validated = progress.step if looped else None
        if looped and math.isfinite(nll) and (progress.best_nll is None or nll < progress.best_nll):
            progress.best_nll = nll
            progress.best_step = progress.step
        self.draft.events.emit(
            "validation",
            step=progress.step,
            nll=nll,
            seconds=round(state.clock.seconds(), 3),
            flops=progress.flops,
        )

    def _save(self, state: TrainerState) -> None:
        progress = state.progress
        progress.seconds = state.clock.seconds()
        progress.events, progress.events_sha256 = self.draft.events.mark()
        progress.scaler = state.scaler.state_dict()
        progress.memory_used = self._memory_used(state)
        if self.stream is not None:
            progress.stream = self.stream.place(progress.step).json()
        with state.averaged():
            checkpoint.save(self.draft.state, self.draft.name, progress, self.model, state.stored)
        state.clock.saved = time.monotonic()

    def _memory_used(self, state: TrainerState) -> int:
        """Return the most bytes that were held, before a resumption too."""
        self.meter.note()
        return max(state.progress.memory_used, self.meter.stage_peak_bytes)

    def _stopped_by(self, state: TrainerState) -> str:
        """Return what ended the training: a limit, or the end of its stream."""
        return "stream" if state.stream_ended else state.limits.reason(state.progress.step)

    def _finish(self, state: TrainerState) -> dict[str, object]:
        """Leave the kept weights in the model and return the facts."""
        progress = state.progress
        if state.backward_steps is not None:
            state.backward_steps.end()
        if state.averages is not None:
            state.averages.swap()
        if self.config.keep == "best":
            best = checkpoint.best_file(self.draft.state, progress)
            if best is not None:
                checkpoint.restore(self.model, best)
        if isinstance(self.model, Decoder) and self.config.memory.weights == "bf16":
            hold_in_float32(self.model)
        self.model.eval()
        progress.seconds = state.clock.seconds()
        return {
            "steps": progress.step,
            "tokens": progress.tokens,
            "seconds": progress.seconds,
            "best_step": progress.best_step,
            "best_nll": progress.best_nll,
            "flops": progress.flops,
            "stopped_by": self._stopped_by(state),
            "tokens_per_s": round(progress.tokens / max(progress.seconds, 1e-9), 1),
            "precision": self.precision,
            "accumulate_used": progress.accumulate,
            "memory_used": self._memory_used(state),
            "snapshots": progress.snapshots,
        }
