"""The budgets on a GPU, side by side in one run.

The dense oracle against two float32 products of its shape, with what its arithmetic alone takes;
what skipping training points would take there; a class's stage curve against its row products;
and the stages and scans of a packed store of 40 of ImageNet's classes. Times are medians, and
wait for the device.

    python benchmarks/gpu.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import floracle
import imagenet_store
from floracle.analysis.stages.measure import measure_class as stage_curves
from floracle.analysis.stages.measure import plan_stages
from floracle.core.paths import LINEAR
from floracle.oracle.pruning import search as pruning
from measure import decaying, report

DEVICE = "cuda"
POINTS, DIMS = 50_000, 3072
CLASSES, QUERIES = 40, 64


def seconds(run: Callable[[], Any], rounds: int = 7) -> float:
    """The median over rounds, after one warm-up."""
    run()
    torch.cuda.synchronize()
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def busy(run: Callable[[], Any]) -> float:
    """Seconds that the device works, the gaps between kernels left out."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        run()
        torch.cuda.synchronize()
    return sum(event.self_device_time_total for event in seen.key_averages()) / 1e6


def dense() -> list[dict[str, float]]:
    points = decaying(POINTS, DIMS)
    data, there = floracle.open_store(points), points.to(DEVICE)
    oracle, rows = floracle.Oracle(data, device=DEVICE), []
    certified = floracle.Oracle(data, device=DEVICE, tolerance=1e-5)
    for queries in (64, 512):
        for at in (0.05, 0.2, 0.6, 0.9):
            t = torch.full((queries,), at, dtype=torch.float64)
            x = LINEAR.sample(points[:queries], torch.randn(queries, DIMS), t).to(DEVICE)
            t = t.to(DEVICE)
            two = seconds(lambda x=x: (x @ there.T) @ there)
            row = {"queries": queries, "t": at, "two products, ms": two * 1e3}
            row["oracle"] = seconds(lambda x=x, t=t: oracle(x, t)) / two
            row["… its kernels"] = busy(lambda x=x, t=t: oracle(x, t)) / two
            if queries == QUERIES:
                plain, pruning.GPU_MIN_PRODUCTS = pruning.GPU_MIN_PRODUCTS, 0.0
                row["pruned"] = seconds(lambda x=x, t=t: certified(x, t), 3) / two
                pruning.GPU_MIN_PRODUCTS = plain
            rows.append({name: round(value, 3) for name, value in row.items()})
            print(rows[-1], flush=True)
    return rows


def curve() -> dict[str, float]:
    points = decaying(1300, 8192, power=0.7)
    oracle = floracle.Oracle(floracle.open_store(points), device=DEVICE)
    plan, there = plan_stages(oracle, times=50, pairs=512), points.to(DEVICE)
    rows, noise = torch.randint(1300, (512,)), torch.randn(512, 8192)
    both = torch.cat([points[rows], noise]).to(DEVICE)
    products = seconds(lambda: both @ there.T)
    moved = noise.to(DEVICE)
    rivals = {
        "pairs": lambda: oracle.pairs(rows, noise, plan.times),
        "pairs, noise on the device": lambda: oracle.pairs(rows, moved, plan.times),
        "mirrored pairs": lambda: oracle.pairs(rows, noise, plan.times, mirrored=True),
        "class with landmarks": lambda: stage_curves(oracle, plan, -1),
    }
    found = {name: round(seconds(run, 3) / products, 2) for name, run in rivals.items()}
    return {"row products, ms": round(products * 1e3, 3), **found}


def store(folder: Path) -> dict[str, Any]:
    imagenet_store.make(folder, CLASSES)
    command = [sys.executable, "-m", "floracle", "pack", str(folder / "points.npy")]
    command += [str(folder / "store"), "--label-file", str(folder / "labels.npy")]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    packed, sizes = folder / "store", imagenet_store.class_sizes(CLASSES)
    host = torch.empty(max(sizes), imagenet_store.DIMS, dtype=torch.float16).pin_memory()
    wide = host.to(DEVICE).float()
    pairs = torch.randn(2 * imagenet_store.PAIRS, imagenet_store.DIMS, device=DEVICE)
    found: dict[str, Any] = {
        "classes": CLASSES,
        "points": sum(sizes),
        "packing, seconds": time.perf_counter() - start,
        "reading once, warm": imagenet_store.timed(lambda: imagenet_store.read_once(packed)),
        "moving and converting": seconds(
            lambda: [host.to(DEVICE, non_blocking=True).float() for _ in sizes], 3
        ),
        "two row products": seconds(lambda: [pairs @ wide.T for _ in sizes], 3),
    }
    labels, known = list(range(CLASSES)), {"times": 50, "pairs": imagenet_store.PAIRS, "seed": 0}
    for memory in ("512M", None):
        oracle = floracle.Oracle(floracle.open_store(packed), device=DEVICE, memory=memory)
        name = "streamed" if memory else "resident"
        for again in ("", ", again"):
            found[f"stages, {name}{again}"] = imagenet_store.timed(
                lambda oracle=oracle: floracle.stages(oracle, classes=labels, **known)
            )
        rows = torch.linspace(0, len(oracle.data) - 1, QUERIES).long()
        points = oracle.data.take(rows)
        for at in (0.02, 0.3):
            t = torch.full((QUERIES,), at, dtype=torch.float64)
            x = LINEAR.sample(points, torch.randn(QUERIES, *imagenet_store.SHAPE), t).to(DEVICE)
            taken = seconds(lambda oracle=oracle, x=x, t=t: oracle(x, t), 3)
            found[f"scan of {QUERIES}, {name}, t = {at}"] = taken
    return {name: round(value, 4) for name, value in found.items()}


def main() -> None:
    if not torch.cuda.is_available():
        print("there is no CUDA device here; nothing was measured")
        return
    measured: dict[str, Any] = {"dense": dense(), "stage curve": curve()}
    print(measured["stage curve"], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        measured["packed store"] = store(Path(folder))
    report("gpu", measured)


if __name__ == "__main__":
    main()
