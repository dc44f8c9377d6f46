"""The stage that writes down what a teacher predicts, so that distillation need not run it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

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
from flyweight.spec.chunks import chunk_rows
from flyweight.store.artifact import Draft
from flyweight.store.stage import Context, Inputs, Outline, PlannedInputs, Stage, Work
from flyweight.training.model_training import check_data
from flyweight.training.teaching import hidden_states

TOKENS_AT_ONCE = 2048
"""Tokens that the teacher's body reads at once."""

SAVED_EVERY = 15.0
"""Seconds between two marks from which an interrupted stage goes on."""

MARK = "current.json"
"""The file that says how far an interrupted stage came."""


@dataclass
class Progress:
    """How many rows are told (`step`), the seconds that it took, and the probability in them."""

    step: int = 0
    seconds: float = 0.0
    mass: float = 0.0


class TeachStage(Stage[schema.Teach]):
    """The likeliest next tokens of a teacher at every position of a text's windows."""

    version = 1

    def run(
        self, config: schema.Teach, inputs: Inputs, context: Context, draft: Draft
    ) -> dict[str, Any]:
        """Write `told/`, from wherever an earlier try ended, and return the facts."""
        runtime, data = context.runtime, config.data
        teachers = list[AnyModel]()
        for role in inputs.artifacts:
            teacher = load_any.load(inputs.model(role), runtime.device)
            check_data(config, teacher.config, f"stages.{inputs.name}", "teacher")
            check_reads(teacher.config, role, inputs, data.context)
            teachers.append(teacher.eval().requires_grad_(False))
        corpus = Corpus.open(inputs.text(), verify=False)
        windows = Windows(corpus.split("train"), data.context, 1, runtime.seed, data.documents)
        entries = inputs.vocabulary()
        assert inputs.corpus is not None
        meta = ToldMeta(
            corpus=inputs.corpus.id,
            context=data.context,
            seed=runtime.seed,
            documents=data.documents,
            vocabulary=entries,
            temperature=config.temperature,
            rows=config.rows,
            k=min(config.k, entries),
        )
        began, progress = time.monotonic(), _progress(draft)
        with disk_errors(draft.path):
            unfinished, folder = draft.state / "told", draft.path / "told"
            own_folder(unfinished)
            dtype = "float16" if config.store == "fp16" else "float32"
            writer = ToldWriter(unfinished, meta, dtype, progress.step)
            self._tell(teachers, windows, meta, writer, progress, draft)
            (draft.state / MARK).unlink(missing_ok=True)  # what it is about moves away
            unfinished.rename(folder)
        seconds = progress.seconds + time.monotonic() - began
        each = sum(load_any.forward_flops(teacher, data.context) for teacher in teachers)
        spent = config.rows * each
        size = sum(file.stat().st_size for file in folder.iterdir())
        return {
            "rows": config.rows,
            "tokens": config.rows * data.context,
            "kept_mass": progress.mass / (config.rows * data.context),
            "bytes": size,
            "flops": spent,
            "seconds": seconds,
            "total_flops": spent + inputs.spent("total_flops"),
            "total_seconds": seconds + inputs.spent("total_seconds"),
        }

    def plan(self, config: schema.Teach, inputs: PlannedInputs) -> Outline:
        """Return the work of running the teachers, where they are known."""
        teachers = list(inputs.models.values())
        if len(teachers) < len(config.dependencies()):
            return Outline(notes=("its teacher is not known yet, nor how long it takes",))
        tokens = config.rows * config.data.context
        return Outline(work=tuple(Work(teacher, tokens) for teacher in teachers))

    def _tell(
        self,
        teachers: Sequence[AnyModel],
        windows: Windows,
        meta: ToldMeta,
        writer: ToldWriter,
        progress: Progress,
        draft: Draft,
    ) -> None:
        """Write all rows behind those that are there; mark from time to time how far it is."""
        began = saved = time.monotonic()
        for first, count in _groups(progress.step, meta):
            batches = [windows.batch(first + row) for row in range(count)]
            tokens, log_probs = _likeliest(teachers, batches, meta)
            writer.write(first, tokens, log_probs)
            progress.mass += float(log_probs.exp().sum())
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


@torch.no_grad()
def _likeliest(
    teachers: Sequence[AnyModel], batches: list[Batch], meta: ToldMeta
) -> tuple[Tensor, Tensor]:
    """Return the likeliest tokens and their log-probabilities, both (rows, T, k).

    Of several teachers these are the logarithms of the mean of their probabilities.
    """
    inputs = torch.cat([batch.inputs for batch in batches])  # (rows, T)
    kept = [batch.documents for batch in batches if batch.documents is not None]
    documents = torch.cat(kept) if kept else None
    read = Batch(inputs, inputs, inputs.numel(), documents=documents)
    hidden = [hidden_states(teacher, read.to(_device(teacher))) for teacher in teachers]
    tokens, log_probs = list[Tensor](), list[Tensor]()
    for parts in zip(*(each.split(chunk_rows(meta.vocabulary)) for each in hidden), strict=True):
        told = [
            teacher.logits(part)[:, : meta.vocabulary].float().div(meta.temperature).log_softmax(-1)
            for teacher, part in zip(teachers, parts, strict=True)
        ]
        mean = told[0] if len(told) == 1 else torch.stack(told).logsumexp(0) - math.log(len(told))
        best = mean.topk(meta.k)
        tokens.append(best.indices)
        log_probs.append(best.values)
    shape = (len(inputs), meta.context, meta.k)
    return torch.cat(tokens).view(shape), torch.cat(log_probs).view(shape)


def _device(teacher: AnyModel) -> torch.device:
    return next(teacher.parameters()).device
