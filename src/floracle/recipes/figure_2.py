"""Figure 2: the gap by time (a) and the mean top-1 weight by time (b), class by class.

The gap E‖u* − (data − noise)‖² lives in navigation and is gone soon after the collapse. The paper
sees a small discrepancy return as t → 1; that is rounding in (x̂ − x)/(1 − t), not the data's. Here
the gap is A² E Σ γ_j d_j with d_j = ½ ‖x_j − x_own‖², which is exactly 0 once the own sample has
every vote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from floracle.analysis.saved import group_arrays, group_of, group_values
from floracle.analysis.stages.measure import StagesPlan as StagesPlan
from floracle.analysis.stages.measure import assemble_stages, measure_class, plan_stages
from floracle.analysis.stages.pooled import Pool
from floracle.core.point_set import NO_LABEL, classes
from floracle.data.store import Store, open_store
from floracle.oracle.oracle import Oracle
from floracle.report.plots import numbers
from floracle.run.errors import InputError
from floracle.run.results import Results, provenance

from .figure_2_drawing import MOST, draw_gap, draw_top
from .recipe import Parts, Recipe, RecipePlan, TableRow, table

GONE = 0.01
"""The share of the gap at noise below which it counts as gone."""
SINCE = f"under {GONE:.0%} of it from"
PUBLISHED = {
    "": "the paper's latents",
    "D": "4096, 8192",
    "N per class": "≈ 1300",
    SINCE: "≈ 0.1",
}
"""What the paper says of ImageNet in SD-VAE and VA-VAE latents; its 0.1 is read off plots."""


@dataclass(frozen=True)
class Figure2Settings:
    """Which data is measured, and how well."""

    data: tuple[str, ...] = ("digits",)
    """What `open_store` opens; several are drawn over each other."""
    pairs: int = 512
    """Pairs a class."""
    times: int = 50
    seed: int = 0
    opening: Mapping[str, Any] = field(default_factory=dict)
    """How `open_store` is to read all of the data; it tells in their fingerprints."""


def plan(item: str, settings: Figure2Settings) -> RecipePlan:
    """For every data set its times, then a part for every class."""
    if not 1 <= len(settings.data) <= MOST:
        raise InputError(f"{item} draws 1 to {MOST} data sets, got {len(settings.data)}")
    stores = [open_store(where, **settings.opening) for where in settings.data]
    if any(store.stds is not None for store in stores):
        raise InputError(f"{item} is of points; say moments='mean' or moments='sample'")
    asked = {
        "item": item,
        **asdict(replace(settings, opening={})),
        "data": [store.fingerprint for store in stores],
    }
    del asked["opening"]
    parts: dict[str, Callable[[Parts], Results]] = {}
    for i, store in enumerate(stores):
        oracle, labels = Oracle(store), _labels(store)
        parts[f"{i}/plan"] = partial(_planned, oracle, settings, labels)
        for label in labels:
            parts[f"{i}/{label}"] = partial(_measured, oracle, settings, i, label)

    def joined(found: Parts) -> Results:
        sets = [_assembled(found, i, Oracle(s), settings) for i, s in enumerate(stores)]
        arrays = {f"{i}/{k}": v for i, (_, own) in enumerate(sets) for k, v in own.items()}
        values = [dict(values) for values, _ in sets]
        rows = [_row(one, arrays, i) for i, one in enumerate(values)]
        made = provenance(data=[store.name for store in stores])
        return Results(
            item,
            asked,
            {"sets": values, "table": table([*rows, dict.fromkeys(rows[0]) | PUBLISHED])},
            arrays,
            made,
        )

    return RecipePlan(asked, parts, joined, stores)


def _labels(store: Store) -> list[int]:
    """Every class with something to find out; the whole set where there are no classes."""
    chosen = [c for c in classes(store) or [NO_LABEL] if len(store.atoms(c).rows) > 1]
    if not chosen:
        raise InputError(f"{store.name} has no stages: every class has a single distinct point")
    return chosen


def _planned(oracle: Oracle, settings: Figure2Settings, labels: list[int], _: Parts) -> Results:
    found = plan_stages(
        oracle, times=settings.times, pairs=settings.pairs, labels=labels, seed=settings.seed
    )
    sizes = {str(label): size for label, size in found.sizes.items()}
    spectra = {f"spectrum/{label}": values for label, values in found.spectra.items()}
    return Results("plan", {}, {"sizes": sizes}, {"times": found.times, **spectra})


def _plan_of(part: Results, settings: Figure2Settings) -> StagesPlan:
    sizes = {int(label): size for label, size in part.values["sizes"].items()}
    return StagesPlan(
        labels=tuple(sorted(sizes)),
        times=part.arrays["times"],
        pairs=settings.pairs,
        seed=settings.seed,
        spectra={label: part.arrays[f"spectrum/{label}"] for label in sizes},
        sizes=sizes,
    )


def _measured(
    oracle: Oracle, settings: Figure2Settings, i: int, label: int, found: Parts
) -> Results:
    group = measure_class(oracle, _plan_of(found[f"{i}/plan"], settings), label)
    return Results("part", {}, group_values(group), group_arrays(group))


def _assembled(
    found: Parts, i: int, oracle: Oracle, settings: Figure2Settings
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What is drawn of a data set: its classes pooled, and the times."""
    plan = _plan_of(found[f"{i}/plan"], settings)
    parts = [found[f"{i}/{label}"] for label in plan.labels]
    groups = [group_of(dict(part.values), part.arrays) for part in parts]
    pool = reduce(Pool.merge, map(Pool.of, groups))
    main = replace(assemble_stages(oracle, plan, groups, pool).main, resamples=None)
    values = {
        "name": getattr(oracle.data, "name", "data"),
        "dims": torch.Size(oracle.data.shape).numel(),
        "classes": len(groups),
        "group": group_values(main),
    }
    return values, {"times": plan.times, **group_arrays(main)}


