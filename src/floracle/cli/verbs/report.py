"""`floracle report`: draw the reports of saved results again."""

from __future__ import annotations

from pathlib import Path

from floracle.cli.console import say
from floracle.report.names import visible
from floracle.run.errors import InputError


def report(*runs: Path) -> None:
    """Draw the reports of stages and training runs again; their data is not needed.

    Parameters
    ----------
    runs
        Folders of stages or of training runs, also of one that goes on.
    """
    from floracle.report.stages.write import write_stages_report
    from floracle.report.training.page import is_run, write_training_report
    from floracle.run.output_folder import redraw_folder

    if not runs:
        raise InputError("name at least one folder of results")
    for run in runs:
        if not run.is_dir():
            raise InputError(f"there is no folder {visible(str(run))}; name one that a run wrote")
        with redraw_folder(run):
            page = write_training_report(run) if is_run(run) else write_stages_report(run)
        say(f"report: {visible(str(page))}")
