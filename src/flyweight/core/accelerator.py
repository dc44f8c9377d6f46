"""The memory of a GPU: what this process holds of it, and the most that it may hold."""

from __future__ import annotations


def used_bytes(device: str) -> int | None:
    """Return the most memory that this process held on a device since `reset_peak`, in bytes.

    Of Apple's GPUs it is what is held now; None for a CPU.
    """
    if device == "cpu":
        return None
    import torch

    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return torch.mps.current_allocated_memory() if device.startswith("mps") else None


def reset_peak(device: str) -> None:
    """Let the peak of a CUDA device begin at what is held now."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)


def hold(device: str, limit: int) -> None:
    """Let this process allocate at most so many bytes on a GPU.

    More raises torch.OutOfMemoryError. A limit beyond what the device has changes nothing.
    """
    import torch

    if device.startswith("cuda"):
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)
    elif device.startswith("mps"):
        total = torch.mps.recommended_max_memory()
        torch.mps.set_per_process_memory_fraction(min(1.0, limit / total))


def give_back(device: str) -> None:
    """Give memory that torch keeps for later back to the device."""
    if device == "cpu":
        return
    import torch

    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device.startswith("mps"):
        torch.mps.empty_cache()
