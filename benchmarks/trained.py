"""Real training runs: conditional against oracle targets, and two sizes, over several seeds.

    python benchmarks/trained.py NAME DATA --held-out DATA [--device cuda] [--images 1e6] …

Every run is a `floracle train` of its own, some at a time; its evaluations say how far the
averaged network is from the oracle in each stage, and what unseen data costs. Afterwards each
network draws samples, whose Fréchet distance to the unseen data is taken over the 64 leading
principal coordinates of the training set's pixels (a measure of our own, not comparable with
published FID), beside that of as many training points. Differences are paired by seed, with
Student's interval; one that holds 0 is "cannot say".
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.linalg import sqrtm
from scipy.stats import t as student

import floracle
from measure import report

COORDINATES = 64
TOGETHER = 500
STAGES = ("navigation", "refinement")


def runs_of(options: argparse.Namespace) -> dict[str, list[str]]:
    """The runs by name, and what each is told."""
    kinds = {
        "conditional": ["--model", options.model, "--target", "conditional"],
        "oracle": ["--model", options.model, "--target", "oracle"],
    }
    if options.smaller != "none":
        kinds["smaller"] = ["--model", options.smaller, "--target", "conditional"]
    return {
        f"{kind}-{seed}": [*words, "--seed", str(seed)]
        for kind, words in kinds.items()
        for seed in range(options.seeds)
    }


def command_of(options: argparse.Namespace) -> list[str]:
    """What all runs are told."""
    return [
        *(sys.executable, "-m", "floracle", "train", options.data),
        *("--held-out", options.held_out, "--device", options.device),
        *("--precision", options.precision, "--images", str(options.images)),
        *("--batch", str(options.batch), "--rate", str(options.rate), "--ema", str(options.ema)),
        *("--every", str(options.images / 2), "--samples", "64"),
        *(["--patch", str(options.patch)] if options.patch else []),
    ]


def trained(name: str, words: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """One run: the seconds that it trained, and its evaluations."""
    out = options.folder / name
    done = subprocess.run(
        [*command_of(options), *words, "--out", str(out)], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    taken = sum(line.get("seconds", 0) for line in lines)  # also of a run that was done before
    print(f"{name}: {taken:.0f} s", flush=True)
    looks = {line["images"]: line["evaluation"] for line in lines if "evaluation" in line}
    values = json.loads((out / "result.json").read_text())["values"]
    last = {name: short(curve) for name, curve in looks[max(looks)].items()}
    by_images = {images: {n: staged(c) for n, c in look.items()} for images, look in looks.items()}
    return {"seconds": round(taken, 1), **values, "stages": by_images, "last": last}


def short(curve: Any) -> Any:
    """Numbers with the digits that mean something, as one line of text."""
    if isinstance(curve, dict):
        return {name: short(values) for name, values in curve.items()}
    return (
        " ".join(f"{x:.4g}" for x in curve) if isinstance(curve, list) else float(f"{curve:.4g}")
    )


def staged(curve: Any) -> dict[str, float]:
    """The means over both stages of a curve that has them."""
    if not isinstance(curve, dict):
        return {}
    return {stage: float(f"{curve[stage]:.4g}") for stage in STAGES}


def principal(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean and the leading directions [k, D] of points [n, D]."""
    mean = points.mean(0)
    _, _, directions = torch.svd_lowrank(points - mean, COORDINATES, niter=4)
    return mean, directions.T


def frechet(one: torch.Tensor, other: torch.Tensor) -> float:
    """Between Gaussians fitted to features [n, k]."""
    (a, ca), (b, cb) = ((x.mean(0), np.cov(x, rowvar=False)) for x in (one.numpy(), other.numpy()))
    return float(((a - b) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real))


def drawn(folder: Path, data: floracle.Store, options: argparse.Namespace) -> torch.Tensor:
    """Samples of a run's network, classes in turn, [n, D]."""
    network = floracle.load_model(folder, device=options.device)
    grid, known = floracle.time_grid(50), int(data.labels.max()) + 1
    parts = []
    for start in range(0, options.samples, TOGETHER):
        seeds = range(start, min(start + TOGETHER, options.samples))
        labels = torch.tensor([seed % known for seed in seeds])
        begin = floracle.noise(seeds, data.shape).to(options.device)
        parts.append(floracle.sample(network, begin, grid, labels=labels).flatten(1).cpu())
    return torch.cat(parts)


