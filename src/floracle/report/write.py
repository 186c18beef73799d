"""Writing a report: numbers first, drawings next, the page last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from floracle.analysis.deep import Deep, deep_of
from floracle.analysis.groups import Stages
from floracle.analysis.kept import seconds_taken
from floracle.analysis.saved import load
from floracle.run.errors import Mistake
from floracle.run.files import write_bytes, write_text
from floracle.run.results import load_results, save

from .examples import Examples, examples_of
from .figures import drawings
from .html import page
from .yardsticks import deep_drawings

EXAMPLES = "examples"
DEEP = "deep"
PAGE = "report.html"


def save_stages(stages: Stages, examples: Examples, folder: Path) -> None:
    """Write what a report is drawn from; `result.json` comes last, so with it all is there."""
    save(examples, folder / EXAMPLES)
    save(stages, folder)


def draw(folder: str | Path) -> Path:
    """Draw the report of saved stages, without their data; returns the page."""
    folder = Path(folder)
    stages = load(folder)
    if not isinstance(stages, Stages):
        raise Mistake(f"{folder} holds {stages.kind}, not stages; there is no report of it")
    examples, deep = examples_in(folder / EXAMPLES), _deep_in(folder / DEEP)
    with _quiet_fonts():
        found = drawings(stages, examples)
        if deep is not None:
            found |= deep_drawings(stages, deep)
        for name, drawing in found.items():
            write_bytes(folder / "figures" / f"{name}.png", drawing.png())
            write_text(folder / "figures" / f"{name}.svg", drawing.svg())
            write_text(folder / "figures" / f"{name}.csv", drawing.csv())
        content = page(stages, found, examples, deep, seconds=seconds_taken(folder))
    write_text(folder / PAGE, content)
    return folder / PAGE


def examples_in(folder: Path) -> Examples | None:
    """The examples saved with stages, if there are any."""
    return examples_of(load_results(folder)) if (folder / "result.json").exists() else None


def _deep_in(folder: Path) -> Deep | None:
    return deep_of(load_results(folder)) if (folder / "result.json").exists() else None


@contextmanager
def _quiet_fonts() -> Iterator[None]:
    """Letters that no font here has are the browser's business; no warnings about them."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
