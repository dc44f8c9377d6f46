"""What this machine is: written beside every measurement, and part of a measurement's identity."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

_LIBRARIES = ("flyweight", "torch", "numpy", "tokenizers", "safetensors")


@cache
def processor() -> str:
    """Return the processor's marketing name, or its architecture where the name is unknown."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@cache
def libraries() -> dict[str, str]:
    """Return the versions of the libraries that numbers depend on."""
    return {name: metadata.version(name) for name in _LIBRARIES}


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load() -> float:
    """Return how many processes ran or waited for a core in the last minute, on average.

    Return 0 where the system does not count them.
    """
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def busy() -> bool:
    """Return whether the load of the last minute makes timings worse than this machine can do."""
    return load() > 0.5 * usable_cores()


def describe(device: str, threads: int) -> dict[str, Any]:
    """Return a run's environment as plain data: versions, platform, processor, memory, device."""
    return {
        **libraries(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "device": device,
        "threads": threads,
    }


def free_bytes(device: str) -> int:
    """Return the memory that a device has free now, in bytes; of a CPU, what is available."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def resident_bytes() -> int:
    """Return this process's resident memory now, in bytes."""
    return psutil.Process().memory_info().rss


def reset_high_water() -> bool:
    """Lower the mark of the most memory that this process ever held to what it holds now.

    Returns whether the system can: Linux can, where it lets a process write its own clear_refs.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def high_water_bytes() -> int:
    """Return the most resident memory that this process held since `reset_high_water`, in bytes.

    For Linux. Raises OSError elsewhere.
    """
    return _status_bytes("VmHWM")


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
