"""What the oracle says about a real model: somebody else's flow model of MNIST.

    python benchmarks/mnist_model.py [PART …]      # losses, switch, landing, guidance, draw

Reads FLORACLE_SHARED (default ../shared). Every part is kept in results/mnist_model.json once
measured; `draw` makes docs/images/mnist-*.png from there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch
from matplotlib import rc_context

import floracle
from floracle.analysis.mixing.field_switching import sample_with_switch, switch_fields
from floracle.oracle.baselines.gaussian import class_gaussians
from floracle.report import style
from floracle.report.figure import Drawing
from floracle.report.plots import new_axes, to_numpy
from floracle.run.images import enlarge, png, quantise, tiles
from measure import RESULTS, report

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("FLORACLE_SHARED", ROOT.parent / "shared"))
MNIST, IMAGES = SHARED / "data" / "mnist", ROOT / "docs" / "images"
MODEL = str(ROOT / "tests" / "models" / "mnist_network.py") + ":network"
TIMES = torch.tensor([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9], dtype=torch.float64)
PAIRS, TRAJECTORIES = 64, 16
TAUS = [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]
DIGITS = torch.arange(10)


def opened(which: str):
    """The training or the test pictures in the model's own space, [0, 1]."""
    kept = "train" if which == "train" else "t10k"
    where = MNIST / f"{kept}-images-idx3-ubyte.gz"
    return floracle.open_store(str(where), normalize=1 / 255)


def model():
    return floracle.load_model(MODEL, convention="predicts=data,null_label=10")


def rounded(values) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def losses() -> dict:
    """Both losses on the path and on the model's own trajectories, all digits together."""
    data, test = opened("train"), opened("test")
    oracle, known = floracle.Oracle(data), {"times": TIMES, "classes": range(10), "seed": 0}
    gaussians = {"class Gaussians": class_gaussians(data)}
    path = floracle.oracle_loss(
        model(), oracle, pairs=PAIRS, held_out=test, baselines=gaussians, **known
    )
    own = floracle.oracle_loss(model(), oracle, pairs=TRAJECTORIES, along="own", **known)
    whole, followed = path.mean_curves(), own.mean_curves()["oracle"]
    found = {"times": rounded(TIMES), "pairs a digit": PAIRS, "own a digit": TRAJECTORIES}
    for name, curve in {**whole, "own": followed}.items():
        found[name] = {"mean": rounded(curve.mean), "error": rounded(curve.error)}
    names = {name for group in path.classes for name in group.closest}
    found["closest"] = {
        name: [sum(group.closest[k] == name for group in path.classes) for k in range(len(TIMES))]
        for name in sorted(names)
    }
    found["digits that are sure"] = [
        sum(group.significant[k] for group in path.classes) for k in range(len(TIMES))
    ]
    return found


def switch() -> dict:
    """Fig 5: oracle to τ, the model after, 8 seeds of every digit; beside it test pictures."""
    data, test = opened("train"), opened("test")
    labels = DIGITS.repeat(8)
    oracle = floracle.Oracle(data)
    found = switch_fields(model(), oracle, switch_times=TAUS, seeds=range(80), labels=labels)
    copies, low, high = found.copy_share()
    ratio = []
    for digit in range(10):
        some = test.take(test.atoms(digit).rows[:8])
        near = floracle.nearest(data, some, 2, label=digit).distances
        ratio.append(torch.cat([near[:, :1] / 28, near[:, :1] / near[:, 1:]], 1))
    apart, quotient = torch.cat(ratio).mean(0).tolist()
    curve, own = found.distance(), found.distance_to_oracle()
    return {
        "taus": TAUS,
        "samples": 80,
        "nearest": {"mean": rounded(curve.mean), "error": rounded(curve.error)},
        "from the oracle's end": {"mean": rounded(own.mean), "error": rounded(own.error)},
        "first over second": rounded((found.nearest_distance / found.second_distance).mean(0)),
        "on the oracle's own row": rounded(
            (found.rows == found.oracle_rows[:, None]).double().mean(0)
        ),
        "copied": {"share": rounded(copies), "low": rounded(low), "high": rounded(high)},
        "test pictures": {"nearest": apart, "first over second": quotient},
    }


