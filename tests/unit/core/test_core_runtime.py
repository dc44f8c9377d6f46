import ctypes
import resource
import subprocess
import sys

import pytest

from flyweight.core.runtime import Runtime, keep_freed_memory

STEPS = """
import resource, sys, torch
from flyweight.core.runtime import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def step():
    kept = [torch.empty(2**21).fill_(1.0) for _ in range(4)]  # four times 8 MB
step(); step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc")
def test_memory_that_every_step_needs_is_not_asked_of_the_system_anew() -> None:
    pages = 10 * 4 * 2**23 // resource.getpagesize()
    assert _faults("keep") < pages / 20 < _faults("do not")


def test_threads_are_set_and_at_least_one() -> None:
    import torch

    before = torch.get_num_threads()
    Runtime("cpu", 1).apply()
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)
    keep_freed_memory()  # twice does no harm
