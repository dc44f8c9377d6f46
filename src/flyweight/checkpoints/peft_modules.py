"""Where adapters of peft's format stand beside ours: modules of a family, and names of tensors.

peft keeps an adapter as `adapter_config.json` and `adapter_model.safetensors`, with a tensor
`base_model.model.<module>.lora_A.weight` and its like for each module of transformers' model. Of a
prefix there is one tensor (length, 2 * layers * width): the keys of the first layer, its values,
the keys of the second, ...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flyweight.checkpoints.families import family_of
from flyweight.checkpoints.family import Family
from flyweight.config.schema import ModelConfig
from flyweight.spec.linears import linear_names

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
A, B = "lora_A.weight", "lora_B.weight"
MAGNITUDE = "lora_magnitude_vector"
IA3 = "ia3_l"
PROMPT = "prompt_embeddings"


@dataclass(frozen=True)
class Module:
    """A linear module of transformers' model: its name, and our layers that are stacked in it."""

    name: str
    layers: tuple[str, ...]


def base_family(config: ModelConfig) -> tuple[Family, list[Module]]:
    """Return the native family of a model without its adapters, and its modules of blocks.

    Matrices in fewer bits count as the dense ones that they stand for. Raises Inexpressible where
    no family holds such a model.
    """
    plain = config.model_copy(update={"adapters": (), "linears": {}})
    family, _ = family_of(plain)
    known = {name for name in linear_names(plain) if name.startswith("blocks.")}
    modules = []
    for part in family.parts(plain):
        layers = tuple(name.removesuffix(".weight") for name in part.ours)
        if known.issuperset(layers):
            modules.append(Module(part.theirs.removesuffix(".weight"), layers))
    return family, modules


def shortened(chosen: Sequence[str], every: Sequence[str]) -> list[str]:
    """Return names of modules, as an end that all blocks have where all of them are chosen."""
    found = list[str]()
    for name in chosen:
        end = _end(name)
        alike = [other for other in every if _end(other) == end]
        word = end if set(alike) <= set(chosen) else name
        if word not in found:
            found.append(word)
    return found


def _end(name: str) -> str:
    """Return what stands behind the number of a block."""
    parts = name.split(".")
    number = next(place for place, part in enumerate(parts) if part.isdigit())
    return ".".join(parts[number + 1 :])
