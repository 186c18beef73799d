"""What is predicted of many classes: their landmarks, found together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from .closed_form import PredictedStages

TOGETHER = 16
"""Classes whose landmarks are looked for at a time: their spectra should stay in cache."""


class PredictedClasses(NamedTuple):
    """What is predicted of a class, and when."""

    predicted: PredictedStages
    centre: float
    collapse: float


def predict_classes(predicted: Sequence[PredictedStages]) -> list[PredictedClasses]:
    """The landmarks of classes, as `Predicted` itself would find them one by one."""
    found = []
    for start in range(0, len(predicted), TOGETHER):
        some = predicted[start : start + TOGETHER]
        found += [
            PredictedClasses(one, *times) for one, times in zip(some, _times(some), strict=True)
        ]
    return found


def _times(predicted: Sequence[PredictedStages]) -> list[tuple[float, float]]:
    """Centre and collapse of each; spectra are filled up with zeros, which inform of nothing."""
    if any(one.within or one.counts is not None for one in predicted):
        return [(one.centre, one.collapse) for one in predicted]
    known = torch.tensor([math.log(one.points) for one in predicted], dtype=torch.float64)
    spectra = pad_sequence([one.spectrum for one in predicted], batch_first=True)
    every = replace(predicted[0], spectrum=spectra)
    centres, collapses = every.times_of(torch.stack([known / 2, known])).tolist()
    return list(zip(centres, collapses, strict=True))
