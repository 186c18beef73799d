"""Tables on the terminal; one that is too wide is printed in parts, each with the row names."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from .console import transliterate

if TYPE_CHECKING:
    from rich.text import Text

    from floracle.report.tables import Table

COLUMN_MARGIN = 3
"""Characters that rich puts around a cell, and at most around the whole table."""
PIPE_WIDTH = 200
"""Characters in a line where the output is a file or a pipe, which has no width."""


def show_table(head: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a compact table on standard output; its first column is left-aligned."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    heading = _cell(title) if title else None
    table = Table(box=SIMPLE_HEAD, title=heading, title_justify="left")
    for i, name in enumerate(head):
        # Numbers are never broken into lines; names of rows may be.
        table.add_column(_cell(name), justify="left" if i == 0 else "right", no_wrap=i > 0)
    for row in rows:
        table.add_row(*map(_cell, row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPE_WIDTH)
    console.print(table)


def _cell(text: str) -> Text:
    """A cell as it is printed: rich must measure what the terminal really gets."""
    from rich.text import Text

    return Text(transliterate(text, sys.stdout.encoding))


def show_wide_table(table: Table | None, title: str = "") -> None:
    """Print a table, if there is one; columns that do not fit follow below, in further parts."""
    from rich.console import Console

    if table is None:
        return
    console = Console()
    width = console.width if console.is_terminal else PIPE_WIDTH
    rows = [
        [_cell(cell).plain for cell in row] for row in (table.head, *(r.cells for r in table.rows))
    ]
    # A long name takes several lines of at most half of the width; the head is not folded.
    rows[1:] = [[_fold(row[0], width // 2), *row[1:]] for row in rows[1:]]
    for k, columns in enumerate(split_columns(rows, width)):
        head, *body = [[row[column] for column in columns] for row in rows]
        show_table(head, body, title if k == 0 else "")


def split_columns(rows: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """Numbers of the columns of each part; the first column is in every part.

    `width` is that of a whole part. A part has one other column at least, however wide it is.
    """
    from rich.cells import cell_len

    widths = [
        max(cell_len(line) for cell in column for line in cell.split("\n")) + COLUMN_MARGIN
        for column in zip(*rows, strict=True)
    ]
    available = width - COLUMN_MARGIN - widths[0]
    parts, remaining = [[0]], available
    for column, needed in enumerate(widths[1:], 1):
        if needed > remaining and len(parts[-1]) > 1:
            parts.append([0])
            remaining = available
        parts[-1].append(column)
        remaining -= needed
    return parts


def _fold(name: str, width: int) -> str:
    """A name in lines of at most `width` letters."""
    return "\n".join(name[k : k + width] for k in range(0, len(name), width))
