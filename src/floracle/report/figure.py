"""A figure with the numbers it is drawn from, and how figures are written."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from torch import Tensor

from floracle.run.files import write_bytes, write_text

from .names import inscription
from .style import PAGE_VARIABLES, PIXELS_PER_INCH, QUIET, STYLE

Columns = dict[str, list[Any]]
"""Numbers of a figure by the names of their columns in its CSV; of one length."""


@dataclass(frozen=True)
class Drawing:
    """A figure, what it shows in words, and the numbers it is drawn from."""

    name: str
    """Of its files, without extension."""
    alt: str
    """What it shows, for readers who cannot see it."""
    figure: Figure
    columns: Mapping[str, Sequence[Any]]
    """Empty for a sheet of pictures, which is written as PNG alone."""
    caption: str = ""
    section: str = "main"
    """The section of the page that shows it."""

    @property
    def is_picture(self) -> bool:
        """Whether it shows pictures in place of curves."""
        return not self.columns

    def png(self) -> bytes:
        """As a PNG file."""
        # "Software" in place of matplotlib's own entry, whose version would change the bytes.
        return self._save("png", dpi=PIXELS_PER_INCH, metadata={"Software": "floracle"})

    def svg(self) -> str:
        """As an SVG file; the same figure always gives the same bytes."""
        with mpl.rc_context({"svg.hashsalt": self.name}):  # else its ids were random
            return self._save("svg", metadata={"Date": None}).decode()

    def inline(self) -> str:
        """As SVG markup for a page: without prologue, its colours as variables of the page."""
        markup = self.svg()
        markup = markup[markup.index("<svg") :]
        markup = re.sub(r"<metadata>.*?</metadata>", "", markup, flags=re.DOTALL)
        # HTML knows the names of SVG without namespaces.
        markup = re.sub(r' xmlns(:\w+)?="[^"]*"', "", markup)
        markup = markup.replace("xlink:href", "href")
        # So the figure follows the light or dark setting of the reader.
        for colour, variable in PAGE_VARIABLES.items():
            markup = markup.replace(colour, f"var(--{variable})")
        # Without width and height the figure takes the width of its column.
        return re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', markup, count=1)

    def csv(self) -> str:
        """The numbers, in full precision."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")  # the default is \r\n on every system
        writer.writerow(self.columns)
        writer.writerows(zip(*self.columns.values(), strict=True))
        return file.getvalue()

    def _save(self, kind: str, **options: Any) -> bytes:
        file = io.BytesIO()
        # Read by matplotlib as it saves, which may be outside of `figure_style`.
        with mpl.rc_context({"svg.fonttype": STYLE["svg.fonttype"]}):
            self.figure.savefig(file, format=kind, **options)
        return file.getvalue()


@contextmanager
def figure_style() -> Iterator[None]:
    """The style of all figures, and no warnings of letters that the font here lacks.

    Names may be in any script: the reader of an SVG has fonts that this machine does without.
    """
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def figure_files(name: str, folder: Path, *, picture: bool = False) -> list[Path]:
    """The files of a figure in the folder of a report."""
    kinds = ("png",) if picture else ("png", "svg", "csv")
    return [folder / "figures" / f"{name}.{kind}" for kind in kinds]


def write_figures(drawings: Iterable[Drawing], folder: Path) -> None:
    """Write every figure as PNG, and what has numbers as SVG and CSV too."""
    with figure_style():
        for drawing in drawings:
            png, *others = figure_files(drawing.name, folder, picture=drawing.is_picture)
            write_bytes(png, drawing.png())
            for path, content in zip(others, (drawing.svg, drawing.csv), strict=False):
                write_text(path, content())


SHEET_WIDTH = 7.4
"""Inches across all pictures of a sheet."""
HEAD_ROWS, LABEL_COLUMNS, GROUP_GAP = 0.45, 1.7, 0.25
"""Height of the heads, width of the labels, and the gap between groups: in sides of a picture."""


def picture_sheet(
    name: str,
    pictures: Tensor,
    heads: Sequence[str],
    *,
    alt: str,
    caption: str = "",
    section: str = "main",
    labels: Sequence[tuple[str, str]] = (),
) -> Drawing:
    """Pictures of bytes [rows, columns, C, H, W] side by side, a head above each column.

    `labels` are names and colours of rows; where there are fewer than rows, they repeat, with a
    gap before each repetition.
    """
    rows, columns = pictures.shape[:2]
    group, margin = len(labels) or rows, LABEL_COLUMNS if labels else 0.0
    height = HEAD_ROWS + rows + GROUP_GAP * ((rows - 1) // group)
    width = margin + columns
    # Height and width are in sides of a picture, so that pictures are square on paper.
    figure = Figure(figsize=(SHEET_WIDTH, SHEET_WIDTH * height / width))
    ax = figure.add_axes((0, 0, 1, 1))
    text: dict[str, Any] = {"va": "center", "fontsize": 8}
    for row in range(rows):
        top = HEAD_ROWS + row + GROUP_GAP * (row // group)
        for column, picture in enumerate(pictures[row]):
            pixels = picture.expand(3, -1, -1).movedim(0, -1).numpy()  # [H, W, 3], grey too
            # (left, right, bottom, top), y downwards; .05 of a side is the gap to the next one.
            extent = (column, column + 0.95, top + 0.95, top)
            ax.imshow(pixels, extent=extent, interpolation="none")
        if labels:
            label, colour = labels[row % group]
            ax.text(-0.1, top + 0.47, inscription(label), color=colour, ha="right", **text)
    for column, head in enumerate(heads):
        ax.text(column + 0.47, HEAD_ROWS / 2, head, color=QUIET, ha="center", **text)
    ax.set(xlim=(-margin, columns), ylim=(height, 0), aspect="equal")
    ax.set_axis_off()
    return Drawing(name, alt, figure, {}, caption, section)
