"""Export a model's adapters as a folder that peft loads."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from flyweight.checkpoints import load_any
from flyweight.checkpoints.peft_export import peft_adapter
from flyweight.checkpoints.peft_modules import CONFIG, WEIGHTS
from flyweight.core.files import appearing, disk_errors, write_text
from flyweight.errors import RequestError
from flyweight.formats.exported import Exported
from flyweight.formats.hf import Card
from flyweight.model import folder
from flyweight.model.decoder import Decoder


def write(source: Path, out: Path, card: Card, base: str | None = None) -> Exported:
    """Write the adapters of the model folder `source` as the new folder `out`.

    `base` is the name of the model that they are around, where it has one on the hub. The folder
    appears whole or not at all. What `card` returns becomes its README.md. Raises RequestError for
    adapters that peft's format does not have, and for a model that no family of transformers holds.
    """
    load_any.decoder_config(source, "an adapter of peft's")
    model = folder.load(source)
    if not isinstance(model, Decoder):
        raise RequestError(f"{source}: only decoders have adapters")
    adapter = peft_adapter(model, base)
    notes = list(adapter.notes)
    if base is None:
        notes.append(
            "its config names no base: give peft the folder that `flyweight export` writes of the "
            "model before its fine-tuning"
        )
    with appearing(out) as partial:
        with disk_errors(out):
            partial.mkdir()
            tensors = {name: tensor.contiguous() for name, tensor in adapter.tensors.items()}
            save_file(tensors, partial / WEIGHTS, metadata={"format": "pt"})
        write_text(partial / CONFIG, json.dumps(adapter.config, indent=2) + "\n")
        write_text(partial / "README.md", card("peft", notes))
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    return Exported(out, "peft", size, tuple(notes))
