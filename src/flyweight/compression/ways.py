"""The ways to a smaller model as stages of a recipe, cheap and plain ones first.

Their bytes follow from the config alone. So a limit of bytes chooses what is worth trying before
anything is made.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flyweight.compression.prune import pruned_config
from flyweight.compression.quantize import quantized
from flyweight.compression.structured import shrunk_config
from flyweight.config.adapters import Full
from flyweight.config.compression import Calibration, Quantize
from flyweight.config.decoder import ModelConfig
from flyweight.config.linear_kinds import (
    NF4,
    Int3,
    Int4,
    Int8,
    Int8Dynamic,
    LinearKind,
)
from flyweight.config.pruning import Pack, Prune
from flyweight.config.schema import Architecture, Data, Distill, Finetune, StageConfig, Train
from flyweight.config.sparse_kinds import Masked, Sparse
from flyweight.errors import RequestError
from flyweight.spec import flops
from flyweight.spec.linears import block_names

KINDS: tuple[tuple[LinearKind, LinearKind], ...] = (
    (Int8(), Int8()),
    (Int8Dynamic(), Int8()),
    (NF4(), Int8()),
    (Int4(), Int8()),
    (Int4(), Int4()),
    (Int3(), Int8()),
    (Int3(), Int4()),
)
"""Kinds of the blocks' matrices and of the tables, from many bytes to few.

