"""Probed fields on one page: numbers, figures, and pictures of what they predict."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from floracle.analysis.trajectories.frequency_bands import COARSE_CYCLES
from floracle.analysis.trajectories.probe import ProbeResult
from floracle.core.point_set import NO_LABEL
from floracle.data.store import Store
from floracle.models.autoencoders.frame import Autoencoder
from floracle.report.html import data_uri, inlined, rendered
from floracle.report.names import any_letters, facts_of, visible
from floracle.report.plots import Drawing
from floracle.report.tables import Table
from floracle.run.files import write_bytes, write_text
from floracle.run.images import (
    BLACK_WHITE_QUANTILES,
    Display,
    display_for,
    enlarge,
    png,
    quantise,
    reduce_image,
    tiles,
)
from floracle.version import VERSION

from . import words as said
from .figures import ProbedFields, probe_drawings

PAGE = "probe.html"
PICTURED = 8
"""Seeds in the pictures at most."""
ON_PAGE = 3
"""Seeds on the page at most."""
LEAST, LARGEST = 56, 128
"""Pixels a side of a prediction."""
DECODED = 4
"""Latents that are decoded together."""


def write_probes(
    fields: Sequence[ProbedFields],
    folder: Path,
    *,
    facts: Mapping[str, str] | None = None,
    command: str = "",
    splits: Mapping[str, float] | None = None,
) -> Path:
    """Draw fields that were probed alike into a folder; returns the page."""
    with any_letters():
        found = probe_drawings(fields)
        for name, drawing in found.items():
            write_bytes(folder / "figures" / f"{name}.png", drawing.png())
            if name != "predictions":
                write_text(folder / "figures" / f"{name}.svg", drawing.svg())
                write_text(folder / "figures" / f"{name}.csv", drawing.csv())
        known = {"facts": facts or {}, "command": command, "splits": splits}
        write_text(folder / PAGE, page(fields, found, **known))
    return folder / PAGE


def page(
    fields: Sequence[ProbedFields],
    drawings: Mapping[str, Drawing],
    *,
    facts: Mapping[str, str],
    command: str = "",
    splits: Mapping[str, float] | None = None,
) -> str:
    """The whole page as HTML."""
    first = fields[0].probe
    shape = " × ".join(map(str, first.predictions.shape[2:]))
    known = first.provenance
    versions = f"floracle {VERSION}, torch {known.get('torch')}, Python {known.get('python')}"
    return rendered(
        "probe/page.html.j2",
        names=[visible(each.name) for each in fields],
        scope=f"{len(first.seeds)} samples of shape {shape}",
        headline=said.headline(fields),
        reference=said.reference(first),
        until=f"{first.until:.3g}",
        story=said.story(fields),
        summary=_unbroken(said.summary(fields, splits)),
        splits=bool(splits),
        lags=said.oracle_among(fields) is not None and len(fields) > 1,
        layout=f"{COARSE_CYCLES:g}" if "layout" in first.columns else "",
        examples=_examples(fields),
        times=[f"{t:.3g}" for t in first.prediction_times.tolist()],
        pictures_note=_note(fields),
        by_threshold=said.by_threshold(fields),
        by_label=said.by_label(fields),
        figures=inlined({k: v for k, v in drawings.items() if k != "predictions"}),
        grid={
            "words": f"{len(first.grid) - 1} steps by {first.settings['solver']},"
            f" {first.evaluations} evaluations of each field: {said.steps_words(fields[0])}."
            " Transitions between two of these times are interpolated.",
            "times": said.grid_words(fields[0]),
        },
        facts=facts_of(facts, {"versions": versions}),
        command=command,
        version=VERSION,
    )


def pictures_of(
    probes: Sequence[ProbeResult],
    store: Store | None = None,
    autoencoder: Autoencoder | None = None,
) -> list[Tensor | None]:
    """Predictions as bytes [k, K, C, H, W], all probes alike; None where they are no pictures.

    Latents are decoded by an `autoencoder` where there is one. Without a data set that knows
    black and white, they are the 1st and 99th percentile of the samples.
    """
    shape = tuple(probes[0].predictions.shape[2:])
    ends = torch.cat([probe.predictions[:, -1] for probe in probes])
    display = None if autoencoder is not None else _display(shape, store, ends)
    if autoencoder is None and display is None:
        return [None for _ in probes]

    def shown(points: Tensor) -> Tensor:
        if autoencoder is not None:
            return _decoded(points, store, autoencoder)
        assert display is not None
        return display.pictures(points)

    found = []
    for probe in probes:
        some = probe.predictions[:PICTURED]
        parts = [reduce_image(shown(part), LARGEST) for part in some.flatten(0, 1).split(DECODED)]
        pictures = torch.cat(parts)
        found.append(pictures.reshape(*some.shape[:2], *pictures.shape[1:]))
    return found


def sheet(pictures: Tensor) -> bytes:
    """Predictions as one PNG: rows are seeds, columns times, the sample in the last."""
    return png(tiles(enlarge(pictures.flatten(0, 1), LEAST), pictures.shape[1]))


def _display(shape: tuple[int, ...], store: Store | None, ends: Tensor) -> Display | None:
    if store is not None:
        return display_for(shape, store.picture_range, ends)
    if len(shape) == 3 and shape[0] in (1, 3):
        low, high = (float(ends.double().flatten().quantile(p)) for p in BLACK_WHITE_QUANTILES)
        return Display(low, max(high, low + 1e-6))
    return display_for(shape, None, ends)


def _decoded(points: Tensor, store: Store | None, autoencoder: Autoencoder) -> Tensor:
    latents = points if store is None else store.normalizer.invert(points)
    return quantise(autoencoder.decode(latents))


def _unbroken(table: Table) -> Table:
    """A table whose cells may be broken, but not within a number and its error."""

    def kept(cell: str) -> str:
        return re.sub(" (±|at) ", "\u00a0\\1\u00a0", cell)

    rows = [replace(row, cells=[row.cells[0], *map(kept, row.cells[1:])]) for row in table.rows]
    return replace(table, rows=rows)


def _examples(fields: Sequence[ProbedFields]) -> list[dict[str, Any]]:
    """A strip for each field, seed by seed."""
    shown = [(each, each.pictures) for each in fields if each.pictures is not None]
    if len(shown) < len(fields):
        return []
    probe, count = fields[0].probe, min(ON_PAGE, *(len(pictures) for _, pictures in shown))
    return [
        {
            "title": _title(probe, i),
            "rows": [
                {"name": visible(each.name), "pictures": list(map(_uri, pictures[i]))}
                for each, pictures in shown
            ],
        }
        for i in range(count)
    ]


def _title(probe: ProbeResult, i: int) -> str:
    label = int(probe.labels[i])
    return f"Seed {int(probe.seeds[i])}" + (f", label {label}" if label != NO_LABEL else "")


def _uri(picture: Tensor) -> str:
    return data_uri(png(enlarge(picture[None], 32)[0]))


def _note(fields: Sequence[ProbedFields]) -> str:
    pictures, shape = fields[0].pictures, fields[0].probe.predictions.shape[2:]
    if pictures is None or len(shape) != 3 or shape[0] in (1, 3) or shape[1] < pictures.shape[3]:
        return ""
    return (
        "Latents are shown by their three leading channels, the same projection everywhere;"
        " colours mean nothing by themselves. "
    )
