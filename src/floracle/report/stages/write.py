"""Writing a report: numbers first, drawings next, the page last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from floracle.analysis.saved import load
from floracle.analysis.stages.result import Stages
from floracle.analysis.stages.resumable import seconds_taken
from floracle.analysis.trajectories.trajectory_analysis import (
    TrajectoryAnalysis,
    read_trajectory_analysis,
)
from floracle.run.errors import InputError
from floracle.run.files import digest, read_regular, write_bytes, write_text
from floracle.run.results import RESULT, Results, differences, has_result, load_results

from .deep_figures import deep_drawings
from .examples import Examples, examples_of
from .figures import drawings
from .page import page

EXAMPLES = "examples"
DEEP = "deep"
PAGE = "report.html"


def is_drawn(folder: Path) -> bool:
    """Whether the page of a folder shows all results that lie in it, as they are now."""
    page = folder / PAGE
    return page.is_file() and read_regular(page).endswith(_stamp(folder).encode())


def _stamp(folder: Path) -> str:
    """What the page ends with: a digest of the results that it shows."""
    places = (folder, folder / EXAMPLES, folder / DEEP)
    shown = digest(*(read_regular(place / RESULT) for place in places if has_result(place)))
    return f"<!-- results {shown} -->\n"


def draw(folder: str | Path) -> Path:
    """Draw the report of saved stages, without their data; returns the page."""
    folder = Path(folder)
    stages = load(folder)
    if not isinstance(stages, Stages):
        raise InputError(f"{folder} holds {stages.kind}, not stages; there is no report of it")
    examples, deep = examples_in(folder, stages), _deep_in(folder, stages)
    with _quiet_fonts():
        found = drawings(stages, examples)
        if deep is not None:
            found |= deep_drawings(stages, deep)
        for name, drawing in found.items():
            write_bytes(folder / "figures" / f"{name}.png", drawing.png())
            write_text(folder / "figures" / f"{name}.svg", drawing.svg())
            write_text(folder / "figures" / f"{name}.csv", drawing.csv())
        content = page(stages, found, examples, deep, seconds=seconds_taken(folder))
    write_text(folder / PAGE, content.rstrip("\n") + "\n" + _stamp(folder))
    return folder / PAGE


def examples_in(folder: Path, stages: Stages) -> Examples | None:
    """The examples saved with stages, if there are any."""
    found = _beside(folder, EXAMPLES, stages)
    return None if found is None else examples_of(found)


def _deep_in(folder: Path, stages: Stages) -> TrajectoryAnalysis | None:
    found = _beside(folder, DEEP, stages)
    return None if found is None else read_trajectory_analysis(found)


def _beside(folder: Path, name: str, stages: Stages) -> Results | None:
    """A result that belongs to stages, if there is one; one of another run is a mistake."""
    if not has_result(folder / name):
        return None
    found = load_results(folder / name, part=name)
    if unlike := differences(stages.settings, found.settings):
        raise InputError(
            f"{folder / name} is not of the stages beside it ({'; '.join(unlike)}); remove it"
        )
    return found


@contextmanager
def _quiet_fonts() -> Iterator[None]:
    """Letters that no font here has are the browser's business; no warnings about them."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
