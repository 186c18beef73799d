"""What a recipe is: an item of the paper as settings, a computation in parts, and its figures.

    plan(settings)   the settings that identify the computation, its parts, and how they join
    compute          the parts one after the other, joined; nothing is drawn
    draw(results)    figures from saved numbers; nothing is computed

A part needs only the parts before it and can be saved as soon as it is done. Every result has
`values["table"]`, its numbers as a reader wants them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from floracle.data.store import Store
from floracle.report.figure import Drawing
from floracle.run.results import Results

RecipeSettings = TypeVar("RecipeSettings")
Parts = Mapping[str, Results]
TableRow = dict[str, Any]
"""Cells of a table by column, its name first, under ""."""

RELATIVE_TOLERANCE = 0.002
"""Of expected numbers: other processors round differently."""


@dataclass(frozen=True)
class RecipePlan:
    """What is to be measured."""

    settings: dict[str, Any]
    """What identifies this computation, as JSON has it: lists in place of tuples."""
    parts: Mapping[str, Callable[[Parts], Results]]
    """In order; each is given those before it."""
    join: Callable[[Parts], Results]
    data: Sequence[Store] = ()
    """The data that is measured, where it comes from files."""

    def compute(self) -> Results:
        """All parts at once, none of them saved."""
        parts: dict[str, Results] = {}
        for name, measure in self.parts.items():
            parts[name] = measure(parts)
        return self.join(parts)


@dataclass(frozen=True)
class Recipe(Generic[RecipeSettings]):
    """A figure or table of the paper."""

    name: str
    title: str
    settings: RecipeSettings
    """The default, a frozen dataclass."""
    plan: Callable[[RecipeSettings], RecipePlan]
    draw: Callable[[Results], list[Drawing]]
    """Called inside `figure_style`."""
    expected: Mapping[str, Mapping[str, float]]
    """Some cells of the table at the default settings: row name, column, number."""
    quick: RecipeSettings
    """A preset of seconds."""
    figures: tuple[str, ...]
    """The names of the figures."""

    def compute(self, settings: RecipeSettings | None = None) -> Results:
        """The numbers, from first to last."""
        return self.plan(self.settings if settings is None else settings).compute()

    def missed(self, results: Results) -> list[str]:
        """The expected numbers that results do not have; only for the default settings."""
        rows = rows_by_name(results)
        return [
            f"{column} of {name} is {rows[name][column]}, expected {expected:g}"
            for name, cells in self.expected.items()
            for column, expected in cells.items()
            if not _is_close(rows[name][column], expected)
        ]


def table_of(rows: Sequence[TableRow]) -> dict[str, list[Any]]:
    """Rows as they are saved: JSON keeps the order of lists, not of mappings."""
    # All rows have the columns of the first, in its order.
    return {"columns": list(rows[0]), "rows": [list(row.values()) for row in rows]}


def rows_of(results: Results) -> list[TableRow]:
    """The rows of a saved table."""
    table = results.values["table"]
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def rows_by_name(results: Results) -> dict[str, TableRow]:
    """The rows of a saved table by their names."""
    return {row[""]: row for row in rows_of(results)}


def _is_close(value: float | None, expected: float) -> bool:
    return value is not None and abs(value - expected) <= RELATIVE_TOLERANCE * abs(expected)
