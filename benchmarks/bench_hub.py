"""Checkpoints in and out: the worst logit error per family and shape, round trips, and the sizes of native and shared exports.

    python benchmarks/bench_hub.py

Random weights in the real layouts, made by transformers; errors are in float32 relative to the
largest logit.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from rows import ROOT, Rows

from flyweight.checkpoints import convert, read
from flyweight.checkpoints.families import family_of
from flyweight.config.schema import ModelConfig
from flyweight.formats import hf
from flyweight.model import folder
from flyweight.model.decoder import Decoder

sys.path.insert(0, str(ROOT / "tests"))
import hub_fixture

SHAPE = {"vocab_size": 4096, "context": 256, "dim": 256, "attention": {"heads": 4}}
EXPORTS = {
    "8 layers": {"layers": 8},
    "4 layers, each twice": {"layers": 4, "sharing": "repeat"},
    "1 layer, 8 times": {"layers": 1, "sharing": {"kind": "repeat", "times": 8}},
}


def main() -> None:
    rows = Rows("hub")
    with tempfile.TemporaryDirectory() as place:
        for name in hub_fixture.CHECKPOINTS:
            here = Path(place) / name
            theirs = hub_fixture.save(name, here / "hf", shard="20KB")
            config, state = convert.decoder(read.read(here / "hf"))
            folder.write(config, state, here / "ours")
            model = folder.load(here / "ours").eval()
            tokens = torch.randint(
                hub_fixture.VOCAB, (4, 32), generator=torch.Generator().manual_seed(1)
            )
            with torch.no_grad():
                expected, found = theirs(tokens).logits, model(tokens)
            error = ((found - expected).abs().max() / expected.abs().max()).item()
            rows.add("import", name, "relative logit error", 0, error, "")
            convert.write(
                *convert.checkpoint_files(config, state, family_of(config)[0]), here / "again"
            )
            before, after = (dict(read.read(here / part).tensors()) for part in ("hf", "again"))
            changed = sum(
                key not in after or not torch.equal(tensor, after[key])
                for key, tensor in before.items()
            )
            rows.add(
                "round trip",
                name,
                "tensors changed",
                0,
                changed + len(after.keys() - before.keys()),
                "tensors",
            )
        for name, fields in EXPORTS.items():
            here = Path(place) / name
            folder.save(
                Decoder(ModelConfig.model_validate({**SHAPE, **fields}).resolved()), here / "ours"
            )
            done = hf.write(here / "ours", here / "hf", lambda kind, notes: "")
            rows.add(f"export as {done.kind}", name, "folder", 0, done.bytes, "bytes")
    print(rows.write())


if __name__ == "__main__":
    main()
