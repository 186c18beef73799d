"""What a recipe is: an item of the paper as settings, a computation in parts, and its drawings.

    plan(settings)   what to measure: settings that tell it apart, parts, how they join
    compute          the parts one after the other, joined; nothing is drawn
    draw(results)    drawings from saved numbers; nothing is computed

A part needs only the parts before it and can be kept as soon as it is done. Every result carries
`values["table"]`, its numbers as a reader wants them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from floracle.data.store import Store
from floracle.report.plots import Drawing
from floracle.run.results import Results

RecipeSettings = TypeVar("RecipeSettings")
Parts = Mapping[str, Results]
TableRow = dict[str, Any]
"""Cells of a table by column, its name first, under ""."""

CLOSE = 0.002
"""How far a number may be from the expected one, as a share of it: other processors round
differently."""


@dataclass(frozen=True)
class RecipePlan:
    """What is to be measured."""

    settings: dict[str, Any]
    """What tells this computation apart from others; as JSON has it, lists not tuples."""
    parts: Mapping[str, Callable[[Parts], Results]]
    """In order; each is given those before it."""
    joined: Callable[[Parts], Results]
    data: Sequence[Store] = ()
    """What is measured, where it comes from files."""

    def computed(self) -> Results:
        """All parts at once, none of them kept."""
        found: dict[str, Results] = {}
        for name, measure in self.parts.items():
            found[name] = measure(found)
        return self.joined(found)


@dataclass(frozen=True)
class Recipe(Generic[RecipeSettings]):
    """A figure or table of the paper."""

    name: str
    title: str
    settings: RecipeSettings
    """A frozen dataclass: the default."""
    plan: Callable[[RecipeSettings], RecipePlan]
    draw: Callable[[Results], list[Drawing]]
    """Call it inside `rc_context(STYLE)`."""
    expected: Mapping[str, Mapping[str, float]]
    """Some cells of the table at the default settings: row name, column, number."""
    quick: RecipeSettings
    """A preset of seconds."""
    figures: tuple[str, ...]
    """The names of the drawings."""

    def compute(self, settings: RecipeSettings | None = None) -> Results:
        """The numbers, from first to last."""
        return self.plan(self.settings if settings is None else settings).computed()

    def missed(self, results: Results) -> list[str]:
        """Expected numbers that these are not, a few words each; only for default settings."""
        rows = {row[""]: row for row in rows_of(results)}
        return [
            f"{column} of {name} is {rows[name][column]}, expected {wanted:g}"
            for name, cells in self.expected.items()
            for column, wanted in cells.items()
            if not _close(rows[name][column], wanted)
        ]


def table(rows: Sequence[TableRow]) -> dict[str, list[Any]]:
    """Rows as they are saved: JSON keeps the order of lists, not of mappings."""
    return {"columns": list(rows[0]), "rows": [list(row.values()) for row in rows]}


def rows_of(results: Results) -> list[TableRow]:
    """The rows of a saved table."""
    saved = results.values["table"]
    return [dict(zip(saved["columns"], row, strict=True)) for row in saved["rows"]]


def _close(found: float | None, wanted: float) -> bool:
    return found is not None and abs(found - wanted) <= CLOSE * abs(wanted)