Names of ways say `tables4` where tables have 4 bits; otherwise they have 8.
"""

LEFT = (0.9, 0.75, 0.6, 0.45, 0.3)
"""Shares of heads and channels that stay where parts are removed."""

ZEROS = (0.8, 0.9)
"""Sparsities that are packed: with fewer zeros int8 is smaller and better."""

EIGHT_BITS = ("int8", "int8_dynamic")
"""Kinds that lose so little that GPTQ does not help (docs/compression.md)."""


@dataclass(frozen=True)
class Recovery:
    """How a model is trained further: on which text, and for how long.

    `train` is for what is another model afterwards, `taught` for what only learns to be rounded.
    """

    data: Data
    train: Train
    taught: Train


@dataclass(frozen=True)
class Way:
    """One way: its stages by name, the last of which makes the smaller model.

    `form` is how it is stored in the end. Of one form `left` is the share that was not pruned.
    `bytes` are those of the weights. `config` is None where zeros decide it.
    """

    form: str
    left: float
    stages: Mapping[str, StageConfig]
    bytes: int
    config: Architecture | None = None
    plain: bool = False

    @property
    def fewer_parts(self) -> bool:
        """Whether heads or channels are removed."""
        return self.config is not None and self.left < 1

    @property
    def name(self) -> str:
        """The name of the last stage."""
        return list(self.stages)[-1]


def ways(
    source: ModelConfig,
    reference: str,
    calibration: Calibration | None = None,
    recovery: Recovery | None = None,
) -> list[Way]:
    """Return every way for a model, in the order in which they are tried.

    `reference` names the model. Without a `calibration` text nothing is rounded by GPTQ, and parts
    and weights are chosen by their size. Without a `recovery` nothing is trained.
    """
    plain = [_quantized(source, reference, *kinds) for kinds in KINDS]
    found = list(plain)
    if calibration is not None:
        rounded = (way for way in plain if not way.form.startswith(EIGHT_BITS))
        found += [_by_gptq(way, calibration) for way in rounded]
    if recovery is not None:
        found += _trained_longer(source, reference, calibration, recovery)
    for left in LEFT:
        found += _with_fewer_parts(source, reference, left, calibration, recovery)
    found += [_packed(source, reference, zeros, calibration, recovery) for zeros in ZEROS]
    return found


def _quantized(
    source: ModelConfig, reference: str, kind: LinearKind, tables: LinearKind, prefix: str = ""
) -> Way:
    """Return quantization to nearest, of a model or of what stands before it in a way."""
    form = kind.kind if isinstance(tables, Int8) else f"{kind.kind}-tables4"
    stage = Quantize(stage="quantize", input=reference, kind=kind, embedding=tables)
    config = quantized(source, kind, tables)
    stages = {f"{prefix}{form}": stage}
    return Way(form, 1.0, stages, flops.weight_bytes(config), config, plain=not prefix)


def _by_gptq(way: Way, calibration: Calibration) -> Way:
    """Return a way whose last stage rounds by GPTQ."""
    *before, (name, last) = way.stages.items()
    update: dict[str, Any] = {"rounding": "gptq", "calibration": calibration}
    stages = {**dict(before), f"{name}-gptq": last.model_copy(update=update)}
    return replace(way, form=f"{way.form}-gptq", stages=stages, plain=False)


def mixed(
    source: ModelConfig,
    reference: str,
    kinds: Mapping[str, LinearKind],
    calibration: Calibration,
    recovery: Recovery | None,
) -> list[Way]:
    """Return the ways with kinds that differ from matrix to matrix, rounded by GPTQ.

    `kinds` are those of all matrices by their names. With a `recovery` the model is trained longer
    in one of the ways. In another it learns from itself as it was, with rounded matrices.
    """
    first, tables = kinds[block_names(source)[0]], kinds["embedding.tokens"]
    usual = {name: tables if name.startswith(("embedding", "head")) else first for name in kinds}
    layers = {name: kind for name, kind in kinds.items() if kind != usual[name]}
    fields: dict[str, Any] = {"rounding": "gptq", "calibration": calibration}
    fields |= {"kind": first, "embedding": tables, "layers": layers}
    config = quantized(source, first, tables, layers)
    size = flops.weight_bytes(config)

    def rounded(name: str) -> Quantize:
        return Quantize(stage="quantize", input=name, **fields)

    found = [Way("mixed", 1.0, {"mixed": rounded(reference)}, size, config)]
    if recovery is None:
        return found
    stages = {"back": _training(reference, recovery), "back-mixed": rounded("back")}
    found.append(Way("back-mixed", 1.0, stages, size, config))
    blocks = {name: kind for name, kind in layers.items() if name in block_names(source)}
    taught = Distill(
        stage="distill",
        input=reference,
        teacher=reference,
        data=recovery.data,
        train=recovery.taught,
        round=first,
        round_layers=blocks,
    )
    nearest = Quantize(
        stage="quantize", input="taught", kind=first, embedding=tables, layers=layers
    )
    stages = {"taught": taught, "taught-mixed": nearest}
    found.append(Way("taught-mixed", 1.0, stages, size, config))
    return found


def _trained_longer(
    source: ModelConfig, reference: str, calibration: Calibration | None, recovery: Recovery
) -> Iterator[Way]:
    """Yield the ways that train the whole model as long as a pruned one, and quantize it.

    Without these, a removal of parts would get the credit for its training.
    """
    back = _training(reference, recovery)
    for kinds in KINDS:
        way = _quantized(source, "back", *kinds, "back-")
        way = replace(way, form=f"back-{way.form}", stages={"back": back, **way.stages})
        yield way if kinds[0].kind in EIGHT_BITS else _rounded(way, calibration)


def _rounded(way: Way, calibration: Calibration | None) -> Way:
    """Return a way rounded by GPTQ, where there is a text for it."""
    return way if calibration is None else _by_gptq(way, calibration)


def _with_fewer_parts(
    source: ModelConfig,
    reference: str,
    left: float,
    calibration: Calibration | None,
    recovery: Recovery | None,
) -> Iterator[Way]:
    """Yield the ways with fewer heads and channels: as they are, and quantized."""
    fields = _parts(source, left)
    if not fields:
        return
    if calibration is not None:
        fields |= {"score": "taylor", "calibration": calibration}
    prune = Prune(stage="prune", input=reference, method="structured", **fields)
    try:
        small = shrunk_config(source, prune)
    except RequestError:  # its layers differ, or it is a mixture: no parts can be removed
        return
    name = f"parts{100 * left:.0f}"
    stages = _recovered({name: prune}, recovery)
    smaller = next(reversed(stages))
    yield Way("dense", left, stages, flops.weight_bytes(small), small)
    for kind, tables in KINDS:
        way = _quantized(small, smaller, kind, tables, f"{smaller}-")
        way = replace(way, left=left, stages={**stages, **way.stages})
        yield way if kind.kind in EIGHT_BITS else _rounded(way, calibration)


def _parts(source: ModelConfig, left: float) -> dict[str, Any]:
    """Return the heads and channels that stay, where they are fewer: at least one of each."""
    attention = source.attention
    heads, groups = attention.heads or 1, attention.kv_heads or attention.heads or 1
    kept = max(1, round(left * groups)) * (heads // groups)
    width = source.mlp.width(source.dim)
    hidden = max(8, 8 * round(left * width / 8))
    found = {"heads": (kept, heads), "hidden": (hidden, width)}
    return {name: few for name, (few, whole) in found.items() if few < whole}


def _packed(
    source: ModelConfig,
    reference: str,
    zeros: float,
    calibration: Calibration | None,
    recovery: Recovery | None,
) -> Way:
    """Return the way that makes weights zero and stores the others."""
    fields: dict[str, Any] = {"method": "magnitude"}
    if calibration is not None:
        fields = {"method": "sparsegpt", "calibration": calibration}
    prune = Prune(stage="prune", input=reference, sparsity=zeros, **fields)
    stages = _recovered({f"zeros{100 * zeros:.0f}": prune}, recovery)
    last = next(reversed(stages))
    stages |= {f"{last}-packed": Pack(stage="pack", input=last)}
    masked = pruned_config(source, prune)
    none = masked.model_copy(
        update={
            "linears": {
                name: Sparse(nonzero=0) if isinstance(kind, Masked) else kind
                for name, kind in masked.linears.items()
            }
        }
    )
    whole, least = flops.weight_bytes(masked), flops.weight_bytes(none)
    return Way("packed", 1 - zeros, stages, least + math.ceil((1 - zeros) * (whole - least)))


def _recovered(stages: dict[str, StageConfig], recovery: Recovery | None) -> dict[str, StageConfig]:
    """Return stages and, where there is a recovery, the training that follows them."""
    if recovery is None:
        return stages
    last = next(reversed(stages))
    return {**stages, f"{last}-back": _training(last, recovery)}


def _training(name: str, recovery: Recovery) -> Finetune:
    return Finetune(
        stage="finetune", input=name, method=Full(), data=recovery.data, train=recovery.train
    )


def steps(way: Way) -> tuple[str, ...]:
    """Return what each stage of a way does, in words."""
    return tuple(_words(stage) for stage in way.stages.values())


def _words(stage: StageConfig) -> str:
    if isinstance(stage, Quantize):
        blocks, tables = stage.kind.label, stage.embedding.label
        if stage.layers:
            kinds = Counter(kind.label for kind in stage.layers.values())
            blocks += "".join(f", {count} matrices to {kind}" for kind, count in kinds.items())
        return f"quantize to {blocks} (tables {tables}, rounding {stage.rounding})"
    if isinstance(stage, Finetune):
        return f"train {stage.train.tokens:,} tokens further"
    if isinstance(stage, Distill):
        return (
            f"learn from the whole model, with rounded matrices, on {stage.train.tokens:,} tokens"
        )
    if isinstance(stage, Prune) and stage.method == "structured":
        parts = {"heads": stage.heads, "channels": stage.hidden}
        kept = " and ".join(f"{count} {name}" for name, count in parts.items() if count)
        return f"keep {kept} of each layer"
    if isinstance(stage, Prune):
        return f"make {stage.share:.0%} of the blocks' weights zero ({stage.method})"
    return "store no zeros"


def first_fits(found: Sequence[Way], fits: Callable[[Way], bool]) -> list[Way]:
    """Return of each form the way that removes least and fits, in the order of the ways.

    To remove more than a form needs would only cost quality.
    """
    taken: dict[str, Way] = {}
    order = sorted(found, key=lambda way: -way.left)  # keeps the order of equal ones
    for way in order:
        if way.form not in taken and fits(way):
            taken[way.form] = way
    return [way for way in found if taken.get(way.form) is way]
