"""Pack a checkpoint's matrices one by one as they are read, so that the float model is never held.

The quantizer is that of `compression.quantize`, and so is the result, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flyweight.checkpoints.convert import Source, StoredPart
from flyweight.compression.quantize import quantized
from flyweight.config.schema import Architecture, Import, Int8, LinearKind, ModelConfig
from flyweight.errors import FlyweightError, RequestError
from flyweight.model import folder, linear
from flyweight.model.build import build
from flyweight.spec.linears import kind_of, linear_names

AT_ONCE = 1 << 20
"""Numbers of a matrix that are read and packed at once, where its kind can pack rows alone."""


@dataclass(frozen=True)
class ImportPacking:
    """The kinds in which an import packs the matrices of blocks, and the tables."""

    kind: LinearKind
    embedding: LinearKind = field(default_factory=Int8)

    @classmethod
    def of(cls, stage: Import) -> ImportPacking | None:
        """Return the packing that a stage asks for; None where it packs nothing."""
        return None if stage.kind is None else cls(stage.kind, stage.embedding)

    def json(self) -> dict[str, Any]:
        """Return the kinds as plain data."""
        kinds = {"as": self.kind, "embedding": self.embedding}
        return {name: kind.model_dump(mode="json") for name, kind in kinds.items()}

    def config(self, config: ModelConfig) -> Architecture:
        """Return the config of the packed model.

        Raises RequestError as `quantize` does, and for a model with masks.
        """
        made = quantized(config, self.kind, self.embedding)
        if any(not kind.plain for kind in config.linears.values()):
            raise RequestError(
                "import: this model keeps pruned weights at zero; import it as it is, and quantize "
                "the result (flyweight quantize)"
            )
        return made

    def write(self, source: Source, out: Path, progress: Callable[[float], None]) -> None:
        """Write the packed model into a folder."""
        config = self.config(source.config)
        folder.write(config, packed_state(source, config, progress), out)


@torch.no_grad()
def packed_state(
    source: Source, config: Architecture, progress: Callable[[float], None]
) -> dict[str, Tensor]:
    """Return the state of a packed model, of which `config` is the config.

    Of the float model a few rows are held at once, or one matrix of a kind whose rows belong
    together. Raises FlyweightError for a weight that is not finite.
    """
    names = {f"{name}.weight": name for name in linear_names(config)}
    with torch.device("meta"):
        shapes = build(config).state_dict()
    sizes = [prod(part.header.shape) for part in source.parts]
    state: dict[str, Tensor] = {}
    for number, part in enumerate(source.parts):
        if part.table and part.ours[0] in names:
            name = names[part.ours[0]]
            state |= _packed_by_rows(source, part, name, kind_of(config, name), shapes)
        else:
            for ours, tensor in source.read(part).items():
                name = names.get(ours)
                if name is None:
                    state[ours] = tensor.clone()
                else:
                    state |= _packed(name, kind_of(config, name), tensor)
        progress(sum(sizes[: number + 1]) / sum(sizes))
    return state


def _packed(name: str, kind: LinearKind, weight: Tensor) -> dict[str, Tensor]:
    """Return the tensors of a layer that stands for a weight (out, in)."""
    try:
        layer = linear.from_dense(kind, weight.contiguous(), None)
    except FlyweightError as error:
        raise FlyweightError(f"import: {name}: {error}") from error
    return {f"{name}.{key}": value for key, value in layer.state_dict().items()}


def _packed_by_rows(
    source: Source, part: StoredPart, name: str, kind: LinearKind, shapes: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors of a layer, packed some rows at a time where its kind allows that."""
    rows, columns = part.header.shape
    apart = linear.KINDS[kind.kind].rows_apart
    step = rows if apart is None else max(1, AT_ONCE // columns // apart) * apart
    whole: dict[str, Tensor] = {}
    for start in range(0, rows, step):
        weight = source.read(part, start, min(start + step, rows))[part.ours[0]]
        pieces = _packed(name, kind, weight)
        if step >= rows:
            return pieces
        for key, piece in pieces.items():
            if key not in whole:
                whole[key] = torch.empty(shapes[key].shape, dtype=piece.dtype)
            _put(whole[key], piece, start, rows)
    return whole


def _put(whole: Tensor, piece: Tensor, start: int, rows: int) -> None:
    """Put the tensor of some rows of a layer, from row `start` on, where it is in that of `rows`.

    It goes along the one dimension in which the two differ.
    """
    along = next(dim for dim, size in enumerate(piece.shape) if size != whole.shape[dim])
    first = start * whole.shape[along] // rows
    whole.narrow(along, first, piece.shape[along]).copy_(piece)
