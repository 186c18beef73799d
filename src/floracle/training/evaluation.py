"""Evaluations of a run: oracle loss with errors, held-out loss, and samples.

The averaged network is evaluated on the same pairs and from the same noise every time, so that
evaluations can be compared. They use no random number of the training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

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
from floracle.sampling.solvers import NotFiniteError

from .meter import numbers

FOLDER = "evaluations"
MIN_PICTURE_SIDE = 64  # pixels
PICTURE_LIMIT = 1e6  # larger values of samples are cut, so that pictures of any network exist


@dataclass(frozen=True)
class EvaluationPlan:
    """What an evaluation measures."""

    pairs: int = 64
    """Pairs of each class; 0 measures no loss."""
    times: int = 8
    """Times in each stage."""
    classes: int = 4
    """Classes, spread over all of them."""
    samples: int = 64
    """0 draws none."""
    steps: int = 50
    """Euler steps of a sample."""

    def __post_init__(self) -> None:
        for name, low in {"samples": 0, "times": 1, "classes": 1, "steps": 1}.items():
            if getattr(self, name) < low:
                raise InputError(f"{name} counts from {low} upwards, got {getattr(self, name)}")
        if self.pairs < 0 or self.pairs == 1:
            raise InputError(f"pairs counts from 2, or 0 measures no loss; got {self.pairs}")

    def labels(self, data: PointSet) -> list[int]:
        """The classes that are measured; the whole set where there are none."""
        labels = [label for label in classes(data) if len(data.atoms(label).rows) > 1]
        if not labels:
            return [NO_LABEL]
        indices = torch.linspace(0, len(labels) - 1, min(self.classes, len(labels)))
        return [labels[i] for i in indices.round().long().tolist()]

    def grid(self, split: float) -> torch.Tensor:
        """Middles of equal bins in both stages, float64."""
        middles = (torch.arange(self.times, dtype=torch.float64) + 0.5) / self.times
        return torch.cat([split * middles, split + (1 - split) * middles])


def evaluate(
    field: VelocityField,
    oracle: Oracle,
    plan: EvaluationPlan,
    *,
    split: float,
    held_out: PointSet | None,
) -> OracleLoss:
    """The losses of a field by time."""
    return oracle_loss(
        field,
        oracle,
        times=plan.grid(split),
        pairs=plan.pairs,
        classes=plan.labels(oracle.data),
        held_out=None if missing_classes(plan, oracle.data, held_out) else held_out,
    )


def missing_classes(plan: EvaluationPlan, data: PointSet, held_out: PointSet | None) -> list[int]:
    """The classes that are measured and have no held-out points."""
    if held_out is None:
        return []
    existing = {NO_LABEL, *held_out.labels.tolist()}
    return [label for label in plan.labels(data) if label not in existing]


def summarise_evaluation(losses: OracleLoss, split: float) -> dict[str, Any]:
    """The losses as a line of metrics: by time, and averaged over each stage."""
    curves, early = losses.mean_curves(), losses.times < split
    summary: dict[str, Any] = {"t": losses.times.tolist()}
    for name in ("oracle", "conditional", "gap", "held_out", "difference"):
        if name in curves:
            mean = curves[name].mean
            summary[name] = {
                "mean": numbers(mean),
                "error": numbers(curves[name].error),
                "navigation": float(mean[early].mean()),
                "refinement": float(mean[~early].mean()),
            }
    return summary


def save_evaluation(losses: OracleLoss, out: Path, images: int) -> None:
    """Write the losses where `floracle.load` reads them."""
    save(losses, out / FOLDER / f"{images:012d}")


def draw_samples(
    field: VelocityField, data: PointSet, out: Path, *, plan: EvaluationPlan, images: int
) -> bool:
    """Write a picture of samples, from the same noise every time; False where there is none."""
    points = data.take(torch.arange(min(len(data), 256)))
    display = display_for(tuple(data.shape), getattr(data, "picture_range", None), points)
    if display is None or not plan.samples:
        return False
    existing = classes(data) or [NO_LABEL]
    labels = torch.tensor([existing[i % len(existing)] for i in range(plan.samples)])
    start = noise(range(plan.samples), data.shape)
    try:
        samples = sample(field, start, time_grid(plan.steps), labels=labels)
    except NotFiniteError:  # of an average that has diverged: a run is not lost for its picture
        return False
    finite = samples.clamp(-PICTURE_LIMIT, PICTURE_LIMIT).nan_to_num()
    pictures = enlarge(display.pictures(finite), MIN_PICTURE_SIDE)
    columns = max(1, round(plan.samples**0.5))
    write_bytes(out / FOLDER / f"{images:012d}.png", png(tiles(pictures, columns)))
    return True
