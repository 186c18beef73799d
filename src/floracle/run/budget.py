"""The memory budget and the device of a run."""

from __future__ import annotations

import re
from math import isfinite
from numbers import Real
from pathlib import Path

import torch

from .errors import InputError, brief

FREE_MEMORY_SHARE = 0.5  # of free memory, the default budget: estimates of needs are not exact
FALLBACK_FREE_BYTES = 4 * 2**30  # where /proc/meminfo does not exist
MIN_FREE_BYTES = 2**28
UNIT_BYTES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def memory_budget(size: int | str | None = None, device: torch.device | None = None) -> int:
    """A budget in bytes, from a size ("4G", 2**30) or half of what is free on the device."""
    if size is None:
        cuda = device is not None and device.type == "cuda"
        return int(
            FREE_MEMORY_SHARE * (torch.cuda.mem_get_info(device)[0] if cuda else free_memory())
        )
    if isinstance(size, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", size.lower())
        if not match:
            raise InputError(f"memory {size!r} is not a size; write 800M or 4G")
        size = int(float(match[1]) * UNIT_BYTES[match[2]])
    if not isinstance(size, Real) or isinstance(size, bool) or not isfinite(size):
        raise InputError(f"memory is a number of bytes or a size like '4G', not {brief(size)}")
    if size <= 0:
        raise InputError(f"memory must be positive, got {size}")
    return int(size)


def free_memory() -> int:
    """Bytes that can be allocated without swapping, within the container's limit."""
    lines = Path("/proc/meminfo").read_text() if Path("/proc/meminfo").exists() else ""
    available = re.search(r"MemAvailable:\s+(\d+) kB", lines)
    free = int(available[1]) * 1024 if available else FALLBACK_FREE_BYTES
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return max(free, MIN_FREE_BYTES)


def choose_device(name: str | torch.device | None = None) -> torch.device:
    """A device by its name, the CPU by default; one that torch does not see is refused."""
    try:
        device = torch.device(name or "cpu")
    except RuntimeError as error:
        raise InputError(f"device {name!r} is unknown; write cpu or cuda:0") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {name!r} was requested, but torch sees no CUDA device")
    return device


def to_device(points: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Points on a device; to a GPU through pinned memory, so that the copy does not block."""
    if device.type != "cuda" or points.is_cuda:
        return points.to(device)
    return points.pin_memory().to(device, non_blocking=True)
