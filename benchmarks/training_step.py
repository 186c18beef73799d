"""A training step on oracle targets against one on conditional targets, side by side.

    python benchmarks/training_step.py --device cuda --model base --precision bf16 --batch 256
    python benchmarks/training_step.py --device cpu --model tiny --data cifar10.npz --batch 64

Budgets, class-conditional: ≤ 1.05 × a conditional step with the data resident, ≤ 1.15 × cold.
Rivals take turns over the same batches, each a few steps at a time, made ahead as `floracle.train`
makes them; a ratio is the median over rounds. A turn begins with a step that is not timed and ends
when the last batch that was begun is there, so that none is made in another's time. "cold" keeps
no class on the device: slabs are read and moved for every batch that wants them.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import floracle
from floracle.core.point_set import classes
from floracle.run.processes import ALONE
from floracle.training.batches import Batch, BatchMaker
from floracle.training.build_model import build_model
from floracle.training.checkpoint import Learner, optimizer_for
from floracle.training.config import TrainingSettings
from floracle.training.data_order import DataOrder
from floracle.training.determinism import inner_randomness, prepare_device, repeatable
from floracle.training.ema import copy_for_average
from floracle.training.gradient_allreduce import GradientSums
from floracle.training.meter import StageMeter
from floracle.training.switch import measure_gap, switch_time
from floracle.training.targets import target_for
from floracle.training.times import Uniform
from floracle.training.train_step import Stepper, Tally
from measure import decaying, ratios, report, spread

SYNTHETIC = "synthetic:100x1300x4x32x32"
"""Classes, points of each, and the shape of a point: a tenth of ImageNet's SD-VAE latents."""
COLD = 2**20


@dataclass
class Rival:
    """A way to make targets, and what its steps took."""

    making: BatchMaker
    seconds: list[float]
    step: int = 0
    """The first step of its next turn."""
    touched: int = 0
    pairs: int = 0
    memory: int = 0


def opened(where: str) -> floracle.Store:
    """The data: anything that opens, or class-sorted points with the spectrum of images."""
    if not where.startswith("synthetic:"):
        return floracle.open_store(where)
    groups, each, *shape = (int(part) for part in where.removeprefix("synthetic:").split("x"))
    dims = torch.Size(shape).numel()
    parts = [
        decaying(each, dims, seed=k).add_(decaying(1, dims, seed=10_000 + k))
        for k in range(groups)
    ]
    points = torch.cat(parts).reshape(-1, *shape)
    return floracle.open_store(points, labels=torch.arange(groups).repeat_interleave(each))


def rivals_of(
    data: floracle.Store, settings: TrainingSettings, device: torch.device
) -> tuple[dict, float, dict]:
    """The rivals, the switch that they share, and what it took to make ready."""
    took, start = {}, time.perf_counter()
    resident = floracle.Oracle(data, device=device, memory=None)
    switch = settings.switch
    if switch is None:
        switch = switch_time(measure_gap(resident, seed=0), Uniform(), settings.share)
    took["the switch, seconds"] = round(time.perf_counter() - start, 2)
    start = time.perf_counter()
    for label in classes(data) or [-1]:
        resident.class_points(label)
    took["all classes made ready, seconds"] = round(time.perf_counter() - start, 2)
    took["classes resident"] = sum(
        cached.points.points is not None for cached in resident._cache.classes.values()
    )
    cold = floracle.Oracle(data, device=device, memory=COLD)
    for label in classes(data) or [-1]:  # norms and centres are known either way
        cold.class_points(label)
    order, rivals = DataOrder.of(len(data), settings.seed), {}
    for name, oracle in {"conditional": None, "oracle": resident, "oracle, cold": cold}.items():
        asked = replace(settings, target="oracle" if oracle else "conditional")
        target = target_for(asked, data, oracle, switch)
        making = BatchMaker(data, order, asked, Uniform(), target, ALONE, device)
        rivals[name] = Rival(making, [])
    return rivals, switch, took


def stepper_of(data: floracle.Store, settings: TrainingSettings, device: torch.device) -> Stepper:
    """One network that all rivals train in turn."""
    network = build_model(settings, data).to(device).train()
    learner = Learner(network, copy_for_average(network), optimizer_for(network, lr=settings.rate))
    ask = torch.compile(network) if settings.compile else network
    return Stepper(learner, settings, GradientSums.over(ALONE, device), network.null, ask)


