"""Weights of samples: how much each row counts, in proportion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from floracle.run.errors import InputError

from .arrays import read_npy


def checked_weights(given: Any, count: int) -> Tensor | None:
    """Weights as float64 [N], owned; from a list, an array or the path of an .npy file."""
    if given is None:
        return None
    weights = _numbers(given)
    if weights.shape != (count,):
        raise InputError(f"weights have shape {list(weights.shape)}, but there are {count} points")
    for flaw, found in (
        ("not a finite number", ~weights.isfinite()),
        ("negative", weights < 0),
        ("zero, so that the row is no sample; remove it instead", weights == 0),
    ):
        if found.any():
            row = int(found.nonzero()[0])
            raise InputError(f"the weight of row {row} is {flaw}; weights are positive")
    _check_range(weights)
    return weights


def _numbers(given: Any) -> Tensor:
    if isinstance(given, (str, Path)):
        given = read_npy(Path(given).expanduser())[:]
    values = given.detach().cpu() if isinstance(given, Tensor) else given
    try:
        values = np.asarray(values.double() if isinstance(values, Tensor) else values)
    except (TypeError, ValueError) as error:
        raise InputError("weights are no list of numbers, one for each point") from error
    if values.dtype.kind not in "iuf":
        raise InputError(f"weights are {values.dtype}; they are numbers, such as float64")
    return torch.from_numpy(values.astype(np.float64))


def _check_range(weights: Tensor) -> None:
    """Refuse what no share in float64 can tell from zero."""
    if float(weights.min()) / float(weights.max()) < np.finfo(np.float64).tiny:
        row = int(weights.argmin())
        raise InputError(
            f"the weight of row {row} vanishes beside the largest one; remove the row"
        )
