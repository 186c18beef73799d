"""`floracle reproduce`: figures and tables of the paper, on data anyone can name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from floracle.cli.counts import Whole
from floracle.cli.data_options import DataOptions
from floracle.cli.output import Out, check_out, output_of

if TYPE_CHECKING:
    from floracle.recipes.recipe import Recipe
    from floracle.run.results import Results

OPENING = DataOptions()


def reproduce(
    item: str | None = None,
    /,
    *data: str,
    opening: DataOptions = OPENING,
    out: Out = None,
    quick: bool = False,
    seed: Whole | None = None,
) -> Path | None:
    """Compute a figure or table of the paper and draw it; without ITEM, list them.

    The same command again goes on where it was stopped, or answers at once.

    Parameters
    ----------
    item
        What to reproduce, like figure-3.
    data
        Data for the items that measure some; several are drawn over each other.
    opening
        How data is read, all of it alike.
    out
        Folder for drawings and numbers; runs/ITEM by default.
    quick
        A smaller computation that takes seconds.
    seed
        Where the random draws start.
    """
    from floracle.cli.console import say
    from floracle.recipes.reproduce import drawn_in, recipe_for, reproduce_in_folder

    if item is None:
        return _list()
    recipe = recipe_for(item)
    settings = _settings(recipe, data, opening, quick=quick, seed=seed)
    check_out(out, "reproduce", *data)
    plan = recipe.plan(settings)
    default = _folder(item, data, quick=quick)
    with output_of("reproduce", out, default, plan.settings, data=plan.data) as output:
        found = reproduce_in_folder(output, recipe, plan)
    _show(recipe, found)
    if settings == recipe.settings and recipe.expected:
        missed = recipe.missed(found)
        say(f"not as expected: {'; '.join(missed)}" if missed else "the numbers are as expected")
    for path in drawn_in(recipe, output.path):
        say(str(path))
    say(str(output.path / "result.json"))
    return output.path


def _list() -> None:
    from floracle.cli.console import say
    from floracle.recipes.reproduce import RECIPES

    for name, recipe in RECIPES.items():
        say(f"{name:<12}{recipe.title}")


def _settings(
    recipe: Recipe[Any],
    data: tuple[str, ...],
    opening: DataOptions,
    *,
    quick: bool,
    seed: int | None,
) -> Any:
    """The recipe's settings with what was asked for; refused where it has no such thing."""
    from floracle.cli.parsing import checked_seed
    from floracle.run.errors import InputError

    settings = recipe.quick if quick else recipe.settings
    given = [*data, *opening.words()]
    if given and not hasattr(settings, "data"):
        raise InputError(f"{recipe.name} takes no data; leave {' '.join(given)} out")
    if opening != OPENING:
        settings = replace(settings, opening=opening.arguments())
    if data:
        settings = replace(settings, data=data)
    if seed is not None:
        if not hasattr(settings, "seed"):
            raise InputError(f"{recipe.name} draws nothing at random; leave --seed out")
        settings = replace(settings, seed=checked_seed(seed))
    return settings


def _folder(item: str, data: tuple[str, ...], *, quick: bool) -> Path:
    """Where an item goes unless told otherwise: a folder for each data and preset."""
    from floracle.cli.parsing import folder_for

    names = [folder_for(item, where).name.removeprefix(f"{item}-") for where in data]
    return Path("runs") / "-".join([item, *names, *(["quick"] if quick else [])])


def _show(recipe: Recipe[Any], found: Results) -> None:
    from floracle.cli.console import show_table

    table = found.values["table"]
    cells = [tuple(map(_cell, row)) for row in table["rows"]]
    show_table(table["columns"], cells, recipe.title)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}".replace("-", "−") if isinstance(value, float) else str(value)
