"""Mixed sampling on one page: what was switched, landed and resumed, in words and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from floracle.analysis.mixing.field_switching import SwitchResult
from floracle.analysis.mixing.forward_backward import ForwardBackwardResult
from floracle.analysis.mixing.landing_test import LandingResult
from floracle.report.formatting import format_count, format_means, format_percent
from floracle.report.html import data_uri, inlined, rendered
from floracle.report.loss.page import versions, write_figures
from floracle.report.names import facts_of, visible
from floracle.report.tables import ReportRow, Table
from floracle.run.files import write_bytes, write_text
from floracle.run.images import Display, reduce_image
from floracle.version import VERSION

from .figures import mix_drawings

PAGE = "mix.html"
COVERED = format_percent(0.95)
OWN = ("seeds", "labels", "rows", "noises", "edges", "seed")
"""What parts are asked with that is their own."""
LARGEST = 96
"""Pixels a side of a picture at most."""


@dataclass(frozen=True)
class MixResults:
    """What was measured of a field, by mixing it with the oracle or with unseen data."""

    name: str
    switch: SwitchResult | None = None
    landings: Mapping[float, LandingResult] = field(default_factory=dict)
    """By τ."""
    resume: ForwardBackwardResult | None = None

    @property
    def parts(self) -> dict[str, SwitchResult | LandingResult | ForwardBackwardResult]:
        """Everything that was measured, by what it is called."""
        landings = {f"the oracle from τ = {tau:g} on": one for tau, one in self.landings.items()}
        found = {"the oracle until τ": self.switch, **landings}
        found |= {"from unseen data at τ": self.resume}
        return {name: part for name, part in found.items() if part is not None}


def write_mixed(
    found: MixResults,
    folder: Path,
    *,
    display: Display | None = None,
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Draw what was measured into a folder; returns the page.

    What to type for a part is in its provenance, as `command`; so is the name of unseen data.
    """
    drawings = mix_drawings(found.switch, found.resume, _pictures(found, display))
    sheets = {name: one for name, one in drawings.items() if name.endswith("-pictures")}
    curves = {name: one for name, one in drawings.items() if name not in sheets}
    write_figures(curves, folder)
    shown = {}
    for name, drawing in sheets.items():
        content = drawing.png()
        write_bytes(folder / "figures" / f"{name}.png", content)
        uri = data_uri(content)
        shown[name] = {"picture": uri, "alt": drawing.alt}
    known, parts = facts or {}, found.parts.values()
    content = rendered(
        "mix/page.html.j2",
        name=visible(found.name),
        data=visible(known.get("data", "a training set")),
        headline=headline(found),
        story=story(found),
        sheets=shown,
        figures=inlined(curves),
        switch=switch_table(found.switch),
        landings=landing_table(found.landings),
        resume=resume_table(found.resume),
        facts=facts_of(known, _settings(found), versions(_known(found))),
        commands=[part.provenance["command"] for part in parts if "command" in part.provenance],
        version=VERSION,
    )
    write_text(folder / PAGE, content)
    return folder / PAGE


def _pictures(found: MixResults, display: Display | None) -> dict[str, Tensor]:
    """The kept ends as bytes [n, columns, C, H, W]; none where they are no pictures."""
    if display is None:
        return {}
    shown = {}
    for name, part in (("switch", found.switch), ("resume", found.resume)):
        if part is not None and len(part.samples):
            pictures = reduce_image(display.pictures(part.samples.flatten(0, 1)), LARGEST)
            shown[name] = pictures.unflatten(0, part.samples.shape[:2])
    return shown


def _known(found: MixResults) -> Mapping[str, object]:
    return next(iter(found.parts.values())).provenance


def _settings(found: MixResults) -> dict[str, str]:
    """What each part was asked with."""
    return {name: _asked(part) for name, part in found.parts.items()}


def _asked(part: SwitchResult | LandingResult | ForwardBackwardResult) -> str:
    told = []
    for name in OWN:
        value = part.settings.get(name)
        if isinstance(value, list):  # the library's; the command line has words
            told.append(f"{len(value)} {name}")
        elif value is not None:
            told.append(f"{value} {name}" if name == "noises" else f"{name} {value}")
    if "held-out data" in part.provenance:
        told.append(f"of {part.provenance['held-out data']}")
    return ", ".join(told)


def headline(found: MixResults) -> str:
    """What matters most, in one line."""
    if found.resume is not None:
        marks = [found.resume.half_change(band).value for band in range(len(found.resume.bands))]
        told = [
            f"{name} from τ = {mark:.3g}"
            for name, mark in zip(_plain_bands(found.resume), marks, strict=True)
            if mark is not None
        ]
        if len(told) == len(marks):
            return f"Half of unseen data is kept: {', '.join(told)}."
    if found.switch is not None:
        return _copying(found.switch, visible(found.name))
    told = [f"{one.verdict} until τ = {tau:g}" for tau, one in found.landings.items()]
    return f"{visible(found.name)} {', '.join(told)}."