def settled(device: torch.device) -> float:
    """The time, once the device has done all it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def learn(stepper: Stepper, batch: Batch, meter: StageMeter, tally: Tally) -> None:
    """A step as `floracle.train` takes it."""
    device, settings = batch.x.device, stepper.settings
    with (
        repeatable(device, settings.repeatable),
        inner_randomness(device, settings.seed, batch.step),
    ):
        stepper(batch, meter, tally)


def taken(rival: Rival, stepper: Stepper, steps: int, device: torch.device) -> None:
    """A turn: one step, a few that are timed together, and a batch that nobody takes."""
    meter, tally = StageMeter(0.5), Tally(device)
    begin, rival.step = rival.step, rival.step + steps + 1
    ahead = device.type == "cuda"
    batches = rival.making.all(begin, ahead=ahead, stop=rival.step + ahead)
    learn(stepper, next(batches), meter, tally)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = settled(device)
    for _ in range(steps):
        batch = next(batches)
        learn(stepper, batch, meter, tally)
        rival.touched += batch.touched
        rival.pairs += len(batch.x)
    rival.seconds.append((settled(device) - start) / steps)
    if device.type == "cuda":
        rival.memory = max(rival.memory, torch.cuda.max_memory_allocated(device))
    for _ in batches:  # the one that is in the making
        settled(device)


def alone(making: BatchMaker, device: torch.device, steps: int) -> dict[str, float]:
    """What making a batch takes where nothing else goes on, and its targets' part."""
    for step in range(2):
        making.batch(step)
    start = settled(device)
    touched = sum(making.batch(step).touched for step in range(steps))
    seconds = settled(device) - start
    return {"ms a batch": 1e3 * seconds / steps, "touched a batch": touched / steps}


def measured(asked: argparse.Namespace) -> dict:
    """All of it, as numbers."""
    device, data = torch.device(asked.device), opened(asked.data)
    settings = TrainingSettings(
        model=asked.model,
        patch=asked.patch,
        batch=asked.batch,
        precision=asked.precision,
        compile=asked.compile,
        repeatable=not asked.fast,
        switch=asked.switch,
    )
    prepare_device(replace(settings, target="oracle"), device)
    rivals, switch, took = rivals_of(data, settings, device)
    stepper = stepper_of(data, settings, device)
    for rival in rivals.values():
        taken(rival, stepper, 2, device)
        rival.seconds.clear()
    for _ in range(asked.rounds):
        for rival in rivals.values():
            taken(rival, stepper, asked.steps, device)
    seconds = {name: rival.seconds for name, rival in rivals.items()}
    making = {name: alone(rival.making, device, 5) for name, rival in rivals.items()}
    plain = making["conditional"]["ms a batch"]
    pairs = {
        name: 1e3 * (found["ms a batch"] - plain) / max(found["touched a batch"], 1e-9)
        for name, found in making.items()
        if name != "conditional"
    }
    return {
        "data": Path(asked.data).name,
        "points": len(data),
        "classes": len(classes(data)),
        "shape": list(data.shape),
        "model": asked.model,
        "parameters": sum(p.numel() for p in stepper.learner.network.parameters()),
        "patch": stepper.learner.network.plan.patch,
        "batch": asked.batch,
        "precision": asked.precision,
        "repeatable": settings.repeatable,
        "device": asked.device,
        "switch": round(switch, 4),
        "share of pairs that touched data": round(
            rivals["oracle"].touched / rivals["oracle"].pairs, 4
        ),
        "ms a step": {name: round(1e3 * statistics.median(s), 2) for name, s in seconds.items()},
        "images a second": {
            name: round(asked.batch / statistics.median(s), 1) for name, s in seconds.items()
        },
        "against a conditional step": ratios(seconds, "conditional"),
        "the same, least and most of a round": spread(seconds, "conditional"),
        "µs a navigation pair, alone": {name: round(value, 1) for name, value in pairs.items()},
        "ms to make a batch, alone": {
            name: round(found["ms a batch"], 2) for name, found in making.items()
        },
        "peak memory on the device, GiB": {
            name: round(rival.memory / 2**30, 2) for name, rival in rivals.items()
        },
        "peak memory of the process, GiB": round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2
        ),
        **took,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--patch", type=int)
    parser.add_argument("--data", default=SYNTHETIC)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", default="float32", choices=["float32", "bf16"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--fast", action="store_true", help="sums in any order on a GPU")
    parser.add_argument("--switch", type=float, help="measured where left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="steps of a rival in a round")
    parser.add_argument("--name", default="training_step", help="of the file under results/")
    asked = parser.parse_args()
    report(asked.name, measured(asked))


if __name__ == "__main__":
    main()