def _row(values: dict[str, Any], arrays: dict[str, Tensor], i: int) -> TableRow:
    """The numbers of a data set."""
    group = group_of(values["group"], arrays, f"{i}/")
    t, gap = numbers(arrays[f"{i}/times"]), numbers(group.curves["gap"].mean) / values["dims"]
    top = numbers(group.curves["max_weight"].mean)
    collapse = group.collapse.value
    return {
        "": values["name"],
        "D": values["dims"],
        "N per class": round(group.points / values["classes"], 1),
        "collapse": collapse,
        "(predicted)": group.predicted_collapse,
        "end": group.end.value,
        "gap at noise": float(gap[0]),
        SINCE: _gone(t, gap),
        "gap at .9999": float(gap[-1]),
        "top-1 at collapse": None if collapse is None else float(np.interp(collapse, t, top)),
    }


def _gone(t: Any, gap: Any) -> float | None:
    """The time from which the gap stays below its share; linear between times."""
    over = np.flatnonzero(gap > GONE * gap[0])
    last = int(over[-1])
    if last == len(t) - 1:
        return None
    share = (gap[last] - GONE * gap[0]) / (gap[last] - gap[last + 1])
    return float(t[last] + share * (t[last + 1] - t[last]))


EXPECTED = {"digits": {"collapse": 0.5598, "end": 0.7493, "gap at noise": 0.1699, SINCE: 0.7755}}
FIGURE_2A = Recipe(
    "figure-2a",
    "Gap per dimension between the conditional target and the oracle velocity by time",
    Figure2Settings(),
    partial(plan, "figure-2a"),
    draw_gap,
    expected=EXPECTED,
    quick=Figure2Settings(pairs=32, times=24),
    figures=("figure-2a",),
)
FIGURE_2B = Recipe(
    "figure-2b",
    "Mean top-1 posterior weight by time",
    Figure2Settings(),
    partial(plan, "figure-2b"),
    draw_top,
    expected=EXPECTED,
    quick=Figure2Settings(pairs=32, times=24),
    figures=("figure-2b",),
)
