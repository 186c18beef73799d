"""The losses of fields on one page: numbers, figures, and what they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from floracle.analysis.loss.results import LossComparison
from floracle.report.figure import Drawing, write_figures
from floracle.report.html import render_page
from floracle.report.names import fact_rows, version_facts, visible
from floracle.run.files import write_text

from . import words
from .figures import loss_figures, with_visible_names

PAGE = "loss.html"


def write_loss_report(
    losses: LossComparison,
    folder: Path,
    *,
    facts: Mapping[str, str] | None = None,
    command: str = "",
) -> Path:
    """Write the report of losses into a folder; returns the page."""
    drawings = loss_figures(losses)
    write_figures(drawings, folder)
    write_text(folder / PAGE, loss_page(losses, drawings, facts=facts or {}, command=command))
    return folder / PAGE


def loss_page(
    losses: LossComparison,
    drawings: Sequence[Drawing],
    *,
    facts: Mapping[str, str],
    command: str = "",
) -> str:
    """The whole page as HTML."""
    losses = with_visible_names(losses)
    first = next(iter(losses.path.values()))
    classes = len(first.classes)
    tables = [
        {
            "name": name,
            "table": words.loss_table(losses, name),
            "classes": words.class_table(loss),
        }
        for name, loss in losses.path.items()
    ]
    return render_page(
        "loss/page.html.j2",
        drawings,
        names=list(losses.path),
        data=visible(facts.get("data", "a training set")),
        scope=f"{first.pairs} pairs" + (f" of each of {classes} classes" if classes > 1 else ""),
        headline=words.headline(losses),
        story=words.story(losses),
        tables=tables,
        baselines=" and ".join(first.settings.get("yardsticks", ())),
        facts=fact_rows(facts, version_facts(losses.provenance)),
        command=command,
    )
