"""The script that wants a GPU names files that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_every_path_of_the_script_is_there():
    script = (ROOT / "benchmarks" / "gpu.sh").read_text(encoding="utf-8")
    paths = re.findall(r"(?:tests|benchmarks)/[\w./-]+", script)
    assert len(paths) > 3
    assert [path for path in paths if not (ROOT / path).exists()] == []
