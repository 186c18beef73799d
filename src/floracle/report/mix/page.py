"""Mixed sampling on one page, in words, figures and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from floracle.report.figure import write_figures
from floracle.report.html import render_page
from floracle.report.names import fact_rows, version_facts, visible
from floracle.run.files import write_text
from floracle.run.images import Display, reduce_image

from . import words
from .figures import mix_figures
from .words import MixPart, MixResults

PAGE = "mix.html"
PART_SETTINGS = ("seeds", "labels", "rows", "noises", "edges", "seed")
"""The settings of a part that other parts of a run do not share."""
MAX_PICTURE_PIXELS = 96


def write_mix_report(
    results: MixResults,
    folder: Path,
    *,
    display: Display | None = None,
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Write the report of what was measured into a folder; returns the page.

    The provenance of a part has the command that makes it, and the name of held-out data.
    """
    drawings = mix_figures(results.switch, results.resume, _pictures(results, display))
    write_figures(drawings, folder)
    facts, parts = facts or {}, results.parts
    provenance = next(iter(parts.values())).provenance
    settings = {name: _describe_settings(part) for name, part in parts.items()}
    commands = [part.provenance.get("command") for part in parts.values()]
    page = render_page(
        "mix/page.html.j2",
        drawings,
        name=visible(results.name),
        data=visible(facts.get("data", "a training set")),
        headline=words.headline(results),
        story=words.story(results),
        switch=words.switch_table(results.switch),
        landings=words.landing_table(results.landings),
        resume=words.resume_table(results.resume),
        facts=fact_rows(facts, settings, version_facts(provenance)),
        command="\n".join(filter(None, commands)),
    )
    write_text(folder / PAGE, page)
    return folder / PAGE


def _pictures(results: MixResults, display: Display | None) -> dict[str, Tensor]:
    """The kept samples as bytes [n, columns, C, H, W]; none where they are no pictures."""
    if display is None:
        return {}
    pictures = {}
    for name, part in (("switch", results.switch), ("resume", results.resume)):
        if part is not None and len(part.samples):
            flat = reduce_image(display.pictures(part.samples.flatten(0, 1)), MAX_PICTURE_PIXELS)
            pictures[name] = flat.unflatten(0, part.samples.shape[:2])
    return pictures


def _describe_settings(part: MixPart) -> str:
    """The settings of a part; lists come from the library, words from the command line."""
    texts = []
    for name in PART_SETTINGS:
        value = part.settings.get(name)
        if isinstance(value, list):
            texts.append(f"{len(value)} {name}")
        elif value is not None:
            texts.append(f"{value} {name}" if name == "noises" else f"{name} {value}")
    if "held-out data" in part.provenance:
        texts.append(f"of {part.provenance['held-out data']}")
    return ", ".join(texts)
