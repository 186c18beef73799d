"""Computing an item into a folder: parts saved as they are done, then numbers, then figures.

A part is saved as soon as it is done, so that the same call goes on where it was stopped, to the
same numbers bit for bit. With result.json in place it answers at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from floracle.report.figure import figure_files, figure_style, write_figures
from floracle.run.errors import InputError, suggestion
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


def recipe_for(name: str) -> Recipe[Any]:
    """The recipe of an item of the paper."""
    if name not in RECIPES:
        raise InputError(f"there is no recipe for {name!r}; {suggestion(name, RECIPES)}")
    return RECIPES[name]


def reproduce_item(recipe: Recipe[Any], folder: Path, settings: Any = None) -> Results:
    """The numbers of an item, as far as they are missing computed into a folder, and drawn."""
    plan = recipe.plan(recipe.settings if settings is None else settings)

    def check_data() -> None:
        for store in plan.data:
            store.check_unchanged()

    with open_output(folder, "reproduce", plan.settings, check_unchanged=check_data) as output:
        return reproduce_in_folder(output, recipe, plan)


def reproduce_in_folder(output: OutputFolder, recipe: Recipe[Any], plan: RecipePlan) -> Results:
    """The same in a folder that is open already."""
    if stored_answer(output.path, output.settings) is None:
        parts = track(_measure_parts(plan, output), recipe.name, len(plan.parts))
        output.save(plan.join(dict(parts)))
    # From the saved numbers, also if they were just computed: both give the same figures.
    if not all(path.is_file() for path in recipe_files(recipe, output.path)):
        redraw(output.path)
    output.clear_parts()
    return load_results(output.path)


def redraw(folder: str | Path) -> list[Path]:
    """Draw a saved item from its numbers alone; returns the files."""
    folder = Path(folder)
    results = load_results(folder)
    recipe = recipe_for(results.kind)
    with figure_style():
        drawings = recipe.draw(results)
    write_figures(drawings, folder)
    return recipe_files(recipe, folder)


def recipe_files(recipe: Recipe[Any], folder: Path) -> list[Path]:
    """The files of a recipe's figures."""
    return [path for name in recipe.figures for path in figure_files(name, folder)]


def _measure_parts(plan: RecipePlan, output: OutputFolder) -> Iterator[tuple[str, Results]]:
    """Every part as it was saved, measured first where it was not."""
    parts: dict[str, Results] = {}
    for name, measure in plan.parts.items():
        part = output.load_part(name)
        if part is None:
            measured = measure(parts)
            output.save_part(Results(measured.kind, {}, measured.values, measured.arrays), name)
            # Read back, so that a run that was stopped has the same input bit for bit.
            part = output.load_part(name)
        assert part is not None
        parts[name] = part
        yield name, part
