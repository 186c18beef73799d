"""Tables of words, ready for a page or a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ReportRow:
    """A row of a table; main ones are emphasised."""

    cells: Sequence[str]
    main: bool = False
    strong: int | None = None
    """The index of a single cell that is emphasised."""


@dataclass(frozen=True)
class Table:
    """A table of words; `over` names groups of columns: a title and a number of columns each."""

    head: Sequence[str]
    rows: Sequence[ReportRow]
    caption: str = ""
    wordy: frozenset[int] = field(default_factory=frozenset)
    """Columns that hold sentences."""
    over: Sequence[tuple[str, int]] = ()

    @classmethod
    def of_columns(
        cls, title: str, names: Sequence[str], columns: Mapping[str, Sequence[str]]
    ) -> Table:
        """A row for each name, a column for each entry."""
        rows = [ReportRow(cells) for cells in zip(names, *columns.values(), strict=True)]
        return cls((title, *columns), rows)
