"""The report of a data set as one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from floracle.analysis.stages.result import POOLED, ClassStages, Stages
from floracle.analysis.tool_arguments import arguments
from floracle.analysis.trajectories.trajectory_analysis import TrajectoryAnalysis
from floracle.report.figure import Drawing
from floracle.report.formatting import (
    format_count,
    format_deviation,
    format_duration,
    format_interval,
    format_landmark,
    format_time,
    format_weight,
)
from floracle.report.html import LATENT_NOTE, picture_uris, render_page
from floracle.report.names import fact_rows, version_facts

from . import words
from .class_figures import MAX_NAMED_CLASSES, measured_groups
from .examples import Examples
from .tables import advice_table, class_section, prediction_section, what_if_section

MAX_FAILING_NAMED = 12
LANDMARK_TITLES = {"centre": "Centre", "collapse": "Collapse", "end": "End of navigation"}


def stages_page(
    stages: Stages,
    drawings: Sequence[Drawing],
    examples: Examples | None,
    deep: TrajectoryAnalysis | None = None,
    *,
    seconds: float | None = None,
) -> str:
    """The whole report as HTML."""
    provenance = stages.provenance
    name, shape = str(provenance.get("name", "data")), provenance.get("shape") or [stages.dims]
    points = provenance.get("points") or sum(g.points for g in measured_groups(stages)[:1])
    return render_page(
        "stages/page.html.j2",
        drawings,
        name=PurePath(name).name if "/" in name else name,
        summary=f"{points:,} points of shape {_format_shape(shape)}",
        headline=words.headline(stages),
        story=words.story(stages),
        cards=[_landmark_card(stages.main, name) for name in LANDMARK_TITLES],
        scope=_describe_scope(stages),
        held_out="held_out_gap" in stages.curves,
        law=_law_section(stages),
        agreement=prediction_section(stages),
        classes=class_section(stages),
        pictures=_example_strips(stages, examples),
        pictures_note=LATENT_NOTE if shape[0] not in (1, 3) else "",
        shape=_format_shape(shape),
        what_if=what_if_section(stages, examples),
        advice=advice_table(stages),
        tools=arguments(stages),
        deep=words.describe_trajectories(deep) if deep is not None else [],
        remarks=list(provenance.get("remarks") or []),
        facts=fact_rows(_facts(stages, name, points, shape, seconds)),
        command=provenance.get("command", ""),
    )


def _landmark_card(main: ClassStages, name: str) -> dict[str, Any]:
    """The value, interval, prediction and definition of a landmark."""
    mark = getattr(main, name)
    predicted = None if main.single_point else getattr(main, f"predicted_{name}", None)
    deviation = format_deviation(predicted, mark) if predicted is not None else "–"
    return {
        "name": LANDMARK_TITLES[name],
        "reached": mark.value is not None,
        "value": format_landmark(main, name),
        "interval": format_interval(mark),
        "predicted": "" if predicted is None else format_time(predicted),
        "deviation": "" if deviation == "–" else deviation,
        "meaning": words.MEANINGS[name],
    }


def _describe_scope(stages: Stages) -> str:
    main, classes = stages.main, [group for group in stages.groups if group.label >= 0]
    if main.label == POOLED:
        return f"Averages over {len(classes)} classes, each weighted by its share of the data."
    if main.label >= 0:
        return f"Class {stages.name(main.label)}."
    if classes:
        return "The whole set, since its classes have a single distinct point each."
    return "The whole set, without classes."


def _law_section(stages: Stages) -> dict[str, Any]:
    failing = [
        stages.name(group.label) for group in measured_groups(stages) if not group.law_holds
    ]
    others = " and others" if len(failing) > MAX_FAILING_NAMED else ""
    return {
        "holds": stages.main.law_holds,
        "words": words.law(stages.main),
        "broken": words.BROKEN,
        "failing": ", ".join(failing[:MAX_FAILING_NAMED]) + others,
    }


def _example_strips(stages: Stages, examples: Examples | None) -> list[dict[str, Any]]:
    """Pictures of every example by time; none where points are no pictures."""
    if examples is None or examples.noisy is None:
        return []
    assert examples.means is not None
    steps, strips = examples.steps, []
    times = examples.times[:steps].tolist()
    # A strip has 11 steps: below .25 they are too short to differ in the second decimal.
    decimals = 2 if times[-1] >= 0.25 else 3
    for i, (row, label) in enumerate(
        zip(examples.rows.tolist(), examples.labels.tolist(), strict=True)
    ):
        strips.append(
            {
                "title": f"Row {row}" + (f", class {stages.name(label)}" if label >= 0 else ""),
                "times": ["0", *(f"{t:.{decimals}f}" for t in times[1:])],
                "noisy": picture_uris(examples.noisy[i]),
                "means": picture_uris(examples.means[i]),
                "moments": [_leading_points(examples, i, k) for k in range(len(examples.moments))],
            }
        )
    return strips


def _leading_points(examples: Examples, i: int, k: int) -> dict[str, Any]:
    """The training points with the largest weights for example i at moment k."""
    assert examples.faces is not None
    step = examples.steps + k  # the moments stand after the steps of the strip
    effective = float(examples.effective[i, step])
    # 1.0 would look like a measurement; less than 1.05 is one point.
    number = "1" if effective < 1.05 else format_count(effective)
    leading = zip(
        examples.voters[i, step].tolist(),
        examples.weights[i, step].tolist(),
        picture_uris(examples.faces[i, k]),
        strict=True,
    )
    return {
        "name": examples.moments[k],
        "time": format_time(float(examples.times[step])),
        "effective": f"effective number {number}",
        "points": [
            {
                "row": row,
                "is_source": row == int(examples.rows[i]),
                "weight": format_weight(weight),
                "width": f"{100 * weight:.1f}",
                "picture": picture,
            }
            for row, weight, picture in leading
        ],
    }


def _format_shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _facts(
    stages: Stages, name: str, points: int, shape: Sequence[int], seconds: float | None
) -> dict[str, str]:
    """Data, settings and versions; what does not apply is left out."""
    provenance, settings, names = stages.provenance, stages.settings, stages.names
    merged = provenance.get("duplicates")
    duplicates = "none" if merged == 0 else ""
    if merged:
        duplicates = f"{merged:,}, merged into the first of their kind, which has all their weight"
    facts = {
        "data": f"{name} ({provenance.get('layout', 'array')})",
        "points": f"{points:,} of shape {_format_shape(shape)} ({stages.dims:,} dimensions)",
        "classes": ", ".join(names[:MAX_NAMED_CLASSES])
        + (" …" if len(names) > MAX_NAMED_CLASSES else ""),
        "exact duplicates": duplicates,
        "flips": "yes, mirrored pictures are points too" if provenance.get("mirrored") else "no",
        "requested layout": settings.get("layout"),
        "moments": settings.get("moments"),
        "normalization": settings.get("normalize"),
        "held-out data": provenance.get("held_out"),
        "data fingerprint": settings.get("data"),
        "pairs a class": f"{settings['pairs']}, each with both signs of its noise",
        "times": settings["times"],
        "path": settings["path"],
        "seed": settings["seed"],
        "versions": f"{version_facts(provenance)['versions']}, {provenance.get('machine')}",
        "duration": format_duration(seconds) if seconds is not None else "",
    }
    return {key: str(value) for key, value in facts.items() if value not in ("", None)}
