"""The shortest way in: a model, a tokenizer and a dropout that fit one's own text, time and machine."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flyweight.config.units import parse_time
from flyweight.core.machine import usable_cores
from flyweight.core.runtime import Runtime
from flyweight.data.document import Document
from flyweight.data.sources import resolve

RATE_PER_CORE = 2.2e10
"""Training FLOPs per second and core that small decoders reach on common processors. A fixed number on purpose: the suggestion
must be the same each time, or running again would train another model."""

RATE_ON_GPU = 2e13
TOKENS_PER_PARAMETER = 20
"""Compute-optimal training (Hoffmann et al. 2022)."""

SHAPES = ((4, 96), (4, 128), (4, 192), (6, 256), (6, 384), (8, 512), (12, 768))
BYTES_PER_TOKEN = {256: 1.0, 512: 1.9, 1024: 2.4, 2048: 2.9, 4096: 3.4}


def suggest(raw: Mapping[str, Any], runtime: Runtime, data_dir: Path | None) -> dict[str, Any]:
    """Return the raw recipe with what its user left open: `data.tokenizer`, `model.layers`, `model.dim` and `model.dropout`.

    The model is the largest whose compute-optimal number of tokens fits the time, the vocabulary grows with the text, and
    dropout with the number of times the text will be seen.
    """
    raw = copy.deepcopy(dict(raw))
    data, model = raw["data"], raw.setdefault("model", {})
    source = resolve(data["corpus"], data_dir)
    size = sum(len(part.text.encode()) for part in source.documents("train") if isinstance(part, Document))
    if "tokenizer" not in data and source.about.tokenizer.kind == "bpe":
        data["tokenizer"] = {
            "kind": "bpe",
            "vocab": next(v for v in (512, 1024, 2048, 4096) if size < 1.5e6 * v / 512 or v == 4096),
        }
    chosen = data.get("tokenizer")
    entries = chosen.get("vocab") if isinstance(chosen, dict) else None
    per_token = BYTES_PER_TOKEN.get(entries or 256, 1.0)
    seconds = parse_time(raw.get("budget", {}).get("time", "10min")) * 0.85
    rate = RATE_PER_CORE * min(runtime.threads, usable_cores()) if runtime.device == "cpu" else RATE_ON_GPU
    flops = seconds * rate
    sizes = [(12 * layers * dim * dim + (entries or 128) * dim, layers, dim) for layers, dim in SHAPES]
    affordable = [each for each in sizes if 6 * TOKENS_PER_PARAMETER * each[0] ** 2 <= flops] or sizes[:1]
    parameters, layers, dim = affordable[-1]
    if not {"layers", "dim"} & set(model):
        model.update(layers=layers, dim=dim)
    epochs = flops / (6 * parameters) / max(1.0, 0.9 * size / per_token)
    model.setdefault("dropout", 0.0 if epochs < 3 else 0.1 if epochs < 12 else 0.2)
    return raw
