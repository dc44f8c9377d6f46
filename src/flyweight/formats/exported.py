"""The outcome of an export."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Exported:
    """An exported model: `kind` is the family or architecture that it was written as.

    `notes` name what differs from what one may expect. `card` is the model's card, beside a file or
    inside of a folder.
    """

    path: Path
    kind: str
    bytes: int
    notes: tuple[str, ...] = ()
    card: Path | None = None

    def json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            **asdict(self),
            "path": str(self.path),
            "notes": list(self.notes),
            "card": self.card and str(self.card),
        }
