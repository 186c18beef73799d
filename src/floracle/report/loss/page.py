"""The losses of fields on one page: numbers, figures, and what can be said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from floracle.analysis.loss.results import LossComparison
from floracle.report.html import inlined, rendered
from floracle.report.names import any_letters, facts_of, visible
from floracle.report.plots import Drawing
from floracle.run.files import write_bytes, write_text
from floracle.version import VERSION

from . import words as said
from .figures import loss_drawings, visibly

PAGE = "loss.html"


def write_losses(
    found: LossComparison,
    folder: Path,
    *,
    facts: Mapping[str, str] | None = None,
    command: str = "",
) -> Path:
    """Draw losses into a folder; returns the page."""
    with any_letters():
        drawings = loss_drawings(found)
        write_figures(drawings, folder)
        write_text(folder / PAGE, page(found, drawings, facts=facts or {}, command=command))
    return folder / PAGE


def write_figures(drawings: Mapping[str, Drawing], folder: Path) -> None:
    """Every drawing as PNG, SVG and CSV."""
    for name, drawing in drawings.items():
        write_bytes(folder / "figures" / f"{name}.png", drawing.png())
        write_text(folder / "figures" / f"{name}.svg", drawing.svg())
        write_text(folder / "figures" / f"{name}.csv", drawing.csv())


def page(
    found: LossComparison,
    drawings: dict[str, Drawing],
    *,
    facts: Mapping[str, str],
    command: str = "",
) -> str:
    """The whole page as HTML."""
    found = visibly(found)
    first = next(iter(found.path.values()))
    classes = len(first.classes)
    return rendered(
        "loss/page.html.j2",
        names=list(found.path),
        data=visible(facts.get("data", "a training set")),
        scope=f"{first.pairs} pairs" + (f" of each of {classes} classes" if classes > 1 else ""),
        headline=said.headline(found),
        story=said.story(found),
        figures=inlined(drawings),
        tables=[
            {
                "name": name,
                "table": said.loss_table(found, name),
                "classes": said.class_table(loss),
            }
            for name, loss in found.path.items()
        ],
        yardsticks=" and ".join(first.settings.get("yardsticks", ())),
        facts=facts_of(facts, versions(found.provenance)),
        command=command,
        version=VERSION,
    )


def versions(known: Mapping[str, object]) -> dict[str, str]:
    """The versions that a result was made with."""
    words = f"floracle {known.get('floracle')}, torch {known.get('torch')}"
    return {"versions": f"{words}, Python {known.get('python')}"}
