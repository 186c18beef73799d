"""Readings of data that are possible and unlikely: sheets of pictures, labels unlike folder names.

Nothing here is an error: a remark says what was read, and what to do if it was meant otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from .layouts.content import is_picture, list_some
from .rows.rows import Rows

MIN_TILES = 6  # along each side of a sheet: fewer repetitions happen in a photograph by chance
MIN_TILE = 12  # pixels: shorter periods are those of compression or texture
COMPRESSION_PERIOD = 16  # blocks of JPEG and WebP, whose edges repeat in any picture
MIN_PERIODIC = 0.5
"""The share of the variance of edges that repeats: at most .22 in 257 photographs of flowers."""
NUMBERED = re.compile(r"(\D*)(\d{1,15})")


def unlikely_readings(points: Rows, classes: Sequence[str]) -> tuple[str, ...]:
    """All remarks on points [N, *shape] and on the names of classes by label."""
    return looks_like_sheets(points) + looks_numbered_otherwise(classes)


def looks_numbered_otherwise(classes: Sequence[str]) -> tuple[str, ...]:
    """Whether class folders have numbers in their names that are not their labels.

    Labels are the ranks of folders by name, and "10" comes before "2". Folders named alike but for
    a number are looked at as well where the numbers run from 0 or 1 on: "class10", "class2".
    """
    matches = [NUMBERED.fullmatch(name) for name in classes]
    if not classes or not all(matches):
        return ()
    heads = {match[1] for match in matches if match}
    numbers = [int(match[2]) for match in matches if match]
    run = sorted(numbers) in (list(range(len(numbers))), list(range(1, len(numbers) + 1)))
    ordered = numbers == sorted(numbers)
    if len(heads) > 1 or (heads != {""} and (ordered or not run)):
        return ()
    pairs = enumerate(zip(classes, numbers, strict=True))
    differ = [f"label {label} is {name!r}" for label, (name, number) in pairs if label != number]
    if not differ:
        return ()
    return (
        "classes are numbered in the alphabetical order of their folders, so a label is not the"
        f" number in the name: {list_some(differ)}; options and results take the label",
    )


def looks_like_sheets(points: Rows) -> tuple[str, ...]:
    """Whether pictures are sheets of many small ones in rows and columns."""
    count, *shape = points.shape
    if not is_picture(tuple(shape)) or min(shape[1:]) < MIN_TILES * MIN_TILE:
        return ()
    rows = sorted({0, count // 2, count - 1})
    tiles = {_tile_size(points[row : row + 1][0]) for row in rows}
    tile = tiles.pop()
    if tiles or tile is None:
        return ()
    height, width = shape[1:]
    return (
        f"these look like sheets of {tile[0]} × {tile[1]} pictures, {height // tile[0]} ×"
        f" {width // tile[1]} on each: a whole sheet counts as one point; cut the sheets up, and"
        " give the labels of the pictures, if those are the data",
    )


def _tile_size(picture: Tensor) -> tuple[int, int] | None:
    """Height and width of the tiles of a picture [C, H, W]; None where edges do not repeat."""
    grey = picture.double().mean(0)  # [H, W]
    height = _period(grey.diff(dim=0).abs().mean(1))
    width = _period(grey.diff(dim=1).abs().mean(0))
    return None if height is None or width is None else (height, width)


def _period(edges: Tensor) -> int | None:
    """The period of edges [n] between neighbouring lines; None where they do not repeat."""
    edges = edges - _repeated(edges, COMPRESSION_PERIOD)
    shares = {}
    for period in range(MIN_TILE, (len(edges) + 1) // MIN_TILES + 1):
        repeated, whole = _repeated(edges, period), edges
        shares[period] = float(repeated.var() / whole.var().clamp(min=1e-12))
    best = max(shares.values(), default=0.0)
    if best < MIN_PERIODIC:
        return None
    return next(period for period, share in shares.items() if share > 0.9 * best)


def _repeated(edges: Tensor, period: int) -> Tensor:
    """The part of edges [n] that repeats with a period: the mean of each phase, at its places."""
    phases = torch.arange(len(edges)) % period
    sums = torch.zeros(period, dtype=edges.dtype).index_add_(0, phases, edges)
    return (sums / phases.bincount(minlength=period))[phases]
