from __future__ import annotations

from pathlib import Path

import pytest

from flyweight.core.files import reason


def test_the_system_refuses_in_words(tmp_path: Path):
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "gone").read_text()
    assert reason(caught.value) == "No such file or directory"
    assert reason(ValueError("not a number")) == "not a number"
    assert reason(EOFError()) == "EOFError"
