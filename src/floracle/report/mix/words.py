"""Mixed sampling in sentences and tables: switching, landing and starting from held-out points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from floracle.analysis.mixing.field_switching import SwitchResult
from floracle.analysis.mixing.forward_backward import ForwardBackwardResult
from floracle.analysis.mixing.landing_test import LandingResult
from floracle.report.formatting import format_count, format_means, format_percent
from floracle.report.names import visible
from floracle.report.tables import ReportRow, Table

MixPart = SwitchResult | LandingResult | ForwardBackwardResult
CONFIDENCE = format_percent(0.95)


@dataclass(frozen=True)
class MixResults:
    """What was measured of a model, by mixing it with the oracle or with held-out points."""

    name: str
    switch: SwitchResult | None = None
    landings: Mapping[float, LandingResult] = field(default_factory=dict)
    """By τ."""
    resume: ForwardBackwardResult | None = None

    @property
    def parts(self) -> dict[str, MixPart]:
        """Everything that was measured, by the name that the page gives it."""
        landings = {f"the oracle from τ = {tau:g} on": test for tau, test in self.landings.items()}
        parts = {"the oracle until τ": self.switch, **landings}
        parts |= {"from held-out points at τ": self.resume}
        return {name: part for name, part in parts.items() if part is not None}


def headline(results: MixResults) -> str:
    """The main result, in one line."""
    if (resume := results.resume) is not None:
        marks = [resume.half_change(band).value for band in range(len(resume.bands))]
        if None not in marks:
            names = _band_names(resume)
            spans = [f"{n} from τ = {m:.3g}" for n, m in zip(names, marks, strict=True)]
            return f"Half of the held-out points is kept: {', '.join(spans)}."
    if results.switch is not None:
        return _describe_copies(results.switch, visible(results.name))
    if results.resume is not None and not results.landings:
        return _describe_resume(results.resume, visible(results.name))[0]
    verdicts = [f"{landing.verdict} until τ = {t:g}" for t, landing in results.landings.items()]
    return f"{visible(results.name)}: {', '.join(verdicts)}."


def story(results: MixResults) -> list[str]:
    """What can be said of each part, a sentence or two."""
    name = visible(results.name)
    sentences = [] if results.switch is None else [_describe_copies(results.switch, name)]
    for tau, landing in results.landings.items():
        sentences.append(f"{name} until τ = {tau:g}, then the oracle: {landing}.")
    if results.resume is not None:
        sentences += _describe_resume(results.resume, name)
    return sentences


def _band_names(resume: ForwardBackwardResult) -> list[str]:
    """Two bands by what they are of a picture; more by their frequencies alone."""
    if len(resume.bands) == 2:
        return [f"the coarse structure ({resume.bands[0]})", f"the detail ({resume.bands[1]})"]
    return list(resume.bands)


def _describe_copies(switch: SwitchResult, name: str) -> str:
    """From which τ on most samples of the model are copies of the point the oracle chose."""
    share, low, high = switch.copy_share()
    inner = (switch.switch_times > 0) & (switch.switch_times < 1)
    significant = inner & (low > 0.5)
    if significant.any():
        tau = float(switch.switch_times[significant][0])
        return (
            f"From τ = {tau:.3g} on most samples of {name} are copies of the training point that"
            " the oracle has chosen."
        )
    if not inner.any():
        return f"{name} never takes over between noise and data."
    last = int(inner.nonzero()[-1])
    return (
        f"Even from τ = {float(switch.switch_times[last]):.3g} on most samples of {name} are no"
        f" copies of training points: {format_percent(float(share[last]))} are ({CONFIDENCE}"
        f" interval {100 * float(low[last]):.0f} to {format_percent(float(high[last]))})."
    )


def _describe_resume(resume: ForwardBackwardResult, name: str) -> list[str]:
    marks = {name: resume.half_change(k) for k, name in enumerate(_band_names(resume))}
    halves = [
        f"{band} at no time between those measured"
        if mark.value is None
        else f"{band} from τ = {mark}"
        for band, mark in marks.items()
    ]
    held_out = float(resume.held_out_distance.mean()) / resume.dims**0.5
    share, _, high = resume.copy_share()
    before = resume.switch_times < 1  # at 1 the samples are the held-out points
    most = int(share[before].argmax())
    percent, bound = (format_percent(float(value[most])) for value in (share, high))
    copies = (
        f"{percent} of the samples at τ = {float(resume.switch_times[most]):.3g} are copies, more"
        f" than at any other ({CONFIDENCE} interval up to {bound})."
        if share[most] > 0
        else f"no sample is a copy ({CONFIDENCE} bound {bound})."
    )
    nearest = resume.distance().mean[before]
    return [
        f"Of held-out points {name} keeps half of {', '.join(halves)} ({CONFIDENCE} intervals).",
        f"Its samples are {float(nearest.min()):.3g} to {float(nearest.max()):.3g} from the"
        f" nearest training point, the held-out points {held_out:.3g}; {copies}",
    ]


def switch_table(switch: SwitchResult | None) -> Table | None:
    """Distances and copies by τ."""
    if switch is None:
        return None
    same_row = (switch.rows == switch.oracle_rows[:, None]).double().mean(0)
    columns = {
        "to the nearest": format_means(switch.distance()),
        "to the oracle's sample": format_means(switch.distance_to_oracle()),
        "same row as the oracle": [format_percent(share) for share in same_row.tolist()],
        "copies": _format_shares(switch.copy_share()),
    }
    return _table_by_switch_time(switch.switch_times, columns)


def resume_table(resume: ForwardBackwardResult | None) -> Table | None:
    """Bands, distances and copies by τ."""
    if resume is None:
        return None
    columns = {}
    for band, name in enumerate(resume.bands):
        columns[f"apart, {name}"] = format_means(resume.change(band))
        columns[f"spread, {name}"] = format_means(resume.spread(band))
    columns["to the nearest"] = format_means(resume.distance())
    columns["copies"] = _format_shares(resume.copy_share())
    return _table_by_switch_time(resume.switch_times, columns)


def landing_table(landings: Mapping[float, LandingResult]) -> Table | None:
    """The verdict of every landing test."""
    rows = []
    for tau, landing in landings.items():
        fit, diversity = landing.fit, landing.diversity
        effective, high = (
            "∞" if value is None else format_count(value)
            for value in (diversity.effective, diversity.high)
        )
        rows.append(
            ReportRow(
                (
                    f"{tau:g}",
                    landing.verdict,
                    f"{fit.chi2 / fit.degrees:.2f}",
                    f"{fit.p_value:.3f}",
                    effective,
                    f"{format_count(diversity.low)} – {high}",
                    format_count(diversity.oracle_effective),
                )
            )
        )
    head = ("τ", "verdict", "χ²/dof", "p", "effective number", CONFIDENCE, "of")
    return Table(head, rows) if rows else None


def _table_by_switch_time(taus: Tensor, columns: Mapping[str, list[str]]) -> Table:
    return Table.of_columns("τ", [f"{tau:.3g}" for tau in taus.tolist()], columns)


def _format_shares(copied: tuple[Tensor, Tensor, Tensor]) -> list[str]:
    """Shares by τ with their intervals."""
    return [
        f"{format_percent(share)} ({100 * low:.0f} – {100 * high:.0f})"
        for share, low, high in zip(*(bound.tolist() for bound in copied), strict=True)
    ]
