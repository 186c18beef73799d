"""`floracle report`: draw again what was saved."""

from __future__ import annotations

from pathlib import Path


def report(*runs: Path) -> None:
    """Draw the reports of stages and of training runs again; their data is not needed.

    Parameters
    ----------
    runs
        Folders that hold stages, or a training run, also one that goes on.
    """
    from floracle.report.fields_names import visible
    from floracle.report.run_page import is_run, write_run
    from floracle.report.write import draw
    from floracle.run.errors import InputError
    from floracle.run.output_folder import redrawing

    from .console import say

    if not runs:
        raise InputError("name at least one folder of results")
    for run in runs:
        if not run.is_dir():
            raise InputError(f"there is no folder {visible(str(run))}; name one that a run wrote")
        with redrawing(run):
            page = write_run(run) if is_run(run) else draw(run)
        say(f"report: {visible(str(page))}")
