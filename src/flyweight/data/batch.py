"""What a training step reads: inputs, targets, which targets count, and where batches come from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from flyweight.errors import FlyweightError, RequestError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

IGNORE = -100
"""A target that counts nowhere: padding, or a prompt that is not to be learned."""


@dataclass(frozen=True)
class TeacherRecord:
    """What a teacher told of a batch beforehand, so that it does not run again.

    `tokens` (B, T, k) are the likeliest next tokens, int64, and `log_probs` (B, T, k) the
    logarithms of their probabilities, float32.

    A teacher with another tokenizer told of `shared` groups of tokens instead: `groups` (V,),
    int64, is the group of each of the student's tokens, or `shared` for none. `tokens` are groups
    then. Where nothing can be compared all `log_probs` are -inf.
    """

    tokens: Tensor
    log_probs: Tensor
    groups: Tensor | None = None
    shared: int = 0

    def to(self, device: str | torch.device) -> TeacherRecord:
        """Return the record on a device."""
        return TeacherRecord(
            tokens=self.tokens.to(device),
            log_probs=self.log_probs.to(device),
            groups=None if self.groups is None else self.groups.to(device),
            shared=self.shared,
        )


@dataclass(frozen=True)
class Batch:
    """Inputs and targets (B, T), both int64, and which of the targets count.

    A target is real unless it is IGNORE or its weight is 0. `real_targets` counts them; it is taken
    where the batch is made, because asking a GPU for it would wait for the GPU.

    `weights` (B, T) multiply the loss of each target, but not its share of the divisor: losses are
    divided by the number of real targets. `documents` (B, T), int64, are the ids of the inputs'
    documents, where a token must not see another document. `noisy` (B, T) is what a model that
    learns reads instead of the inputs, which a teacher reads.
    """

    inputs: Tensor
    targets: Tensor
    real_targets: int
    weights: Tensor | None = None
    documents: Tensor | None = None
    teacher: TeacherRecord | None = None
    noisy: Tensor | None = None

    @classmethod
    def from_tensors(
        cls,
        inputs: Tensor,
        targets: Tensor,
        weights: Tensor | None = None,
        documents: Tensor | None = None,
        teacher: TeacherRecord | None = None,
    ) -> Batch:
        """Return a batch with its real targets counted.

        Raises FlyweightError where the shapes of inputs, targets, weights and documents differ.
        """
        fields = {"targets": targets, "weights": weights, "documents": documents}
        for name, tensor in fields.items():
            if tensor is not None and tensor.shape != inputs.shape:
                raise FlyweightError(
                    f"batch: {name} have the shape {tuple(tensor.shape)}, but inputs have "
                    f"{tuple(inputs.shape)}"
                )
        return cls(
            inputs=inputs,
            targets=targets,
            real_targets=int(real_targets(targets, weights).sum()),
            weights=weights,
            documents=documents,
            teacher=teacher,
        )

    def with_teacher(self, teacher: TeacherRecord) -> Batch:
        """Return the batch with what a teacher told of it."""
        return replace(self, teacher=teacher)

    @property
    def learned_from(self) -> Tensor:
        """What a model that learns reads, (B, T)."""
        return self.inputs if self.noisy is None else self.noisy

    @property
    def all_real(self) -> bool:
        """Whether every target counts."""
        return self.real_targets == self.targets.numel()

    def to(self, device: str | torch.device) -> Batch:
        """Return the batch on a device."""
        return replace(
            self,
            inputs=self.inputs.to(device),
            targets=self.targets.to(device),
            weights=None if self.weights is None else self.weights.to(device),
            documents=None if self.documents is None else self.documents.to(device),
            teacher=None if self.teacher is None else self.teacher.to(device),
            noisy=None if self.noisy is None else self.noisy.to(device),
        )


def real_targets(targets: Tensor, weights: Tensor | None) -> Tensor:
    """Return which targets count, as bool of their shape."""
    real = targets != IGNORE
    if weights is None:
        return real
    return real & (weights != 0)


class BatchSource(Protocol):
    """Where a training's batches come from.

    A batch depends on its step's number alone, so that nothing has to be saved to resume anywhere.
    """

    @property
    def context(self) -> int:
        """The number of inputs in each row."""
        ...

    def batch(self, step: int, rows: slice = slice(None), rank: int = 0, world: int = 1) -> Batch:
        """Return the share of a step that process `rank` of `world` reads, or some of its rows."""
        ...


def rank_rows(size: int, rank: int, world: int) -> slice:
    """Return which rows of a step of `size` rows process `rank` of `world` reads.

    They lie together: rank r reads what micro-batch r of `world` reads in a single process, so that
    both make the same update. Raises RequestError where the rows cannot be shared out evenly.
    """
    if size % world:
        raise RequestError(f"train.batch: {size} rows cannot be shared by {world} processes")
    share = size // world
    return slice(rank * share, (rank + 1) * share)
