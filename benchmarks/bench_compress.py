"""What `compress` gives at a quarter of the bfloat16 file, against the model and every single way.

    python benchmarks/bench_compress.py [--runs DIR] [--only base stories260k]

Two models: the one of benchmarks/wikitext2-base.yaml, which is trained where the runs root has it
not, and the published stories260k, from FLYWEIGHT_DATA, on a sample of TinyStories. Validation text
chooses. All figures are of the test split but for those `on validation`: the tries, of which
`front` is 1 where no other beats one. A single way is one stage, such as rounding by GPTQ; none is
left out that is within the limit. `trained on` is the control: the model after the same tokens as
the recovery, in float32. Differences are paired, with their 95 % intervals.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from rows import ROOT, Rows

import flyweight as fw
from flyweight.api import Compressed, Session
from flyweight.checkpoints import load_any
from flyweight.config.compression import Quantize
from flyweight.records.compression import Tried
from flyweight.records.difference import Difference
from flyweight.records.metric import Metric
from flyweight.spec.flops import weight_bytes
from flyweight.store.artifact import Artifact

CHOSEN, TRAINED = "compress", "trained on"


def models(session: Session) -> dict[str, tuple[Artifact, dict[str, Any]]]:
    """Return both models, made or imported, and the text that each is measured on."""
    base = fw.run(ROOT / "benchmarks" / "wikitext2-base.yaml", session=session)["base"]
    data = Path(os.environ["FLYWEIGHT_DATA"])
    stories = fw.import_(data / "stories260k", session=session)
    sample = data / "tinystories" / "train-sample-2MiB.txt"
    text = {"data": str(sample), "separator": "<|endoftext|>"}
    return {"base": (base, {}), "stories260k": (stories, text)}


def measure(
    rows: Rows, name: str, model: Artifact, text: dict[str, Any], session: Session
) -> Compressed:
    """Compress a model to a quarter of its bfloat16 file and add the rows."""
    limit = weight_bytes(load_any.own_config(model.path / "model", name)) // 8  # of float32
    found = fw.compress(model, bytes=limit, **text, session=session)
    record, setting = found.record, f"{name}, {limit:,} bytes"
    for one in record.tried:
        _interval(rows, one.name, setting, "bits per byte on validation", one.bits_per_byte)
        rows.add(one.name, setting, "bytes", 0, one.bytes, "bytes")
        rows.add(one.name, setting, "front", 0, float(one.name in record.front), "")
        rows.add(one.name, setting, "made in", 0, one.seconds, "s")
    rows.add(CHOSEN, setting, "all tries", 0, record.seconds, "s")
    rows.add(CHOSEN, setting, "tokens of all trainings", 0, record.tokens, "tokens")
    within = [one for one in record.tried if one.bytes <= limit]
    compared = {"model": model, CHOSEN: found.model}
    compared |= {one.name: found.run[one.name] for one in within if _single(found, one)}
    if "back" in found.run:
        compared[TRAINED] = found.run["back"]
    for who, each in compared.items():
        bits = fw.evaluate(each, **text, session=session).bits_per_byte
        _interval(rows, who, setting, "bits per byte", bits)
    for against in ("model", CHOSEN):
        _compared(rows, setting, compared, against, text, session)
    return found


def _single(found: Compressed, one: Tried) -> bool:
    """Return whether a try is one stage with one kind for all blocks."""
    stage = found.run.finished.recipe.stages[one.name]
    return len(one.steps) == 1 and not (isinstance(stage, Quantize) and stage.layers)


def _compared(
    rows: Rows,
    setting: str,
    models: dict[str, Artifact],
    against: str,
    text: dict[str, Any],
    session: Session,
) -> None:
    """Add what each model has more than one of them on the test split."""
    names = {artifact.id: name for name, artifact in models.items()}
    for row in fw.compare(*models.values(), against=models[against], **text, session=session):
        if row.paired is not None:
            more = row.paired.decisive
            _interval(rows, names[row.name], setting, f"more than {against}", more)


def _interval(rows: Rows, who: str, setting: str, metric: str, found: Metric | Difference) -> None:
    for suffix, value in (("", found.value), (" low", found.low), (" high", found.high)):
        assert value is not None
        rows.add(who, setting, f"{metric}{suffix}", 0, value, "bits per byte")


def main() -> None:
    """Compress both models and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--only", nargs="*", default=["base", "stories260k"])
    options = parser.parse_args()
    session = Session(runs=options.runs, threads=1)
    rows = Rows("compress")
    for name, (model, text) in models(session).items():
        if name in options.only:
            measure(rows, name, model, text, session)
    print(rows.write())


if __name__ == "__main__":
    main()
