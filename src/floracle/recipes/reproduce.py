"""Computing an item into a folder: parts kept as they are finished, then numbers, then drawings.

A part lies in OUT/parts as soon as it is done, so that the same call goes on where it was stopped,
to the same numbers bit for bit. With result.json in place it answers at once.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl

from floracle.report.plots import STYLE, Drawing
from floracle.run.errors import Mistake, suggestion
from floracle.run.files import sweep, write_bytes, write_text
from floracle.run.progress import tracked
from floracle.run.results import Results, answered, differences, load_results, save

from .appendix_d import APPENDIX_D
from .figure_2 import FIGURE_2A, FIGURE_2B
from .figure_3 import FIGURE_3
from .recipe import Plan, Recipe
from .table_2 import TABLE_2

RECIPES: dict[str, Recipe[Any]] = {
    recipe.name: recipe for recipe in (FIGURE_2A, FIGURE_2B, FIGURE_3, TABLE_2, APPENDIX_D)
}
KINDS = ("png", "svg", "csv")


def recipe_for(name: str) -> Recipe[Any]:
    """The recipe of an item of the paper."""
    if name not in RECIPES:
        raise Mistake(f"there is no recipe for {name!r}; {suggestion(name, RECIPES)}")
    return RECIPES[name]


def reproduced(recipe: Recipe[Any], folder: Path, settings: Any = None) -> Results:
    """The numbers of an item, computed as far as they are not there yet, and drawn."""
    plan = recipe.plan(recipe.settings if settings is None else settings)
    found = answered(folder, plan.settings)
    if found is None:
        found = plan.joined(dict(tracked(_parts(plan, folder), recipe.name, len(plan.parts))))
        save(found, folder)
    if not all(path.exists() for path in drawn_in(recipe, folder)):
        redrawn(folder)
    shutil.rmtree(folder / "parts", ignore_errors=True)
    sweep(folder)
    return load_results(folder)


def redrawn(folder: str | Path) -> list[Path]:
    """Draw a saved item from its numbers alone; returns the files."""
    folder = Path(folder)
    found = load_results(folder)
    recipe = recipe_for(found.kind)
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        for drawing in recipe.draw(found):
            _write(drawing, folder / "figures")
    return drawn_in(recipe, folder)


def drawn_in(recipe: Recipe[Any], folder: Path) -> list[Path]:
    """The files of a recipe's drawings."""
    figures = folder / "figures"
    return [figures / f"{name}.{kind}" for name in recipe.figures for kind in KINDS]


def _write(drawing: Drawing, folder: Path) -> None:
    write_bytes(folder / f"{drawing.name}.png", drawing.png())
    write_text(folder / f"{drawing.name}.svg", drawing.svg())
    write_text(folder / f"{drawing.name}.csv", drawing.csv())


def _parts(plan: Plan, folder: Path) -> Iterator[tuple[str, Results]]:
    """Every part as it was saved, measured first where it was not."""
    found: dict[str, Results] = {}
    for name, measure in plan.parts.items():
        kept = folder / "parts" / name
        if not (kept / "result.json").exists():
            part = measure(found)
            save(Results(part.kind, plan.settings, part.values, part.arrays), kept)
        found[name] = load_results(kept)
        _check_alike(plan, found[name], folder)
        yield name, found[name]


def _check_alike(plan: Plan, part: Results, folder: Path) -> None:
    """Refuse a part of an unfinished computation with other settings."""
    unlike = differences(plan.settings, part.settings)
    if unlike:
        raise Mistake(
            f"{folder} holds an unfinished computation with other settings"
            f" ({'; '.join(unlike)}); choose another --out, or remove {folder / 'parts'}"
        )
