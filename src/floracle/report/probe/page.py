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
from floracle.models.autoencoders.autoencoder import Autoencoder
from floracle.report.figure import Drawing, write_figures
from floracle.report.html import LATENT_NOTE, picture_uris, render_page
from floracle.report.names import fact_rows, version_facts, visible
from floracle.report.tables import Table
from floracle.run.files import write_text
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

from . import words
from .figures import ProbedField, probe_figures

PAGE = "probe.html"
MAX_PICTURED_SEEDS, MAX_PAGE_SEEDS = 8, 3
"""Seeds whose predictions are made into pictures, and that the page shows."""
LEAST_SHEET_PIXELS, MAX_PICTURE_PIXELS = 56, 128
"""Pixels a side of a prediction."""
DECODED_AT_ONCE = 4
"""Latents in one call of the decoder: it takes far more memory than they do."""


def write_probe_report(
    fields: Sequence[ProbedField],
    folder: Path,
    *,
    facts: Mapping[str, str] | None = None,
    command: str = "",
    splits: Mapping[str, float] | None = None,
) -> Path:
    """Write the report of fields that were probed alike into a folder; returns the page."""
    drawings = probe_figures(fields)
    write_figures(drawings, folder)
    page = probe_page(fields, drawings, facts=facts or {}, command=command, splits=splits)
    write_text(folder / PAGE, page)  # last: `floracle probe` draws again where it is missing
    return folder / PAGE


def probe_page(
    fields: Sequence[ProbedField],
    drawings: Sequence[Drawing],
    *,
    facts: Mapping[str, str],
    command: str = "",
    splits: Mapping[str, float] | None = None,
) -> str:
    """The whole page as HTML."""
    first = fields[0].probe
    shape = " × ".join(map(str, first.predictions.shape[2:]))
    return render_page(
        "probe/page.html.j2",
        [drawing for drawing in drawings if not drawing.is_picture],
        names=[visible(field.name) for field in fields],
        scope=f"{len(first.seeds)} samples of shape {shape}",
        headline=words.headline(fields),
        story=words.story(fields),
        reference=words.reference(first),
        until=f"{first.until:.3g}",
        summary=_unbroken(words.summary(fields, splits)),
        splits=bool(splits),
        lags=words.oracle_among(fields) is not None and len(fields) > 1,
        coarse_cycles=f"{COARSE_CYCLES:g}" if "layout" in first.columns else "",
        examples=_strips(fields),
        times=[f"{t:.3g}" for t in first.prediction_times.tolist()],
        pictures_note=_projection_note(fields),
        by_threshold=words.by_threshold(fields),
        by_label=words.by_label(fields),
        grid={"words": words.describe_grid(first), "times": words.grid_times(first)},
        facts=fact_rows(facts, version_facts(first.provenance)),
        command=command,
    )


def prediction_pictures(
    probes: Sequence[ProbeResult],
    store: Store | None = None,
    autoencoder: Autoencoder | None = None,
) -> list[Tensor | None]:
    """Predictions as bytes [k, K, C, H, W], of all probes alike; None where they are no pictures.

    Latents are decoded by an `autoencoder` where there is one. Without a data set that knows
    black and white, they are the 1st and 99th percentile of the samples.
    """
    shape = tuple(probes[0].predictions.shape[2:])
    samples = torch.cat([probe.predictions[:, -1] for probe in probes])
    display = None if autoencoder is not None else _choose_display(shape, store, samples)
    if autoencoder is None and display is None:
        return [None for _ in probes]

    def to_bytes(points: Tensor) -> Tensor:
        if autoencoder is not None:
            latents = points if store is None else store.normalizer.invert(points)
            return quantise(autoencoder.decode(latents))
        assert display is not None
        return display.pictures(points)

    pictures = []
    for probe in probes:
        predictions = probe.predictions[:MAX_PICTURED_SEEDS]  # [k, K, *shape]
        batches = predictions.flatten(0, 1).split(DECODED_AT_ONCE)
        flat = torch.cat([reduce_image(to_bytes(batch), MAX_PICTURE_PIXELS) for batch in batches])
        pictures.append(flat.unflatten(0, predictions.shape[:2]))
    return pictures


def tile_predictions(pictures: Tensor) -> bytes:
    """Predictions [k, K, C, H, W] as one PNG: rows are seeds, columns times, samples the last."""
    return png(tiles(enlarge(pictures.flatten(0, 1), LEAST_SHEET_PIXELS), pictures.shape[1]))


def _choose_display(
    shape: tuple[int, ...], store: Store | None, samples: Tensor
) -> Display | None:
    if store is not None:
        return display_for(shape, store.picture_range, samples)
    if len(shape) == 3 and shape[0] in (1, 3):
        low, high = (float(samples.double().flatten().quantile(q)) for q in BLACK_WHITE_QUANTILES)
        return Display(low, max(high, low + 1e-6))  # constant samples have no range
    return display_for(shape, None, samples)


def _unbroken(table: Table) -> Table:
    """A table whose cells may be broken into lines, but not between a number and its error."""
    rows = [
        replace(row, cells=[re.sub(" (±|at) ", "\u00a0\\1\u00a0", cell) for cell in row.cells])
        for row in table.rows
    ]
    return replace(table, rows=rows)


def _strips(fields: Sequence[ProbedField]) -> list[dict[str, Any]]:
    """A strip of pictures for each field, seed by seed."""
    pictured = [(field.name, field.pictures) for field in fields if field.pictures is not None]
    if len(pictured) < len(fields):
        return []
    probe, strips = fields[0].probe, []
    for i in range(min(MAX_PAGE_SEEDS, *(len(pictures) for _, pictures in pictured))):
        label = int(probe.labels[i])
        title = f"Seed {int(probe.seeds[i])}" + (f", label {label}" if label != NO_LABEL else "")
        rows = [
            {"name": visible(name), "pictures": picture_uris(pictures[i])}
            for name, pictures in pictured
        ]
        strips.append({"title": title, "rows": rows})
    return strips


def _projection_note(fields: Sequence[ProbedField]) -> str:
    """How latents are shown, unless they were decoded into larger pictures."""
    pictures, shape = fields[0].pictures, fields[0].probe.predictions.shape[2:]
    if pictures is None or len(shape) != 3 or shape[0] in (1, 3) or shape[1] < pictures.shape[3]:
        return ""
    return LATENT_NOTE
