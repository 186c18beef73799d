"""Tables on the terminal, in as many parts as its width asks for; every part has the names."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .console import show_table, transliterate

if TYPE_CHECKING:
    from floracle.report.tables import Table

BESIDE = 3
"""What every column takes beside its cells, and at most the whole table beside its columns."""


def show(table: Table | None, title: str = "") -> None:
    """Print a table, if there is one; columns that have no room come below, in further parts."""
    from rich.console import Console

    if table is None:
        return
    console = Console()
    wide = console.width if console.is_terminal else 200  # as `show_table` has it
    heads, *cells = [_printed(row) for row in (table.head, *(row.cells for row in table.rows))]
    cells = [[_folded(row[0], wide // 2), *row[1:]] for row in cells]
    for k, columns in enumerate(parts([heads, *cells], wide)):
        head, rows = _only(heads, columns), [_only(row, columns) for row in cells]
        show_table(head, rows, title if k == 0 else "")


def parts(rows: Sequence[Sequence[str]], wide: int) -> list[list[int]]:
    """Which columns go together: the first is in every part, with as many others as there is room.

    `wide` is the room for a whole part; one other column is in each, however wide it is.
    """
    from rich.cells import cell_len

    widths = [
        max(cell_len(line) for cell in column for line in cell.split("\n")) + BESIDE
        for column in zip(*rows, strict=True)
    ]
    found, room = [[0]], wide - BESIDE - widths[0]
    left = room
    for k, width in enumerate(widths[1:], 1):
        if width > left and len(found[-1]) > 1:
            found.append([0])
            left = room
        found[-1].append(k)
        left -= width
    return found


def _printed(row: Sequence[str]) -> list[str]:
    """Cells as they are printed: what the terminal lacks is wider in ASCII."""
    return [transliterate(cell, sys.stdout.encoding) for cell in row]


def _folded(name: str, wide: int) -> str:
    """A name in lines of so many letters at most: all of it is shown."""
    return "\n".join(name[k : k + wide] for k in range(0, len(name), wide))


def _only(row: Sequence[str], columns: Sequence[int]) -> list[str]:
    return [row[k] for k in columns]
