"""The shortest way in: a model, a tokenizer and a dropout that fit one's own text, time and machine."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flyweight.config import load, schema
from flyweight.config.baselines import DECODER, kind_of_model
from flyweight.core.machine import usable_cores
from flyweight.core.runtime import Runtime
from flyweight.data.document import Document
from flyweight.data.sources import source_of

RATE_PER_CORE = 2.2e10
"""Training FLOPs per second and core that small decoders reach on common processors. A fixed number on purpose: the suggestion
must be the same each time, or running again would train another model."""

RATE_ON_GPU = 2e13
TOKENS_PER_PARAMETER = 20
"""Compute-optimal training (Hoffmann et al. 2022)."""

SHAPES = ((4, 96), (4, 128), (4, 192), (6, 256), (6, 384), (8, 512), (12, 768))
DEFAULT_SECONDS = 600.0
"""The time that is reckoned with where the budget names none."""
BYTES_PER_TOKEN = {256: 1.0, 512: 1.9, 1024: 2.4, 2048: 2.9, 4096: 3.4}


def suggest(raw: Mapping[str, Any], runtime: Runtime, data_dir: Path | None) -> dict[str, Any]:
    """Return the raw recipe with what its user left open: `data.tokenizer`, `model.layers`, `model.dim` and `model.dropout`.

    The model is the largest whose compute-optimal number of tokens fits the time, the vocabulary grows with the text, and
    dropout with the number of times the text will be seen. Raises RequestError with every fault of the recipe.
    """
    raw = copy.deepcopy(dict(raw))
    own = raw.setdefault("model", {})
    unshaped = isinstance(own, dict) and kind_of_model(own) == DECODER and not {"layers", "dim"} & set(own)
    # The largest shape stands for the one to come while the recipe is checked: what suits a smaller one suits it as well.
    checked = load.recipe({**raw, "model": {**own, **_shape(*SHAPES[-1])}} if unshaped else raw, "train")
    trained = (stage for stage in checked.stages.values() if isinstance(stage, schema.Pretrain | schema.Distill))
    if (stage := next(trained, None)) is None:
        return raw
    source = source_of(stage.data, data_dir)
    size = sum(len(part.text.encode()) for part in source.documents("train") if isinstance(part, Document))
    tokenizer = stage.data.tokenizer
    if "tokenizer" not in stage.data.model_fields_set and source.about.tokenizer.kind == "bpe":
        vocab = next(v for v in (512, 1024, 2048, 4096) if size < 1.5e6 * v / 512 or v == 4096)
        tokenizer = schema.BpeTokenizer(vocab=vocab)
        raw["data"] = load.merge(raw.get("data"), {"tokenizer": {"kind": "bpe", "vocab": vocab}})
    if not isinstance(stage.model, schema.ModelConfig):
        return raw
    entries: int | None = getattr(tokenizer, "vocab", None)
    seconds = (checked.budget.time or DEFAULT_SECONDS) * 0.85
    rate = RATE_PER_CORE * min(runtime.threads, usable_cores()) if runtime.device == "cpu" else RATE_ON_GPU
    flops = seconds * rate
    sizes = [(12 * layers * dim * dim + (entries or 128) * dim, layers, dim) for layers, dim in SHAPES]
    affordable = [each for each in sizes if 6 * TOKENS_PER_PARAMETER * each[0] ** 2 <= flops] or sizes[:1]
    parameters, layers, dim = affordable[-1]
    epochs = flops / (6 * parameters) / max(1.0, 0.9 * size / BYTES_PER_TOKEN.get(entries or 256, 1.0))
    dropout = (
        {} if "dropout" in stage.model.model_fields_set else {"dropout": 0.0 if epochs < 3 else 0.1 if epochs < 12 else 0.2}
    )
    raw["model"] = load.merge(own, {**(_shape(layers, dim) if unshaped else {}), **dropout})
    return raw


def _shape(layers: int, dim: int) -> dict[str, int]:
    return {"layers": layers, "dim": dim}
