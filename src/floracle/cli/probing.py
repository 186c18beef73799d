"""What `floracle probe` does: fields followed, drawn, and what was found said."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .fields import NO_TEXT, ORACLE, Text, field_of
from .naming import plain, times_of
from .opening import oracle_of

if TYPE_CHECKING:
    from floracle.analysis.probe import Probe
    from floracle.core.fields import VelocityField
    from floracle.data.store import Store
    from floracle.report.probe_figures import Probed


@dataclass(frozen=True)
class Job:
    """What is to be probed, and how."""

    called: dict[str, str]
    """The fields by their names, as they are written on the command line."""
    conventions: dict[str, str | None]
    """How each is to be read."""
    settings: dict[str, Any]
    """What all have in common."""
    folder: Path
    store: Store | None
    text: Text
    """What SD3 and Flux are asked with."""
    autoencoder: Path | None
    memory: str | None
    device: str

    def own_settings(self, name: str) -> dict[str, Any]:
        """The settings of one field."""
        return {
            "field": self.called[name],
            "convention": self.conventions[name],
            **self.settings,
        }

    def all_settings(self) -> dict[str, Any]:
        """The settings of the page."""
        return {
            "fields": self.called,
            "conventions": self.conventions,
            "autoencoder": None if self.autoencoder is None else str(self.autoencoder),
            **self.settings,
        }


def answer(job: Job, command: str) -> None:
    """Probe the fields, draw them, and last write the result."""
    from floracle.report.probe import write_probes
    from floracle.run.results import Results, provenance, save

    probes = _probes(job)
    probed = _pictured(job, probes)
    facts = {"fields": ", ".join(job.called.values())}
    if job.store is not None:
        facts |= {"data": job.store.name, "data fingerprint": job.store.fingerprint}
    facts |= {"seeds": job.settings["seeds"], "labels": job.settings["labels"] or "none"}
    write_probes(probed, job.folder, facts=facts, command=command)
    save(
        Results("probes", job.all_settings(), {"names": list(probes)}, {}, provenance()),
        job.folder,
    )


def _probes(job: Job) -> dict[str, Probe]:
    """Every field probed, by its name; those that an interrupted run has finished are taken."""
    import torch

    from floracle.analysis.probe import SHOWN, Probe
    from floracle.analysis.probe import probe as follow
    from floracle.run.results import answered, save
    from floracle.sampling.grid import time_grid

    from .console import note
    from .options import seeds_of

    settings, seeds = job.settings, seeds_of(job.settings["seeds"])
    loaded = _loaded(job)
    shape, labels = _shape(job, loaded), _labels(job, loaded, len(seeds))
    show = settings["show"]
    known: dict[str, Any] = {
        "grid": time_grid(settings["grid"], shift=settings["shift"]),
        "labels": None if labels is None else torch.tensor(labels),
        "solver": settings["solver"],
        "threshold": settings["threshold"],
        "until": settings["until"],
        "shown": SHOWN if show is None else times_of(show, "--show"),
    }
    for name, field in loaded.items():
        if job.called[name] != ORACLE:  # before anything is followed and written
            _try(field, shape, None if labels is None else labels[:1])
    found: dict[str, Probe] = {}
    for name, field in loaded.items():
        place, own = job.folder / plain(name), job.own_settings(name)
        before = answered(place, own)
        if before is not None:
            found[name] = Probe.of_results(before)
            continue
        note(f"following {name}")
        found[name] = replace(follow(field, seeds, shape, **known), settings=own)
        save(found[name], place)
    return found


def _loaded(job: Job) -> dict[str, VelocityField]:
    """The fields by their names."""
    from floracle.models.diffusers import is_diffusers
    from floracle.run.errors import Mistake

    asked = {name for name, where in job.called.items() if is_diffusers(Path(where))}
    if job.text and not asked:
        raise Mistake("a text is for SD3 and Flux, but none of these fields is one")
    oracle = None
    if job.store is not None:
        oracle = oracle_of(job.store, "linear", memory=job.memory, device=job.device)
    found = {}
    for name, where in job.called.items():
        text = job.text if name in asked else NO_TEXT
        convention = job.conventions[name]
        found[name] = field_of(where, oracle, convention, job.device, text=text)
    return found


def _try(field: VelocityField, shape: list[int], labels: list[int] | None) -> None:
    """Ask a network about one sample: what it does not know, it refuses."""
    import torch

    from floracle.core.seeds import noise
    from floracle.sampling.solvers import velocity_at

    with torch.no_grad():
        velocity_at(
            field, noise([0], shape), 0.0, None if labels is None else torch.tensor(labels)
        )


def _shape(job: Job, loaded: dict[str, VelocityField]) -> list[int]:
    """The shape of a sample: the data's, as asked, or as a network says."""
    from floracle.run.errors import Mistake

    from .options import whole_numbers

    asked = job.settings["shape"]
    if job.store is not None:
        if asked is not None:
            raise Mistake("--shape is for fields without a data set; the data has its own")
        return list(job.store.shape)
    if asked is not None:
        return whole_numbers(asked, "--shape", "4,64,64")
    shapes = [getattr(field, "shape", None) for field in loaded.values()]
    told = next((shape for shape in shapes if shape is not None), None)
    if told is None:
        raise Mistake("these networks do not say the shape of a sample; give --shape, or --data")
    return list(told)


