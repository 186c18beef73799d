"""Figure 2: the gap by time (a) and the mean top-1 weight by time (b), class by class.

The gap E‖u* − (data − noise)‖² lives in navigation and is gone soon after the collapse. The paper
sees a small discrepancy return as t → 1; that is rounding in (x̂ − x)/(1 − t), not the data's. Here
the gap is A² E Σ γ_j d_j with d_j = ½ ‖x_j − x_source‖², which is exactly 0 once the true source
sample has all the posterior weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from floracle.analysis.stages.class_stages import ClassStages
from floracle.analysis.stages.measure import assemble_stages, measure_class
from floracle.analysis.stages.plan import StagesPlan, plan_stages
from floracle.analysis.stages.pooled import Pool
from floracle.core.point_set import NO_LABEL, classes
from floracle.data.store import Store, open_store
from floracle.oracle.oracle import Oracle
from floracle.report.plots import Values, to_numpy
from floracle.run.errors import InputError
from floracle.run.results import Results, provenance

from .figure_2_figures import MAX_DATA_SETS, draw_figure_2a, draw_figure_2b
from .recipe import Parts, Recipe, RecipePlan, TableRow, table_of

GONE = 0.01
"""The share of the gap at noise below which it counts as gone."""
GONE_FROM = f"under {GONE:.0%} of it from"
PUBLISHED = {
    "": "the paper's latents",
    "D": "4096, 8192",
    "N per class": "≈ 1300",
    GONE_FROM: "≈ 0.1",
}
"""What the paper says of ImageNet in SD-VAE and VA-VAE latents; its 0.1 is read off plots."""


@dataclass(frozen=True)
class Figure2Settings:
    """Which data is measured, and how precisely."""

    data: tuple[str, ...] = ("digits",)
    """What `open_store` opens; several are drawn over each other."""
    pairs: int = 512
    """Pairs a class."""
    times: int = 50
    seed: int = 0
    opening: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `open_store` for all of the data; they are part of its fingerprint."""


def plan_figure_2(item: str, settings: Figure2Settings) -> RecipePlan:
    """For every data set its times as a part, then a part for every class."""
    if not 1 <= len(settings.data) <= MAX_DATA_SETS:
        raise InputError(f"{item} draws 1 to {MAX_DATA_SETS} data sets, got {len(settings.data)}")
    stores = [open_store(name, **settings.opening) for name in settings.data]
    if any(store.stds is not None for store in stores):
        raise InputError(f"{item} is of points; say moments='mean' or moments='sample'")
    saved = {"item": item, **asdict(replace(settings, opening={}))}
    saved["data"] = [store.fingerprint for store in stores]
    del saved["opening"]  # the fingerprints tell

    parts: dict[str, Callable[[Parts], Results]] = {}
    for i, store in enumerate(stores):
        oracle, labels = Oracle(store), _labels_with_stages(store)
        # The plan first: every class is measured at its times, so that curves can be averaged.
        parts[f"{i}/plan"] = partial(_plan_part, oracle, settings, labels)
        for label in labels:
            parts[f"{i}/{label}"] = partial(_class_part, oracle, settings, i, label)

    def join(parts: Parts) -> Results:
        sets = [_assemble(parts, i, Oracle(store), settings) for i, store in enumerate(stores)]
        arrays = {
            f"{i}/{name}": a for i, (_, named) in enumerate(sets) for name, a in named.items()
        }
        rows = [_table_row(values, arrays, i) for i, (values, _) in enumerate(sets)]
        table = table_of([*rows, dict.fromkeys(rows[0]) | PUBLISHED])
        values = {"sets": [values for values, _ in sets], "table": table}
        names = [store.name for store in stores]
        return Results(item, saved, values, arrays, provenance(data=names))

    return RecipePlan(saved, parts, join, stores)


def _labels_with_stages(store: Store) -> list[int]:
    """The classes of more than one distinct point; the whole set where there are no classes."""
    labels = [c for c in classes(store) or [NO_LABEL] if len(store.atoms(c).rows) > 1]
    if not labels:
        raise InputError(f"{store.name} has no stages: every class has a single distinct point")
    return labels


