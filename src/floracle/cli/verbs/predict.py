"""`floracle predict`: the stages to expect, from statistics of the data, without posteriors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from floracle.cli.counts import Whole
from floracle.cli.data_options import DataOptions, show_remarks

if TYPE_CHECKING:
    from floracle.analysis.prediction.closed_form import PredictedStages
    from floracle.analysis.prediction.profile import Profile
    from floracle.analysis.prediction.twin import Twin

OPENING = DataOptions()

OWN = (0.01, 0.1, 0.9, 0.99)
"""Posterior weights of the pair's own point whose times are shown."""
SCALES = "0.25,0.5,1,2,4"
FACTORS = (0.1, 1.0, 10.0, 100.0)


def predict(
    data: str | None = None,
    /,
    *,
    points: float | None = None,
    dims: Whole | None = None,
    spectrum: Path | None = None,
    opening: DataOptions = OPENING,
    classes: str = "both",
    what_if: str | None = None,
    scales: str = SCALES,
    memory: str | None = None,
) -> None:
    """Predict the stages from statistics of the data, without computing a posterior.

    Give data, or the number of points with either dims (unit Gaussians) or a spectrum. Of data
    the spectrum, norms and distances between points are taken.

    Parameters
    ----------
    data
        Data whose statistics are taken.
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
    from floracle.analysis.prediction.closed_form import predict as predicted_for
    from floracle.analysis.prediction.profile import Profile
    from floracle.cli.parsing import numbers
    from floracle.run.errors import InputError

    if (data is None) == (points is None):
        raise InputError("give either data, or --points with --dims or --spectrum")
    if data is not None and (dims is not None or spectrum is not None):
        raise InputError("--dims and --spectrum go with --points; data has its own")
    asked = numbers(what_if, "--what-if") if what_if is not None else None
    if asked is not None and min(asked) < 2:
        raise InputError(f"--what-if asks about at least 2 points, got {min(asked):g}")
    factors = numbers(scales, "--scales")
    if points is not None:
        given = None if spectrum is None else _read(spectrum)
        bound = predicted_for(points, dims=dims, spectrum=given)
        told = Profile.of_spectrum(bound.spectrum, points) if points >= 2 else None
        expected = {f"{points:,.0f} points": (bound, told)}
    else:
        expected = _of_data(str(data), opening, classes, memory)
    _show(expected)
    several = [(name, bound, told) for name, (bound, told) in expected.items() if told]
    if several:
        ordered = sorted(several, key=lambda one: one[1].collapse)
        _show_what_if(*ordered[len(ordered) // 2], asked, factors)


def _of_data(
    data: str, opening: DataOptions, classes: str, memory: str | None
) -> dict[str, tuple[PredictedStages, Profile | None]]:
    """The bound and the profile of each class, the whole set last."""
    from floracle.analysis.prediction.closed_form import predict as predicted_for
    from floracle.analysis.prediction.profile import profile
    from floracle.cli.parsing import classes_of
    from floracle.core.point_set import classes as labels_in
    from floracle.core.spectrum import spectra
    from floracle.run.budget import memory_budget

    store = opening.store(data, memory)
    show_remarks(store)
    chosen = classes_of(classes, labels_in(store))
    sizes = {}
    for label in chosen:
        weights = store.atoms(label).weights
        sizes[label] = math.exp(-float((weights * weights.log()).sum()))
    several = [label for label in chosen if sizes[label] > 1 + 1e-9]
    room = memory_budget(memory) // 2
    eigenvalues = spectra(store, several, room=room) if several else {}
    names = {c: "whole set" if c < 0 else f"class {store.classes[c]}" for c in chosen}
    one = predicted_for(1, spectrum=[0.0])  # a single point: all is decided at t = 0
    return {
        names[label]: (
            predicted_for(sizes[label], spectrum=values),
            profile(store, label, values, room=room) if sizes[label] >= 2 else None,
        )
        if (values := eigenvalues.get(label)) is not None
        else (one, None)
        for label in chosen
    }


def _show(expected: dict[str, tuple[PredictedStages, Profile | None]]) -> None:
    """Landmarks of the twins, and the formula's beside them."""
    from floracle.analysis.prediction.twin import twin
    from floracle.cli.console import show_table

    head = ("", "points", "centre", "collapse", "end", *(f"own {own:g}" for own in OWN))
    rows = []
    for name, (bound, told) in expected.items():
        if told is None:
            # one point: all is decided at t = 0; between one and two nothing can be said
            mark = 0.0 if bound.points == 1 else None
            times = [mark] * (3 + len(OWN))
        else:
            of = twin(told, max(2.0, bound.points))
            times = [
                of.centre,
                of.collapse,
                of.end,
                *(of.time_of("self_weight", own) for own in OWN),
            ]
        formula = (_time(bound.centre), _time(bound.collapse))
        rows.append((name, f"{bound.points:,.0f}", *map(_time, times), *formula))
    head = (*head, "formula: centre", "collapse")
    show_table(head, rows, "Predicted times of the landmarks and of own weights")


def _show_what_if(
    name: str,
    bound: PredictedStages,
    told: Profile,
    points: list[float] | None,
    scales: list[float],
) -> None:
    from floracle.analysis.prediction.twin import quick_pairs, twin
    from floracle.cli.console import show_table

    counts = list(dict.fromkeys(points or [max(2.0, f * bound.points) for f in FACTORS]))
    cells = {(c["points"], c["scale"]): c for c in bound.what_if(counts, [1.0, *scales])}
    rows = []
    for count in counts:
        of, plain = twin(told, count, pairs=quick_pairs(count)), cells[count, 1.0]
        scaled = [_both(of, plain, cells[count, scale]) for scale in scales]
        rows.append((f"{count:,.0f}", *scaled))
    head = ("N", *(f"{scale:g} × dims" for scale in scales))
    show_table(head, rows, f"What if: centre · collapse of {name} with other N and dimensions")


def _both(of: Twin, plain: dict[str, float], cell: dict[str, float]) -> str:
    """A twin's landmarks, moved as the formula's are by other dimensions."""
    moved = []
    for name in ("centre", "collapse"):
        start, times = getattr(of, name), [one[name] for one in (plain, cell)]
        if start is None or max(start, *times) >= 1:  # later than float64 can tell from 1
            moved.append("–")
            continue
        before, after = (time / (1 - time) for time in times)
        ratio = start / (1 - start) * after / before
        moved.append(_time(ratio / (1 + ratio)))
    return " · ".join(moved)


def _time(t: float | None) -> str:
    return "–" if t is None else f"{t:.4f}"


def _read(path: Path) -> list[float]:
    """Eigenvalues from a .npy or text file."""
    import numpy as np

    from floracle.run.errors import InputError

    if not path.is_file():
        raise InputError(f"there is no spectrum file {path}")
    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            values = np.loadtxt(path, delimiter="," if "," in path.read_text() else None)
        return np.asarray(values, dtype=np.float64).ravel().tolist()
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} is no list of eigenvalues ({error})") from error
