from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest


def _prose(lines: int, seed: int = 0) -> str:
    drawn = random.Random(seed)
    words = ["".join(drawn.choices("etaoinshrdlu", k=drawn.randint(1, 8))) for _ in range(300)]
    return "".join(
        " ".join(drawn.choices(words, k=drawn.randint(3, 12))) + "\n" for _ in range(lines)
    )


@pytest.fixture(scope="session")
def prose() -> Callable[..., str]:
    """Lines of made-up words, the same for the same seed."""
    return _prose


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "story.txt"
    path.write_text(_prose(800), encoding="utf-8")
    return path
