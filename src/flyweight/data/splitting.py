"""Choose the documents that are held out, by a hash of their names.

A document keeps its split when others join the corpus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from flyweight.data.document import SPLITS, HeldOut, SplitName


def split_of(key: str, held_out: HeldOut) -> SplitName:
    """Return the split of the document with this name."""
    position = (
        int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:8], "big")
        / 2**64
    )
    if position < held_out.test:
        return "test"
    return "validation" if position < held_out.test + held_out.validation else "train"


def split_whole(sizes: Mapping[str, int], held_out: HeldOut) -> dict[str, SplitName] | None:
    """Return every document's split by hash.

    None where that leaves a held-out split under half its share of the bytes, or a split empty.
    """
    assigned: dict[str, SplitName] = {name: split_of(name, held_out) for name in sizes}
    total: dict[SplitName, int] = dict.fromkeys(SPLITS, 0)
    for name, split in assigned.items():
        total[split] += sizes[name]
    everything = sum(sizes.values())
    fair = (
        total["train"] > 0
        and total["validation"] >= held_out.validation * everything / 2
        and total["test"] >= held_out.test * everything / 2
    )
    return assigned if fair and min(total.values()) > 0 else None
