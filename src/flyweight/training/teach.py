"""The stage that writes down what a teacher predicts, so that distillation need not run it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flyweight.checkpoints import load_any
from flyweight.checkpoints.load_any import AnyModel
from flyweight.checkpoints.reading import check_reads
from flyweight.config import schema
from flyweight.core.files import disk_errors, own_folder, read_sealed, write_sealed
from flyweight.data.batch import Batch
from flyweight.data.corpus import Corpus
from flyweight.data.told import ToldMeta, ToldWriter
from flyweight.data.windows import Windows
from flyweight.spec.chunks import TOKENS_AT_ONCE, chunk_rows
from flyweight.store.artifact import Draft
from flyweight.store.stage import Context, Inputs, Outline, PlannedInputs, Stage, Work
from flyweight.training.model_training import check_data
from flyweight.training.reading import Heard, Reading, device_of, other_tokens, predictions
from flyweight.training.teaching import hidden_states

SAVED_EVERY = 15.0
"""Seconds between two marks from which an interrupted stage goes on."""

MARK = "current.json"
"""The file that says how far an interrupted stage came."""


@dataclass
class Progress:
    """How many rows are told (`step`), what they took, and the probability in them.

    `positions` are those where the student's predictions can be compared with what is told.
    """

    step: int = 0
    seconds: float = 0.0
    mass: float = 0.0
    positions: int = 0
    flops: int = 0


class TeachStage(Stage[schema.Teach]):
    """The likeliest next tokens of a teacher at every position of a text's windows."""

    version = 1

    def run(
        self, config: schema.Teach, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Write `told/`, from wherever an earlier try ended, and return the facts."""
        runtime, data = context.runtime, config.data
        corpus = Corpus.open(inputs.text(), verify=False)
        windows = Windows(corpus.split("train"), data.context, 1, runtime.seed, data.documents)
        reading: Reading
        if config.across is None:
            reading = _same_tokens(config, inputs, windows, runtime.device)
        else:
            reading = other_tokens(config, inputs, windows, corpus, context)
        assert inputs.corpus is not None
        meta = ToldMeta(
            corpus=inputs.corpus.id,
            context=data.context,
            seed=runtime.seed,
            documents=data.documents,
            vocabulary=reading.entries,
            temperature=config.temperature,
            rows=config.rows,
            k=min(config.k, reading.entries),
            across=config.across is not None,
        )
        began, progress = time.monotonic(), _progress(draft)
        with disk_errors(draft.path):
            unfinished, folder = draft.state / "told", draft.path / "told"
            own_folder(unfinished)
            dtype = "float16" if config.store == "fp16" else "float32"
            writer = ToldWriter(unfinished, meta, dtype, progress.step, reading.groups)
            self._tell(reading, meta, writer, progress, draft)
            (draft.state / MARK).unlink(missing_ok=True)  # what it is about moves away
            unfinished.rename(folder)
        seconds = progress.seconds + time.monotonic() - began
        size = sum(file.stat().st_size for file in folder.iterdir())
        return {
            "rows": config.rows,
            "tokens": config.rows * data.context,
            "kept_mass": progress.mass / progress.positions,
            **reading.facts(progress.positions / (config.rows * data.context)),
            "bytes": size,
            "flops": progress.flops,
            "seconds": seconds,
            "total_flops": progress.flops + inputs.spent("total_flops"),
            "total_seconds": seconds + inputs.spent("total_seconds"),
        }

    def plan(self, config: schema.Teach, inputs: PlannedInputs) -> Outline:
        """Return the work of running the teachers, where they are known."""
        teachers = list(inputs.models.values())
        if len(teachers) < len(config.dependencies()):
            return Outline(notes=("its teacher is not known yet, nor how long it takes",))
        tokens = config.rows * config.data.context
        unknown = [role for role in config.own_texts() if role not in inputs.own_tokens]
        notes = [f"{role} is taken to read as many tokens as its student" for role in unknown]
        work = [
            Work(teacher, tokens * inputs.own_tokens.get(role, 1.0))
            for role, teacher in inputs.models.items()
        ]
        return Outline(work=tuple(work), notes=tuple(notes))

    def _tell(
        self,
        reading: Reading,
        meta: ToldMeta,
        writer: ToldWriter,
        progress: Progress,
        draft: Draft,
    ) -> None:
        """Write all rows behind those that are there; mark from time to time how far it is."""
        began = saved = time.monotonic()
        for first, count in _groups(progress.step, meta):
            heard = reading.read(first, count)
            tokens, log_probs, mass = _likeliest(reading, heard, meta)
            writer.write(first, *_placed(tokens, log_probs, heard, meta, count))
            progress.mass += mass
            progress.positions += len(log_probs)
            progress.flops += heard.flops
            progress.step = first + count
            draft.events.watch(
                "scoring", {"what": "the teacher", "done": progress.step / meta.rows}
            )
            if time.monotonic() - saved > SAVED_EVERY:
                saved = time.monotonic()
                writer.flush()
                so_far = replace(progress, seconds=progress.seconds + saved - began)
                write_sealed(draft.state / MARK, {"progress": asdict(so_far)})
        writer.flush()


def _progress(draft: Draft) -> Progress:
    """Return how far an interrupted stage came, or the beginning."""
    mark = draft.state / MARK
    return Progress(**read_sealed(mark)["progress"]) if mark.exists() else Progress()


def _groups(first: int, meta: ToldMeta) -> Iterator[tuple[int, int]]:
    """Yield (first row, rows) of what the teacher reads at once."""
    size = max(1, TOKENS_AT_ONCE // meta.context)
    for start in range(first, meta.rows, size):
        yield start, min(size, meta.rows - start)


def _same_tokens(config: schema.Teach, inputs: Inputs, windows: Windows, device: str) -> SameTokens:
    """Return how teachers read windows of their own tokens; refuse what they cannot read."""
    teachers = list[AnyModel]()
    for role in inputs.artifacts:
        teacher = load_any.load(inputs.model(role), device)
        check_data(config, teacher.config, f"stages.{inputs.name}", "teacher")
        check_reads(teacher.config, role, inputs, config.data.context)
        teachers.append(teacher.eval().requires_grad_(False))
    return SameTokens(teachers, windows, inputs.vocabulary())


class SameTokens:
    """Teachers that read the windows as they are."""

    groups: np.ndarray | None = None

    def __init__(self, teachers: Sequence[AnyModel], windows: Windows, entries: int) -> None:
        self.teachers, self.windows, self.entries = teachers, windows, entries

    def read(self, first: int, count: int) -> Heard:
        """Return what each teacher has read of `count` rows from `first` on."""
        batches = [self.windows.batch(first + row) for row in range(count)]
        inputs = torch.cat([batch.inputs for batch in batches])  # (rows, T)
        kept = [batch.documents for batch in batches if batch.documents is not None]
        read = Batch(inputs, inputs, inputs.numel(), documents=torch.cat(kept) if kept else None)
        each = (load_any.forward_flops(teacher, inputs.shape[1]) for teacher in self.teachers)
        hidden = [hidden_states(teacher, read.to(device_of(teacher))) for teacher in self.teachers]
        return Heard(hidden, count * sum(each))

    def predict(self, place: int, hidden: Tensor, temperature: float) -> Tensor:
        """Return the log-probabilities (n, V) of one teacher, given its hidden states (n, D)."""
        return predictions(self.teachers[place], hidden, self.entries, temperature)

    def facts(self, aligned: float) -> dict[str, Any]:
        """Return nothing: every position is told."""
        return {}


@torch.no_grad()
def _likeliest(reading: Reading, heard: Heard, meta: ToldMeta) -> tuple[Tensor, Tensor, float]:
    """Return the likeliest tokens and their log-probabilities, both (P, k), and their probability.

    Of several teachers these are the logarithms of the mean of their probabilities. Groups share
    out what the teachers give to tokens that the student has nothing like.
    """
    tokens, log_probs, mass = list[Tensor](), list[Tensor](), 0.0
    rows = chunk_rows(meta.vocabulary)
    for parts in zip(*(each.split(rows) for each in heard.hidden), strict=True):
        told = [reading.predict(place, part, meta.temperature) for place, part in enumerate(parts)]
        mean = told[0] if len(told) == 1 else torch.stack(told).logsumexp(0) - math.log(len(told))
        best = mean.topk(meta.k)
        mass += float(best.values.exp().sum())
        tokens.append(best.indices)
        values = best.values
        log_probs.append(values - mean.logsumexp(-1, keepdim=True) if meta.across else values)
    return torch.cat(tokens), torch.cat(log_probs), mass


def _placed(
    tokens: Tensor, log_probs: Tensor, heard: Heard, meta: ToldMeta, rows: int
) -> tuple[Tensor, Tensor]:
    """Return what is told of some positions (P, k) as that of all, (rows, T, k)."""
    shape = (rows, meta.context, meta.k)
    if heard.positions is None:
        return tokens.view(shape), log_probs.view(shape)
    where = heard.positions.to(tokens.device)
    all_tokens = tokens.new_zeros(shape)
    all_log_probs = log_probs.new_full(shape, -math.inf)
    all_tokens[where], all_log_probs[where] = tokens, log_probs
    return all_tokens, all_log_probs
