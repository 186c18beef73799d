"""`floracle report`: draw again what was saved."""

from __future__ import annotations

from pathlib import Path


def report(*runs: Path) -> None:
    """Draw the reports of saved results again; their data is not needed.

    Parameters
    ----------
    runs
        Folders that hold results.
    """
    from floracle.report.write import draw
    from floracle.run.errors import Mistake

    from .console import say

    if not runs:
        raise Mistake("name at least one folder of results")
    for run in runs:
        say(f"report: {draw(run)}")