def copied(points: torch.Tensor, samples: torch.Tensor, device: str) -> float:
    """The share of samples whose nearest point is nearer than a third of the second.

    The points are distinct: of a point that is there twice no copy would be seen.
    """
    points, copies = points.to(device), 0
    for some in samples.to(device).split(TOGETHER):
        near = torch.cdist(some, points).topk(2, dim=1, largest=False).values
        copies += int((near[:, 0] < near[:, 1] / 3).sum())
    return copies / len(samples)


def compared(found: dict[str, Any], one: str, other: str, seeds: int) -> dict[str, str]:
    """One kind of run less another, by what was measured; paired by seed."""
    told = {}
    for name in found[f"{one}-0"]["scores"]:
        ours, theirs = (
            np.array([found[f"{kind}-{seed}"]["scores"][name] for seed in range(seeds)])
            for kind in (one, other)
        )
        apart = ours - theirs
        reach = student.ppf(0.975, seeds - 1) * apart.std(ddof=1) / seeds**0.5
        sure = abs(apart.mean()) > reach
        words = f"{apart.mean():+.3g} ± {reach:.2g}"
        told[name] = words if sure else f"{words}: cannot say"
    return told


def scores(run: dict[str, Any]) -> dict[str, float]:
    """What is compared: the last evaluation, and the samples."""
    last = run["last"]
    found = {
        f"{name}, {stage}": last[name][stage]
        for name in ("oracle", "held_out")
        if name in last
        for stage in STAGES
    }
    return found | {name: run[name] for name in ("Fréchet distance", "copies")}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("name")
    asked.add_argument("data")
    asked.add_argument("--held-out", required=True)
    asked.add_argument("--folder", type=Path, required=True)
    asked.add_argument("--device", default="cpu")
    asked.add_argument("--precision", default="float32")
    asked.add_argument("--model", default="tiny")
    asked.add_argument("--smaller", default="nano", help="or none")
    asked.add_argument("--patch", type=int, default=None)
    asked.add_argument("--images", type=float, default=1e5)
    asked.add_argument("--batch", type=int, default=256)
    asked.add_argument("--rate", type=float, default=3e-4)
    asked.add_argument("--ema", type=float, default=0.999)
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--samples", type=int, default=2000)
    asked.add_argument("--at-once", type=int, default=1)
    options = asked.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    runs, start = runs_of(options), time.perf_counter()
    with ThreadPoolExecutor(options.at_once) as pool:
        done = pool.map(lambda item: trained(*item, options), runs.items())
        found = dict(zip(runs, done, strict=True))
    hours = (time.perf_counter() - start) / 3600
    data, unseen = floracle.open_store(options.data), floracle.open_store(options.held_out)
    points, others = (one.take(torch.arange(len(one))).flatten(1) for one in (data, unseen))
    distinct = points[data.atoms().rows]
    mean, directions = principal(points)
    others = (others - mean) @ directions.T
    some = points[torch.linspace(0, len(points) - 1, options.samples).long()]
    for name, run in found.items():
        samples = drawn(options.folder / name, data, options)
        run["Fréchet distance"] = frechet((samples - mean) @ directions.T, others)
        run["copies"] = copied(distinct, samples, options.device)
        run["scores"] = scores(run)
        print(name, run["scores"], flush=True)
    others_said = {}
    if options.smaller != "none":
        said = compared(found, "smaller", "conditional", options.seeds)
        others_said = {"smaller less larger": said}
    report(
        f"trained_{options.name}",
        {
            "command": " ".join(Path(word).name for word in sys.argv[1:]),
            "points": len(data),
            "unseen points": len(unseen),
            "hours, all runs": round(hours, 3),
            "Fréchet distance of training points": frechet((some - mean) @ directions.T, others),
            "oracle less conditional": compared(found, "oracle", "conditional", options.seeds),
            **others_said,
            "runs": found,
        },
    )


if __name__ == "__main__":
    main()
