"""What a text is long enough for: a calibration, a recovery, or neither, which is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from flyweight.api import within_limit
from flyweight.api.within_limit import _calibration, _Text
from flyweight.config.decoder import ModelConfig
from flyweight.config.schema import Data
from flyweight.store.artifact import Artifact

CONFIG = ModelConfig.model_validate(
    {"dim": 32, "layers": 1, "vocab_size": 64, "context": 32, "attention": {"heads": 2}}
).resolved()
READ = Data.model_validate({"corpus": "text.txt", "tokenizer": "byte", "context": 32})


@pytest.mark.parametrize(("held", "tokens"), [(40, None), (100, 50), (10_000_000, 65_536)])
def test_gptq_reads_at_most_half_of_a_text_or_is_left_out(
    held: int, tokens: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(within_limit, "_tokens", lambda packed, split: held)
    text = _Text(None, READ, Artifact(Path("corpus-00000000"), {}))
    left_out: list[str] = []
    found = _calibration(text, CONFIG, left_out)
    assert (None if found is None else found.tokens) == tokens
    assert bool(left_out) == (tokens is None)
