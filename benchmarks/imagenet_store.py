"""An ImageNet-sized packed store: made, packed, measured, deleted.

1,281,167 points of 4 × 32 × 32 in float16, 1000 classes of ImageNet's unequal sizes, a decaying
spectrum around a mean for each class. Budgets: the stages of all classes (50 times, 16 pairs each)
in 1.5 times the sum of one read, one conversion to float32 and the two row products, each alone,
within 2 GiB; a scan of everything for 64 queries in 1.3 times the slower of reading it and its
two products. Every step runs in a process of its own; its peak memory is what the system says.

The same scan with a tolerance leaves training points on the disk that provably do not matter:
the store's coarse view says which.

    python benchmarks/imagenet_store.py [--folder DIR] [--classes 1000] [--keep]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import floracle
from floracle.core.paths import LINEAR
from measure import report

SHAPE = (4, 32, 32)
DIMS = 4096
FULL, POINTS, LARGEST, SMALLEST = 1000, 1_281_167, 1300, 732
PAIRS, TIMES, QUERIES = 16, 50, 64
SCANNED = (0.02, 0.05, 0.3)
"""Navigation; the collapse, where float32 leaves most in doubt; refinement."""
CERTIFIED = (0.3, 0.5, 0.7, 0.9)
"""Times at which training points may be left unread."""
BLOCK = 1024


def class_sizes(classes: int) -> list[int]:
    """ImageNet's: 895 classes of 1300, the others from 732 upwards, 1,281,167 in all."""
    few = FULL - 895
    steps = np.linspace(0, 1, few)
    low, high = 0.01, 10.0  # the power of the slope that makes the sum right
    for _ in range(60):
        power = (low + high) / 2
        sizes = np.round(SMALLEST + (LARGEST - 1 - SMALLEST) * steps**power).astype(int)
        low, high = (power, high) if sizes.sum() > POINTS - 895 * LARGEST else (low, power)
    sizes[-1] += POINTS - 895 * LARGEST - sizes.sum()
    every = [LARGEST] * 895 + sizes.tolist()
    order = torch.randperm(FULL, generator=torch.Generator().manual_seed(0)).tolist()
    return [every[i] for i in order][:classes]


def make(folder: Path, classes: int) -> None:
    sizes = class_sizes(classes)
    labels = np.repeat(np.arange(classes), sizes)
    np.save(folder / "labels.npy", labels)
    points = np.lib.format.open_memmap(
        folder / "points.npy", "w+", np.float16, (len(labels), *SHAPE)
    )
    spectrum = torch.arange(1, DIMS + 1).float() ** -1.0
    scale = (spectrum / spectrum.mean()).sqrt()
    drawn, start = torch.Generator().manual_seed(1), 0
    for size in sizes:
        mean = 0.5 * scale * torch.randn(DIMS, generator=drawn)
        block = mean + scale * torch.randn(size, DIMS, generator=drawn)
        points[start : start + size] = block.half().reshape(-1, *SHAPE).numpy()
        start += size
    points.flush()


def evict(store: Path) -> None:
    """Ask the system to forget the pages of a store, so that it is read from its disk."""
    for path in store.rglob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(run) -> float:
    start = time.perf_counter()
    run()
    return round(time.perf_counter() - start, 3)


