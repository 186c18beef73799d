"""From values to pictures: the quantiser, tiles, and PNG files.

A value v between black (low) and white (high) becomes the byte

    ⌊255 (v − low) / (high − low) + ½⌋,   clamped to 0 … 255,

which for (−1, 1) is the usual clamp(127.5 v + 128). Latents are shown by a fixed projection onto
three channels, computed once from the data, so that all their pictures can be compared.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from .errors import InputError

MAX_PIXELS = 2**24  # of one picture
TILE_GAP_PIXELS = 2
BLACK_WHITE_QUANTILES = (0.01, 0.99)
"""Of the values of a projection: black and white. Outliers would leave the rest grey."""
MAX_FITTED_PIXELS = 100_000
"""Latent pixels that a projection is fitted to."""


def quantise(values: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
    """Values as bytes: low is black (0), high is white (255), halves round up."""
    if not low < high:
        raise InputError(f"black must lie below white, got {low:g} and {high:g}")
    if values.isnan().any():
        raise InputError("NaN has no colour, and the values to be drawn contain some")
    level = (values.double() - low) * (255 / (high - low)) + 0.5
    return level.floor().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Display:
    """How points become pictures: as they are, or latents through a projection of channels."""

    low: float
    high: float
    centre: Tensor | None = None
    """The mean of each channel [C], for latents."""
    directions: Tensor | None = None
    """Rows [1 or 3, C] that take centred channels to colours, scaled to low … high."""

    def pictures(self, points: Tensor) -> Tensor:
        """Points [b, C, H, W] as bytes [b, 1 or 3, H, W]."""
        values = points.double()
        if self.directions is not None and self.centre is not None:
            centred = values - self.centre[:, None, None]
            values = torch.einsum("kc,bchw->bkhw", self.directions, centred)
        return quantise(values, self.low, self.high)


def display_for(
    shape: tuple[int, ...], picture_range: tuple[float, float] | None, points: Tensor
) -> Display | None:
    """How to show points of a shape; None if they are not shown as pictures.

    `picture_range` are the values of black and white of points that are pictures. Otherwise
    `points` [n, C, H, W] fix the projection of latents, see `latent_display`.
    """
    if picture_range is not None and picture_range[0] < picture_range[1]:
        return Display(*picture_range)
    if len(shape) != 3 or min(shape[1:]) < 2 or shape[0] < 2:
        return None
    return latent_display(points)


def latent_display(points: Tensor) -> Display:
    """The projection of latents [n, C, H, W] onto their three leading principal channels.

    The 1st to 99th percentile of each runs from black to white.
    """
    pixels = points.double().movedim(1, -1).flatten(0, -2)  # [n H W, C]
    pixels = pixels[:: -(-len(pixels) // MAX_FITTED_PIXELS)]
    centre = pixels.mean(0)
    _, vectors = torch.linalg.eigh((pixels - centre).T @ (pixels - centre))  # ascending
    count = 3 if pixels.shape[1] >= 3 else 1  # of two channels, one grey picture
    leading = vectors.flip(1).T[:count]  # [k, C]
    # An eigenvector has no sign of its own: its largest entry is made positive.
    strongest = leading.gather(1, leading.abs().argmax(1, keepdim=True))
    leading = leading * strongest.sign()
    colours = (pixels - centre) @ leading.T  # [n H W, k]
    low, high = colours.quantile(torch.tensor(BLACK_WHITE_QUANTILES, dtype=torch.float64), dim=0)
    scale = 2 / (high - low).clamp(min=1e-12)  # to [−1, 1]; a constant channel stays grey
    shift = leading.T @ ((low + high) / 2)
    return Display(-1.0, 1.0, centre + shift, scale[:, None] * leading)


def enlarge(pictures: Tensor, min_side: int) -> Tensor:
    """Bytes [b, C, H, W] repeated to whole multiples of at least `least` pixels a side."""
    factor = max(1, -(-min_side // max(pictures.shape[-2:])))
    return pictures.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def reduce_image(pictures: Tensor, max_side: int) -> Tensor:
    """Bytes [b, C, H, W] averaged down to at most `most` pixels a side."""
    largest = max(pictures.shape[-2:])
    if largest <= max_side:
        return pictures
    height, width = (max(1, round(side * max_side / largest)) for side in pictures.shape[-2:])
    pooled = torch.nn.functional.adaptive_avg_pool2d(pictures.float(), (height, width))
    return (pooled + 0.5).floor().to(torch.uint8)


def tiles(
    pictures: Tensor, columns: int, *, gap: int = TILE_GAP_PIXELS, background: int = 255
) -> Tensor:
    """Bytes [b, C, H, W] side by side, `columns` in a row: one picture [C, H', W']."""
    count, channels, height, width = pictures.shape
    if count < 1 or columns < 1:
        raise InputError(f"tiles need pictures and columns, got {count} and {columns}")
    columns = min(columns, count)
    rows = -(-count // columns)
    sides = rows * (height + gap) - gap, columns * (width + gap) - gap
    _check_size(*sides)
    sheet = torch.full((channels, *sides), background, dtype=torch.uint8)
    for i, picture in enumerate(pictures):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        sheet[:, y : y + height, x : x + width] = picture
    return sheet


def png(picture: Tensor) -> bytes:
    """A picture of bytes [1 or 3, H, W] as a PNG file."""
    channels, height, width = picture.shape
    _check_size(height, width)
    pixels = picture.movedim(0, -1).contiguous().numpy()
    image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise InputError(
            f"a picture of {width} x {height} is too large; show fewer or smaller ones"
        )