def _plain_bands(resume: ForwardBackwardResult) -> list[str]:
    if len(resume.bands) == 2:
        return [f"the layout ({resume.bands[0]})", f"the detail ({resume.bands[1]})"]
    return list(resume.bands)


def story(found: MixResults) -> list[str]:
    """What can be said of each part, a sentence or two."""
    told, name = [], visible(found.name)
    if found.switch is not None:
        told += [_copying(found.switch, name)]
    for tau, one in found.landings.items():
        told.append(f"{name} until τ = {tau:g}, then the oracle: {one}.")
    if found.resume is not None:
        told += _resumed(found.resume, name)
    return told


def _copying(switch: SwitchResult, name: str) -> str:
    """From which τ on the field copies what the oracle has chosen."""
    share, low, high = switch.copy_share()
    inner = (switch.switch_times > 0) & (switch.switch_times < 1)
    mostly = inner & (low > 0.5)
    if mostly.any():
        tau = float(switch.switch_times[mostly][0])
        return (
            f"From τ = {tau:.3g} on {name} copies, most of the time, what the oracle has chosen."
        )
    if not inner.any():
        return f"{name} was not asked to take over between noise and data."
    last = int(inner.nonzero()[-1])
    return (
        f"Even from τ = {float(switch.switch_times[last]):.3g} on {name} does not mostly copy what"
        f" the oracle has chosen: {format_percent(float(share[last]))} of the ends are copies"
        f" ({COVERED}: {100 * float(low[last]):.0f} to {format_percent(float(high[last]))})."
    )


def _resumed(resume: ForwardBackwardResult, name: str) -> list[str]:
    halves = [
        f"{band} from τ = {resume.half_change(k)}" for k, band in enumerate(_plain_bands(resume))
    ]
    own, share = float(resume.held_out_distance.mean()) / resume.dims**0.5, resume.copy_share()
    before = resume.switch_times < 1
    worst = int(share[0][before].argmax())
    most, bound = (format_percent(float(part[worst])) for part in (share[0], share[2]))
    copies = (
        f"{most} of the ends at τ = {float(resume.switch_times[worst]):.3g} are copies, more than"
        f" at any other ({COVERED}: up to {bound})."
        if share[0][worst] > 0
        else f"no end is a copy ({COVERED}: at most {bound} would be)."
    )
    return [
        f"From unseen data {name} keeps half of {', '.join(halves)} ({COVERED} intervals).",
        f"Its ends lie {float(resume.distance().mean[before].min()):.3g} to"
        f" {float(resume.distance().mean[before].max()):.3g} from the nearest training point, the"
        f" unseen data {own:.3g}; {copies}",
    ]


def switch_table(switch: SwitchResult | None) -> Table | None:
    """Distances and copies by τ."""
    if switch is None:
        return None
    columns = {
        "to the nearest": format_means(switch.distance()),
        "to the oracle's end": format_means(switch.distance_to_oracle()),
        "on its row": _percents((switch.rows == switch.oracle_rows[:, None]).double().mean(0)),
        "copies": _shares(switch.copy_share()),
    }
    return _by_tau(switch.switch_times, columns)


def resume_table(resume: ForwardBackwardResult | None) -> Table | None:
    """Bands, distances and copies by τ."""
    if resume is None:
        return None
    columns = {}
    for band, name in enumerate(resume.bands):
        columns[f"apart, {name}"] = format_means(resume.change(band))
        columns[f"spread, {name}"] = format_means(resume.spread(band))
    columns["to the nearest"] = format_means(resume.distance())
    columns["copies"] = _shares(resume.copy_share())
    return _by_tau(resume.switch_times, columns)


def landing_table(landings: Mapping[float, LandingResult]) -> Table | None:
    """The verdict of every landing test."""
    rows = []
    for tau, one in landings.items():
        found = one.diversity
        effective, high = (
            "∞" if value is None else format_count(value)
            for value in (found.effective, found.high)
        )
        rows.append(
            ReportRow(
                (
                    f"{tau:g}",
                    one.verdict,
                    f"{one.fit.chi2 / one.fit.degrees:.2f}",
                    f"{one.fit.p_value:.3f}",
                    effective,
                    f"{format_count(found.low)} – {high}",
                    format_count(found.oracle_effective),
                )
            )
        )
    head = ("τ", "verdict", "χ²/dof", "p", "effective number", COVERED, "of")
    return Table(head, rows) if rows else None


def _by_tau(taus: Tensor, columns: Mapping[str, list[str]]) -> Table:
    rows = [
        ReportRow((f"{tau:.3g}", *(column[k] for column in columns.values())))
        for k, tau in enumerate(taus.tolist())
    ]
    return Table(("τ", *columns), rows)


def _percents(shares: Tensor) -> list[str]:
    return [format_percent(share) for share in shares.tolist()]


def _shares(found: tuple[Tensor, Tensor, Tensor]) -> list[str]:
    return [
        f"{format_percent(share)} ({100 * low:.0f} – {100 * high:.0f})"
        for share, low, high in zip(*(part.tolist() for part in found), strict=True)
    ]
