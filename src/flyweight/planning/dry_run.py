"""The memory of a training from a dry run: a step of it on tensors that hold no data.

The optimizers have made their states before that step, as they do in the first one. The model, the
objective and the optimizers are those of the training itself. Every tensor has its shape and type,
and nothing is computed (PyTorch's fake tensors); the bytes of all that are alive at once are
counted at each operation. Of what kernels hold for themselves, compiled products are counted. Work
that is done in equal pieces is done for the first ones (`core.alike`).
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from flyweight.config import schema
from flyweight.core.alike import few_turns
from flyweight.data.batch import Batch
from flyweight.model.precision import autocast
from flyweight.planning.memory import PlannedMemory, validation_bytes
from flyweight.planning.recipe_plan import Plan, StagePlan
from flyweight.spec import flops
from flyweight.store.budget import LIBRARIES
from flyweight.training.averages import Averages
from flyweight.training.memory_saving import BackwardSteps, save_memory
from flyweight.training.optimizers import build_optimizers
from flyweight.training.planned_training import PlannedTraining
from flyweight.training.stand_ins import new_model, new_objective, new_teacher

KERNELS, KERNEL = 5_000_000, 540_000
"""Bytes that oneDNN holds for products in half precision on a CPU: at first, and for each shape.

It compiles a kernel for every shape of a product and keeps it. Measured: 0.54 MB, whatever the
shape. Products in float32 need none.
"""

PRODUCTS = {
    torch.ops.aten.mm,
    torch.ops.aten.addmm,
    torch.ops.aten.bmm,
    torch.ops.aten.baddbmm,
}
"""Operations that oneDNN compiles in half precision."""

NOT_POSSIBLE = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
"""What an operation that cannot go without data raises."""

_known: dict[tuple[str, str], PlannedMemory] = {}


def training_memory(planned: PlannedTraining, device: str = "cpu") -> PlannedMemory:
    """Return the memory of a training.

    Takes a second or so and next to no memory; the same question is answered once. Activations are
    what is alive between a micro-batch's forward and backward pass, `head` is what the largest
    moment holds beyond all other parts. Raises one of NOT_POSSIBLE where an operation of the model
    cannot go without data.
    """
    key = (planned.key, device)
    if key not in _known:
        with _LiveBytes() as live, few_turns(), FakeTensorMode(allow_non_fake_inputs=True):
            _known[key] = _Run(live, planned).memory(device)
    return _known[key]


def counted(planned: Plan, device: str) -> Plan:
    """Return a plan in which the memory of every training comes from a dry run, where one can go.

    Where it was counted before, nothing is done.
    """
    return replace(planned, stages=tuple(counted_stage(stage, device) for stage in planned.stages))


def counted_stage(stage: StagePlan, device: str) -> StagePlan:
    """Return a stage's plan with the memory of a dry run, where one can go."""
    if stage.memory.method == "dry-run":
        return stage
    try:
        return replace(stage, memory=training_memory(stage.training, device))
    except NOT_POSSIBLE:
        return stage


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that are alive, and the most that were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.most = 0
        self.first_step = False
        """Whether a number that is asked for is 1: that of an optimizer's first step."""
        self.kernels: set[tuple[object, ...]] = set()
        """The products in half precision: what is multiplied, by shape and order in memory."""
        self._alive: dict[int, weakref.ref[Any]] = {}

    def count(self, tensor: Tensor) -> None:
        """Count the storage of a tensor from now until nobody has it."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._alive:
            return

        def freed(_: object) -> None:
            self.now -= size
            del self._alive[key]

        self._alive[key] = weakref.ref(storage, freed)
        self.now += size
        self.most = max(self.most, self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.first_step and func is torch.ops.aten._local_scalar_dense.default:
            return 1
        if func.overloadpacket in PRODUCTS:
            read = [value for value in args if isinstance(value, Tensor)]
            if any(tensor.dtype.itemsize == 2 for tensor in read):
                shapes = ((tuple(tensor.shape), tensor.is_contiguous()) for tensor in read)
                self.kernels.add((func.overloadpacket, *shapes))
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self.count(value)
        return result


def _few_layers(model: schema.Architecture) -> tuple[schema.Architecture, int]:
    """Return a model with two of many layers that are alike, and the bytes of the others.

    It is for models that only read: of their layers they hold one at a time, and all weights.
    """
    if not isinstance(model, schema.ModelConfig) or model.layers <= 2 or model.blocks:
        return model, 0
    if "unet" in model.skips:  # streams wait for later layers
        return model, 0
    if model.sharing != schema.NoSharing() or model.thinking != schema.NoThinking():
        return model, 0
    short = model.model_copy(update={"layers": 2})
    return short, flops.weight_bytes(model) - flops.weight_bytes(short)


class _Run:
    """The step of a dry run, and what is alive between its parts."""

    def __init__(self, live: _LiveBytes, planned: PlannedTraining) -> None:
        self.live, self.planned, self.train = live, planned, planned.train
        self.model = new_model(planned)
        save_memory(self.model, self.train.memory, "stages")
        self.model.train()
        self.weights = live.now
        matched = planned.objective is not None and planned.objective.hidden is not None
        if planned.teacher is not None and not matched:
            short, rest = _few_layers(planned.teacher)
            planned = planned.model_copy(update={"teacher": short})
            live.now += rest
        self.objective = new_objective(planned, new_teacher(planned))
        self.teacher = live.now - self.weights

    def memory(self, device: str) -> PlannedMemory:
        """Make the step and return the bytes by part."""
        saving = self.train.memory
        optimizers = build_optimizers(
            self.model, self.train.optimizer, self.planned.precision, saving.states
        )
        in_backward = saving.step == "backward"
        trained = [tensor for tensor in self.model.parameters() if tensor.requires_grad]
        gradients = 0 if in_backward else sum(tensor.nbytes for tensor in trained)
        standing = self.weights + self.teacher
        averages = [Averages(trained, average.decay)] if (average := self.train.average) else []
        states = self._make_states([*optimizers, *averages], trained) - standing
        if in_backward:
            BackwardSteps(optimizers)
        self.live.most = self.live.now
        kept = 0
        for _ in range(min(2, self.train.accumulate)):
            kept = self._micro_batch() - standing - states
        if self.train.accumulate > 1:
            kept -= gradients
        if self.train.clip:
            torch.nn.utils.clip_grad_norm_(trained, self.train.clip)
        if not in_backward:
            self._step(optimizers)
        validated = 0
        if self.train.validations:
            validated = validation_bytes(self.planned.model, self.train, self.planned.context)
        most = max(self.live.most, standing + states + gradients + validated)
        activations = max(0, min(kept, most - standing - states - gradients))
        cpu = device == "cpu"
        return PlannedMemory(
            weights=self.weights,
            gradients=gradients,
            optimizer=states,
            activations=activations,
            head=most - standing - states - gradients - activations,
            teacher=self.teacher,
            copies=self._kernels() if cpu else 0,
            libraries=LIBRARIES if cpu else 0,
            method="dry-run",
        )

    def _make_states(
        self, optimizers: Sequence[torch.optim.Optimizer], trained: Sequence[Tensor]
    ) -> int:
        """Let optimizers make their states, as a first step does; return what is alive then."""
        for tensor in trained:
            tensor.grad = torch.empty_like(tensor)
        self._step(optimizers)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        return self.live.now

    def _step(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Move every tensor; an optimizer that asks for the number of its step is told 1."""
        self.live.first_step = True
        for optimizer in optimizers:
            optimizer.step()
        self.live.first_step = False

    def _kernels(self) -> int:
        """Return the bytes of compiled products."""
        count = len(self.live.kernels)
        return KERNELS + KERNEL * count if count else 0

    def _micro_batch(self) -> int:
        """Read and learn from one micro-batch; return what is alive between the two."""
        shape = (self.train.batch // self.train.accumulate, self.planned.context)
        ids = torch.zeros(shape, dtype=torch.int64)
        documents = torch.zeros_like(ids) if self.planned.isolated else None
        noisy = torch.zeros_like(ids) if self.train.input_noise else None
        batch = Batch(ids, torch.zeros_like(ids), ids.numel(), documents=documents, noisy=noisy)
        with autocast("cpu", self.planned.precision):
            summed = self.objective(self.model, batch)
        kept = self.live.now
        self.live.first_step = self.train.memory.step == "backward"
        (summed.loss / ids.numel()).backward()
        self.live.first_step = False
        return kept
