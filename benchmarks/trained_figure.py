"""Draws what benchmarks/trained.py kept: oracle loss by t, and where runs part.

    python benchmarks/trained_figure.py digits fashion_mnist cifar10
    python benchmarks/trained_figure.py images256_latents+images256_pixels

Left the oracle loss of every kind of run, right differences as a share of the loss they are taken
from, by t, with Student's 95 % interval over seeds; navigation is shaded. Spaces that are named
with a + between share a row: right the same losses over a logarithmic t.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t as student

from floracle.report.style import BLUE, INK, NAVIGATION, ORANGE, QUIET, STYLE, TEAL, VIOLET
from floracle.report.training.figures import halfway
from measure import RESULTS

DRAWN = Path(__file__).parents[1] / "docs" / "images"
TARGETS = ("conditional", "oracle", "bank")
TITLES = {"digits": "Digits", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}


def numbers(value: Any) -> np.ndarray:
    """A curve, kept as a list or as a line of text."""
    return np.array(value.split() if isinstance(value, str) else value, float)


def looks_of(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Its evaluations; older files keep the last one alone."""
    return run["looks"] if "looks" in run else [run["last"]]


def curve(look: dict[str, Any]) -> np.ndarray:
    """The oracle loss by t."""
    return numbers(look["oracle"]["mean"])


def parted(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean difference of curves [seeds, times] as a share of theirs, and its reach."""
    share = (ours - theirs) / theirs.mean(0)
    reach = student.ppf(0.975, len(share) - 1) * share.std(0, ddof=1) / len(share) ** 0.5
    return share.mean(0), reach


def drawn(left: Any, right: Any, name: str, found: dict[str, Any]) -> None:
    """One row of the figure."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for run_name, run in found["runs"].items():
        kinds.setdefault(run_name.rpartition("-")[0], []).append(run)
    last = {kind: np.stack([curve(looks_of(r)[-1]) for r in runs]) for kind, runs in kinds.items()}
    times = numbers(looks_of(kinds["conditional"][0])[-1]["t"])
    split = kinds["conditional"][0]["split"]
    size = {kind: f"{runs[0]['parameters'] / 1e6:.1f} M" for kind, runs in kinds.items()}
    other = next((kind for kind in kinds if kind not in TARGETS), None)
    lines = [("conditional", BLUE, "-")]
    lines += [("oracle", ORANGE, (0, (4, 2)))] if "oracle" in kinds else []
    lines += [(other, TEAL, "-")] if other else []
    for kind, colour, dashes in lines:
        words = f"{size[kind]}, {kind if kind != other else 'conditional'} target"
        left.plot(times, last[kind].mean(0), color=colour, ls=dashes, label=words)
    differences = []
    if "oracle" in kinds:
        differences.append(("oracle", ORANGE, "oracle target less conditional"))
    differences += [(other, TEAL, f"{size[other]} less {size['conditional']}")] if other else []
    for kind, colour, words in differences:
        banded(right, times, parted(last[kind], last["conditional"]), colour, words)
    if len(looks_of(kinds["conditional"][0])) > 1:
        runs = kinds["conditional"]
        half = np.stack([curve(halfway(looks_of(run))) for run in runs])
        left.plot(times, half.mean(0), color=VIOLET, lw=1, label="half of the images")
        shares = parted(half, last["conditional"])
        banded(right, times, shares, VIOLET, "half of the images less all")
    for axis in (left, right):
        axis.axvspan(0, split, color=NAVIGATION, lw=0, zorder=0)
        axis.set_xlim(0, 1)
        axis.set_xlabel("time t")
    left.set_ylabel("oracle loss, a dimension")
    left.set_ylim(bottom=0)
    left.set_title(f"{TITLES.get(name, name)}: oracle loss", loc="left", color=INK)
    right.axhline(0, color=INK, lw=0.7)
    right.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0, symbol=" %"))
    right.set_title("difference, as a share of it", loc="left", color=INK)
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=7, labelcolor=QUIET)


def spaces(left: Any, right: Any, found: dict[str, dict[str, Any]]) -> None:
    """A row of several spaces: the oracle loss of each, at half and at all of the images."""
    for (name, one), colour in zip(found.items(), (BLUE, ORANGE, TEAL), strict=False):
        runs = [run for kind, run in one["runs"].items() if kind.startswith("conditional-")]
        times = numbers(looks_of(runs[0])[-1]["t"])
        every = np.stack([curve(looks_of(run)[-1]) for run in runs])
        half = np.stack([curve(halfway(looks_of(run))) for run in runs]).mean(0)
        reach = student.ppf(0.975, len(runs) - 1) * every.std(0, ddof=1) / len(runs) ** 0.5
        words = name.rpartition("_")[2]
        for axis in (left, right):
            low, high = every.mean(0) - reach, every.mean(0) + reach
            axis.fill_between(times, low, high, color=colour, alpha=0.18, lw=0)
            axis.plot(times, every.mean(0), color=colour, marker=".", ms=4, label=words)
            axis.plot(
                times, half, color=colour, lw=0.9, alpha=0.6, label=f"{words}, half the images"
            )
    right.set_xscale("log")
    left.set_xlim(0, 1)
    for axis in (left, right):
        axis.set_ylim(bottom=0)
        axis.set_xlabel("time t")
        axis.legend(frameon=False, fontsize=7, labelcolor=QUIET)
    left.set_ylabel("oracle loss, a dimension")
    left.set_title("Photographs in two spaces, each standardized", loc="left", color=INK)
    right.set_title("the same, t on a logarithmic axis", loc="left", color=INK)


def banded(axis: Any, times: np.ndarray, shares: tuple, colour: str, words: str) -> None:
    """A difference with its interval."""
    mean, reach = shares
    axis.fill_between(times, mean - reach, mean + reach, color=colour, alpha=0.18, lw=0)
    axis.plot(times, mean, color=colour, marker=".", ms=4, label=words)


def main() -> None:
    """Draw the figure of the results that are named."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("names", nargs="*")
    names = asked.parse_args().names
    if not names:
        print("trained_figure: name results of benchmarks/trained.py, like digits")
        return
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 2.9 * len(names)), layout="constrained", dpi=160)
        axes = figure.subplots(len(names), 2, squeeze=False)
        for name, (left, right) in zip(names, axes, strict=True):
            found = {
                one: json.loads((RESULTS / f"trained_{one}.json").read_text())
                for one in name.split("+")
            }
            if len(found) > 1:
                spaces(left, right, found)
            else:
                drawn(left, right, name, found[name])
        path = DRAWN / ("training-spaces.png" if "+" in names[0] else "training.png")
        figure.savefig(path)
    print(path.name)


if __name__ == "__main__":
    main()