def _plan_part(oracle: Oracle, settings: Figure2Settings, labels: list[int], _: Parts) -> Results:
    """The times, spectra and sizes that all classes share."""
    plan = plan_stages(
        oracle, times=settings.times, pairs=settings.pairs, labels=labels, seed=settings.seed
    )
    return plan.to_results({"pairs": settings.pairs, "seed": settings.seed})


def _class_part(
    oracle: Oracle, settings: Figure2Settings, i: int, label: int, parts: Parts
) -> Results:
    """The stages of one class of data set i."""
    group = measure_class(oracle, StagesPlan.of_results(parts[f"{i}/plan"]), label)
    return Results("part", {}, group.to_values(), group.to_arrays())


def _assemble(
    parts: Parts, i: int, oracle: Oracle, settings: Figure2Settings
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Values and arrays of data set i: the average over its classes, and the times."""
    plan = StagesPlan.of_results(parts[f"{i}/plan"])
    classes = [parts[f"{i}/{label}"] for label in plan.labels]
    groups = [ClassStages.of_saved(stages.values, stages.arrays) for stages in classes]
    pool = reduce(Pool.merge, map(Pool.of, groups))
    # Resamples have given the intervals of landmarks by now, and are not saved.
    main = replace(assemble_stages(oracle, plan, groups, pool).main, resamples=None)
    values = {
        "name": getattr(oracle.data, "name", "data"),
        "dims": torch.Size(oracle.data.shape).numel(),
        "classes": len(groups),
        "group": main.to_values(),
    }
    return values, {"times": plan.times, **main.to_arrays()}


def _table_row(values: dict[str, Any], arrays: dict[str, Tensor], i: int) -> TableRow:
    """The numbers of a data set."""
    group = ClassStages.of_saved(values["group"], arrays, f"{i}/")
    times, max_weight = (
        to_numpy(v) for v in (arrays[f"{i}/times"], group.curves["max_weight"].mean)
    )
    gap = to_numpy(group.curves["gap"].mean) / values["dims"]  # E‖u* − (data − noise)‖² / D, [T]
    collapse = group.collapse.value
    return {
        "": values["name"],
        "D": values["dims"],
        "N per class": round(group.points / values["classes"], 1),
        "collapse": collapse,
        "(predicted)": group.predicted_collapse,
        "end": group.end.value,
        "gap at noise": float(gap[0]),
        GONE_FROM: _gone_from(times, gap),
        "gap at .9999": float(gap[-1]),
        "top-1 at collapse": None
        if collapse is None
        else float(np.interp(collapse, times, max_weight)),
    }


def _gone_from(times: Values, gap: Values) -> float | None:
    """The time from which the gap stays below its share; linear between times."""
    # The last time k with g_k above the share, not the first below it: noise may cross it twice.
    last = int(np.flatnonzero(gap > GONE * gap[0])[-1])
    if last == len(times) - 1:
        return None
    # (g_k − .01 g_0) / (g_k − g_{k+1}) of the way from t_k to t_{k+1}
    share = (gap[last] - GONE * gap[0]) / (gap[last] - gap[last + 1])
    return float(times[last] + share * (times[last + 1] - times[last]))


EXPECTED = {
    "digits": {"collapse": 0.5598, "end": 0.7493, "gap at noise": 0.1699, GONE_FROM: 0.7755}
}
FIGURE_2A = Recipe(
    "figure-2a",
    "Gap per dimension between the conditional target and the oracle velocity by time",
    Figure2Settings(),
    partial(plan_figure_2, "figure-2a"),
    draw_figure_2a,
    expected=EXPECTED,
    quick=Figure2Settings(pairs=32, times=24),
    figures=("figure-2a",),
)
FIGURE_2B = replace(
    FIGURE_2A,
    name="figure-2b",
    title="Mean top-1 posterior weight by time",
    plan=partial(plan_figure_2, "figure-2b"),
    draw=draw_figure_2b,
    figures=("figure-2b",),
)
