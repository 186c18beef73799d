"""`floracle predict`: the stages to expect, from N and the covariance spectrum alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from .counts import Whole
from .opening import Opening, show_remarks

if TYPE_CHECKING:
    from floracle.analysis.prediction import Predicted

OPENING = Opening()

OWN = (0.01, 0.1, 0.5, 0.9, 0.99)
"""Own weights whose times are shown."""
SCALES = "0.25,0.5,1,2,4"
FACTORS = (0.1, 1.0, 10.0, 100.0)


def predict(
    data: str | None = None,
    /,
    *,
    points: float | None = None,
    dims: Whole | None = None,
    spectrum: Path | None = None,
    opening: Opening = OPENING,
    classes: str = "both",
    what_if: str | None = None,
    scales: str = SCALES,
    memory: str | None = None,
) -> None:
    """Predict the stages from the number of points and their spectrum alone.

    Give data, or the number of points with either dims (unit Gaussians) or a spectrum.

    Parameters
    ----------
    data
        Data whose points are counted and whose spectrum is taken.
    points
        The number of points.
    dims
        Dimensions of isotropic points with unit variance.
    spectrum
        A .npy or text file of covariance eigenvalues.
    opening
        How data is read.
    classes
        each, whole, both, or labels like 0,3,5.
    what_if
        Numbers of points to ask about, like 1e4,1e5.
    scales
        Multiples of the dimensions to ask about.
    memory
        How much may be used, like 4G; half of what is free by default.
    """
    from floracle.analysis.prediction import predict as predicted_for
    from floracle.run.errors import Mistake

    from .options import numbers

    if (data is None) == (points is None):
        raise Mistake("give either data, or --points with --dims or --spectrum")
    if data is not None and (dims is not None or spectrum is not None):
        raise Mistake("--dims and --spectrum go with --points; data has its own")
    asked = numbers(what_if, "--what-if") if what_if is not None else None
    factors = numbers(scales, "--scales")
    if points is not None:
        given = None if spectrum is None else _read(spectrum)
        name = f"{points:,.0f} points"
        found = {name: predicted_for(points, dims=dims, spectrum=given)}
    else:
        found = _of_data(str(data), opening, classes, memory)
    _show(found)
    several = {name: one for name, one in found.items() if one.points > 1}
    if several:
        _show_what_if(*_typical(several), asked, factors)


def _of_data(
    data: str, opening: Opening, classes: str, memory: str | None
) -> dict[str, Predicted]:
    """Predictions by class, the whole set last."""
    from floracle.analysis.prediction import predict as predicted_for
    from floracle.core.source import classes as labels_in
    from floracle.core.spectrum import spectra

    from .options import classes_of

    store = opening.store(data, memory)
    show_remarks(store)
    chosen = classes_of(classes, labels_in(store))
    sizes = {}
    for label in chosen:
        weights = store.atoms(label).weights
        sizes[label] = math.exp(-float((weights * weights.log()).sum()))
    several = [label for label in chosen if sizes[label] > 1 + 1e-9]
    found = spectra(store, several) if several else {}
    names = {c: "whole set" if c < 0 else f"class {store.classes[c]}" for c in chosen}
    one = predicted_for(1, spectrum=[0.0])  # a single point: all is decided at t = 0
    return {
        names[label]: predicted_for(sizes[label], spectrum=found[label]) if label in found else one
        for label in chosen
    }


def _typical(found: dict[str, Predicted]) -> tuple[str, Predicted]:
    """The class in the middle by its collapse."""
    ordered = sorted(found.items(), key=lambda item: item[1].collapse)
    return ordered[len(ordered) // 2]


def _show(found: dict[str, Predicted]) -> None:
    from .console import show_table

    head = ("", "points", "centre", "collapse", *(f"own {own:g}" for own in OWN))
    rows = [
        (
            name,
            f"{one.points:,.0f}",
            _time(one.centre),
            _time(one.collapse),
            *map(_time, _times_of_own(one)),
        )
        for name, one in found.items()
    ]
    show_table(head, rows, "Predicted times of the landmarks and of own weights")


def _show_what_if(
    name: str, one: Predicted, points: list[float] | None, scales: list[float]
) -> None:
    from .console import show_table

    counts = points or [max(2.0, factor * one.points) for factor in FACTORS]
    cells = {(c["points"], c["scale"]): c for c in one.what_if(counts, scales)}
    rows = [
        (
            f"{count:,.0f}",
            *(_both(cells[count, scale]) for scale in scales),
        )
        for count in dict.fromkeys(counts)
    ]
    head = ("N", *(f"{scale:g} × dims" for scale in scales))
    show_table(head, rows, f"What if: centre · collapse of {name} with other N and dimensions")


def _times_of_own(one: Predicted) -> list[float]:
    """When the expected own weight reaches each level; by bisection in t."""
    import torch

    levels = torch.tensor(OWN, dtype=torch.float64)
    low, high = torch.zeros_like(levels), torch.ones_like(levels)
    for _ in range(40):
        middle = (low + high) / 2
        early = one.own(middle) < levels
        low, high = torch.where(early, middle, low), torch.where(early, high, middle)
    return ((low + high) / 2).tolist()


def _both(cell: dict[str, float]) -> str:
    return f"{_time(cell['centre'])} · {_time(cell['collapse'])}"


def _time(t: float) -> str:
    return f"{t:.4f}"


def _read(path: Path) -> list[float]:
    """Eigenvalues from a .npy or text file."""
    import numpy as np

    from floracle.run.errors import Mistake

    if not path.is_file():
        raise Mistake(f"there is no spectrum file {path}")
    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            values = np.loadtxt(path, delimiter="," if "," in path.read_text() else None)
        return np.asarray(values, dtype=np.float64).ravel().tolist()
    except (ValueError, OSError, EOFError) as error:
        raise Mistake(f"{path} is no list of eigenvalues ({error})") from error
