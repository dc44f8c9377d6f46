import ctypes

import pytest
import torch

from flyweight.core import runtime
from flyweight.core.runtime import Runtime, keep_freed_memory


class Libc:
    """A C library that notes what its allocator is told."""

    def __init__(self) -> None:
        self.told: dict[int, int] = {}

    def mallopt(self, parameter: int, value: int) -> int:
        self.told[parameter] = value
        return 1


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_runtime_sets_threads_and_keeps_memory(monkeypatch, threads) -> None:
    libc = Libc()
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda name: libc)
    monkeypatch.setattr(runtime.sys, "platform", "linux")
    Runtime("cpu", 1).apply()
    assert torch.get_num_threads() == 1
    # The trim threshold alone would freeze the other one at its smallest, which is slower than
    # nothing.
    assert libc.told == {-3: 32 * 2**20, -1: 2**31 - 1}


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc")
def test_glibc_takes_what_it_is_told() -> None:
    assert (
        ctypes.CDLL(None).mallopt(-3, 32 * 2**20) == ctypes.CDLL(None).mallopt(-1, 2**31 - 1) == 1
    )


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch) -> None:
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda name: object())
    keep_freed_memory()
