"""`floracle reproduce`: figures and tables of the paper, on data anyone can name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from floracle.cli.console import say
from floracle.cli.data_options import DATA_DEFAULTS, DataOptions
from floracle.cli.options import Count, Out, typed_options
from floracle.cli.parsing import check_seed, default_folder
from floracle.cli.tables import show_table
from floracle.cli.verb_run import check_out, open_results
from floracle.run.errors import InputError

if TYPE_CHECKING:
    from floracle.recipes.recipe import Recipe

OptionalSeed = Annotated[Count | None, Parameter(help="Seed of all random draws. Default: 0.")]


def reproduce(
    item: str | None = None,
    /,
    *data: str,
    data_options: DataOptions = DATA_DEFAULTS,
    out: Out = None,
    quick: bool = False,
    seed: OptionalSeed = None,
) -> Path | None:
    """Reproduce a figure or table of the paper; without ITEM, list them.

    The same command again goes on where it was stopped, or answers at once.

    Parameters
    ----------
    item
        What to reproduce, such as figure-3.
    data
        Data for the items that measure some; several are drawn over each other.
    out
        Folder for drawings and numbers. Default: runs/ITEM.
    quick
        A smaller computation that takes seconds.
    """
    from floracle.recipes.reproduce import RECIPES, recipe_files, recipe_for, reproduce_in_folder

    if item is None:
        for name, recipe in RECIPES.items():
            say(f"{name:<12}{recipe.title}")
        return None
    recipe = recipe_for(item)
    settings = _settings(recipe, data, data_options, quick=quick, seed=seed)
    check_out(out, "reproduce", *data)
    plan = recipe.plan(settings)
    default = _default_folder(item, data, quick=quick)
    # The recipe looks itself for what is answered already, part by part.
    with open_results("reproduce", out, default, plan.settings, data=plan.data) as output:
        results = reproduce_in_folder(output, recipe, plan)
    table = results.values["table"]
    show_table(table["columns"], [tuple(map(_cell, row)) for row in table["rows"]], recipe.title)
    # Only the recipe as it is has expected numbers; other data or seeds give others.
    if settings == recipe.settings and recipe.expected:
        missed = recipe.missed(results)
        say(f"not as expected: {'; '.join(missed)}" if missed else "the numbers are as expected")
    for path in (*recipe_files(recipe, output.path), output.path / "result.json"):
        say(str(path))
    return output.path


def _settings(
    recipe: Recipe[Any],
    data: tuple[str, ...],
    data_options: DataOptions,
    *,
    quick: bool,
    seed: int | None,
) -> Any:
    """The recipe's settings with the options in their source; options it lacks are refused."""
    settings = recipe.quick if quick else recipe.settings
    superfluous = [*data, *typed_options(data_options)]
    if superfluous and not hasattr(settings, "data"):
        raise InputError(f"{recipe.name} takes no data; leave {' '.join(superfluous)} out")
    if data_options != DATA_DEFAULTS:
        settings = replace(settings, opening=data_options.arguments())
    if data:
        settings = replace(settings, data=data)
    if seed is not None:
        if not hasattr(settings, "seed"):
            raise InputError(f"{recipe.name} draws nothing at random; leave --seed out")
        settings = replace(settings, seed=check_seed(seed))
    return settings


def _default_folder(item: str, data: tuple[str, ...], *, quick: bool) -> Path:
    """The folder without --out: one for each item, data and preset."""
    names = [default_folder(item, source).name.removeprefix(f"{item}-") for source in data]
    return Path("runs") / "-".join([item, *names, *(["quick"] if quick else [])])


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}".replace("-", "−") if isinstance(value, float) else str(value)
