"""Side-by-side timing: rivals take turns in one process, and a ratio is the median over rounds."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import floracle

RESULTS = Path(__file__).parent / "results"


def seconds(rivals: dict[str, Callable[[], Any]], *, rounds: int = 7) -> dict[str, list[float]]:
    """Seconds of every rival in every round, after one warm-up each."""
    for run in rivals.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            start = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - start)
    return taken


def ratios(taken: dict[str, list[float]], against: str) -> dict[str, float]:
    """The median over rounds of each rival's time over that of `against`."""
    return {
        name: round(
            statistics.median(a / b for a, b in zip(times, taken[against], strict=True)), 3
        )
        for name, times in taken.items()
        if name != against
    }


def spread(taken: dict[str, list[float]], against: str) -> dict[str, tuple[float, float]]:
    """The least and the most over rounds of the same ratios."""
    found = {}
    for name, times in taken.items():
        if name != against:
            all_of = [a / b for a, b in zip(times, taken[against], strict=True)]
            found[name] = round(min(all_of), 3), round(max(all_of), 3)
    return found


def machine() -> dict[str, Any]:
    """Where this was measured."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":", 1)[1].strip() if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "floracle": floracle.__version__,
    }


def report(name: str, measured: dict[str, Any]) -> None:
    """Print what was measured and keep it under results/."""
    RESULTS.mkdir(exist_ok=True)
    content = json.dumps({"machine": machine(), **measured}, indent=1)
    (RESULTS / f"{name}.json").write_text(content + "\n")
    print(f"{name}\n{content}")


def decaying(points: int, dims: int, *, power: float = 1.0, seed: int = 0) -> torch.Tensor:
    """Gaussian points whose k-th variance falls as k^−power, as those of images do."""
    spectrum = torch.arange(1, dims + 1).float() ** -power
    drawn = torch.randn(points, dims, generator=torch.Generator().manual_seed(seed))
    return drawn.mul_((spectrum / spectrum.mean()).sqrt() * 0.5)