def read_once(store: Path) -> None:
    buffer = bytearray(16 * 2**20)
    for path in sorted(store.glob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def floors(store: Path, sizes: list[int]) -> dict[str, float]:
    """Reading, converting and multiplying, each alone."""
    block = torch.randn(max(sizes), DIMS).half()
    wide, pairs = block.float(), torch.randn(2 * PAIRS, DIMS)

    def convert() -> None:
        out = torch.empty_like(wide)
        for size in sizes:
            out[:size].copy_(block[:size])

    def products() -> None:
        for size in sizes:
            pairs @ wide[:size].T

    def scanned() -> None:
        queries, weights = torch.randn(QUERIES, DIMS), torch.randn(QUERIES, BLOCK)
        for _ in range(sum(sizes) // BLOCK):
            queries @ wide[:BLOCK].T
            weights @ wide[:BLOCK]

    found = {"read, warm": 0.0, "read, cold": 0.0}
    evict(store)
    found["read, cold"] = timed(lambda: read_once(store))
    found["read, warm"] = timed(lambda: read_once(store))
    found["conversion"] = timed(convert)
    found["two row products"] = timed(products)
    found["two products of 64 queries"] = timed(scanned)
    return found


def measure_stages(store: Path) -> dict[str, float]:
    data = floracle.open_store(store, memory="1G")
    oracle = floracle.Oracle(data, memory="512M")
    found: list = []
    labels = [label for label in data.labels.unique().tolist() if label >= 0]
    taken = timed(
        lambda: found.append(
            floracle.stages(oracle, times=TIMES, pairs=PAIRS, classes=labels, seed=0)
        )
    )
    main = found[0].main
    return {
        "seconds": taken,
        "centre": main.centre.value,
        "collapse": main.collapse.value,
        "predicted collapse": main.predicted_collapse,
        "law, standard errors off": round(main.law_deviation, 2),
    }


def measure_scan(store: Path, *, cold: bool) -> dict[str, float]:
    data = floracle.open_store(store, memory="1G")
    oracle = floracle.Oracle(data, memory="512M")
    rows = torch.linspace(0, len(data) - 1, QUERIES).long()
    points, noise = data.take(rows), torch.randn(QUERIES, *SHAPE)
    found = {"making ready": timed(lambda: oracle.class_points())}
    for time_asked in SCANNED:
        t = torch.full((QUERIES,), time_asked, dtype=torch.float64)
        x = LINEAR.sample(points, noise, t)
        if cold:
            evict(store)
        found[f"seconds, t = {time_asked}"] = timed(lambda x=x, t=t: oracle(x, t))
    return found


def measure_certified(store: Path) -> dict[str, float]:
    data = floracle.open_store(store, memory="1G")
    oracle = floracle.Oracle(data, memory="1500M", tolerance=1e-5)
    rows = torch.linspace(0, len(data) - 1, QUERIES).long()
    points, noise = data.take(rows), torch.randn(QUERIES, *SHAPE)
    found: dict[str, float] = {}
    for time_asked in CERTIFIED:
        t = torch.full((QUERIES,), time_asked, dtype=torch.float64)
        x, kept = LINEAR.sample(points, noise, t), []
        if not found:
            found["making ready"] = timed(lambda x=x, t=t: oracle(x, t))
        taken = timed(lambda x=x, t=t, kept=kept: kept.append(oracle.posterior(x, t)))
        found[f"seconds, t = {time_asked}"] = taken
        found[f"share read, t = {time_asked}"] = float(kept[0].touched.double().mean()) / len(data)
        found[f"error reported, t = {time_asked}"] = float(kept[0].error.max())
    return found


def step(name: str, folder: Path, classes: int) -> None:
    store = folder / "store"
    if name == "floors":
        found = floors(store, class_sizes(classes))
    else:
        cold = name.endswith("cold")
        if cold:
            evict(store)
        if name.startswith("stages"):
            found = measure_stages(store)
        elif name == "certified":
            found = measure_certified(store)
        else:
            found = measure_scan(store, cold=cold)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({**found, "peak memory, GiB": round(peak, 3)}))


def run_step(name: str, folder: Path, classes: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--step", name, "--folder", str(folder)]
    command += ["--classes", str(classes)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def packed(folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "floracle", "pack", str(folder / "points.npy")]
    command += [
        str(folder / "store"),
        "--label-file",
        str(folder / "labels.npy"),
        "--memory",
        "2G",
    ]
    seconds = timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    size = sum(path.stat().st_size for path in (folder / "store").rglob("*") if path.is_file())
    return {"seconds": seconds, "peak memory, GiB": round(peak, 3), "GB": round(size / 1e9, 2)}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--folder", type=Path, default=None)
    asked.add_argument("--classes", type=int, default=FULL)
    asked.add_argument("--keep", action="store_true")
    asked.add_argument("--step", default=None)
    options = asked.parse_args()
    if options.step:
        step(options.step, options.folder, options.classes)
        return
    folder = options.folder or Path(tempfile.mkdtemp(prefix="imagenet-store-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        whole(folder, options.classes)
    finally:
        if not options.keep:
            shutil.rmtree(folder)


def whole(folder: Path, classes: int) -> None:
    measured: dict = {"classes": classes, "points": sum(class_sizes(classes)), "dims": DIMS}
    there = (folder / "store/floracle/manifest.json").exists()
    if not there and not (folder / "points.npy").exists():
        measured["making the points, seconds"] = timed(lambda: make(folder, classes))
    if not there:
        measured["packing"] = packed(folder)
    steps = ("floors", "stages, warm", "stages, cold", "scan, warm", "certified", "scan, cold")
    found = {name: run_step(name, folder, classes) for name in steps}
    measured |= found
    alone = found["floors"]
    for state in ("warm", "cold"):
        read = alone[f"read, {state}"]
        floor = read + alone["conversion"] + alone["two row products"]
        ratio = found[f"stages, {state}"]["seconds"] / floor
        slower = max(read, alone["two products of 64 queries"])
        measured[f"stages against the sum, {state}"] = round(ratio, 3)
        for time_asked in SCANNED:
            scan = found[f"scan, {state}"][f"seconds, t = {time_asked}"] / slower
            measured[f"scan against the slower, {state}, t = {time_asked}"] = round(scan, 3)
    name = "imagenet_store" if classes == FULL else f"imagenet_store_{classes}"
    report(name, measured)


if __name__ == "__main__":
    main()
