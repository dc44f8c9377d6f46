"""A GPU's memory, with torch's part played by a recorder."""

from types import SimpleNamespace

import pytest
import torch

from flyweight.core import accelerator


@pytest.fixture
def cuda(monkeypatch):
    calls = []
    told = SimpleNamespace(total_memory=1000)
    for name, answer in {
        "get_device_properties": told,
        "set_per_process_memory_fraction": None,
        "max_memory_allocated": 77,
        "reset_peak_memory_stats": None,
        "empty_cache": None,
    }.items():
        monkeypatch.setattr(
            torch.cuda,
            name,
            lambda *given, name=name, answer=answer: calls.append((name, *given)) or answer,
        )
    return calls


@pytest.mark.parametrize(("limit", "fraction"), [(250, 0.25), (1000, 1.0), (5000, 1.0)])
def test_a_limit_is_a_share_of_the_device(cuda, limit, fraction):
    accelerator.hold("cuda:1", limit)
    assert cuda[-1] == ("set_per_process_memory_fraction", fraction, "cuda:1")


def test_peaks_are_those_of_torch(cuda):
    assert accelerator.used_bytes("cuda") == 77
    accelerator.reset_peak("cuda")
    accelerator.give_back("cuda")
    assert [name for name, *_ in cuda[1:]] == ["reset_peak_memory_stats", "empty_cache"]


def test_a_cpu_is_left_to_the_system(cuda):
    assert accelerator.used_bytes("cpu") is None
    accelerator.reset_peak("cpu")
    accelerator.give_back("cpu")
    assert not cuda
