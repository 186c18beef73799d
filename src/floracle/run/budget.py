"""Memory and device: how much may be used, and where."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from .errors import InputError

FREE_MEMORY_SHARE = 0.5
UNIT_BYTES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def memory_budget(size: int | str | None = None, device: torch.device | None = None) -> int:
    """Bytes that may be held: what was asked for ("4G", 2**30), or half of what is free there."""
    if size is None:
        cuda = device is not None and device.type == "cuda"
        return int(
            FREE_MEMORY_SHARE * (torch.cuda.mem_get_info(device)[0] if cuda else free_memory())
        )
    if isinstance(size, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", size.lower())
        if not found:
            raise InputError(f"memory {size!r} is not a size; write 800M or 4G")
        size = int(float(found[1]) * UNIT_BYTES[found[2]])
    if size <= 0:
        raise InputError(f"memory must be positive, got {size}")
    return size


def free_memory() -> int:
    """Bytes that can be taken without swapping, the container's limit respected."""
    lines = Path("/proc/meminfo").read_text() if Path("/proc/meminfo").exists() else ""
    found = re.search(r"MemAvailable:\s+(\d+) kB", lines)
    free = int(found[1]) * 1024 if found else 4 * 2**30
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return max(free, 2**28)


def choose_device(name: str | torch.device | None = None) -> torch.device:
    """The device asked for, the CPU by default; absent ones are a mistake."""
    try:
        device = torch.device(name or "cpu")
    except RuntimeError as error:
        raise InputError(f"device {name!r} is unknown; write cpu or cuda:0") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {name!r} was asked for, but torch sees no CUDA device here")
    return device


def to_device(points: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Points on a device; to a GPU through pinned memory, so that the next are read meanwhile."""
    if device.type != "cuda" or points.is_cuda:
        return points.to(device)
    return points.pin_memory().to(device, non_blocking=True)
