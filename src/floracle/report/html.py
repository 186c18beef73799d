"""The report as one page that needs nothing else: no network, no scripts, no fonts of its own."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import PurePath
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from torch import Tensor

from floracle.analysis.advice import advise
from floracle.analysis.groups import POOLED, Group, Stages
from floracle.analysis.prediction import predict
from floracle.core.paths import PATHS
from floracle.run.images import enlarged, png

from . import words
from .examples import Examples
from .figures import NAMED, measured
from .plots import Drawing

POINTS = (0.1, 0.25, 1.0, 4.0, 10.0, 100.0)
"""Numbers of points asked about, in multiples of the number there is."""
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Numbers of dimensions asked about, in multiples of the number there is."""
TILE = 32
"""Pixels a side at least, so that strips stay sharp when printed."""


@dataclass(frozen=True)
class Row:
    """A row of a table; main ones are emphasised."""

    cells: Sequence[str]
    main: bool = False
    strong: int | None = None
    """A single cell that is emphasised."""


@dataclass(frozen=True)
class Table:
    """A table of words, ready to be written."""

    head: Sequence[str]
    rows: Sequence[Row]
    caption: str = ""
    wordy: frozenset[int] = field(default_factory=frozenset)
    """Columns that hold sentences."""
    over: Sequence[tuple[str, int]] = ()
    """Names over several columns, each with their number."""


