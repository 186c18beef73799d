"""Which arrays of a file are points, their mirrors, labels and weights; what is left is named.

Points go by `images`, `latents`, `data`, `x` or `arr_0`, or are the only array of several axes.
Labels go by the names below, as whole numbers [N] or one-hot [N, K]; of arrays without names, as
`np.savez(file, images, labels)` writes them in any order, they are the one-hot array, or the array
of one axis. Weights [N] go by name. Means and scales beside float points are refused: nothing says
whether the points were divided by them already, and the answers differ. Everything else that a
file holds is named in a remark.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from floracle.data.rows.rows import Rows
from floracle.run.errors import InputError

from .content import ReadOptions, describe_unused
from .labels import check_label_shape, is_one_hot
from .npy import load_all

POINT_NAMES = ("images", "latents", "data", "x", "arr_0")
LABEL_NAMES = {
    *("labels", "label", "y", "targets", "target", "classes", "class", "class_labels"),
    *("class_label", "class_ids", "class_id", "train_labels", "y_train"),
}
WEIGHT_NAMES = {"weights", "weight", "sample_weights", "sample_weight"}
SCALE_NAMES = {
    *("mean", "std", "latents_mean", "latents_std", "latent_mean", "latent_std"),
    *("data_mean", "data_std", "means", "stds", "var", "variance"),
    *("scale", "scale_factor", "scaling_factor", "shift", "shift_factor", "bias", "offset"),
    *("min", "max"),
}
"""Of what points may have been divided by and shifted by, or still have to be."""
STATISTICS_NAMES = {"mu", "sigma", "mu_s", "sigma_s", "cov", "covariance"}
"""Of statistics for FID, a mean [D] and a covariance [D, D]; they are no points."""
UNNAMED = re.compile(r"arr_\d+")  # what np.savez calls arrays without names
HARMLESS_METADATA = {"format", "framework", "total_size", "dtype", "device"}
"""What projects write about the file itself into the header of a .safetensors file."""
FIRST_ROWS = 64  # enough to see that points are not one-hot, without reading them all
LATENT_CHANNELS = {4, 8, 16, 32, 64}
NUMBERS = "biuf"  # kinds of numpy


class ArrayHeader(NamedTuple):
    """Shape and kind of an array that is not read yet; numpy's letter, f for bfloat16."""

    shape: tuple[int, ...]
    kind: str


@dataclass(frozen=True)
class ArrayRoles:
    """The names of arrays by what they are."""

    points: str
    mirrors: str | None
    labels: str | None
    weights: str | None
    one_sample: bool  # points are a single one, without the axis of rows
    remarks: tuple[str, ...]


def find_roles(
    path: Path,
    headers: Mapping[str, ArrayHeader],
    load: Callable[[str], Rows],
    options: ReadOptions,
    *,
    metadata: Mapping[str, str] | None = None,
) -> ArrayRoles:
    """What each array of a file is; `load` reads one."""
    points = _find_points(path, headers, load)
    count = headers[points].shape[0]
    labels = _find_labels(path, points, headers, load)
    one_sample = _is_one_sample(path, headers[points], headers[labels] if labels else None)
    if labels and not options.labelled:
        shape, rows = headers[labels].shape or (1,), 1 if one_sample else count
        check_label_shape(shape, rows, f"{labels!r} in {path}")
    weights = next((key for key in headers if key.lower() in WEIGHT_NAMES), None)
    weights = weights if weights and headers[weights].shape == (count,) else None
    mirrors = next(
        (key for key in headers if key in (f"{points}_flip", f"{points}_flipped")), None
    )
    mirrors = mirrors if mirrors and headers[mirrors] == headers[points] else None
    rest = [key for key in headers if key not in (points, mirrors, labels, weights)]
    notes = telling_metadata(metadata or {})
    check_scales(path, [*rest, *notes], headers[points].kind, options)
    remarks = describe_unused([f"{key!r} {[*headers[key].shape]}" for key in rest], f"{path}")
    remarks += describe_unused([repr(key) for key in notes], f"the header of {path}")
    return ArrayRoles(points, mirrors, labels, weights, one_sample, remarks)


def telling_metadata(metadata: Mapping[str, str]) -> list[str]:
    """What a header says beside the facts of its file."""
    return [key for key in metadata if key.lower() not in HARMLESS_METADATA]


