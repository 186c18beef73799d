"""Looks at a run from outside: oracle loss with errors, held-out loss, and samples.

The averaged network is what is looked at, on the same pairs and from the same noise every time, so
that looks can be compared. Nothing of it touches the training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from floracle.analysis.curves import Curve
from floracle.analysis.loss.oracle_loss import OracleLoss, oracle_loss
from floracle.core.fields import VelocityField
from floracle.core.point_set import NO_LABEL, PointSet, classes
from floracle.core.seeds import noise
from floracle.oracle.oracle import Oracle
from floracle.run.errors import InputError
from floracle.run.files import write_bytes
from floracle.run.images import display_for, enlarge, png, tiles
from floracle.run.results import save
from floracle.sampling.grid import time_grid
from floracle.sampling.sample import sample

from .meter import numbers

FOLDER = "evaluations"
SIDE = 64
"""Pixels of an edge that samples are shown with at least."""


@dataclass(frozen=True)
class EvaluationPlan:
    """What is looked at, and how closely."""

    pairs: int = 64
    """Pairs of each class; 0 measures no loss."""
    times: int = 8
    """Times in each stage."""
    classes: int = 4
    """How many classes, spread over all of them."""
    samples: int = 64
    """Samples that are drawn; 0 draws none."""
    steps: int = 50
    """Euler steps of a sample."""

    def __post_init__(self) -> None:
        for name, low in {"samples": 0, "times": 1, "classes": 1, "steps": 1}.items():
            if getattr(self, name) < low:
                raise InputError(f"{name} counts from {low} upwards, got {getattr(self, name)}")
        if self.pairs < 0 or self.pairs == 1:
            raise InputError(f"pairs counts from 2, or 0 measures no loss; got {self.pairs}")

    def labels(self, data: PointSet) -> list[int]:
        """The classes that are looked at; the whole set where there are none."""
        known = [label for label in classes(data) if len(data.atoms(label).rows) > 1]
        if not known:
            return [NO_LABEL]
        places = torch.linspace(0, len(known) - 1, min(self.classes, len(known)))
        return [known[place] for place in places.round().long().tolist()]

    def grid(self, split: float) -> torch.Tensor:
        """Middles of equal bins in both stages, float64."""
        middles = (torch.arange(self.times, dtype=torch.float64) + 0.5) / self.times
        return torch.cat([split * middles, split + (1 - split) * middles])


def looked(
    field: VelocityField,
    oracle: Oracle,
    *,
    look: EvaluationPlan,
    split: float,
    held_out: PointSet | None,
) -> OracleLoss:
    """The losses of a field by time."""
    labels = look.labels(oracle.data)
    held_out = None if lacking(look, oracle.data, held_out) else held_out
    return oracle_loss(
        field,
        oracle,
        times=look.grid(split),
        pairs=look.pairs,
        classes=labels,
        held_out=held_out,
    )


def lacking(look: EvaluationPlan, data: PointSet, held_out: PointSet | None) -> list[int]:
    """The classes that are looked at and have no held-out points."""
    if held_out is None:
        return []
    there = {NO_LABEL, *held_out.labels.tolist()}
    return [label for label in look.labels(data) if label not in there]


def words_of(found: OracleLoss, split: float) -> dict[str, Any]:
    """The losses as a line of metrics: by time, and averaged over each stage."""
    curves = found.mean_curves()
    early = found.times < split
    told: dict[str, Any] = {"t": found.times.tolist()}
    for name in ("oracle", "conditional", "gap", "held_out", "difference"):
        if name in curves:
            told[name] = _words(curves[name], early)
    return told


def _words(curve: Curve, early: torch.Tensor) -> dict[str, Any]:
    return {
        "mean": numbers(curve.mean),
        "error": numbers(curve.error),
        "navigation": float(curve.mean[early].mean()),
        "refinement": float(curve.mean[~early].mean()),
    }


def keep_look(found: OracleLoss, out: Path, images: int) -> None:
    """Write the losses where `floracle.load` reads them."""
    save(found, out / FOLDER / f"{images:012d}")


def draw_samples(
    field: VelocityField, data: PointSet, out: Path, *, look: EvaluationPlan, images: int
) -> bool:
    """Write a picture of samples, from the same noise every time; False where they are none."""
    some = data.take(torch.arange(min(len(data), 256)))
    display = display_for(tuple(data.shape), getattr(data, "picture_range", None), some)
    if display is None or not look.samples:
        return False
    known = classes(data) or [NO_LABEL]
    labels = torch.tensor([known[i % len(known)] for i in range(look.samples)])
    start = noise(range(look.samples), data.shape)
    shown = sample(field, start, time_grid(look.steps), labels=labels)
    columns = max(1, round(look.samples**0.5))
    pictures = enlarge(display.pictures(shown.clamp(-1e6, 1e6).nan_to_num()), SIDE)
    write_bytes(out / FOLDER / f"{images:012d}.png", png(tiles(pictures, columns)))
    return True
