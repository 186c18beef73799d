"""Probed fields in sentences and tables: when predictions settle, how much after the oracle's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan

from floracle.analysis.trajectories.lag import initial_error, lag
from floracle.analysis.trajectories.probe import ProbeResult
from floracle.analysis.trajectories.settling import mean_settling
from floracle.core.point_set import NO_LABEL
from floracle.report.formatting import format_percent, format_time
from floracle.report.names import visible
from floracle.report.tables import ReportRow, Table
from floracle.run.results import setting_of

from .figures import ProbedField

THRESHOLDS = (0.5, 0.25, 0.1, 0.05)
"""Relative distances at which settling times are listed: what the threshold decides."""
MAX_LABELS = 16
"""Labels in a table."""


def oracle_among(fields: Sequence[ProbedField]) -> ProbedField | None:
    """The oracle, if it was probed too."""
    return next((field for field in fields if field.oracle), None)


def headline(fields: Sequence[ProbedField]) -> str:
    """When the predictions of the fields settle, in one line."""
    oracle, others = oracle_among(fields), [field for field in fields if not field.oracle]
    if oracle is not None and len(others) == 1:
        return f"{_describe_settling(others[0])}{_describe_lag(others[0], oracle)}."
    sentence = "; ".join(map(_describe_settling, fields))
    return f"T{sentence[1:]}." if fields[0].oracle else f"{sentence}."


def _describe_settling(field: ProbedField) -> str:
    name = "the oracle" if field.oracle else visible(field.name)
    settling = field.probe.settling()
    if settling.value is None:
        return f"{name} does not settle before t = {field.probe.until:.3g} in every sample"
    return f"{name} settles at t = {format_time(settling.value)}"


def _describe_lag(field: ProbedField, oracle: ProbedField) -> str:
    result = lag(field.probe, oracle.probe)
    if result.value is None:
        return ""
    if result.verdict == "not significant":
        return "; its lag behind the oracle is not significant"
    return f", {abs(result.value):.3f} {result.verdict} than the oracle"


def story(fields: Sequence[ProbedField]) -> list[str]:
    """What was measured, a sentence or two for each part."""
    first = fields[0].probe
    linear = setting_of(first.settings, "path") == "linear"
    formula = " = x + (1 − t) v" if linear else ", the data that v implies,"
    sentences = [
        f"The prediction x̂(t){formula} is where a field expects the trajectory to end. It settles"
        f" when its squared distance from {reference(first)} falls below"
        f" {_format_threshold(first.threshold)} of its value at t = 0 for good. Averages over"
        f" {len(first.seeds)} trajectories, ± one standard error."
    ]
    oracle = oracle_among(fields)
    if oracle is not None and first.prediction_times[0] == 0:
        others = [field for field in fields if not field.oracle]
        sentences += _describe_start(oracle.probe, others)
    return sentences


def _describe_start(oracle: ProbeResult, others: Sequence[ProbedField]) -> list[str]:
    """How far from the mean of the data the predictions of the others are at t = 0."""
    shares = {visible(field.name): initial_error(field.probe, oracle).value for field in others}
    if not shares:
        return []
    start = "At t = 0 the oracle predicts the mean of the data of its class"
    if any(isnan(share) for share in shares.values()):
        return [f"{start}, which is the only training point, so there is nothing to compare."]
    distances = ", ".join(f"{name} is {format_percent(s, 1)} away" for name, s in shares.items())
    return [f"{start}; {distances}, relative to the distance from that mean to a sample."]


def _format_threshold(threshold: float) -> str:
    """A threshold in percent, with the digits it was given."""
    return f"{100 * threshold:.4g}\u00a0%"


def reference(probe: ProbeResult) -> str:
    """What predictions are compared with."""
    at_end = probe.until == float(probe.grid[-2])
    return "the sample itself" if at_end else f"x̂({probe.until:.3g})"


def summary(fields: Sequence[ProbedField], splits: Mapping[str, float] | None = None) -> Table:
    """A row for each field: when it settles, its lag, how it moves, what it cost.

    `splits` are landmarks of the target by name, with which settling times are compared too.
    """
    splits = dict(splits or {})
    oracle = oracle_among(fields) if len(fields) > 1 else None
    coarse = "layout" in fields[0].probe.columns
    curves = ["remaining", "layout"] if coarse else ["remaining"]
    rows = []
    for field in fields:
        probe = field.probe
        cells = [visible(field.name), *(str(probe.settling(curve)) for curve in curves)]
        if oracle is not None:
            lags = (str(lag(probe, oracle.probe, curve)) for curve in curves)
            cells += ["–"] * len(curves) if field.oracle else lags
        cells += [str(lag(probe, time)) for time in splits.values()]
        peak_at, peak = probe.peak()
        cells += [format_percent(probe.late_movement().value, 1), f"{peak:.3f} at {peak_at:.3g}"]
        cells += [f"{probe.detour().value:.3f}", str(probe.evaluations)]
        rows.append(ReportRow(cells))
    head = ["", "settles", *(["coarse structure"] if coarse else [])]
    if oracle is not None:
        head += ["lag behind the oracle", *(["of coarse structure"] if coarse else [])]
    head += [f"lag behind the {name}, {time:.3g}" for name, time in splits.items()]
    head += [f"moves after {fields[0].probe.until:.3g}", "peak ‖v‖/√D", "path / chord"]
    return Table((*head, "evaluations"), rows)


def by_label(fields: Sequence[ProbedField]) -> Table | None:
    """Settling times and lags of each label, where there are several with several samples."""
    first = fields[0].probe
    labels = [label for label in first.classes if label != NO_LABEL]
    if len(labels) < 2 or len(first.labels) < 2 * len(labels):
        return None
    oracle = oracle_among(fields)
    rows = []
    for label in labels[:MAX_LABELS]:
        cells = [str(label), str(int(first.has_label(label).sum()))]
        for field in fields:
            cells.append(str(field.probe.settling(label=label)))
            if oracle is not None and not field.oracle:
                cells.append(str(lag(field.probe, oracle.probe, label=label)))
        rows.append(ReportRow(cells))
    head = ["label", "samples"]
    for field in fields:
        name = visible(field.name)
        head.append(name)
        if oracle is not None and not field.oracle:
            head.append(f"{name}, lag" if len(fields) > 2 else "lag")
    return Table(head, rows)


def by_threshold(fields: Sequence[ProbedField]) -> Table:
    """Settling times and lags for other thresholds."""
    levels = sorted({*THRESHOLDS, fields[0].probe.threshold}, reverse=True)
    oracle, rows = oracle_among(fields), []
    for field in fields:
        times = (mean_settling(field.probe.settling_times(threshold=level)) for level in levels)
        rows.append(ReportRow((visible(field.name), *map(str, times))))
        if oracle is not None and not field.oracle:
            lags = (lag(field.probe, oracle.probe, threshold=level) for level in levels)
            rows.append(ReportRow((f"{visible(field.name)}, lag", *map(str, lags))))
    return Table(("threshold", *(f"{level:.4g}" for level in levels)), rows)


def grid_times(probe: ProbeResult) -> str:
    """The times at which a field is evaluated."""
    return ", ".join(f"{t:.4g}" for t in probe.grid.tolist())


def grid_in_short(probe: ProbeResult) -> str:
    """The first and the last times at which a field is evaluated, and the number of steps."""
    *_, before, end = grid = probe.grid.tolist()
    return f"{grid[0]:.4g}, {grid[1]:.4g} … {before:.4g}, {end:.4g} in {len(grid) - 1} steps"


def describe_grid(probe: ProbeResult) -> str:
    """How the grid was integrated, and how fine it is where predictions settle."""
    steps, settling = probe.grid.diff(), probe.settling().value
    if settling is None:
        size = f"steps of {float(steps.min()):.3g} to {float(steps.max()):.3g}"
    else:
        step = int((probe.grid <= settling).sum()) - 1
        size = f"a step of {float(steps[min(step, len(steps) - 1)]):.3g} where it settles"
    return (
        f"{len(steps)} steps with {probe.settings['solver']}, {probe.evaluations} evaluations of"
        f" each field: {size}. Settling times between two of these times are interpolated."
    )
