"""What every layout takes and returns: options, and rows as they are stored with their labels.

Some layouts look alike and mean different things: moments, mirrors, two projects with one kind of
file. Where files leave it open, an option must say it; nothing is guessed. Pictures are
[channels, height, width] from here on, in whatever order a file has their axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from types import NoneType

import torch
from torch import Tensor

from floracle.data.normalize import Normalizer
from floracle.data.rows.rows import Rows, map_rows
from floracle.run.errors import InputError, brief

INTEGERS = (
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
POINT_TYPES = (*INTEGERS, *FLOATS, torch.bool)
MOMENTS = ("mean", "sample", "gaussian")
MIN_FILE_BYTES = 2**22
MIN_SIDE = 8  # of pictures; less may be any axis
MAX_COLOURS = 4  # of pictures: red, green, blue and alpha
MAX_STRIP = 4  # how many times as wide as high pictures are; more are rows
MAX_LISTED = 8  # names in a remark


@dataclass(frozen=True)
class ReadOptions:
    """The arguments of `open_store` that concern layouts."""

    budget: int  # bytes that may be held
    layout: str | None = None
    moments: str | None = None
    flips: bool | None = None
    stored: bool = True  # whether points are what the data's own project feeds to its model
    labelled: bool = False  # whether labels are given, so that none beside the data are looked for

    def __post_init__(self) -> None:
        if not isinstance(self.flips, (bool, NoneType)):
            raise InputError(f"flips is True, False or None, not {brief(self.flips)}")
        if not isinstance(self.layout, (str, NoneType)):
            raise InputError(f"layout is a name such as 'lightningdit', not {brief(self.layout)}")
        if not isinstance(self.moments, (str, NoneType)) or self.moments not in (None, *MOMENTS):
            raise InputError(
                f"moments are read as {', '.join(MOMENTS)}, not {brief(self.moments)}"
            )

    @property
    def file_budget(self) -> int:
        """Bytes for a single file: never less than 4 MiB, so that small budgets open anything."""
        return max(self.budget, MIN_FILE_BYTES)

    def check_flips(self, data: object, *, stored: bool) -> bool:
        """Whether the mirrors `stored` with latents are points, which `flips` must say."""
        if stored and self.flips is None:
            raise InputError(
                f"{data} holds the mirror of every latent as well, and its project trains on"
                " both; say flips=True for those 2N points, or flips=False for N"
            )
        if self.flips and not stored:
            raise InputError(
                f"{data} holds no mirrors, and latents cannot be mirrored in latent space;"
                " say flips=False, or encode the mirrored pictures too"
            )
        return bool(self.flips)

    def require_moments(self, data: object) -> str:
        """What becomes of Gaussians, which `moments` must say."""
        if self.moments is None:
            raise InputError(
                f"{data} holds a Gaussian for every sample; say moments='mean' to take its mean"
                " for the point, 'sample' for one draw, or 'gaussian' to keep its deviations too"
            )
        return self.moments


@dataclass(frozen=True)
class LayoutContent:
    """What a file or folder in some layout holds."""

    rows: Rows
    layout: str
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    ignored: int = 0  # files passed over because they are no pictures
    normalizer: Normalizer | None = None
    """How its own project feeds it to its model, where that is known."""
    moments: str | None = None
    """Rows are Gaussians [mean ‖ "std"] or [mean ‖ "logvar"] along their channels."""
    flips: bool = False  # the second half of the rows are the mirrors of the first
    padded: bool = False
    """Several processes wrote it, which repeat a few rows to have the same number each."""
    weights: Tensor | None = None  # how much each row counts, float64 [N], mirrors left out
    autoencoder: str = ""
    """Whose latents the rows are: its name and the hash of its weights; "" where unknown."""
    remarks: tuple[str, ...] = ()


def describe_unused(names: Sequence[str], place: str) -> tuple[str, ...]:
    """A remark that names what a file holds beside what is read."""
    if not names:
        return ()
    return (f"{place} holds {list_some(names)} as well, which is not used",)


def list_some(names: Sequence[str]) -> str:
    """The first few of some names, for a message of one line."""
    return ", ".join([*names[:MAX_LISTED], *(["..."] if len(names) > MAX_LISTED else [])])


def channels_first(images: Tensor) -> Tensor:
    """Stored pictures [n, H, W] or [n, H, W, C] as [n, C, H, W], without a copy."""
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)


def as_points(rows: Rows, name: str) -> Rows:
    """Rows whose pictures have their channels in front; refuses what cannot be points."""
    if len(rows.shape) < 2:
        raise InputError(f"{name} has shape {tuple(rows.shape)}; points need [N, ...], rows first")
    if len(rows) == 0 or prod(rows.shape[1:]) == 0:
        raise InputError(f"{name} is empty: its shape is {tuple(rows.shape)}")
    if rows.dtype not in POINT_TYPES:
        raise InputError(f"{name} holds {rows.dtype}; points are real numbers")
    if order := axes_with_rows_last(tuple(rows.shape), rows.dtype):
        raise InputError(
            f"{name} has shape {list(rows.shape)}, which looks like {order}: rows belong first,"
            " as in numpy.moveaxis(data, -1, 0); if these are"
            f" {len(rows)} points, flatten each"
        )
    # floats [N, H, W, 3] stay as they are: only bytes are surely pictures, and H, W, C in order
    pictures = len(rows.shape) == 3 or (len(rows.shape) == 4 and rows.shape[3] in (1, 3))
    if rows.dtype != torch.uint8 or not pictures:
        return rows
    if isinstance(rows, Tensor):
        return channels_first(rows)
    count, height, width, *channels = rows.shape
    return map_rows(rows, channels_first, shape=(count, *(channels or [1]), height, width))


def axes_with_rows_last(shape: tuple[int, ...], dtype: torch.dtype) -> str:
    """What the axes of an array seem to be, where its rows come last; "" where they do not.

    MATLAB and Fortran write pictures so, and the first axis would count as the points. Floats of
    such shapes may be tokens or latents, so of these only what no latent has is refused.
    """
    *front, last = shape
    integers = dtype in INTEGERS
    if len(shape) == 4:
        first, second, third = front
        square = first == second >= MIN_SIDE
        if third == 3 and min(first, second) >= MIN_SIDE and (integers or square):
            # of bytes a picture of 3 columns is no picture; latents may have 3
            return "[H, W, C, N]" if last > MAX_COLOURS or (integers and square) else ""
        if square and third == 1 and last > first:
            return "[H, W, 1, N]"
        if integers and first in (1, 3) and second == third >= MIN_SIDE:
            return "[C, H, W, N]" if last > MAX_COLOURS and last != second else ""
    if integers and len(shape) == 3 and front[0] == front[1] >= MIN_SIDE:
        return "[H, W, N]" if last > MAX_STRIP * front[0] else ""
    return ""


def is_channels_last(shape: tuple[int, ...]) -> bool:
    """Whether a point looks like a picture [H, W, 1 ... 4], or like frames [T, H, W, 3]."""
    if len(shape) not in (3, 4) or is_picture(shape):
        return False
    *frames, height, width, channels = shape
    if frames and channels != 3:
        return False
    sides = min(height, width) >= MIN_SIDE and (height == width or channels >= 3)
    return sides and channels <= MAX_COLOURS


def is_picture(shape: tuple[int, ...]) -> bool:
    """Whether a point [1 or 3, H, W] can be drawn."""
    return len(shape) == 3 and shape[0] in (1, 3)
