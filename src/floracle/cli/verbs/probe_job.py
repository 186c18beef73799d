"""What `floracle probe` does: fields followed, drawn, and what was found said."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from floracle.cli.data_options import oracle_of
from floracle.cli.field_options import times_of
from floracle.cli.fields import NO_TEXT, ORACLE, Text, field_of, path_settings
from floracle.cli.parsing import plain

if TYPE_CHECKING:
    from floracle.analysis.trajectories.probe import ProbeResult
    from floracle.core.fields import VelocityField
    from floracle.data.store import Store
    from floracle.models.autoencoders.frame import Autoencoder
    from floracle.report.probe.figures import ProbedFields
    from floracle.run.output_folder import OutputFolder


@dataclass(frozen=True)
class ProbeJob:
    """What is to be probed, and how."""

    called: dict[str, str]
    """The fields by their names, as they are written on the command line."""
    conventions: dict[str, str | None]
    """How each is to be read."""
    settings: dict[str, Any]
    """What all have in common."""
    store: Store | None
    text: Text
    """What SD3 and Flux are asked with."""
    autoencoder: Path | None
    memory: str | None
    device: str
    decoder: Autoencoder | None = None
    """The autoencoder, once it is loaded."""

    @property
    def path(self) -> str:
        """The name of the path that fields are followed on."""
        return self.settings.get("path", "linear")

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
            "autoencoder": None if self.decoder is None else dict(self.decoder.settings),
            **self.settings,
        }


def answer(
    job: ProbeJob, output: OutputFolder, loaded: dict[str, VelocityField], command: str
) -> None:
    """Probe the fields, draw them, and last write the result; where all is there, do nothing."""
    from floracle.report.probe.page import PAGE, write_probes
    from floracle.run.results import Results, provenance, stored_answer

    done = stored_answer(output.path, output.settings) is not None
    if done and (output.path / PAGE).is_file():
        return
    probes = _probes(job, output, loaded)
    probed = _pictured(job, output.path, probes)
    facts = {"fields": ", ".join(job.called.values())}
    if job.store is not None:
        facts |= {"data": job.store.name, "data fingerprint": job.store.fingerprint}
    facts |= path_settings(job.path)
    facts |= {"seeds": job.settings["seeds"], "labels": job.settings["labels"] or "none"}
    splits = job.settings.get("splits")
    write_probes(probed, output.path, facts=facts, command=command, splits=splits)
    if not done:
        values = {"names": list(probes)}
        output.save(Results("probes", output.settings, values, {}, provenance()))


def check(job: ProbeJob) -> None:
    """Refuse what could not be probed, before data is read and results are compared."""
    from floracle.analysis.trajectories.probe import check_probe
    from floracle.cli.parsing import seeds_of, whole_numbers
    from floracle.models.networks.diffusers import is_diffusers
    from floracle.run.errors import InputError
    from floracle.sampling.solvers import find_solver

    settings = job.settings
    seeds_of(settings["seeds"])
    find_solver(settings["solver"])
    check_probe(**_asked(settings))
    for name, form in (("labels", "3 or 0,1,2"), ("shape", "4,64,64")):
        if settings[name] is not None:
            whole_numbers(settings[name], f"--{name}", form)
    if job.text and not any(is_diffusers(Path(where)) for where in job.called.values()):
        raise InputError("a text is for SD3 and Flux, but none of these fields is one")


def _asked(settings: dict[str, Any]) -> dict[str, Any]:
    """The grid, and what predictions on it are compared with, as the library takes them."""
    from floracle.analysis.trajectories.probe import PREDICTION_TIMES
    from floracle.sampling.grid import time_grid

    show = settings["show"]
    return {
        "grid": time_grid(settings["grid"], shift=settings["shift"]),
        "threshold": settings["threshold"],
        "until": settings["until"],
        "prediction_times": PREDICTION_TIMES if show is None else times_of(show, "--show"),
    }


def _probes(
    job: ProbeJob, output: OutputFolder, loaded: dict[str, VelocityField]
) -> dict[str, ProbeResult]:
    """Every field probed, by its name.

    Those that an interrupted run has finished are taken.
    """
    import torch

    from floracle.analysis.trajectories.probe import ProbeResult
    from floracle.analysis.trajectories.probe import probe as follow
    from floracle.cli.console import note
    from floracle.cli.fields import followed, warn_of_misreading
    from floracle.cli.parsing import seeds_of
    from floracle.core.paths import PATHS
    from floracle.run.results import stored_answer

    settings, seeds, path = job.settings, seeds_of(job.settings["seeds"]), PATHS[job.path]
    shape, labels = sample_shape(job, loaded), _labels(job, loaded, len(seeds))
    known: dict[str, Any] = {
        "labels": None if labels is None else torch.tensor(labels),
        "solver": settings["solver"],
        "path": path,
        **_asked(settings),
    }
    for name, field in loaded.items():
        if job.called[name] != ORACLE:  # before anything is followed and written
            _try(field, shape, None if labels is None else labels[:1])
    found: dict[str, ProbeResult] = {}
    for name, field in loaded.items():
        own = job.own_settings(name)
        before = stored_answer(output.path / plain(name), own)
        if before is not None:
            found[name] = ProbeResult.of_results(before)
            continue
        if job.store is not None:
            told, declared = _asks_with_text(job, name), job.conventions[name] is not None
            warn_of_misreading(field, job.store, told=told, declared=declared)
        note(f"following {name}")
        found[name] = replace(follow(followed(field, path), seeds, shape, **known), settings=own)
        output.save(found[name], plain(name))
    return found


def splits_of(
    folder: Path | None, store: Store, path: str, labels: str | None
) -> dict[str, dict[str, float]]:
    """When the target parts, from a run of stages of the same data; for the settings.

    Of the whole set without labels, of the class for a single one, of the classes pooled else.
    """
    from floracle.analysis.saved import load
    from floracle.analysis.stages.result import POOLED, Stages
    from floracle.cli.parsing import whole_numbers
    from floracle.core.point_set import NO_LABEL
    from floracle.run.errors import InputError

    if folder is None:
        return {}
    found = load(folder)
    if not isinstance(found, Stages):
        raise InputError(f"--stages {folder} holds no stages; give the folder of floracle stages")
    if found.provenance.get("data") != store.fingerprint:
        raise InputError(f"--stages {folder} is of other data, or of data that was read otherwise")
    if found.settings.get("path", "linear") != path:
        raise InputError(f"--stages {folder} is of another path; give it the same --path")
    given = set() if labels is None else set(whole_numbers(labels, "--labels", "3 or 0,1,2"))
    label = NO_LABEL if not given else given.pop() if len(given) == 1 else POOLED
    try:
        group = found.group(label)
    except KeyError as error:
        raise InputError(
            f"--stages {folder} did not measure the {found.name(label)}, which --labels"
            f" {labels or 'left out'} asks for"
        ) from error
    marks = {"collapse": group.collapse.value, "end": group.end.value}
    return {"splits": {name: value for name, value in marks.items() if value is not None}}


def load_decoder(job: ProbeJob, shape: list[int]) -> Autoencoder | None:
    """What decodes samples of this shape for the pictures."""
    from floracle.models.autoencoders.load import load_autoencoder
    from floracle.run.errors import InputError

    if job.autoencoder is None:
        return None
    found = load_autoencoder(job.autoencoder, device=job.device)
    if len(shape) != 3 or shape[0] != found.channels:
        raise InputError(
            f"{found.name} decodes latents of {found.channels} channels, but samples are {shape};"
            f" name the autoencoder that has encoded them, or leave --autoencoder out"
        )
    return found


def load_fields(job: ProbeJob) -> dict[str, VelocityField]:
    """The fields by their names."""
    oracle = None
    if job.store is not None:
        oracle = oracle_of(job.store, job.path, memory=job.memory, device=job.device)
    found = {}
    for name, where in job.called.items():
        text = job.text if _asks_with_text(job, name) else NO_TEXT
        found[name] = field_of(where, oracle, job.conventions[name], job.device, text=text)
    return found


def _asks_with_text(job: ProbeJob, name: str) -> bool:
    """Whether a field is asked with the text that was given."""
    from floracle.models.networks.diffusers import is_diffusers

    return bool(job.text) and is_diffusers(Path(job.called[name]))


def _try(field: VelocityField, shape: list[int], labels: list[int] | None) -> None:
    """Ask a network about one sample: what it does not know, it refuses."""
    import torch

    from floracle.core.seeds import noise
    from floracle.sampling.solvers import evaluate_field

    with torch.no_grad():
        evaluate_field(
            field, noise([0], shape), 0.0, None if labels is None else torch.tensor(labels)
        )


def sample_shape(job: ProbeJob, loaded: dict[str, VelocityField]) -> list[int]:
    """The shape of a sample: the data's, as asked, or as a network says."""
    from floracle.cli.parsing import whole_numbers
    from floracle.run.errors import InputError

    asked = job.settings["shape"]
    if job.store is not None:
        return list(job.store.shape)
    if asked is not None:
        return whole_numbers(asked, "--shape", "4,64,64")
    shapes = [getattr(field, "shape", None) for field in loaded.values()]
    told = next((shape for shape in shapes if shape is not None), None)
    if told is None:
        raise InputError(
            "these networks do not say the shape of a sample; give --shape, or --data"
        )
    return list(told)


