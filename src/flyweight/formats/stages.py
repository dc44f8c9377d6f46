"""The stage that verifies exports."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from flyweight.checkpoints import load_any
from flyweight.config.verification import Verify
from flyweight.core.files import digest, sha256, write_json
from flyweight.data.corpus import Corpus
from flyweight.errors import FlyweightError, RequestError
from flyweight.formats.readings import Source
from flyweight.formats.verify import Request, verify, verify_all
from flyweight.records.verification import Verification
from flyweight.store.artifact import Artifact, Draft
from flyweight.store.stage import Context, Inputs, Stage

MADE_FROM_ANOTHER = ("quantize", "merge", "pack")
"""Stages whose model has to be the one before it, but for what they lose."""
TEXT = 4_096
"""Tokens of text that two tokenizers cut."""


class VerifyStage(Stage[Verify]):
    """Exports of a model, compared with it."""

    version = 1

    def data_fingerprint(self, config: Verify, data_dir: Path | None) -> str | None:
        """Return the checksum of the export's files, as they are now."""
        if config.export is None:
            return None
        return export_fingerprint(Path(config.export))

    def run(self, config: Verify, inputs: Inputs, context: Context, draft: Draft) -> dict[str, Any]:
        """Compare, and write the verification; an export that differs is a result, not an error."""
        model, corpus = inputs.model("input"), Corpus.open(inputs.text(), verify=False)
        split = corpus.split("validation")
        tokens = np.asarray(split.tokens[: config.tokens + 1]).astype(np.int64)
        text = corpus.tokenizer.decode(tokens[:TEXT].tolist(), True)
        shape = load_any.config(model)
        source = Source(model, text, load_any.window(shape))
        rows = min(shape.vocab_size or 0, corpus.meta.vocab_size)

        def progress(what: str, done: float) -> None:
            draft.events.watch("scoring", {"what": what, "done": done})

        request = Request(source, tokens, rows, config.within, progress)
        if config.export is not None:
            result = Verification.of(verify(request, Path(config.export)))
        else:
            before = _before(inputs.artifacts["input"], context)
            place, name = (None, "") if before is None else (before.path / "model", before.id)
            result = verify_all(request, place, name)
        write_json(draft.path / "metrics.json", result.to_metrics())
        return {"passed": result.passed}


def _before(artifact: Artifact, context: Context) -> Artifact | None:
    """Return the model that this one was quantized or merged from, where it is still there."""
    parent = artifact.identity["parents"].get("input")
    if artifact.stage not in MADE_FROM_ANOTHER or parent is None:
        return None
    try:
        return Artifact.open(context.store.root / parent)
    except FlyweightError:
        return None


def export_fingerprint(export: Path) -> str:
    """Return the checksum of an export's files; raise RequestError where there are none."""
    files = sorted(Path(folder) / name for folder, _, names in os.walk(export) for name in names)
    if export.is_file():
        files = [export]
    if not files:
        raise RequestError(f"{export}: there is no export; name a folder or a GGUF file")
    return digest({str(file.relative_to(export.parent)): sha256(file) for file in files})


STAGES: dict[str, Stage[Any]] = {"verify": VerifyStage()}
