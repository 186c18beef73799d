"""Several measured data sets on one page: where their stages lie, why, and what follows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from floracle.analysis.compare import DataSpace, compare_spaces
from floracle.analysis.load import load
from floracle.analysis.stages.result import Stages
from floracle.report.figure import write_figures
from floracle.report.html import render_page
from floracle.report.stages.write import load_examples
from floracle.run.errors import InputError
from floracle.run.files import write_json, write_text

from . import words
from .figures import MAX_SPACES, comparison_figures

PAGE = "compare.html"


def load_space(folder: Path, name: str) -> DataSpace:
    """A measured data set from the folder of its stages."""
    stages = load(folder)
    if not isinstance(stages, Stages):
        raise InputError(f"{folder} holds {stages.kind}, not stages; only stages can be compared")
    examples = load_examples(folder, stages)
    if examples is None:
        return DataSpace(name, stages, None, stages.typical.label)
    return DataSpace(name, stages, examples.spectrum, examples.typical)


def write_comparison_report(
    spaces: Sequence[DataSpace], folder: Path, *, command: str = ""
) -> Path:
    """Write the comparison into a folder; returns the page."""
    if not 2 <= len(spaces) <= MAX_SPACES:
        raise InputError(f"2 to {MAX_SPACES} data sets can be compared, got {len(spaces)}")
    drawings = comparison_figures(spaces)
    write_figures(drawings, folder)
    write_json(folder / "comparison.json", comparison_values(spaces))
    page = render_page(
        "comparison/page.html.j2",
        drawings,
        names=[space.name for space in spaces],
        headline=words.headline(spaces),
        story=words.differences(spaces),
        landmarks=words.landmark_table(spaces),
        spaces=words.space_table(spaces),
        factors=words.factor_table(spaces),
        advice=words.advice_table(spaces),
        facts=[],
        command=command,
    )
    write_text(folder / PAGE, page)
    return folder / PAGE


def comparison_values(spaces: Sequence[DataSpace]) -> list[dict[str, Any]]:
    """The numbers of the page, for JSON."""
    rows = []
    for space in spaces:
        factors, main = compare_spaces(spaces[0], space), space.main
        row = {
            "name": space.name,
            "data": space.stages.settings.get("data"),
            "points": main.points,
            "dims": space.stages.dims,
            "max_information": main.max_information,
            "density": space.density,
            "variance": space.variance,
            "effective_dims": space.effective_dims,
            "unit_collapse": space.unit_collapse(),
            "predicted_centre": main.predicted_centre,
            "predicted_collapse": main.predicted_collapse,
            "factors": None if factors is None else factors._asdict(),
        }
        for name in ("centre", "collapse", "end"):
            mark = getattr(main, name)
            row[name] = {"value": mark.value, "low": mark.low, "high": mark.high}
        rows.append(row)
    return rows
