"""Real training runs: conditional against oracle targets, sizes and durations, over several seeds.

    python benchmarks/trained.py digits digits --held-out .33 --models nano,pico --patch 2 …
    python benchmarks/trained.py NAME DATA --held-out DATA [--device cuda] [--images 1e6] …

Every run is a `floracle train` of its own, some at a time; its evaluations say how far the
averaged network is from the oracle in each stage, and what held-out data costs. The first model is
trained on each of the targets, the others on conditional ones. Afterwards networks draw samples,
whose Fréchet distance to held-out data stands beside that of as many training points. Where a
share is held out, points are shuffled by a fixed seed and both parts written to the folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch

import floracle
from floracle.report.training.figures import STAGES
from floracle.training.config import TrainingSettings
from floracle.training.switch import measure_gap, switch_time
from floracle.training.times import Uniform
from measure import report
from paired import compared, longer, remembered
from quality import copied, drawn, frechet, principal


def runs_of(options: argparse.Namespace) -> dict[str, list[str]]:
    """The runs by name, and what each is told."""
    first, *others = options.models.split(",")
    kinds = {
        target: ["--model", first, "--target", target] for target in options.targets.split(",")
    }
    kinds |= {model: ["--model", model, "--target", "conditional"] for model in others}
    return {
        f"{kind}-{seed}": [*words, "--seed", str(seed)]
        for seed in range(options.seeds)
        for kind, words in kinds.items()
    }


def command_of(options: argparse.Namespace) -> list[str]:
    """What all runs are told."""
    return [
        *(sys.executable, "-m", "floracle", "train", options.data),
        *("--held-out", options.held_out, "--device", options.device),
        *("--precision", options.precision, "--images", str(options.images)),
        *("--batch", str(options.batch), "--rate", str(options.rate), "--ema", str(options.ema)),
        *("--every", str(ceil(options.images / options.looks)), "--samples", str(options.shown)),
        *("--normalize", options.normalize, "--pairs", str(options.pairs)),
        *(["--patch", str(options.patch)] if options.patch else []),
        *("--target-until", f"{options.switch:.4f}"),
        *(["--compile"] if options.compile else []),
    ]


def apart(options: argparse.Namespace) -> tuple[str, str]:
    """Both parts of shuffled data, written as archives, where a share of it is held out."""
    share = float(options.held_out)
    store = floracle.open_store(options.data)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(store)))
    cut = round(len(store) * (1 - share))
    files = []
    for name, rows in {"train": order[:cut], "held_out": order[cut:]}.items():
        files.append(options.folder / f"{name}.npz")
        np.savez(files[-1], points=store.take(rows).numpy(), labels=store.labels[rows].numpy())
    return str(files[0]), str(files[1])


def switch_of(options: argparse.Namespace) -> float:
    """Where the conditional target takes over, measured once for all runs."""
    oracle = floracle.Oracle(floracle.open_store(options.data, normalize=options.normalize))
    return switch_time(measure_gap(oracle, seed=0), Uniform(), TrainingSettings().share)


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
    looks = [looked(line) for line in lines if "evaluation" in line]
    last = looks[-1]["oracle"]
    print(f"{name}: {taken:.0f} s, " + ", ".join(f"{s} {last[s]:.4f}" for s in STAGES), flush=True)
    values = json.loads((out / "result.json").read_text())["values"]
    return {"seconds": round(taken, 1), **values, "looks": looks}


def looked(line: dict[str, Any]) -> dict[str, Any]:
    """What is kept of an evaluation."""
    names = ("t", "oracle", "held_out", "difference")
    return {"images": line["images"]} | {n: v for n, v in line["evaluation"].items() if n in names}


def short(value: Any) -> Any:
    """Numbers with the digits that mean something; a curve is a line of text."""
    if isinstance(value, dict):
        return {name: short(one) for name, one in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], float):
        return " ".join(f"{x:.4g}" for x in value)
    if isinstance(value, list):
        return [short(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def sampled(found: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Adds to every run how good its samples are; says how good training points would be."""
    read = {"normalize": options.normalize}
    data = floracle.open_store(options.data, **read)
    held_out = floracle.open_store(options.held_out, normalize=data.normalizer)
    points, others = (one.take(torch.arange(len(one))).flatten(1) for one in (data, held_out))
    told: dict[str, Any] = {"points": len(data), "held-out points": len(held_out)}
    count = min(options.samples, len(data))
    if not count:
        return told
    distinct = points[data.atoms().rows]
    mean, directions = principal(points)
    others = (others - mean) @ directions
    for name, run in found.items():
        samples = drawn(options.folder / name, data, count, options.device)
        run["Fréchet distance"] = frechet((samples - mean) @ directions, others)
        run["copies"] = copied(distinct, samples, options.device)
        print(name, run["Fréchet distance"], run["copies"], flush=True)
    some = points[torch.linspace(0, len(points) - 1, count).long()]
    best = frechet((some - mean) @ directions, others)
    return told | {"samples": count, "Fréchet distance of training points": best}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("name", nargs="?", help="of the file under results/")
    asked.add_argument("data", nargs="?")
    asked.add_argument("--held-out", help="data, or a share of the points")
    asked.add_argument("--folder", type=Path)
    asked.add_argument("--device", default="cpu")
    asked.add_argument("--precision", default="float32")
    asked.add_argument("--compile", action="store_true")
    asked.add_argument("--models", default="tiny,nano")
    asked.add_argument("--targets", default="conditional,oracle")
    asked.add_argument("--normalize", default="stored")
    asked.add_argument("--patch", type=int, default=None)
    asked.add_argument("--switch", type=float, default=None, help="measured where left out")
    asked.add_argument("--images", type=float, default=1e5)
    asked.add_argument("--looks", type=int, default=2, help="evaluations, evenly spaced")
    asked.add_argument("--pairs", type=int, default=64, help="of each class, 2 at least")
    asked.add_argument("--batch", type=int, default=256)
    asked.add_argument("--rate", type=float, default=3e-4)
    asked.add_argument("--ema", type=float, default=0.999)
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--samples", type=int, default=2000, help="for the distance; 0 for none")
    asked.add_argument("--shown", type=int, default=64)
    asked.add_argument("--at-once", type=int, default=1)
    options = asked.parse_args()
    if not (options.name and options.data and options.held_out and options.folder):
        print("trained: give NAME, DATA, --held-out and --folder; runs take hours")
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    command = " ".join(Path(word).name for word in sys.argv[1:])
    if options.held_out.replace(".", "", 1).isdigit():
        options.data, options.held_out = apart(options)
    if options.switch is None:
        options.switch = switch_of(options)
    runs = runs_of(options)
    with ThreadPoolExecutor(options.at_once) as pool:
        done = pool.map(lambda item: trained(*item, options), runs.items())
        found = dict(zip(runs, done, strict=True))
    hours = sum(run["seconds"] for run in found.values()) / 3600
    told = {"command": command, "hours, run by run": round(hours, 3), **sampled(found, options)}
    groups: dict[str, list[dict[str, Any]]] = {}
    for name, run in found.items():
        groups.setdefault(name.rpartition("-")[0], []).append(run)
    first, *others = groups
    told |= {f"{k} less {first}": compared(groups[k], groups[first]) for k in others}
    told |= {f"{k}, held-out less training data": short(remembered(groups[k])) for k in groups}
    if options.looks % 2 == 0:  # there is an evaluation at half of the images
        told |= {f"{k}, all less half of the images": longer(groups[k]) for k in groups}
    report(f"trained_{options.name}", told | {"runs": short(found)})


if __name__ == "__main__":
    main()
