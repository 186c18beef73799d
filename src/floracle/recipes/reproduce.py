"""Computing an item into a folder: parts kept as they are finished, then numbers, then drawings.

A part is kept as soon as it is done, so that the same call goes on where it was stopped, to the
same numbers bit for bit. With result.json in place it answers at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl

from floracle.report.plots import STYLE, Drawing
from floracle.run.errors import InputError, suggestion
from floracle.run.files import write_bytes, write_text
from floracle.run.output_folder import OutputFolder, open_output
from floracle.run.progress import track
from floracle.run.results import Results, load_results, stored_answer

from .appendix_d import APPENDIX_D
from .figure_2 import FIGURE_2A, FIGURE_2B
from .figure_3 import FIGURE_3
from .recipe import Recipe, RecipePlan
from .table_2 import TABLE_2

RECIPES: dict[str, Recipe[Any]] = {
    recipe.name: recipe for recipe in (FIGURE_2A, FIGURE_2B, FIGURE_3, TABLE_2, APPENDIX_D)
}
KINDS = ("png", "svg", "csv")


def recipe_for(name: str) -> Recipe[Any]:
    """The recipe of an item of the paper."""
    if name not in RECIPES:
        raise InputError(f"there is no recipe for {name!r}; {suggestion(name, RECIPES)}")
    return RECIPES[name]


def reproduce_item(recipe: Recipe[Any], folder: Path, settings: Any = None) -> Results:
    """The numbers of an item, computed as far as they are not there yet, and drawn."""
    plan = recipe.plan(recipe.settings if settings is None else settings)

    def unchanged() -> None:
        for store in plan.data:
            store.check_unchanged()

    with open_output(folder, "reproduce", plan.settings, check_unchanged=unchanged) as output:
        return reproduce_in_folder(output, recipe, plan)


def reproduce_in_folder(output: OutputFolder, recipe: Recipe[Any], plan: RecipePlan) -> Results:
    """The same in a folder that is open already."""
    if stored_answer(output.path, output.settings) is None:
        parts = track(_parts(plan, output), recipe.name, len(plan.parts))
        output.save(plan.joined(dict(parts)))
    if not all(path.is_file() for path in drawn_in(recipe, output.path)):
        redrawn(output.path)
    output.clear_parts()
    return load_results(output.path)


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


def _parts(plan: RecipePlan, output: OutputFolder) -> Iterator[tuple[str, Results]]:
    """Every part as it was saved, measured first where it was not."""
    found: dict[str, Results] = {}
    for name, measure in plan.parts.items():
        part = output.load_part(name)
        if part is None:
            measured = measure(found)
            output.save_part(Results(measured.kind, {}, measured.values, measured.arrays), name)
            part = output.load_part(name)
        assert part is not None
        found[name] = part
        yield name, part
