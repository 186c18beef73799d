"""Write the report of a folder of stages: figures first, the page last."""

from __future__ import annotations

from pathlib import Path

from floracle.analysis.load import load
from floracle.analysis.stages.result import Stages
from floracle.analysis.stages.resumable import seconds_taken
from floracle.analysis.trajectories.trajectory_analysis import (
    TrajectoryAnalysis,
    read_trajectory_analysis,
)
from floracle.report.figure import write_figures
from floracle.run.errors import InputError
from floracle.run.files import digest, read_regular, write_text
from floracle.run.results import RESULT, Results, differences, has_result, load_results

from .examples import Examples, examples_of
from .figures import stages_figures
from .page import stages_page
from .trajectory_figures import trajectory_figures

EXAMPLES = "examples"
DEEP = "deep"
PAGE = "report.html"


def is_report_current(folder: Path) -> bool:
    """Whether the report of a folder shows the results that lie in it now."""
    page = folder / PAGE
    return page.is_file() and read_regular(page).endswith(_stamp(folder).encode())


def _stamp(folder: Path) -> str:
    """The last line of the report: a digest of the results that it shows."""
    folders = (folder, folder / EXAMPLES, folder / DEEP)
    results = digest(*(read_regular(path / RESULT) for path in folders if has_result(path)))
    return f"<!-- results {results} -->\n"


def write_stages_report(folder: str | Path) -> Path:
    """Write the report of saved stages, without their data; returns the page."""
    folder = Path(folder)
    stages = load(folder)
    if not isinstance(stages, Stages):
        raise InputError(f"{folder} holds {stages.kind}, not stages; there is no report of it")
    examples, deep = load_examples(folder, stages), _load_deep(folder, stages)
    drawings = stages_figures(stages, examples)
    if deep is not None:
        drawings += trajectory_figures(stages, deep)
    write_figures(drawings, folder)
    page = stages_page(stages, drawings, examples, deep, seconds=seconds_taken(folder))
    # Last, with the digest of what it shows: a report that was stopped is drawn again.
    write_text(folder / PAGE, page + _stamp(folder))
    return folder / PAGE


def load_examples(folder: Path, stages: Stages) -> Examples | None:
    """The examples saved with stages, if there are any."""
    results = _load_beside(folder, EXAMPLES, stages)
    return None if results is None else examples_of(results)


def _load_deep(folder: Path, stages: Stages) -> TrajectoryAnalysis | None:
    results = _load_beside(folder, DEEP, stages)
    return None if results is None else read_trajectory_analysis(results)


def _load_beside(folder: Path, name: str, stages: Stages) -> Results | None:
    """A result that belongs to stages, if there is one; one of another run is refused."""
    if not has_result(folder / name):
        return None
    results = load_results(folder / name, part=name)
    if unlike := differences(stages.settings, results.settings):
        raise InputError(
            f"{folder / name} does not belong to the stages beside it ({'; '.join(unlike)});"
            " remove it"
        )
    return results
