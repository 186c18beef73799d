"""Probed fields in words and tables: when they settle, by how much later than the oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan

from floracle.analysis.trajectories.lag import Lag, initial_error, lag
from floracle.analysis.trajectories.probe import ProbeResult
from floracle.analysis.trajectories.settling import mean_settling
from floracle.core.point_set import NO_LABEL
from floracle.report.formatting import format_percent, format_time
from floracle.report.names import visible
from floracle.report.tables import ReportRow, Table

from .figures import ProbedFields

THRESHOLDS = (0.5, 0.25, 0.1, 0.05)
"""Shares at which transitions are listed, so that one sees what the threshold decides."""
LISTED = 16
"""Labels and fields in a table at most."""


def oracle_among(fields: Sequence[ProbedFields]) -> ProbedFields | None:
    """The oracle, if it was probed too."""
    return next((each for each in fields if each.oracle), None)


def headline(fields: Sequence[ProbedFields]) -> str:
    """When the fields settle, in one line."""
    oracle, others = oracle_among(fields), [each for each in fields if not each.oracle]
    if oracle is not None and len(others) == 1:
        return f"{_settles(others[0])}{_beside(lag(others[0].probe, oracle.probe))}."
    told = "; ".join(_settles(each) for each in fields)
    return f"T{told[1:]}." if fields[0].oracle else f"{told}."


def _settles(each: ProbedFields) -> str:
    name = "the oracle" if each.oracle else visible(each.name)
    found = each.probe.settling()
    if found.value is None:
        return f"{name} does not settle before t = {each.probe.until:.3g} in every sample"
    return f"{name} settles at t = {format_time(found.value)}"


def _beside(found: Lag) -> str:
    if found.value is None:
        return ""
    if found.verdict == "cannot say":
        return "; whether before or after the oracle cannot be said"
    return f", {abs(found.value):.3f} {found.verdict} than the oracle"


def story(fields: Sequence[ProbedFields]) -> list[str]:
    """What was measured, a sentence or two for each part."""
    first = fields[0].probe
    linear = first.settings.get("path", "linear") == "linear"
    formula = " = x + (1 − t) v" if linear else ", the data that v implies,"
    told = [
        f"The prediction x̂(t){formula} says where a field expects to end. It settles when"
        f" its squared distance from {reference(first)} falls below {_level(first.threshold)} of"
        f" what it is at t = 0, for good. Averages over {len(first.seeds)} trajectories, ± one"
        f" standard error."
    ]
    oracle = oracle_among(fields)
    if oracle is not None and first.prediction_times[0] == 0:
        told += _beginning(oracle.probe, [each for each in fields if not each.oracle])
    return told


def _beginning(oracle: ProbeResult, others: Sequence[ProbedFields]) -> list[str]:
    """How far from the mean of the data the others begin, in a sentence if there is one."""
    apart = {visible(each.name): initial_error(each.probe, oracle).value for each in others}
    if not apart:
        return []
    begins = "At t = 0 the oracle predicts the mean of the data it is asked for"
    if any(isnan(share) for share in apart.values()):
        return [
            f"{begins}, which is the only sample there is: there is no way to go, and nothing to"
            " compare with it."
        ]
    told = ", ".join(f"{name} is {format_percent(share, 1)} away" for name, share in apart.items())
    return [f"{begins}; {told}, as a share of the way from that mean to a sample."]


def _level(threshold: float) -> str:
    """A threshold in percent, with the digits it was given."""
    return f"{100 * threshold:.4g}\u00a0%"


def reference(found: ProbeResult) -> str:
    """What predictions are compared with."""
    at_end = found.until == float(found.grid[-2])
    return "the sample itself" if at_end else f"x̂({found.until:.3g})"


def summary(fields: Sequence[ProbedFields], splits: Mapping[str, float] | None = None) -> Table:
    """A row for each field: when it settles, its lag, how it moves, what it cost.

    `splits` are times at which the target parts, by name.
    """
    parts = dict(splits or {})
    oracle = oracle_among(fields) if len(fields) > 1 else None
    layout = "layout" in fields[0].probe.columns
    names = ["remaining", "layout"] if layout else ["remaining"]
    rows = []
    for each in fields:
        found = each.probe
        cells = [str(found.settling(name)) for name in names]
        if oracle is not None:
            cells += ["–" if each.oracle else _lag(each, oracle, name) for name in names]
        cells += [str(lag(found, time)) for time in parts.values()]
        peak_at, peak = found.peak()
        moved = [
            format_percent(found.late_movement().value, 1),
            f"{peak:.3f} at {peak_at:.3g}",
            f"{found.detour().value:.3f}",
        ]
        rows.append(ReportRow((visible(each.name), *cells, *moved, str(found.evaluations))))
    head = ["", "settles", *(["its layout"] if layout else [])]
    if oracle is not None:
        head += ["lag behind the oracle", *(["of layout"] if layout else [])]
    head += [f"behind the {name}, {time:.3g}" for name, time in parts.items()]
    head.append(f"moves after {fields[0].probe.until:.3g}")
    return Table((*head, "peak ‖v‖/√D", "path / chord", "evaluations"), rows)


def by_label(fields: Sequence[ProbedFields]) -> Table | None:
    """Transitions and lags of each label, where there are several with several samples."""
    labels = [label for label in fields[0].probe.classes if label != NO_LABEL]
    if len(labels) < 2 or len(fields[0].probe.labels) < 2 * len(labels):
        return None
    oracle, rows = oracle_among(fields), []
    for label in labels[:LISTED]:
        cells = [str(label), str(int(fields[0].probe.has_label(label).sum()))]
        for each in fields:
            cells.append(str(each.probe.settling(label=label)))
            if oracle is not None and not each.oracle:
                cells.append(str(lag(each.probe, oracle.probe, label=label)))
        rows.append(ReportRow(cells))
    head, several = ["label", "samples"], len(fields) > 2
    for each in fields:
        name = visible(each.name)
        lags = [f"{name}, lag" if several else "lag"]
        head += [name, *(lags if oracle is not None and not each.oracle else [])]
    return Table(head, rows)


def by_threshold(fields: Sequence[ProbedFields]) -> Table:
    """When the fields settle by other thresholds, and the lags."""
    levels = sorted({*THRESHOLDS, fields[0].probe.threshold}, reverse=True)
    oracle, rows = oracle_among(fields), []
    for each in fields:
        times = (mean_settling(each.probe.settling_times(threshold=level)) for level in levels)
        rows.append(ReportRow((visible(each.name), *map(str, times))))
        if oracle is not None and not each.oracle:
            lags = (lag(each.probe, oracle.probe, threshold=level) for level in levels)
            rows.append(ReportRow((f"{visible(each.name)}, lag", *map(str, lags))))
    return Table(("threshold", *(f"{level:.4g}" for level in levels)), rows)


def grid_words(each: ProbedFields) -> str:
    """The times at which a field is really asked."""
    return ", ".join(f"{t:.4g}" for t in each.probe.grid.tolist())


def grid_in_short(each: ProbedFields) -> str:
    """The first and the last times at which a field is asked, and how many steps there are."""
    *_, late, end = grid = each.probe.grid.tolist()
    return f"{grid[0]:.4g}, {grid[1]:.4g} … {late:.4g}, {end:.4g} in {len(grid) - 1} steps"


def steps_words(each: ProbedFields) -> str:
    """How fine the grid is where the transition lies."""
    grid, found = each.probe.grid, each.probe.settling().value
    steps = grid.diff()
    if found is None:
        return f"steps of {float(steps.min()):.3g} to {float(steps.max()):.3g}"
    here = int((grid <= found).sum()) - 1
    return f"a step of {float(steps[min(here, len(steps) - 1)]):.3g} there"


def _lag(each: ProbedFields, oracle: ProbedFields, name: str) -> str:
    return str(lag(each.probe, oracle.probe, name))
