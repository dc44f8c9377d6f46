"""Memory of a loaded model in every kind, beside the bytes planned for its weights.

    python benchmarks/bench_resident.py

A fresh process loads a model of 110 million parameters with random weights, tables of the same
kind as the blocks.
"""

from __future__ import annotations

import json
import sys
import tempfile
from typing import Any

from bench_quantize import KINDS
from rows import Rows, worker


def resident(job: dict[str, Any]) -> dict[str, Any]:
    """Return the bytes that a process gained by loading a model, and those planned for its weights.

    Every page is read once: a mapped page counts from then on. A tiny model is loaded first, so
    that what libraries load at first use is not the model's.
    """
    import psutil

    from flyweight.config.schema import ModelConfig
    from flyweight.model import folder
    from flyweight.model.decoder import Decoder
    from flyweight.spec.flops import weight_bytes

    with tempfile.TemporaryDirectory() as scratch:
        folder.save(Decoder(ModelConfig(vocab_size=8, context=8, dim=8, layers=1)), scratch)
        folder.load(scratch)
    process = psutil.Process()
    before = process.memory_info().rss
    model = folder.load(job["model"])
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.detach().flatten()[:: 4096 // tensor.element_size()].sum()
    gained = process.memory_info().rss - before
    return {"gained": gained, "planned": weight_bytes(model.config, 4)}


def _resident(kind: Any) -> dict[str, float]:
    """Return the resident and the planned bytes of a model with random weights, tables of the kind."""
    from flyweight.compression.quantize import quantize
    from flyweight.config.linear_kinds import read_kind
    from flyweight.config.schema import ModelConfig
    from flyweight.model import folder
    from flyweight.model.decoder import Decoder

    shape = {"vocab_size": 32_768, "context": 256, "dim": 768, "layers": 12}
    model = Decoder(ModelConfig.model_validate({**shape, "attention": {"heads": 12}}))
    chosen = read_kind({"kind": kind} if isinstance(kind, str) else kind)
    if not chosen.plain:
        model = quantize(model, chosen, chosen)
    with tempfile.TemporaryDirectory() as scratch:
        folder.save(model, scratch)
        found = worker(__file__, {"model": scratch})
    return {"resident": found["gained"], "planned": found["planned"]}


def main() -> None:
    """Measure and write the rows, or one measurement in a process of its own."""
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(resident(json.loads(sys.argv[2]))))
        return
    rows = Rows("resident")
    for kind in ("dense", *KINDS.values()):
        name = kind if isinstance(kind, str) else kind["kind"]
        for metric, value in _resident(kind).items():
            rows.add(name, "12 x 768, 32,768 tokens", metric, 0, value, "bytes")
    print(rows.write())


if __name__ == "__main__":
    main()
