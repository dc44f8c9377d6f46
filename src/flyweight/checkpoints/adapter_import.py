"""Import an adapter of peft's onto a model of ours: the result is a model of its own."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from flyweight.checkpoints import load_any
from flyweight.checkpoints.convert import copy_tokenizer
from flyweight.checkpoints.fetch import Describe
from flyweight.checkpoints.peft_import import read_adapters, with_peft
from flyweight.checkpoints.peft_modules import CONFIG, WEIGHTS, base_family
from flyweight.config.schema import ModelConfig
from flyweight.core.events import Watcher, ignore
from flyweight.core.files import disk_errors, sha256
from flyweight.errors import RequestError
from flyweight.model import folder
from flyweight.model.decoder import Decoder
from flyweight.store.artifact import Artifact, Draft, Identity, Store

VERSION = 1

KEPT = ("corpus", "documents", "tokenizer")
"""Facts of the base that are those of the adapted model."""


def imported_adapter(
    adapter: Path,
    base: Artifact,
    store: Store,
    describe: Describe,
    watch: Watcher = ignore,
    command: str = "",
) -> Artifact:
    """Return the artifact of a model with the adapter in a folder of peft's around its layers.

    `base` is the model; its weights are copied, and its tokenizer. Raises RequestError where the
    adapter cannot become one of ours or was trained around another model, before anything is
    written.
    """
    source = base.path / "model"
    config = load_any.own_config(source, f"--onto {base.id}")
    if not isinstance(config, ModelConfig):
        raise RequestError(f"--onto {base.id}: adapters are around decoders; this is a baseline")
    watch("stage", {"name": str(adapter), "stage": "import"})
    read_adapters(adapter, config)
    sums = _fingerprint(adapter)
    identity = Identity(
        stage="import",
        version=VERSION,
        config={"adapter": "peft"},
        parents={"files": sums, "base": base.id},
    )

    def work(draft: Draft) -> dict[str, Any]:
        began = time.monotonic()
        model = load_any.decoder(source)
        assert isinstance(model, Decoder)
        adapted = with_peft(model, adapter)
        if _fingerprint(adapter) != sums:
            raise RequestError(f"{adapter}: its files changed while they were read; run this again")
        with disk_errors(draft.path):
            folder.save(adapted, draft.new_folder("model"))
            copy_tokenizer(source, draft.path / "model")
        family, _ = base_family(config)
        facts = {
            **{name: base.facts[name] for name in KEPT if name in base.facts},
            "source": str(adapter),
            "model_type": family.model_type,
            "adapter": None,
            "onto": base.id,
        }
        describe(draft, facts)
        return {**facts, "took": round(time.monotonic() - began, 3)}

    return store.obtain(identity, work, command, watch)[0]


def _fingerprint(adapter: Path) -> str:
    """Return a checksum of both files of an adapter."""
    parts = [sha256(adapter / name) for name in (CONFIG, WEIGHTS)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