def landings() -> dict:
    """FACTS 3.11: model to τ, the exact oracle after; 400 seeds of one digit."""
    oracle, field, found = floracle.Oracle(opened("train")), model(), {}
    for name, first, tau in (
        ("oracle", oracle, 0.2),
        ("model", field, 0.1),
        ("model", field, 0.3),
    ):
        test = floracle.landing_test(first, oracle, switch_time=tau, seeds=range(400), labels=3)
        values = test.to_results().values
        found[f"{name} to {tau:g}"] = {
            "verdict": test.verdict,
            "said": str(test),
            "fit": values["fit"],
            "diversity": values["diversity"],
        }
    return {"digit": 3, "seeds": 400, "tests": found}


GUIDED = (
    (1.0, (0.0, 1.0)),
    (2.5, (0.0, 1.0)),
    (2.5, (0.0, 0.1)),
    (2.5, (0.1, 0.3)),
    (2.5, (0.1, 0.6)),
    (2.5, (0.6, 1.0)),
    (5.0, (0.0, 1.0)),
    (5.0, (0.1, 0.6)),
)
"""Scales and intervals of docs/how-to/guidance.md."""


def guidance() -> dict:
    """What scales and intervals do to 200 samples, the digits in turn: right labels and spread."""
    data, grid, rows = opened("train"), floracle.time_grid(50), []
    labels, start = DIGITS.repeat(20), floracle.noise(range(200), (1, 28, 28))
    for scale, interval in GUIDED:
        field = floracle.guided(model(), scale, interval=interval)
        ends = floracle.sample(field, start, grid, labels=labels)
        near = floracle.nearest(data, ends).rows[:, 0]
        rows.append(
            {
                "scale": scale,
                "interval": interval,
                "evaluations": floracle.evaluations(grid, field=field) if scale != 1 else 50,
                "right": float((data.labels[near] == labels).double().mean()),
                "spread": float(f"{spread_of(ends, labels):.3g}"),
            }
        )
    training = torch.cat([data.take(data.atoms(label).rows[:20]) for label in range(10)])
    of_training = spread_of(training, DIGITS.repeat_interleave(20))
    return {"rows": rows, "training pictures": float(f"{of_training:.3g}")}


def spread_of(points: torch.Tensor, labels: torch.Tensor) -> float:
    """The mean squared distance of two samples of a digit."""
    found = [2 * points[labels == d].flatten(1).var(0).sum() for d in range(10)]
    return float(torch.stack(found).mean())


def guided_samples() -> bytes:
    """Seeds 0 to 9 by columns: no guidance, 2.5 everywhere, 2.5 in [.1, .6], 5 everywhere."""
    start, grid = floracle.noise(range(10), (1, 28, 28)), floracle.time_grid(50)
    fields = [
        floracle.guided(model(), *GUIDED[k][:1], interval=GUIDED[k][1]) for k in (0, 1, 4, 6)
    ]
    rows = [floracle.sample(field, start, grid, labels=DIGITS) for field in fields]
    pictures = 255 - quantise(torch.cat(rows), 0.0, 1.0)
    return png(tiles(enlarge(pictures, 56), 10))


def table(results: dict):
    """Markdown: the guidance of docs/how-to/guidance.md."""
    yield "| scale, interval | evaluations | right | spread |"
    yield "|---|---|---|---|"
    for row in results["guidance"]["rows"]:
        low, high = (f"{end:g}".removeprefix("0") or "0" for end in row["interval"])
        name = "none" if row["scale"] == 1 else f"{row['scale']:g} in [{low}, {high}]"
        yield f"| {name} | {row['evaluations']} | {row['right']:.3f} | {row['spread']:.0f} |"


