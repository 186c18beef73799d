"""What `floracle stages --dry-run` says of time and memory, against runs: twenty shapes.

Every run is a process of its own. Its peak is what the system counts; its seconds are those of
its processor, on one core, so that what else the machine does counts little, and without those of
opening the data, which a dry run has behind it when it speaks.

    python benchmarks/estimates.py [NAMES]

FLORACLE_DATA is a folder with images256, mnist and cifar10.npz.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import floracle
from measure import RESULTS, report

DATA = Path(os.environ.get("FLORACLE_DATA", "data"))

CHILD = """
import json, sys, time
import floracle.cli, floracle.data.store as store
import floracle.analysis.cost.estimate as costs, floracle.analysis.cost.speeds as speeds
told, opening, open_store, cost = {}, [], store.open_store, costs.estimate_cost

def opened(*args, **options):
    started = time.process_time()
    try:
        return open_store(*args, **options)
    finally:
        opening.append(time.process_time() - started)

def counted(run):
    told["clock"] = time.process_time()
    found = cost(run)
    told.update(seconds=found.seconds, memory=found.memory, phases=found.phases)
    told["estimating"] = time.process_time() - told.pop("clock")
    return found

store.open_store, costs.estimate_cost = opened, counted
speeds.time.perf_counter = time.process_time
started = time.perf_counter()
code = floracle.cli.main(sys.argv[2:])
told.update(code=code, opening=sum(opening), wall=time.perf_counter() - started)
told["processor"] = time.process_time()
open(sys.argv[1], "w").write(json.dumps(told))
"""


def random(points: int, dims: int, classes: int = 0) -> Callable[[Path], list[str]]:
    """Gaussian points of which so many belong to each class in turn."""

    def made(folder: Path) -> list[str]:
        path, drawn = folder / f"{points}x{dims}x{classes}.npy", np.random.default_rng(0)
        if not path.exists():
            np.save(path, drawn.standard_normal((points, dims), dtype=np.float32))
            if classes:
                labels = path.with_name(f"{path.stem}_labels.npy")
                np.save(labels, np.arange(points) % classes)
        return [str(path)]

    return made


def named(*words: str) -> Callable[[Path], list[str]]:
    """Data of a name, or below DATA, with options."""
    return lambda _: [str(DATA / word) if (DATA / word).exists() else word for word in words]


def mirrored(word: str) -> Callable[[Path], list[str]]:
    """Data of a name, or below DATA, with its mirrored pictures as held-out data."""

    def write(folder: Path) -> list[str]:
        data = str(DATA / word) if (DATA / word).exists() else word
        store, path = floracle.open_store(data, normalize="raw"), folder / "mirrored.npz"
        np.savez(path, images=store.stored[:].flip(-1).numpy(), labels=store.labels.numpy())
        return [data, "--held-out", str(path)]

    return write


SHAPES: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "10⁶ × 2": (random(10**6, 2), "--pairs 16"),
    "100,000 × 16, 20,000 classes, whole": (
        random(100_000, 16, 20_000),
        "--classes whole --pairs 8",
    ),
    "100,000 × 16, 20,000 classes": (random(100_000, 16, 20_000), "--classes each --pairs 16"),
    "20,000 × 64, 2,000 classes": (random(20_000, 64, 2000), "--pairs 64"),
    "20,000 × 64, 2,000 classes, whole": (random(20_000, 64, 2000), "--classes whole --pairs 64"),
    "100,000 × 64": (random(100_000, 64), "--pairs 64"),
    "20,000 × 512": (random(20_000, 512), ""),
    "20,000 × 512, held-out": (random(20_000, 512), "--held-out gaussian:2000x512"),
    "5,000 × 4,096, 5 classes": (random(5000, 4096, 5), "--pairs 256"),
    "2,000 × 16,384": (random(2000, 16_384), "--pairs 128"),
    "300 × 100,000, 600 MiB": (random(300, 100_000), "--pairs 64 --memory 600M"),
    "30 × 1,000,000": (random(30, 10**6), "--pairs 64 --memory 3G"),
    "3 × 3,000,000": (random(3, 3 * 10**6), "--pairs 64 --memory 2G"),
    "digits": (named("digits"), ""),
    "digits, held-out, deep": (mirrored("digits"), "--deep"),
    "MNIST, test": (named("mnist/t10k-images-idx3-ubyte.gz"), "--classes each --pairs 256"),
    "photographs 256²": (named("images256/val"), "--pairs 128"),
    "photographs 256², held-out": (
        named("images256/val", "--held-out", "images256/train"),
        "--classes whole --pairs 128",
    ),
    "MNIST, test, deep": (
        named("mnist/t10k-images-idx3-ubyte.gz"),
        "--classes whole --pairs 64 --deep",
    ),
    "CIFAR-10, held-out": (
        mirrored("cifar10.npz"),
        "--classes 0,1 --pairs 128",
    ),
}
"""Data and options."""


def run(words: list[str], folder: Path) -> dict[str, Any]:
    """A stages command in a process of its own; its peak in bytes beside what it says itself."""
    told, out = folder / "told.json", folder / "out"
    told.unlink(missing_ok=True)
    child = [sys.executable, "-c", CHILD, str(told), "stages", *words, "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(child, env=environment, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    subprocess.run(["rm", "-rf", str(out)], check=True)
    return json.loads(told.read_text()) | {"peak": usage.ru_maxrss * 1024}


def compared(name: str, folder: Path) -> dict[str, float]:
    """What is said of a shape and what comes of it."""
    made, options = SHAPES[name]
    words = [*made(folder), *options.split()]
    said, done = run([*words, "--dry-run"], folder), run(words, folder)
    assert said["code"] == done["code"] == 0, (name, said, done)
    seconds = done["processor"] - done["opening"]
    return {
        "said_seconds": round(said["seconds"], 1),
        "seconds": round(seconds, 1),
        "time_ratio": round(said["seconds"] / seconds, 2),
        "said_mib": said["memory"] >> 20,
        "mib": done["peak"] >> 20,
        "memory_ratio": round(said["memory"] / done["peak"], 2),
        "opening_seconds": round(done["opening"], 1),
        "estimating_seconds": round(said["estimating"], 2),
    }


def main(names: list[str]) -> None:
    """Measure some shapes, or all, and keep what was measured of the others."""
    kept = RESULTS / "estimates.json"
    shapes = json.loads(kept.read_text())["shapes"] if kept.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in SHAPES:
            if not names or name in names:
                shapes[name] = compared(name, Path(folder))
                print(name, shapes[name], flush=True)
    report("estimates", {"shapes": {name: shapes[name] for name in SHAPES if name in shapes}})
    print(table(shapes))


def table(shapes: dict[str, dict[str, float]]) -> str:
    """The table of the documentation."""
    lines = ["| | seconds said | taken | ratio | MiB said | taken | ratio |", "|---" * 7 + "|"]
    columns = ("said_seconds", "seconds", "time_ratio", "said_mib", "mib", "memory_ratio")
    lines += [
        f"| {name} | " + " | ".join(f"{found[column]:,}" for column in columns) + " |"
        for name, found in shapes.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