def page(
    stages: Stages,
    drawings: dict[str, Drawing],
    examples: Examples | None,
    *,
    seconds: float | None = None,
) -> str:
    """The whole report as HTML."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(
        resources.files(__package__ or "").joinpath("page.html.j2").read_text(encoding="utf-8")
    )
    shown = examples if examples is not None and examples.noisy is not None else None
    return template.render(
        headline=words.headline(stages),
        story=words.story(stages),
        cards=_cards(stages.main),
        scope=_scope(stages),
        held_out="held_out_gap" in stages.curves,
        law=_law(stages),
        agreement=_agreement(stages),
        classes=_classes(stages),
        figures={
            name: {"svg": Markup(drawing.inline()), "alt": drawing.alt}
            for name, drawing in drawings.items()
        },
        pictures=_pictures(stages, shown) if shown is not None else [],
        pictures_note=_pictures_note(stages),
        no_pictures=_no_pictures(stages),
        what_if=_what_if(stages, examples),
        advice=_advice(stages),
        facts=_facts(stages, seconds),
    )


def _cards(main: Group) -> list[dict[str, Any]]:
    predicted = {"centre": main.predicted_centre, "collapse": main.predicted_collapse}
    names = {"centre": "Centre", "collapse": "Collapse", "end": "End of navigation"}
    cards = []
    for name, title in names.items():
        mark = getattr(main, name)
        value = predicted.get(name)
        off = words.deviation(value, mark) if value is not None else ""
        cards.append(
            {
                "name": title,
                "reached": mark.value is not None,
                "value": words.time(mark.value),
                "interval": words.interval(mark),
                "predicted": "" if value is None else words.time(value),
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
    return "The whole set, without classes."


def _law(stages: Stages) -> dict[str, Any]:
    main = stages.main
    broken = [stages.name(group.label) for group in measured(stages) if not group.law_holds]
    return {
        "holds": main.law_holds,
        "words": words.law(main),
        "broken": words.BROKEN,
        "less": " less what stays unknown" if main.unknown > 5e-4 else "",
        "failing": ", ".join(broken[:12]) + (" and others" if len(broken) > 12 else ""),
    }


def _agreement(stages: Stages) -> dict[str, Any]:
    groups = measured(stages)
    table = Table(
        ("", *("predicted", "measured", "off by") * 2),
        [
            Row(
                (
                    stages.name(group.label),
                    words.time(group.predicted_centre),
                    words.time(group.centre.value),
                    words.deviation(group.predicted_centre, group.centre),
                    words.time(group.predicted_collapse),
                    words.time(group.collapse.value),
                    words.deviation(group.predicted_collapse, group.collapse),
                ),
                main=group.label == POOLED,
            )
            for group in _ordered(stages)
        ],
        over=(("", 1), ("centre", 3), ("collapse", 3)),
    )
    return {
        "words": _agreement_words(groups),
        "count": len(groups),
        "folded": len(groups) > NAMED + 1,
        "table": table,
        "summary": _spread_table(
            {f"{name}, off by": _offs(groups, name) for name in ("centre", "collapse")},
            lambda value: f"{100 * value:+.1f} %".replace("-", "−"),
        ),
    }


def _offs(groups: Iterable[Group], name: str) -> list[float]:
    pairs = [(getattr(group, f"predicted_{name}"), getattr(group, name).value) for group in groups]
    return [predicted / value - 1 for predicted, value in pairs if value]


def _agreement_words(groups: list[Group]) -> str:
    offs = {name: _offs(groups, name) for name in ("centre", "collapse")}
    if not all(offs.values()):
        return "Not every landmark was reached, so there is little to compare."
    means = {name: 100 * float(np.mean(np.abs(off))) for name, off in offs.items()}
    return (
        "Both landmarks were predicted before any posterior was computed, from the number of"
        " points and the eigenvalues of their covariance. The prediction is off by"
        f" {means['centre']:.1f} % at the centre and {means['collapse']:.1f} % at the collapse"
        + (" on average." if len(groups) > 1 else ".")
    )


def _classes(stages: Stages) -> dict[str, Any]:
    groups = [group for group in measured(stages) if group.label >= 0] or measured(stages)
    table = Table(
        ("", "points", "H(w) in nats", "centre", "collapse", "95 % interval", "end",
         "95 % interval", "area"),
        [
            Row(
                (
                    stages.name(group.label),
                    f"{group.points:,}",
                    f"{group.knowable:.3f}",
                    words.time(group.centre.value),
                    words.time(group.collapse.value),
                    words.interval(group.collapse),
                    words.time(group.end.value),
                    words.interval(group.end),
                    f"{group.area.value:.3f} ± {group.area.error:.3f}"
                    + ("" if group.law_holds else " ⚠"),
                ),
                main=group.label == POOLED,
            )
            for group in _ordered(stages)
        ],
    )  # fmt: skip
    reached = {
        name: [mark.value for g in groups if (mark := getattr(g, name)).value is not None]
        for name in ("centre", "collapse", "end")
    }
    return {
        "words": _class_words(stages, groups),
        "count": len(groups),
        "folded": len(groups) > NAMED + 1,
        "table": table,
        "summary": _spread_table(reached, words.time),
    }


def _class_words(stages: Stages, groups: list[Group]) -> str:
    known = [group for group in groups if group.collapse.value is not None]
    if len(known) < 2:
        return "Too few classes reach their collapse to be compared."
    first = min(known, key=lambda group: group.collapse.value or 0)
    last = max(known, key=lambda group: group.collapse.value or 0)
    told = (
        f"The collapse comes first in class {stages.name(first.label)}"
        f" (t = {words.time(first.collapse.value)}) and last in class {stages.name(last.label)}"
        f" (t = {words.time(last.collapse.value)})."
    )
    never = [group for group in groups if group.end.value is None]
    if never:
        named = ", ".join(stages.name(group.label) for group in never[:8])
        told += f" The end is not reached in {len(never)} of {len(groups)} classes: {named}"
        told += ", and others." if len(never) > 8 else "."
    return told


def _ordered(stages: Stages) -> list[Group]:
    """By label, then the whole set, then the pooled average."""
    return sorted(stages.groups, key=lambda g: (g.label < 0, -g.label if g.label < 0 else g.label))


def _spread_table(columns: dict[str, list[float]], write: Any) -> Table:
    """The spread of values over classes."""
    shares = {"least": 0, "lower quarter": 0.25, "median": 0.5, "upper quarter": 0.75, "most": 1}
    rows = [
        Row((name, *(write(float(np.quantile(v, q))) for q in shares.values())))
        for name, v in columns.items()
        if v
    ]
    return Table(("", *shares), rows)


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
        "time": words.time(float(examples.times[place])),
        "effective": "one vote" if effective < 1.05 else f"{words.count(effective)} votes",
        "voters": [
            {
                "row": row,
                "own": row == int(examples.rows[i]),
                "weight": words.percent(weight),
                "width": f"{100 * weight:.1f}",
                "picture": _uri(png(enlarged(face[None], TILE)[0])),
            }
            for row, weight, face in voters
        ],
    }


def _strip_times(times: list[float]) -> list[str]:
    """Times with as many decimals as the last of them needs."""
    decimals = 2 if times[-1] >= 0.25 else 3
    return ["0", *(f"{t:.{decimals}f}" for t in times[1:])]


def _strip(pictures: Tensor) -> list[str]:
    return [_uri(png(picture)) for picture in enlarged(pictures, TILE)]


def _uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


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


def _what_if(stages: Stages, examples: Examples | None) -> dict[str, Any] | None:
    if examples is None:
        return None
    group = stages.group(examples.typical)
    count = float(np.exp(group.knowable))
    path = PATHS[stages.settings.get("path", "linear")]
    predicted = predict(count, spectrum=examples.spectrum, path=path)
    points = [max(2.0, factor * count) for factor in POINTS]
    found = predicted.what_if(points, SCALES)
    decimals = 3 if predicted.collapse >= 0.1 else 4
    cells = {(one["points"], one["scale"]): one for one in found}
    head = ("N", *(f"{scale:g} × D = {scale * stages.dims:,.0f}" for scale in SCALES))
    rows = [
        Row(
            (
                f"{n:,.0f}",
                *(
                    f"{cells[n, scale]['centre']:.{decimals}f} · "
                    f"{cells[n, scale]['collapse']:.{decimals}f}"
                    for scale in SCALES
                ),
            ),
            strong=1 + SCALES.index(1.0) if n == count else None,
        )
        for n in dict.fromkeys(points)
    ]
    of = (
        "the whole set" if group.label < 0 else f"class {stages.name(group.label)}, a typical one,"
    )
    return {"of": of, "table": Table(head, rows, "centre · collapse")}


def _advice(stages: Stages) -> Table | None:
    found = advise(stages)
    rows = [Row((one.name, one.value, one.reason)) for one in found]
    return Table(("", "start from", "because"), rows, wordy=frozenset({1, 2})) if rows else None


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _facts(stages: Stages, seconds: float | None) -> dict[str, Any]:
    known, settings = stages.provenance, stages.settings
    name = str(known.get("name", "data"))
    shape = _shape(known.get("shape") or [stages.dims])
    points = known.get("points") or sum(group.points for group in measured(stages)[:1])
    merged = known.get("duplicates")
    rows = {
        "data": f"{name} ({known.get('layout', 'array')})",
        "points": f"{points:,} of shape {shape} ({stages.dims:,} dimensions)",
        "classes": ", ".join(stages.names[:NAMED]) + (" …" if len(stages.names) > NAMED else ""),
        "exact duplicates": _duplicates(merged) if merged is not None else "",
        "flips": {True: "yes, mirrors are points too", False: "no"}.get(settings.get("flips"), ""),
        "normalization": settings.get("normalize", ""),
        "held-out data": known.get("held_out", ""),
        "data fingerprint": settings.get("data", ""),
        "pairs a class": f"{settings['pairs']}, each with both signs of its noise",
        "times": settings["times"],
        "path": settings["path"],
        "seed": settings["seed"],
        "versions": f"floracle {known.get('floracle')}, torch {known.get('torch')},"
        f" Python {known.get('python')}, {known.get('machine')}",
        "time taken": words.duration(seconds) if seconds is not None else "",
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
