"""`floracle predict`: the stages to expect, from statistics of the data, without posteriors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from floracle.cli.data_options import DATA_DEFAULTS, DataOptions
from floracle.cli.options import Classes, Count, Memory
from floracle.cli.parsing import parse_classes, parse_positive
from floracle.cli.tables import show_table
from floracle.run.errors import InputError

if TYPE_CHECKING:
    from floracle.analysis.prediction.closed_form import PredictedStages
    from floracle.analysis.prediction.profile import Profile
    from floracle.analysis.prediction.twin import Twin

    Prediction = tuple[PredictedStages, Profile | None]
    """The closed form, and the statistics that a twin is drawn from."""

SELF_WEIGHTS = (0.01, 0.1, 0.9, 0.99)
"""Posterior weights of the true source point whose times are shown."""
WHAT_IF_FACTORS = (0.1, 1.0, 10.0, 100.0)
"""Numbers of points in the what-if table, relative to those of the data."""


def predict(
    data: str | None = None,
    /,
    *,
    points: float | None = None,
    dims: Annotated[
        Count | None, Parameter(help="Dimensions of isotropic points with unit variance.")
    ] = None,
    spectrum: Path | None = None,
    data_options: DataOptions = DATA_DEFAULTS,
    classes: Classes = "both",
    what_if: str | None = None,
    scales: str = "0.25,0.5,1,2,4",
    memory: Memory = None,
) -> None:
    """Predict the stages from statistics of a data set, or from numbers alone.

    Give data, or the number of points with either dims (unit Gaussians) or a spectrum. Of data
    the spectrum, norms and distances between points are measured.

    Parameters
    ----------
    data
        Data whose statistics are measured.
    points
        Number of training points.
    spectrum
        A .npy or text file of covariance eigenvalues.
    what_if
        Numbers of points of the what-if table, such as 1e4,1e5. Default: .1, 1, 10 and 100 times
        the number of points.
    scales
        Multiples of the dimensions in the what-if table.
    """
    from floracle.analysis.prediction.closed_form import predict as predict_stages
    from floracle.analysis.prediction.profile import Profile

    if (data is None) == (points is None):
        raise InputError("give either data, or --points with --dims or --spectrum")
    if data is not None and (dims is not None or spectrum is not None):
        raise InputError("--dims and --spectrum go with --points; data has its own")
    counts = parse_positive(what_if, "--what-if") if what_if is not None else None
    if counts is not None and min(counts) < 2:  # one point has no stages
        raise InputError(f"--what-if asks about at least 2 points, got {min(counts):g}")
    factors = parse_positive(scales, "--scales")
    predictions: dict[str, Prediction]
    if points is not None:
        eigenvalues = None if spectrum is None else _read_spectrum(spectrum)
        bound = predict_stages(points, dims=dims, spectrum=eigenvalues)
        profile = Profile.of_spectrum(bound.spectrum, points) if points >= 2 else None
        predictions = {f"{points:,.0f} points": (bound, profile)}
    else:
        predictions = _predict_classes(str(data), data_options, classes, memory)
    _print_landmarks(predictions)
    several = [(name, bound, profile) for name, (bound, profile) in predictions.items() if profile]
    if several:  # the table is for the class with the median collapse
        ordered = sorted(several, key=lambda item: item[1].collapse)
        _print_what_if(*ordered[len(ordered) // 2], counts, factors)


def _predict_classes(
    data: str, data_options: DataOptions, classes: str, memory: str | None
) -> dict[str, Prediction]:
    """The closed form and the profile of each class, the whole set last."""
    from floracle.analysis.prediction.closed_form import effective_points, entropy_nats
    from floracle.analysis.prediction.closed_form import predict as predict_stages
    from floracle.analysis.prediction.profile import profile
    from floracle.core.point_set import classes as labels_in
    from floracle.core.spectrum import spectra
    from floracle.run.budget import memory_budget

    store = data_options.open(data, memory)
    labels = parse_classes(classes, labels_in(store), store.classes)
    # e^H, the effective number of points of each class: N where all weigh the same.
    sizes = {label: effective_points(entropy_nats(store.atoms(label).weights)) for label in labels}
    # Below two effective points there is no spectrum, and nothing to tell apart.
    several = [label for label in labels if sizes[label] > 1 + 1e-9]
    room = memory_budget(memory) // 2
    eigenvalues = spectra(store, several, room=room) if several else {}
    predictions: dict[str, Prediction] = {}
    for label in labels:
        name = "whole set" if label < 0 else f"class {store.classes[label]}"
        if (values := eigenvalues.get(label)) is None:  # a single point: all is decided at t = 0
            predictions[name] = predict_stages(1, spectrum=[0.0]), None
            continue
        bound = predict_stages(sizes[label], spectrum=values)
        statistics = profile(store, label, values, room=room) if sizes[label] >= 2 else None
        predictions[name] = bound, statistics
    return predictions


def _print_landmarks(predictions: dict[str, Prediction]) -> None:
    """Print the landmarks of the twins, and those of the closed form beside them."""
    from floracle.analysis.prediction.twin import twin

    rows = []
    for name, (bound, profile) in predictions.items():
        if profile is None:
            # One point: all is decided at t = 0. Between one and two there is no twin.
            time = 0.0 if bound.points == 1 else None
            times = [time] * (3 + len(SELF_WEIGHTS))
        else:
            stages_twin = twin(profile, max(2.0, bound.points))
            times = [stages_twin.centre, stages_twin.collapse, stages_twin.end]
            times += [stages_twin.time_of("self_weight", weight) for weight in SELF_WEIGHTS]
        times += [bound.centre, bound.collapse]
        rows.append((name, f"{bound.points:,.0f}", *map(_time, times)))
    head = (
        "",
        "points",
        "centre",
        "collapse",
        "end",
        *(f"self weight {weight:g}" for weight in SELF_WEIGHTS),
    )
    head = (*head, "formula: centre", "collapse")
    show_table(head, rows, "Predicted times of the landmarks and of self weights")


def _print_what_if(
    name: str,
    bound: PredictedStages,
    profile: Profile,
    points: list[float] | None,
    scales: list[float],
) -> None:
    from floracle.analysis.prediction.twin import quick_pairs, twin

    defaults = [max(2.0, factor * bound.points) for factor in WHAT_IF_FACTORS]
    counts = list(dict.fromkeys(points or defaults))
    cells = {
        (cell["points"], cell["scale"]): cell for cell in bound.what_if(counts, [1.0, *scales])
    }
    rows = []
    for count in counts:
        stages_twin = twin(profile, count, pairs=quick_pairs(count))
        scaled = [
            _scaled_landmarks(stages_twin, cells[count, 1.0], cells[count, s]) for s in scales
        ]
        rows.append((f"{count:,.0f}", *scaled))
    head = ("N", *(f"{scale:g} × dims" for scale in scales))
    show_table(head, rows, f"What if: centre · collapse of {name} with other N and dimensions")


def _scaled_landmarks(stages_twin: Twin, before: dict[str, float], after: dict[str, float]) -> str:
    """A twin's landmarks, moved as the closed form's are by other dimensions.

    Times t are multiplied as signal-to-noise ratios r = t / (1 − t).
    """
    times = []
    for name in ("centre", "collapse"):
        time = getattr(stages_twin, name)
        if time is None or max(time, before[name], after[name]) >= 1:  # beyond float64
            times.append("–")
            continue
        # r · r_after / r_before, then back to t = r / (1 + r)
        r, r_before, r_after = (t / (1 - t) for t in (time, before[name], after[name]))
        scaled = r * r_after / r_before
        times.append(_time(scaled / (1 + scaled)))
    return " · ".join(times)


def _time(t: float | None) -> str:
    return "–" if t is None else f"{t:.4f}"


def _read_spectrum(path: Path) -> list[float]:
    """Eigenvalues from a .npy or text file."""
    import numpy as np

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
