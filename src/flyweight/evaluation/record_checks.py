"""Whether a teacher with another tokenizer told of its student's text, and as much as is said."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from flyweight.data.told import LOG_PROBS
from flyweight.store.artifact import Artifact

TOLD = 1e-6
"""The share of positions that are told may differ so much from the reported one."""


def record_faults(student: Artifact, record: Artifact) -> Iterator[str]:
    """Yield what is wrong with a student's record of a teacher with another tokenizer.

    The positions that are told are counted again. Texts that are gone are left out.
    """
    root, own = student.path.parent, student.identity["parents"].get("corpus")
    parents = record.identity["parents"]
    if parents.get("corpus") != own:
        yield f"its record is of {parents.get('corpus')}, and it was trained on {own}"
    folders = {role: root / name for role, name in parents.items() if role.startswith("corpus")}
    read = {
        role: Artifact.glance(folder).identity["data"]
        for role, folder in folders.items()
        if (folder / "manifest.json").is_file()
    }
    if len(set(read.values())) > 1:
        yield f"its teacher read another text ({', '.join(sorted(read))} differ)"
    log_probs = np.load(record.path / "told" / LOG_PROBS, mmap_mode="r")
    share, reported = float(np.isfinite(log_probs[..., 0]).mean()), student.facts["aligned"]
    if abs(share - reported) > TOLD:
        yield f"its teacher told {share:.2%} of the positions, and {reported:.2%} are reported"
