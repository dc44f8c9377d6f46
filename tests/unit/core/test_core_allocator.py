import subprocess
import sys

import pytest

KEPT = """
import torch
from flyweight.core import allocator
from flyweight.core.machine import resident_bytes
if {tight}:
    assert allocator.give_back_at_once()
blocks = [torch.ones(2_000_000) for _ in range(8)]  # 8 MB each
del blocks[0]  # glibc learns from the first that blocks of 8 MB come and go
blocks += [torch.ones(2_000_000) for _ in range(4)]
last = torch.ones(200_000)
before = resident_bytes()
del blocks
print(before - resident_bytes())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone")
def test_free_blocks_go_back_to_the_system():
    given = {}
    for tight in (False, True):
        code = KEPT.format(tight=tight)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        given[tight] = int(done.stdout)
    assert given[True] > 80e6
    assert given[False] < given[True]