def draw() -> None:
    """The pictures of the page, from what was measured."""
    kept = json.loads((RESULTS / "mnist_model.json").read_text())
    IMAGES.mkdir(exist_ok=True)
    drawn = {"losses": drawn_losses(kept["losses"]), "switch": drawn_switch(kept)}
    for name, drawing in drawn.items():
        (IMAGES / f"mnist-{name}.png").write_bytes(drawing.png())
    (IMAGES / "mnist-samples.png").write_bytes(samples())
    (IMAGES / "mnist-guidance.png").write_bytes(guided_samples())


def curve_of(kept: dict):
    return to_numpy(kept["mean"]), to_numpy(kept["error"])


def lines(ax, times, kept: dict, drawn: tuple) -> None:
    """Curves with two errors on either side, each named at one of its points."""
    for name, words, colour, place, (across, above, side) in drawn:
        mean, error = curve_of(kept[name])
        ax.fill_between(times, mean - 2 * error, mean + 2 * error, color=colour, alpha=0.22, lw=0)
        ax.plot(times, mean, "-o", ms=2.4, mew=0, color=colour)
        shift = {"xytext": (across, above), "textcoords": "offset points", "ha": side}
        ax.annotate(words, (times[place], mean[place]), color=colour, **shift)


def drawn_losses(kept: dict):
    times = kept["times"]
    with rc_context(style.STYLE):
        figure, ax = new_axes()
        lines(
            ax,
            times,
            kept,
            (
                ("conditional", "", style.BLUE, 0, (0, 0, "left")),
                ("held_out", "training and held-out pictures", style.TEAL, 0, (0, 22, "left")),
                ("oracle", "from the oracle", style.ORANGE, 5, (8, -12, "left")),
                ("own", "the same on its own trajectories", style.VIOLET, 6, (-14, 12, "right")),
            ),
        )
        ax.set_yscale("log")
        ax.set_xlabel("t, from noise to data")
        ax.set_ylabel("squared error a pixel")
    return Drawing("mnist-losses", "Losses of the model by time", figure, {})


def drawn_switch(kept: dict):
    switched_at = kept["switch"]
    with rc_context(style.STYLE):
        figure, ax = new_axes()
        level = switched_at["test pictures"]["nearest"]
        ax.axhline(level, color=style.QUIET, lw=0.8, ls=":")
        ax.annotate("held-out test pictures", (0.99, level), (0, 4), textcoords="offset points",
                    ha="right", color=style.QUIET)  # fmt: skip
        lines(
            ax,
            switched_at["taus"],
            switched_at,
            (
                ("nearest", "to the nearest training picture", style.BLUE, 0, (0, -24, "left")),
                (
                    "from the oracle's end",
                    "to the oracle's own end",
                    style.ORANGE,
                    7,
                    (10, 8, "left"),
                ),
            ),
        )
        ax.set_ylim(0)
        ax.set_xlabel("τ, where the model takes over from the oracle")
        ax.set_ylabel("distance a pixel (root mean square)")
    return Drawing("mnist-switch", "Where samples end by switching time", figure, {})


def samples() -> bytes:
    """One seed a column: the oracle until τ, then the model; τ grows from row to row."""
    oracle, field, grid = floracle.Oracle(opened("train")), model(), floracle.time_grid(50)
    x, taus = floracle.noise(range(10), (1, 28, 28)), (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)
    rows = [
        sample_with_switch(oracle, field, x, grid, switch_time=tau, labels=DIGITS) for tau in taus
    ]
    pictures = 255 - quantise(torch.cat(rows), 0.0, 1.0)
    return png(tiles(enlarge(pictures, 56), 10))


PARTS = {"losses": losses, "switch": switch, "landing": landings, "guidance": guidance}


def main() -> None:
    torch.set_grad_enabled(False)
    path = RESULTS / "mnist_model.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    for name in sys.argv[1:] or [*PARTS, "draw"]:
        if name == "draw":
            draw()
            continue
        started = time.perf_counter()
        kept[name] = PARTS[name]()
        kept[name]["seconds"] = round(time.perf_counter() - started, 1)
        report("mnist_model", {key: value for key, value in kept.items() if key != "machine"})


if __name__ == "__main__":
    main()
