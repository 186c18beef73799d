"""Several data sets, or several spaces of one, beside each other: why their stages differ.

The predicted collapse is where ½ Σ log(1 + r²λ) reaches H(w), r = α/σ. Between two sets its r
changes by three factors that multiply to the whole, taken one after the other:

    scale    the mean variance of a coordinate: r goes as one over its root, exactly
    shape    dimensions and the form of the spectrum, at equal variance
    points   the number of points, at the second set's spectrum
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .prediction.closed_form import PredictedStages, effective_points, predict
from .stages.result import ClassStages, Stages


class Factors(NamedTuple):
    """The factors of r at the predicted collapse, from the first set to another."""

    scale: float
    shape: float
    points: float

    @property
    def whole(self) -> float:
        """Their product."""
        return self.scale * self.shape * self.points


@dataclass(frozen=True)
class DataSpace:
    """A data set in a comparison."""

    name: str
    stages: Stages
    spectrum: Tensor | None
    """Covariance eigenvalues, float64 [k], of the group `typical`."""
    typical: int

    @property
    def main(self) -> ClassStages:
        """The group of the headline."""
        return self.stages.main

    @property
    def variance(self) -> float | None:
        """The mean variance of a coordinate."""
        return None if self.spectrum is None else float(self.spectrum.sum()) / self.stages.dims

    @property
    def effective_dims(self) -> float | None:
        """(Σλ)² / Σλ²: how many equal directions would vary as much; None of one point."""
        if self.spectrum is None or not self.spectrum.any():
            return None
        return float(self.spectrum.sum() ** 2 / self.spectrum.square().sum())

    @property
    def density(self) -> float:
        """Nats to be learnt in each dimension before the collapse, H(w) / D."""
        return self.main.max_information / self.stages.dims

    def predicted(
        self, *, variance: float | None = None, max_information: float | None = None
    ) -> PredictedStages:
        """The stages to expect, with another mean variance of a coordinate or another H(w)."""
        assert self.spectrum is not None
        if max_information is None:
            max_information = self.stages.group(self.typical).max_information
        scale = 1.0 if variance is None else variance / (self.variance or 1.0)
        points = effective_points(max_information)
        return predict(points, spectrum=self.spectrum * scale, path=self.stages.path)

    def unit_collapse(self) -> float | None:
        """The predicted collapse if coordinates had unit variance on average."""
        return None if self.spectrum is None else self.predicted(variance=1.0).collapse


def compare_spaces(first: DataSpace, other: DataSpace) -> Factors | None:
    """Why the predicted collapse of another space lies elsewhere; None without their spectra.

    A single point has none: its spectrum is zero, and its collapse at r = 0.
    """
    if any(space.spectrum is None or not space.spectrum.any() for space in (first, other)):
        return None
    first_information = first.stages.group(first.typical).max_information
    predictions = (
        first.predicted(),
        first.predicted(variance=other.variance),  # … at the other's scale
        other.predicted(max_information=first_information),  # … and of its shape
        other.predicted(),  # … and with its number of points
    )
    ratios = [_collapse_ratio(predicted) for predicted in predictions]
    return Factors(*(after / before for before, after in pairwise(ratios)))


def _collapse_ratio(predicted: PredictedStages) -> float:
    """α/σ at the collapse."""
    c = predicted.path.coefficients(torch.tensor([predicted.collapse]))
    return float(c.signal_to_noise)