def _labels(job: ProbeJob, loaded: dict[str, VelocityField], count: int) -> list[int] | None:
    """A label for each seed, or None; networks that need one get theirs in turn."""
    from floracle.cli.parsing import labels_for, whole_numbers
    from floracle.core.point_set import classes
    from floracle.models.field import ModelField

    words = job.settings["labels"]
    if job.store is not None:
        return labels_for(words, count, classes(job.store))
    if words is not None:
        given = whole_numbers(words, "--labels", "3 or 0,1,2")
    else:
        networks = [field for field in loaded.values() if isinstance(field, ModelField)]
        needy = [
            each
            for each in networks
            if each.classes and each.translated.convention.null_label is None
        ]
        if not needy:
            return None
        given = list(range(min(each.classes or 1 for each in needy)))
        sys.stderr.write(f"note: {needy[0].name} needs labels; 0 to {given[-1]} in turn\n")
    return [given[i % len(given)] for i in range(count)]


def _pictured(job: ProbeJob, folder: Path, probes: dict[str, ProbeResult]) -> list[ProbedFields]:
    """The probes with pictures of what they predict, each field's in a file of its own."""
    from floracle.report.probe.figures import ProbedFields
    from floracle.report.probe.page import pictures_of, sheet
    from floracle.run.files import write_bytes

    found = []
    pictures = pictures_of(list(probes.values()), job.store, job.decoder)
    for (name, made), drawn in zip(probes.items(), pictures, strict=True):
        if drawn is not None:
            write_bytes(folder / plain(name) / "predictions.png", sheet(drawn))
        found.append(ProbedFields(name, made, job.called[name] == ORACLE, drawn))
    return found


def report(job: ProbeJob, folder: Path) -> None:
    """When the fields settle, on the terminal."""
    from floracle.analysis.trajectories.probe import ProbeResult
    from floracle.cli.columns import show
    from floracle.cli.console import say
    from floracle.report.names import visible
    from floracle.report.probe import words as probe_words
    from floracle.report.probe.figures import ProbedFields
    from floracle.report.probe.page import PAGE
    from floracle.run.results import load_results

    results = {name: load_results(folder / plain(name), part=plain(name)) for name in job.called}
    found = [
        ProbedFields(name, ProbeResult.of_results(results[name]), where == ORACLE)
        for name, where in job.called.items()
    ]
    show(probe_words.summary(found, job.settings.get("splits")))
    show(probe_words.by_label(found))
    say(f"grid: {probe_words.grid_in_short(found[0])}")
    for sentence in (probe_words.headline(found), *probe_words.story(found)[1:]):
        say(sentence)
    say(f"page: {visible(str(folder / PAGE))}")
