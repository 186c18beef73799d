"""What `floracle mix` does: parts measured and kept, drawn together, and what they show said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from floracle.core.fields import VelocityField
    from floracle.data.store import Store
    from floracle.oracle.oracle import Oracle
    from floracle.report.mix_page import Mixed
    from floracle.run.images import Display
    from floracle.run.results import Results

SWITCH, LANDING, RESUME = "switch", "landing", "resume"


@dataclass(frozen=True)
class Job:
    """What is mixed, and where that goes."""

    name: str
    folder: Path
    oracle: Oracle
    store: Store
    held_out: Store | None
    common: dict[str, Any]

    def settings(self, part: str, asked: dict[str, Any]) -> dict[str, Any]:
        """The settings of a part."""
        settings = {**self.common, **asked}
        if part == RESUME and self.held_out is not None:
            settings["held_out"] = self.held_out.fingerprint
        return settings


def measure(
    job: Job, asked: dict[str, dict[str, Any]], network: Callable[[], VelocityField]
) -> None:
    """Measure what is not there yet; whether all can be is known before anything is."""
    from floracle.run.results import answered, save

    from .console import note

    left = {
        part: job.settings(part, words)
        for part, words in asked.items()
        if answered(job.folder / part, job.settings(part, words)) is None
    }
    if not left:
        return
    field, makers = network(), {SWITCH: _switched, RESUME: _resumed}
    for part, settings in left.items():
        note(f"{part} of {job.name}")
        found = makers.get(part, _landed)(job, field, settings)
        save(replace(found, settings=settings), job.folder / part)


def _switched(job: Job, field: VelocityField, settings: dict[str, Any]) -> Any:
    from floracle.analysis.switching import switched

    return switched(field, job.oracle, taus=settings["taus"], **_followed(job, settings))


def _landed(job: Job, field: VelocityField, settings: dict[str, Any]) -> Any:
    from floracle.analysis.landing import landing

    return landing(field, job.oracle, tau=settings["taus"][0], **_followed(job, settings))


def _followed(job: Job, settings: dict[str, Any]) -> dict[str, Any]:
    """Seeds, labels, grid and solver as the library takes them."""
    import torch

    from floracle.core.source import classes

    from .options import labels_for, seeds_of

    seeds = seeds_of(settings["seeds"])
    labels = labels_for(settings["labels"], len(seeds), classes(job.store))
    return {
        "seeds": seeds,
        "labels": None if labels is None else torch.tensor(labels),
        "grid": _grid(settings),
        "solver": settings["solver"],
    }


def _resumed(job: Job, field: VelocityField, settings: dict[str, Any]) -> Any:
    from floracle.analysis.resuming import resumed
    from floracle.core.source import classes

    from .options import numbers, seeds_of

    assert job.held_out is not None
    edges = settings["edges"]
    return resumed(
        field,
        job.held_out,
        job.store,
        taus=settings["taus"],
        rows=seeds_of(settings["rows"]),
        noises=settings["noises"],
        labelled=bool(classes(job.store)),
        grid=_grid(settings),
        solver=settings["solver"],
        edges=None if edges is None else numbers(edges, "--edges"),
        seed=settings["seed"],
    )


def _grid(settings: dict[str, Any]) -> Tensor:
    from floracle.sampling.grid import time_grid

    return time_grid(settings["grid"], shift=settings["shift"])


def report(job: Job, command: str) -> None:
    """Draw all parts that are there, and say what they show."""
    from floracle.report import mix_page

    from .console import say, show_table

    found = _parts(job)
    facts = {
        "field": job.common["field"],
        "data": job.store.name,
        "data fingerprint": job.store.fingerprint,
    }
    if job.held_out is not None:
        facts["held-out data"] = f"{job.held_out.name}, {len(job.held_out):,} points"
    facts["grid"] = f"{job.common['grid']} steps, shift {job.common['shift']:g}"
    display = _display(job.store)
    page = mix_page.write_mixed(found, job.folder, display=display, facts=facts, command=command)
    tables = {
        "the oracle until τ": mix_page.switch_table(found.switch),
        "the oracle from τ on": mix_page.landing_table(found.landings),
        "from unseen data at τ": mix_page.resume_table(found.resume),
    }
    for title, table in tables.items():
        if table is not None:
            show_table(table.head, [row.cells for row in table.rows], title)
    for sentence in mix_page.story(found):
        say(sentence)
    say(f"page: {page}")


def _parts(job: Job) -> Mixed:
    """All parts in the folder, those of earlier runs among them if they are of the same field."""
    from floracle.analysis.landing import Landing
    from floracle.analysis.resuming import Resumed
    from floracle.analysis.switching import Switched
    from floracle.report.mix_page import Mixed
    from floracle.run.results import load_results

    there: dict[str, Results] = {}
    for place in sorted(job.folder.iterdir()):
        if (place / "result.json").exists():
            results = load_results(place)
            if all(results.settings.get(key) == value for key, value in job.common.items()):
                there[place.name] = results
    landings = [Landing.of_results(one) for name, one in there.items() if name.startswith(LANDING)]
    return Mixed(
        job.name,
        switch=Switched.of_results(there[SWITCH]) if SWITCH in there else None,
        landings={one.tau: one for one in sorted(landings, key=lambda each: each.tau)},
        resume=Resumed.of_results(there[RESUME]) if RESUME in there else None,
    )


def _display(store: Store) -> Display | None:
    import torch

    from floracle.run.images import display_for

    some = store.take(torch.arange(min(len(store), 64)))
    return display_for(store.shape, store.picture_range, some)
