"""What `floracle mix` does: parts measured and kept, drawn together, and what they show said."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from floracle.core.fields import VelocityField
    from floracle.data.store import Store
    from floracle.oracle.oracle import Oracle
    from floracle.report.mix.page import MixResults
    from floracle.run.images import Display
    from floracle.run.output_folder import OutputFolder
    from floracle.run.results import Results

SWITCH, LANDING, RESUME = "switch", "landing", "resume"
PART_NAMES = rf"{SWITCH}|{LANDING}-[0-9.e-]+|{RESUME}"


@dataclass(frozen=True)
class MixJob:
    """What is mixed, and where that goes."""

    name: str
    output: OutputFolder
    """Its settings are what all parts have in common."""
    oracle: Oracle
    store: Store
    held_out: Store | None
    commands: dict[str, str]
    """What to type for each part."""

    def settings(self, part: str, asked: dict[str, Any]) -> dict[str, Any]:
        """The settings of a part."""
        settings = {**self.output.settings, **asked}
        if part == RESUME and self.held_out is not None:
            settings["held_out"] = self.held_out.fingerprint
        return settings


def measure(job: MixJob, asked: dict[str, dict[str, Any]], field: VelocityField) -> None:
    """Measure what is not there yet; whether all can be is known before anything is."""
    from floracle.cli.console import note
    from floracle.cli.fields import followed, warn_of_misreading
    from floracle.run.results import stored_answer

    left = {
        part: job.settings(part, words)
        for part, words in asked.items()
        if stored_answer(job.output.path / part, job.settings(part, words)) is None
    }
    if not left:
        return
    warn_of_misreading(field, job.store)
    field = followed(field, job.oracle.path)
    makers = {SWITCH: _switched, RESUME: _resumed}
    for part, settings in left.items():
        note(f"{part} of {job.name}")
        found = makers.get(part, _landed)(job, field, settings)
        known = {**found.provenance, "command": job.commands[part]}
        if part == RESUME and job.held_out is not None:
            known["held-out data"] = f"{job.held_out.name}, {len(job.held_out):,} points"
        job.output.save(replace(found, settings=settings, provenance=known), part)


def _switched(job: MixJob, field: VelocityField, settings: dict[str, Any]) -> Any:
    from floracle.analysis.mixing.field_switching import switch_fields

    return switch_fields(
        field, job.oracle, switch_times=settings["taus"], **_followed(job, settings)
    )


def _landed(job: MixJob, field: VelocityField, settings: dict[str, Any]) -> Any:
    from floracle.analysis.mixing.landing_test import landing_test

    return landing_test(
        field, job.oracle, switch_time=settings["taus"][0], **_followed(job, settings)
    )


def _followed(job: MixJob, settings: dict[str, Any]) -> dict[str, Any]:
    """Seeds, labels, grid and solver as the library takes them."""
    import torch

    from floracle.cli.parsing import labels_for, seeds_of
    from floracle.core.point_set import classes

    seeds = seeds_of(settings["seeds"])
    labels = labels_for(settings["labels"], len(seeds), classes(job.store))
    return {
        "seeds": seeds,
        "labels": None if labels is None else torch.tensor(labels),
        "grid": _grid(settings),
        "solver": settings["solver"],
    }


def _resumed(job: MixJob, field: VelocityField, settings: dict[str, Any]) -> Any:
    from floracle.analysis.mixing.forward_backward import forward_backward
    from floracle.cli.field_options import rows_of
    from floracle.cli.parsing import numbers
    from floracle.core.point_set import classes

    assert job.held_out is not None
    edges = settings["edges"]
    return forward_backward(
        field,
        job.held_out,
        job.store,
        switch_times=settings["taus"],
        rows=rows_of(settings["rows"]),
        noises=settings["noises"],
        labelled=bool(classes(job.store)),
        grid=_grid(settings),
        path=job.oracle.path,
        solver=settings["solver"],
        edges=None if edges is None else numbers(edges, "--edges"),
        seed=settings["seed"],
    )


def _grid(settings: dict[str, Any]) -> Tensor:
    from floracle.sampling.grid import time_grid

    return time_grid(settings["grid"], shift=settings["shift"])


def report(job: MixJob) -> None:
    """Draw all parts that are there, and say what they show; first of what was just asked."""
    from floracle.cli.columns import show
    from floracle.cli.console import say
    from floracle.cli.fields import path_settings
    from floracle.report.mix import page as mix_page
    from floracle.report.names import visible

    found, settings = _parts(job), job.output.settings
    facts = {
        "field": job.output.settings["field"],
        "data": job.store.name,
        "data fingerprint": job.store.fingerprint,
        **path_settings(settings.get("path", "linear")),
        "grid": f"{settings['grid']} steps, shift {settings['shift']:g}",
    }
    page = mix_page.write_mixed(found, job.output.path, display=_display(job.store), facts=facts)
    for one in _by_part(found, list(job.commands)):
        show(mix_page.switch_table(one.switch), "the oracle until τ")
        show(mix_page.landing_table(one.landings), "the oracle from τ on")
        show(mix_page.resume_table(one.resume), "from unseen data at τ")
        for sentence in mix_page.story(one):
            say(sentence)
    say(f"page: {visible(str(page))}")


def _by_part(found: MixResults, asked: list[str]) -> list[MixResults]:
    """The kinds of parts, each for itself: those that were asked for, then what was there."""
    apart = {
        SWITCH: replace(found, landings={}, resume=None) if found.switch is not None else None,
        LANDING: replace(found, switch=None, resume=None) if found.landings else None,
        RESUME: replace(found, switch=None, landings={}) if found.resume is not None else None,
    }
    kinds = sorted(apart, key=lambda kind: not any(part.startswith(kind) for part in asked))
    return [one for kind in kinds if (one := apart[kind]) is not None]


def _parts(job: MixJob) -> MixResults:
    """All parts in the folder, those of earlier runs among them."""
    from floracle.analysis.mixing.field_switching import SwitchResult
    from floracle.analysis.mixing.forward_backward import ForwardBackwardResult
    from floracle.analysis.mixing.landing_test import LandingResult
    from floracle.report.mix.page import MixResults
    from floracle.run.errors import InputError
    from floracle.run.results import has_result, load_results

    there: dict[str, Results] = {}
    for place in sorted(job.output.path.iterdir()):
        if re.fullmatch(PART_NAMES, place.name) and has_result(place):
            results = load_results(place, part=place.name)
            common = {name: results.settings.get(name) for name in job.output.settings}
            if common != job.output.settings:
                raise InputError(f"{place} is part of another run; remove it")
            there[place.name] = results
    landings = [
        LandingResult.of_results(one) for name, one in there.items() if name.startswith(LANDING)
    ]
    return MixResults(
        job.name,
        switch=SwitchResult.of_results(there[SWITCH]) if SWITCH in there else None,
        landings={
            one.switch_time: one for one in sorted(landings, key=lambda each: each.switch_time)
        },
        resume=ForwardBackwardResult.of_results(there[RESUME]) if RESUME in there else None,
    )


def _display(store: Store) -> Display | None:
    import torch

    from floracle.run.images import display_for

    some = store.take(torch.arange(min(len(store), 64)))
    return display_for(store.shape, store.picture_range, some)
