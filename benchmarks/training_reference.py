"""A whole training step beside the reference implementation's, in one run: images a second.

    python benchmarks/training_reference.py --reference LIGHTNINGDIT --timm TIMM [--compiled]

Both are checkouts. Its side is its network and its loss (`transport`), and around them what its
train.py does in a step: backward, gradients clipped, AdamW, the average of every parameter. Ours
is a step of `floracle.train`, drawing the batch included. The reference wraps its parts in
torch.compile, and that is what its users have: with --compiled it is kept, and ours is measured
with `compile` as well as without; otherwise it is switched off.
"""

from __future__ import annotations

import argparse
import copy
import gc
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import torch

import floracle
from floracle.models.networks.lightningdit import architecture
from floracle.run.processes import ALONE
from floracle.training.batches import BatchMaker
from floracle.training.config import PAPER, TrainingSettings
from floracle.training.data_order import DataOrder
from floracle.training.meter import StageMeter
from floracle.training.targets import target_for
from floracle.training.times import Uniform
from floracle.training.train_step import Tally
from measure import ratios, report, spread
from training_step import learn, stepper_of

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "parity"))
from foreign_code import COMMITS, imported, offer, prepare

from forward import reference

SHAPE = 32, 16, 16
"""A VA-VAE latent: 256 tokens at a patch of 1."""
CLASSES, POINTS = 10, 512


def data() -> floracle.Store:
    """Latents of nothing, by class."""
    points = torch.randn(POINTS, *SHAPE, generator=torch.Generator().manual_seed(0))
    return floracle.open_store(points, labels=torch.arange(POINTS) % CLASSES)


def theirs(folder: Path, store: floracle.Store, asked: TrainingSettings) -> Callable[[int], None]:
    """The reference's step."""
    plan = architecture(asked.model, patch=1, channels=SHAPE[0], side=SHAPE[1], classes=CLASSES)
    made = imported(folder, "transport").create_transport  # before its `models`, which it forgets
    loss_of = made("Linear", "velocity", None, None, None)
    network = reference(folder, plan).train()
    average = copy.deepcopy(network).eval().requires_grad_(False)
    known = average.state_dict(keep_vars=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=asked.rate, weight_decay=0)
    points = store.take(torch.arange(len(store)))

    def step(number: int) -> None:
        rows = torch.randint(len(points), (asked.batch,))
        with precision(asked):
            losses = loss_of.training_losses(network, points[rows], {"y": store.labels[rows]})
        loss = losses["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for name, own in network.named_parameters():
                known[name].mul_(0.9999).add_(own.data, alpha=0.0001)
        loss.item()

    return step


def ours(store: floracle.Store, asked: TrainingSettings) -> Callable[[int], None]:
    """A step of floracle.train."""
    cpu = torch.device("cpu")
    stepper = stepper_of(store, asked, cpu)
    making = BatchMaker(
        store,
        DataOrder.of(len(store), asked.seed),
        asked,
        Uniform(),
        target_for(asked, store, None, 0.0),
        ALONE,
        cpu,
    )
    meter, tally = StageMeter(0.5), Tally(cpu)

    def step(number: int) -> None:
        learn(stepper, making.batch(number), meter, tally)
        bool(tally.sums[1].isfinite())  # as the loop asks after every step on a CPU

    return step


def products(asked: TrainingSettings) -> Callable[[int], None]:
    """The matrix products of all tokens alone, with both gradients: no step takes less."""
    plan = architecture(asked.model, patch=1, side=SHAPE[1])
    kind = torch.float32 if asked.precision == "float32" else torch.bfloat16
    tokens, width, hidden = asked.batch * plan.side**2, plan.width, plan.hidden
    sides = [(width, 3 * width), (width, width), (width, 2 * hidden), (hidden, width)]
    made = [
        [torch.randn(*shape, dtype=kind) for shape in ((tokens, a), (b, a), (tokens, b))]
        for a, b in sides
    ]

    def step(number: int) -> None:
        for _ in range(plan.depth):
            for x, weight, gradient in made:
                x @ weight.T, gradient @ weight, gradient.T @ x

    return step


def precision(asked: TrainingSettings):
    """As the reference's launcher sets it."""
    if asked.precision == "float32":
        return nullcontext()
    return torch.autocast("cpu", dtype=torch.bfloat16)


def turns(rivals: dict[str, Callable[[int], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each rival's steps, in turn, after two that are not counted.

    Another one begins in every round, so that nobody always follows the same.
    """
    taken: dict[str, list[float]] = {name: [] for name in rivals}
    names = list(rivals)
    for number in range(rounds + 2):
        for place in range(len(names)):
            name = names[(number + place) % len(names)]
            step = rivals[name]
            start = time.perf_counter()
            step(number)
            if number > 1:
                taken[name].append(time.perf_counter() - start)
    return taken


def compared(folder: Path, size: str, asked: argparse.Namespace) -> dict:
    """Both, one size, one precision."""
    store = data()
    settings = {
        "model": size,
        "patch": 1,
        "batch": asked.batch or {"base": 4, "tiny": 16}[size],
        "precision": asked.precision,
    }
    plain = TrainingSettings(**{**PAPER.plain(), "betas": PAPER.betas, **settings})
    rivals = {"reference": theirs(folder, store, plain), "ours": ours(store, plain)}
    rivals["matrix products alone"] = products(plain)
    if asked.compiled:
        quick = TrainingSettings(**{**plain.plain(), "betas": plain.betas, "compile": True})
        rivals["ours compiled"] = ours(store, quick)
    taken = turns(rivals, asked.rounds)
    return {
        "batch": plain.batch,
        "seconds": {name: round(median(times), 4) for name, times in taken.items()},
        "throughput": {n: round(1 / r, 3) for n, r in ratios(taken, "reference").items()},
        "throughput, least and most of a round": {
            n: (round(1 / high, 3), round(1 / low, 3))
            for n, (low, high) in spread(taken, "reference").items()
        },
    }


def main() -> None:
    """Compare the sizes and write results/training_reference*.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--timm", type=Path)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--precision", default="float32", choices=["float32", "bf16"])
    parser.add_argument("--sizes", default="tiny,base")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rounds", type=int, default=12)
    asked = parser.parse_args()
    if asked.reference is None or asked.timm is None:
        print("training_reference: give --reference and --timm, checkouts of the reference")
        return
    prepare(asked.timm, compiled=asked.compiled)
    sys.path.append(
        str(asked.reference)
    )  # its modules are looked up again while they are compiled
    offer("torchdiffeq", odeint=None)
    measured = {}
    for size in asked.sizes.split(","):
        measured[size] = compared(asked.reference, size, asked)
        print(size, measured[size], flush=True)
        gc.collect()
    name = "training_reference" + ("_compiled" if asked.compiled else "") + f"_{asked.precision}"
    budget = "throughput at least 1.0 of the reference's, aim 1.3"
    about = {"compiled": asked.compiled, "precision": asked.precision, "rounds": asked.rounds}
    commit = COMMITS["hustvl/LightningDiT"]
    report(name, {"budget": budget, **about, "commit": commit, **measured})


if __name__ == "__main__":
    main()
