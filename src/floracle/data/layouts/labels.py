"""Labels and weights of rows.

Labels are whole numbers from 0 on, −1 where there is none, or one-hot [N, K]. Weights are positive
and say how much each row counts, in proportion.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from floracle.data.rows.source_files import CONTROL
from floracle.run.errors import InputError

from .npy import load_all, read_npy, read_npy_header

MAX_CLASSES = 2**20  # names and statistics are tables by label, so a wild one costs memory


def read_labels(path: Path, count: int) -> Tensor:
    """Labels int64 [N] from an .npy file."""
    rows, name = read_npy(path), f"labels in {path}"
    check_label_shape(tuple(rows.shape), count, name)
    return check_labels(load_all(rows), count, name)


def check_labels(labels: Any, count: int, name: str) -> Tensor:
    """Labels as int64 [N], copied; any other number, type or value of them is an error."""
    values = _as_array(labels, f"{name} are no list of whole numbers")
    if values.ndim == 2 and values.shape[1] > 1 and is_one_hot(values):
        values = values.argmax(1)
    if values.dtype.kind not in "iu" and values.size:
        raise InputError(f"{name} are {values.dtype}; labels are whole numbers, such as int64")
    check_label_shape(values.shape, count, name)
    if values.ndim == 2:
        raise InputError(f"{name} have shape {list(values.shape)}, and are not one-hot")
    low, high = int(values.min()), int(values.max())
    if low < -1 or high >= MAX_CLASSES:
        extreme = low if low < -1 else high
        raise InputError(f"{name} hold {extreme}; labels are -1 (none) ... {MAX_CLASSES - 1}")
    return torch.from_numpy(values.astype(np.int64))


def check_label_shape(shape: tuple[int, ...], count: int, name: str) -> None:
    """Refuse labels of another number than points; before they are read, for they may be many."""
    if shape != (count,) and not (len(shape) == 2 and shape[0] == count and shape[1] > 1):
        raise InputError(f"{name} have shape {list(shape)}, but there are {count} points")


def is_one_hot(values: np.ndarray) -> bool:
    """Whether numbers [N, K] have a single 1 in each row, and 0 elsewhere."""
    if values.ndim != 2 or not values.size or values.dtype.kind not in "biuf":
        return False
    return bool(((values == 0) | (values == 1)).all() and (values.sum(1) == 1).all())


def class_names(labels: Tensor, names: tuple[str, ...]) -> tuple[str, ...]:
    """Names by label: those of the layout as far as they go, then the numbers themselves."""
    for name in names:
        if CONTROL.search(name) or any("\ud800" <= char <= "\udfff" for char in name):
            raise InputError(
                f"the class folder {name!r} is not named in UTF-8 without control characters;"
                " rename it"
            )
    count = max(int(labels.max()) + 1, len(names))
    return names + tuple(str(label) for label in range(len(names), count))


def find_label_file(path: Path) -> tuple[Path | None, str]:
    """The labels of an .npy file, and what is to be said of a file that is not used.

    They are in a file that is named after it, or in the labels.npy of a folder whose only array
    it is: beside a second one, such as a validation set, nobody knows whose labels they are.
    """
    *own, shared = label_files(path)
    if file := next(filter(os.path.lexists, own), None):
        return file, ""
    if shared == path or not os.path.lexists(shared):
        return None, ""
    others = [
        file.name
        for file in sorted(path.parent.glob("*.npy"))
        if file.name not in (path.name, shared.name) and len(_shape_of(file)) != 1
    ]
    if not others:
        return shared, ""
    return None, (
        f"{shared.name} is not used, since it may belong to {others[0]}; if it holds the labels of"
        f" {path.name}, rename it {own[0].name}, or give it with --label-file (labels=)"
    )


def _shape_of(path: Path) -> tuple[int, ...]:
    """The shape of an array; () where the file is none."""
    if not path.is_file():
        return ()  # a pipe would be waited for
    try:
        with open(path, "rb") as stream:
            return read_npy_header(stream, str(path))[0]
    except (OSError, ValueError, InputError):
        return ()


def label_files(path: Path) -> tuple[Path, ...]:
    """Where the labels of an .npy file may lie, the likeliest first."""
    names = (f"{path.stem}_labels.npy", f"{path.stem}.labels.npy", "labels.npy")
    return tuple(path.with_name(name) for name in names)


def check_weights(weights: Any, count: int) -> Tensor:
    """Weights as float64 [N], copied; from a list, an array or the path of an .npy file."""
    if isinstance(weights, (str, Path)):
        weights = read_npy(Path(weights).expanduser())[:]
    if isinstance(weights, Tensor) and weights.dtype == torch.bfloat16:  # numpy has no such type
        weights = weights.double()
    values = _as_array(weights, "weights are no list of numbers, one for each point")
    if values.dtype.kind not in "iuf":
        raise InputError(f"weights are {values.dtype}; they are numbers, such as float64")
    checked = torch.from_numpy(values.astype(np.float64))
    if checked.shape != (count,):
        raise InputError(f"weights have shape {list(checked.shape)}, but there are {count} points")
    for flaw, rows in (
        ("not a finite number", ~checked.isfinite()),
        ("negative", checked < 0),
        ("zero, so that the row is no training point; remove it instead", checked == 0),
    ):
        if rows.any():
            row = int(rows.nonzero()[0])
            raise InputError(f"the weight of row {row} is {flaw}; weights are positive")
    # shares of the mass are float64: below its smallest normal number they lose bits, then vanish
    if float(checked.min()) / float(checked.max()) < np.finfo(np.float64).tiny:
        row = int(checked.argmin())
        raise InputError(f"the weight of row {row} vanishes beside the largest; remove the row")
    return checked


def _as_array(values: Any, error: str) -> np.ndarray:
    try:
        array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    except (TypeError, ValueError, RuntimeError) as mistake:
        raise InputError(error) from mistake
    if array.dtype.hasobject:  # a dictionary, a generator, numbers beyond 64 bits
        raise InputError(error)
    return array