def _find_points(
    path: Path, headers: Mapping[str, ArrayHeader], load: Callable[[str], Rows]
) -> str:
    arrays = [key for key, header in headers.items() if len(header.shape) >= 2]
    keys = [key for key in arrays if key.lower() not in LABEL_NAMES | STATISTICS_NAMES]
    if len(keys) > 1:
        keys = [key for key in keys if key.lower() not in SCALE_NAMES] or keys
    unnamed = [key for key in keys if UNNAMED.fullmatch(key)]
    if len(unnamed) > 1 and len(unnamed) == len(keys):
        # np.savez(file, labels, images) with one-hot labels: they are no points
        keys = [key for key in keys if not _is_one_hot(headers[key], load, key)] or keys
        keys = keys[:1] if "arr_0" not in keys else keys
    keys = [key for key in keys if key.lower() in POINT_NAMES] or keys
    if len(keys) == 1:
        return keys[0]
    listed = ", ".join(f"{key} {[*header.shape]}" for key, header in headers.items()) or "nothing"
    if not keys and {key.lower() for key in arrays} & STATISTICS_NAMES:
        raise InputError(f"{path} holds statistics as for FID, and no points: {listed}")
    raise InputError(
        f"{path} should hold one array of points under {', '.join(POINT_NAMES)}; it holds {listed}"
    )


def _find_labels(
    path: Path, points: str, headers: Mapping[str, ArrayHeader], load: Callable[[str], Rows]
) -> str | None:
    keys = sorted(key for key in headers if key.lower() in LABEL_NAMES and key != points)
    for key, header in headers.items():
        if key != points and UNNAMED.fullmatch(key):
            whole = len(header.shape) == 1 and (header.kind in "iub" or key in ("arr_0", "arr_1"))
            if whole or _is_one_hot(header, load, key):
                keys.append(key)
    if len(keys) > 1:  # such as `classes`, the names of classes, beside `labels`
        count = headers[points].shape[0]
        fitting = [key for key in keys if headers[key].shape[:1] == (count,)]
        keys = [key for key in fitting if headers[key].kind in NUMBERS] or keys
    if len(keys) > 1:
        raise InputError(f"{path} holds labels more than once: {', '.join(keys)}; keep one")
    return keys[0] if keys else None


def _is_one_hot(header: ArrayHeader, load: Callable[[str], Rows], key: str) -> bool:
    """Whether an array is labels [N, K] with a single 1 in each row."""
    if len(header.shape) != 2 or header.shape[1] < 2 or header.kind not in NUMBERS:
        return False
    rows = load(key)
    return is_one_hot(rows[:FIRST_ROWS].numpy()) and is_one_hot(load_all(rows).numpy())


def _is_one_sample(path: Path, points: ArrayHeader, labels: ArrayHeader | None) -> bool:
    """Whether floats [C, H, W] are one latent; refused where they may as well be C points."""
    if len(points.shape) != 3 or points.kind != "f":
        return False
    if labels is not None and labels.shape in ((), (1,)):
        return points.shape[0] > 1
    if labels is None:
        check_not_one_sample(path, points.shape)
    return False


def check_not_one_sample(path: Path, shape: tuple[int, ...]) -> None:
    """Refuse floats of a file that may be a single latent, where rows of points belong."""
    if len(shape) == 3 and shape[0] in LATENT_CHANNELS and shape[1] == shape[2] > 1:
        count, *point = shape
        raise InputError(
            f"{path} holds floats {[*shape]}: one latent of {count} channels, or {count} points"
            f" {point}? Write a latent as {[1, *shape]}, points as {[count, 1, *point]}"
        )


def check_scales(path: Path, keys: Sequence[str], kind: str, options: ReadOptions) -> None:
    """Refuse means and scales beside float points, unless `normalize` says what to do."""
    scales = [key for key in keys if key.lower() in SCALE_NAMES]
    if scales and kind == "f" and options.stored:
        raise InputError(
            f"{path} holds {', '.join(map(repr, scales))} beside its points, and does not say"
            " whether the points were scaled by them already: say normalize='raw' to take the"
            " points as they are, or write the scaled points into the file"
        )
