"""The report of a data set as one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from torch import Tensor

from floracle.analysis.stages.result import POOLED, ClassStages, Stages
from floracle.analysis.trajectories.trajectory_analysis import TrajectoryAnalysis
from floracle.report.comparison.figures import NAMED, measured_landmarks
from floracle.report.formatting import (
    format_count,
    format_deviation,
    format_duration,
    format_interval,
    format_landmark,
    format_time,
    format_weight,
)
from floracle.report.html import data_uri, inlined, rendered
from floracle.report.plots import Drawing
from floracle.run.images import enlarge, png

from . import words
from .examples import Examples
from .tables import advice, agreement, classes, pasted, what_if

TILE = 32
"""Pixels a side at least, so that strips stay sharp when printed."""


def page(
    stages: Stages,
    drawings: dict[str, Drawing],
    examples: Examples | None,
    deep: TrajectoryAnalysis | None = None,
    *,
    seconds: float | None = None,
) -> str:
    """The whole report as HTML."""
    shown = examples if examples is not None and examples.noisy is not None else None
    return rendered(
        "stages/page.html.j2",
        headline=words.headline(stages),
        story=words.story(stages),
        cards=_cards(stages.main),
        scope=_scope(stages),
        held_out="held_out_gap" in stages.curves,
        law=_law(stages),
        agreement=agreement(stages),
        classes=classes(stages),
        figures=inlined(drawings),
        pictures=_pictures(stages, shown) if shown is not None else [],
        pictures_note=_pictures_note(stages),
        no_pictures=_no_pictures(stages),
        what_if=what_if(stages, examples),
        advice=advice(stages),
        pasted=pasted(stages),
        deep=words.deep(deep) if deep is not None else [],
        remarks=list(stages.provenance.get("remarks") or []),
        facts=_facts(stages, seconds),
    )


def _cards(main: ClassStages) -> list[dict[str, Any]]:
    predicted = {"centre": main.predicted_centre, "collapse": main.predicted_collapse}
    names = {"centre": "Centre", "collapse": "Collapse", "end": "End of navigation"}
    cards = []
    for name, title in names.items():
        mark = getattr(main, name)
        value = None if main.single_point else predicted.get(name)
        off = format_deviation(value, mark) if value is not None else ""
        cards.append(
            {
                "name": title,
                "reached": mark.value is not None,
                "value": format_landmark(main, name),
                "interval": format_interval(mark),
                "predicted": "" if value is None else format_time(value),
                "deviation": off if off != "–" else "",
                "meaning": words.MEANINGS[name][:1].upper() + words.MEANINGS[name][1:] + ".",
            }
        )
    return cards


def _scope(stages: Stages) -> str:
    main, classes = stages.main, [group for group in stages.groups if group.label >= 0]
    if main.label == POOLED:
        return f"Averages over {len(classes)} classes, each with its share of the data."
    if main.label >= 0:
        return f"Class {stages.name(main.label)}."
    if classes:
        return "The whole set, since its classes have a single distinct point each."
    return "The whole set, without classes."


def _law(stages: Stages) -> dict[str, Any]:
    main = stages.main
    broken = [
        stages.name(group.label) for group in measured_landmarks(stages) if not group.law_holds
    ]
    return {
        "holds": main.law_holds,
        "words": words.law(main),
        "broken": words.BROKEN,
        "less": " less what stays unknown" if main.remaining_information > 5e-4 else "",
        "failing": ", ".join(broken[:12]) + (" and others" if len(broken) > 12 else ""),
    }


def _pictures(stages: Stages, examples: Examples) -> list[dict[str, Any]]:
    return [_picture(stages, examples, i) for i in range(len(examples.rows))]


def _picture(stages: Stages, examples: Examples, i: int) -> dict[str, Any]:
    assert examples.noisy is not None
    assert examples.means is not None
    label, row, steps = int(examples.labels[i]), int(examples.rows[i]), examples.steps
    name = f", class {stages.name(label)}" if label >= 0 else ""
    return {
        "title": f"Row {row}{name}",
        "times": _strip_times(examples.times[:steps].tolist()),
        "noisy": _strip(examples.noisy[i]),
        "means": _strip(examples.means[i]),
        "moments": [_moment(examples, i, k) for k in range(len(examples.moments))],
    }


def _moment(examples: Examples, i: int, k: int) -> dict[str, Any]:
    assert examples.faces is not None
    place = examples.steps + k
    voters = zip(
        examples.voters[i, place].tolist(),
        examples.weights[i, place].tolist(),
        examples.faces[i, k],
        strict=True,
    )
    effective = float(examples.effective[i, place])
    return {
        "name": examples.moments[k],
        "time": format_time(float(examples.times[place])),
        "effective": "one vote" if effective < 1.05 else f"{format_count(effective)} votes",
        "voters": [
            {
                "row": row,
                "own": row == int(examples.rows[i]),
                "weight": format_weight(weight),
                "width": f"{100 * weight:.1f}",
                "picture": data_uri(png(enlarge(face[None], TILE)[0])),
            }
            for row, weight, face in voters
        ],
    }


def _strip_times(times: list[float]) -> list[str]:
    """Times with as many decimals as the last of them needs."""
    decimals = 2 if times[-1] >= 0.25 else 3
    return ["0", *(f"{t:.{decimals}f}" for t in times[1:])]


def _strip(pictures: Tensor) -> list[str]:
    return [data_uri(png(picture)) for picture in enlarge(pictures, TILE)]


def _pictures_note(stages: Stages) -> str:
    shape = stages.provenance.get("shape") or [0]
    if shape[0] in (1, 3):
        return ""
    return (
        "Latents are shown by their three leading channels, the same projection everywhere;"
        " colours mean nothing by themselves. "
    )


def _no_pictures(stages: Stages) -> str:
    shape = stages.provenance.get("shape") or [stages.dims]
    return (
        f"Points of shape {_shape(shape)} are no pictures, so the votes are shown as numbers:"
        " many share them at first, one has them at the end."
    )


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _facts(stages: Stages, seconds: float | None) -> dict[str, Any]:
    known, settings = stages.provenance, stages.settings
    name = str(known.get("name", "data"))
    shape = _shape(known.get("shape") or [stages.dims])
    points = known.get("points") or sum(group.points for group in measured_landmarks(stages)[:1])
    merged = known.get("duplicates")
    rows = {
        "data": f"{name} ({known.get('layout', 'array')})",
        "points": f"{points:,} of shape {shape} ({stages.dims:,} dimensions)",
        "classes": ", ".join(stages.names[:NAMED]) + (" …" if len(stages.names) > NAMED else ""),
        "exact duplicates": _duplicates(merged) if merged is not None else "",
        "flips": "yes, mirrors are points too" if known.get("mirrored") else "no",
        "layout asked for": settings.get("layout") or "",
        "moments": settings.get("moments") or "",
        "normalization": settings.get("normalize", ""),
        "held-out data": known.get("held_out", ""),
        "data fingerprint": settings.get("data", ""),
        "pairs a class": f"{settings['pairs']}, each with both signs of its noise",
        "times": settings["times"],
        "path": settings["path"],
        "seed": settings["seed"],
        "versions": f"floracle {known.get('floracle')}, torch {known.get('torch')},"
        f" Python {known.get('python')}, {known.get('machine')}",
        "time taken": format_duration(seconds) if seconds is not None else "",
    }
    return {
        "name": PurePath(name).name if "/" in name else name,
        "summary": f"{points:,} points of shape {shape}",
        "rows": [(key, value) for key, value in rows.items() if value not in ("", None)],
        "command": known.get("command", ""),
        "version": known.get("floracle"),
    }


def _duplicates(merged: int) -> str:
    if not merged:
        return "none"
    return f"{merged:,} merged into the first of their kind, whose weight counts them all"