def _labels(job: Job, loaded: dict[str, VelocityField], count: int) -> list[int] | None:
    """A label for each seed, or None; networks that need one get theirs in turn."""
    from floracle.core.source import classes
    from floracle.models.field import ModelField

    from .options import labels_for, whole_numbers

    words = job.settings["labels"]
    if job.store is not None:
        return labels_for(words, count, classes(job.store))
    if words is not None:
        given = whole_numbers(words, "--labels", "3 or 0,1,2")
    else:
        networks = [field for field in loaded.values() if isinstance(field, ModelField)]
        needy = [each for each in networks if each.classes and each.translated.null is None]
        if not needy:
            return None
        given = list(range(min(each.classes or 1 for each in needy)))
        sys.stderr.write(f"note: {needy[0].name} needs labels; 0 to {given[-1]} in turn\n")
    return [given[i % len(given)] for i in range(count)]


def _pictured(job: Job, probes: dict[str, Probe]) -> list[Probed]:
    """The probes with pictures of what they predict, each field's in a file of its own."""
    from floracle.models.autoencoder import load_autoencoder
    from floracle.report.probe import pictures_of, sheet
    from floracle.report.probe_figures import Probed
    from floracle.run.files import write_bytes

    decoder = None
    if job.autoencoder is not None:
        decoder = load_autoencoder(job.autoencoder, device=job.device)
    found = []
    pictures = pictures_of(list(probes.values()), job.store, decoder)
    for (name, made), drawn in zip(probes.items(), pictures, strict=True):
        if drawn is not None:
            write_bytes(job.folder / plain(name) / "predictions.png", sheet(drawn))
        found.append(Probed(name, made, job.called[name] == ORACLE, drawn))
    return found


def report(job: Job) -> None:
    """When the fields settle, on the terminal."""
    from floracle.analysis.probe import Probe
    from floracle.report import probe_words
    from floracle.report.probe import PAGE
    from floracle.report.probe_figures import Probed
    from floracle.report.tables import Table
    from floracle.run.results import load_results

    from .console import say, show_table

    found = [
        Probed(name, Probe.of_results(load_results(job.folder / plain(name))), where == ORACLE)
        for name, where in job.called.items()
    ]
    tables: list[Table | None] = [probe_words.summary(found), probe_words.by_label(found)]
    for table in tables:
        if table is not None:
            show_table(table.head, [row.cells for row in table.rows])
    say(f"grid: {probe_words.grid_words(found[0])}")
    for sentence in (probe_words.headline(found), *probe_words.story(found)[1:]):
        say(sentence)
    say(f"page: {job.folder / PAGE}")
