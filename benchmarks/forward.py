"""Forward passes of LightningDiT beside the reference implementation, in one run.

    python benchmarks/forward.py --reference LIGHTNINGDIT --timm TIMM [--compiled] [--threads 1]

Both are checkouts; without them nothing can be compared. The reference wraps its parts in
torch.compile. That is switched off here, or kept with --compiled, and then our blocks are compiled
as well, and the third rival is ours as it is.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from floracle.models.networks.lightningdit import Architecture, LightningDiT, architecture
from measure import ratios, report, seconds

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "parity"))
from foreign_code import COMMITS, imported, prepare

PLACES = {
    "base": {"patch": 1, "channels": 32, "side": 16},
    "tiny": {"patch": 1, "channels": 32, "side": 16},
}
BATCH = {"base": 2, "tiny": 8}


def reference(folder: Path, plan: Architecture):
    """The reference's network of this architecture."""
    made = imported(folder, "models.lightningdit").LightningDiT
    return made(
        input_size=plan.side,
        patch_size=plan.patch,
        in_channels=plan.channels,
        hidden_size=plan.width,
        depth=plan.depth,
        num_heads=plan.heads,
        num_classes=plan.classes,
        use_swiglu=True,
        use_rope=True,
        use_rmsnorm=True,
    )


def processor_seconds(rivals: dict[str, Callable], rounds: int) -> dict[str, list[float]]:
    """Like `seconds`, in time that the process itself had: others on the machine matter less."""
    spent: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            start = time.process_time()
            run()
            spent[name].append(time.process_time() - start)
    return spent


def throughput(taken: dict[str, list[float]]) -> dict[str, float]:
    """The reference's time over each rival's, the median over rounds."""
    return {name: round(1 / ratio, 3) for name, ratio in ratios(taken, "reference").items()}


def compared(folder: Path, size: str, *, rounds: int, compiled: bool) -> dict:
    """Seconds of both on the same weights, and how far their outputs are apart."""
    plan = architecture(size, **PLACES[size])
    generator = torch.Generator().manual_seed(0)
    theirs = reference(folder, plan).eval()
    ours = LightningDiT(plan).eval()
    for name, values in theirs.named_parameters():
        if name != "pos_embed":
            values.data.normal_(std=0.05, generator=generator)
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if "rope" not in k})
    x = torch.randn(BATCH[size], *plan.shape, generator=generator)
    given = x, torch.rand(len(x), generator=generator), torch.arange(len(x))
    with torch.no_grad():
        apart = (ours(*given) - theirs(*given)).abs().max().item()
        rivals = {"reference": lambda: theirs(*given), "ours": lambda: ours(*given)}
        if compiled:
            quick = copy.deepcopy(ours)
            for block in quick.blocks:
                block.compile()
            rivals["ours compiled"] = lambda: quick(*given)
        taken, spent = seconds(rivals, rounds=rounds), processor_seconds(rivals, rounds)
    return {
        "batch": len(x),
        "tokens": (plan.side // plan.patch) ** 2,
        "seconds": {name: round(min(times), 4) for name, times in taken.items()},
        "throughput": throughput(taken),
        "throughput by processor time": throughput(spent),
        "apart": apart,
    }


def main() -> None:
    """Compare both sizes and write results/forward.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--timm", type=Path)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    if asked.reference is None or asked.timm is None:
        print("forward: give --reference and --timm, checkouts of the reference implementation")
        return
    torch.set_num_threads(asked.threads)
    prepare(asked.timm, compiled=asked.compiled)
    how = {"rounds": asked.rounds, "compiled": asked.compiled}
    measured = {size: compared(asked.reference, size, **how) for size in PLACES}
    name = "forward-compiled" if asked.compiled else "forward"
    commit = COMMITS["hustvl/LightningDiT"]
    budget = "throughput at least 1.0 of the reference's"
    settings = {"threads": asked.threads, "compiled": asked.compiled, "commit": commit}
    report(name, {"budget": budget, **settings, **measured})


if __name__ == "__main__":
    main()
