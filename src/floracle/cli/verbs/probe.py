"""`floracle probe`: what fields predict along their own trajectories, and when that settles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from floracle.cli import options
from floracle.cli.console import note_progress, say, warn
from floracle.cli.data_options import DATA_DEFAULTS, DataOptions
from floracle.cli.fields import (
    NO_TEXT,
    ORACLE,
    TextOptions,
    check_convention,
    check_fields,
    conventions_of,
    fingerprints,
    load_decoder,
    load_field,
    name_fields,
    on_path,
    start_facts,
    try_network,
)
from floracle.cli.parsing import (
    folder_name,
    parse_integers,
    parse_labels,
    parse_seeds,
    parse_times,
)
from floracle.cli.tables import show_wide_table
from floracle.cli.verb_run import check_out, has_answer, run_verb
from floracle.report.names import visible
from floracle.run.errors import InputError

if TYPE_CHECKING:
    from floracle.analysis.trajectories.probe import ProbeResult
    from floracle.core.fields import VelocityField
    from floracle.data.store import Store
    from floracle.models.autoencoders.autoencoder import Autoencoder
    from floracle.report.probe.figures import ProbedField
    from floracle.run.output_folder import OutputFolder

SEEDS = "0:16"


def probe(
    *fields: str,
    data: str | None = None,
    sampling: options.SamplingOptions = options.SAMPLING_DEFAULTS,
    threshold: float = 0.1,
    until: float = 0.9,
    show: str | None = None,
    names: str | None = None,
    convention: options.ConventionList = None,
    text_options: TextOptions = NO_TEXT,
    stages: Path | None = None,
    shape: str | None = None,
    autoencoder: Path | None = None,
    data_options: DataOptions = DATA_DEFAULTS,
    oracle_options: options.OracleOptions = options.ORACLE_DEFAULTS,
    out: options.Out = None,
) -> Path:
    """Measure what fields predict along their trajectories, and when predictions settle.

    With a data set, its oracle is sampled from the same noise, and how much later a field settles
    is a number. Each field has a folder with predictions.png: rows are seeds, columns times.

    Parameters
    ----------
    fields
        One or several: "oracle", or networks, each a run, a checkpoint, a folder of diffusers,
        module:function or file.py:function; see docs/how-to/models.md.
    data
        The training set; see floracle stages --help. Default: none.
    threshold
        Share of a prediction's squared way below which it has settled.
    until
        Late time whose prediction the others are compared with; 1 is the sample itself.
    show
        Times to show predictions at, such as 0,.1,.2,.5. Default: a dozen.
    names
        Display names of the fields, comma-separated. Default: the last parts of their paths.
    stages
        A run of floracle stages on the same data: how much later than its collapse and its end of
        navigation fields settle is measured too.
    shape
        Shape of a sample, such as 4,64,64, where neither data nor network has one.
    autoencoder
        Autoencoder that decodes latents for the pictures; see floracle encode --help.
    out
        Folder for the report and its numbers. Default: runs/probe-NAMES.
    """
    arguments = dict(locals())  # first, while the options are all there is
    # 1. What needs no data is checked first.
    specs = _name_fields(fields, names, data)
    conventions = conventions_of(specs, convention)
    check_out(out, "probe", *([] if data is None else [data]))
    common: dict[str, Any] = {
        "data": None,
        **sampling.settings(SEEDS),
        "threshold": threshold,
        "until": until,
        "show": show,
        "shape": shape,
        **oracle_options.settings(),
        **data_options.settings(),
        **text_options.settings(),
    }
    _check(arguments, specs, common)
    # 2. Data, oracle and networks.
    device, store, oracle = options.device_for(oracle_options.device), None, None
    if data is not None:
        store = data_options.open(data, oracle_options.memory)
        oracle = oracle_options.oracle(store, device=device)
        common["data"] = store.fingerprint
        common |= _landmarks(stages, store, oracle_options.path, sampling.labels)
    models = {}
    for name, spec in specs.items():
        text = text_options if _takes_text(text_options, spec) else NO_TEXT
        models[name] = load_field(spec, oracle, conventions[name], device, text=text)
    if store is not None:
        check_fields(models, store, text=bool(text_options))
    sample_shape = _sample_shape(store, shape, list(models.values()))
    decoder = load_decoder(autoencoder, sample_shape, device, [store, *models.values()])
    common["networks"] = fingerprints(models, sample_shape)
    # 3. The question. Each field has a result of its own, whose settings are the common ones.
    settings = {
        "fields": specs,
        "conventions": conventions,
        "autoencoder": None if decoder is None else dict(decoder.settings),
        **common,
    }
    job = ProbeRun(specs, conventions, common, store, text_options, models, sample_shape, decoder)
    return run_verb(
        "probe",
        out,
        Path("runs") / f"probe-{'-'.join(map(folder_name, specs))}",
        settings,
        is_answered=_is_answered,
        compute=lambda output: _measure(output, job, options.command_of(probe, arguments)),
        report=lambda output: _report(output, job),
        data=[store],
    )


@dataclass(frozen=True)
class ProbeRun:
    """What is probed, and how."""

    specs: dict[str, str]
    """The fields by display name, as they are written on the command line."""
    conventions: dict[str, str | None]
    settings: dict[str, Any]
    """What all fields have in common."""
    store: Store | None
    text: TextOptions
    models: dict[str, VelocityField]
    shape: list[int]
    """Of one sample."""
    decoder: Autoencoder | None


def _name_fields(fields: tuple[str, ...], names: str | None, data: str | None) -> dict[str, str]:
    """The fields by display name; with data its oracle is the first."""
    from floracle.report.probe.figures import FIELD_COLOURS

    if data is not None and ORACLE not in fields:
        fields = (ORACLE, *fields)
        names = None if names is None else f"{ORACLE},{names}"
    if data is None and ORACLE in fields:
        raise InputError("the oracle is the field of a training set: give --data")
    return name_fields(fields, names, limit=len(FIELD_COLOURS))


def _check(
    arguments: Mapping[str, Any], specs: Mapping[str, str], settings: Mapping[str, Any]
) -> None:
    """Refuse what cannot be measured, or has no effect, before data is read."""
    from floracle.analysis.trajectories.probe import check_probe

    if arguments["data"] is None:
        if arguments["stages"] is not None:
            raise InputError("--stages is of a data set; give --data too, or leave it out")
        for option in options.typed_options(arguments["data_options"])[:1]:
            raise InputError(f"{option} is for --data; give that too, or leave {option} out")
    elif arguments["shape"] is not None:
        raise InputError("--shape is for fields without a data set; the data has its own")
    arguments["oracle_options"].check(queried=arguments["data"] is not None)
    arguments["sampling"].check()
    check_probe(**_probe_arguments(settings))
    if arguments["shape"] is not None:
        parse_integers(arguments["shape"], "--shape", "4,64,64")
    text = arguments["text_options"]
    if text and not any(_takes_text(text, spec) for spec in specs.values()):
        raise InputError("a text is for SD3 and Flux, but none of these fields is one")


def _probe_arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The grid, and what predictions on it are compared with, as the library takes them."""
    from floracle.analysis.trajectories.probe import PREDICTION_TIMES

    show = settings["show"]
    return {
        "grid": options.saved_grid(settings),
        "threshold": settings["threshold"],
        "until": settings["until"],
        "prediction_times": PREDICTION_TIMES if show is None else parse_times(show, "--show"),
    }


def _landmarks(
    folder: Path | None, store: Store, path: str, labels: str | None
) -> dict[str, dict[str, float]]:
    """Collapse and end from a run of stages of the same data, for the settings.

    Those of the whole set without labels, of the class for one label, of the pooled classes for
    several.
    """
    from floracle.analysis.load import load
    from floracle.analysis.stages.result import POOLED, Stages
    from floracle.core.point_set import NO_LABEL
    from floracle.run.results import setting_of

    if folder is None:
        return {}
    result = load(folder)
    if not isinstance(result, Stages):
        raise InputError(f"--stages {folder} holds no stages; give the folder of floracle stages")
    if result.provenance.get("data") != store.fingerprint:
        raise InputError(f"--stages {folder} is of other data, or of data that was read otherwise")
    if setting_of(result.settings, "path") != path:
        raise InputError(f"--stages {folder} is of another path; give it the same --path")
    distinct = set() if labels is None else set(parse_integers(labels, "--labels", "3 or 0,1,2"))
    label = NO_LABEL if not distinct else distinct.pop() if len(distinct) == 1 else POOLED
    try:
        group = result.group(label)
    except KeyError as error:
        raise InputError(
            f"--stages {folder} did not measure the {result.name(label)}, which --labels"
            f" {labels or 'left out'} asks for"
        ) from error
    times = {"collapse": group.collapse.value, "end": group.end.value}
    # A landmark that was not reached has no value, and no lag is measured behind it.
    return {"splits": {name: time for name, time in times.items() if time is not None}}


def _takes_text(text: TextOptions, spec: str) -> bool:
    """Whether there is a text, and the field is a pipeline that takes it."""
    from floracle.models.networks.diffusers_folder import is_diffusers

    return bool(text) and is_diffusers(Path(spec))


def _sample_shape(
    store: Store | None, shape: str | None, models: Sequence[VelocityField]
) -> list[int]:
    """The shape of a sample: that of the data, of --shape, or of a network."""
    if store is not None:
        return list(store.shape)
    if shape is not None:
        return parse_integers(shape, "--shape", "4,64,64")
    shapes = (getattr(model, "shape", None) for model in models)
    model_shape = next((shape for shape in shapes if shape is not None), None)
    if model_shape is None:
        raise InputError(
            "these networks do not have the shape of a sample; give --shape or --data"
        )
    return list(model_shape)


def _is_answered(output: OutputFolder) -> bool:
    """Whether the results are there, and the page with them."""
    from floracle.report.probe.page import PAGE

    return has_answer(output) and (output.path / PAGE).is_file()


def _measure(output: OutputFolder, job: ProbeRun, command: str) -> None:
    """Probe the fields, draw them, and last write the result."""
    from floracle.report.probe.page import write_probe_report
    from floracle.run.results import Results, provenance, setting_of

    probes = _probe_fields(output, job)
    facts = {"fields": ", ".join(job.specs.values())} | start_facts(job.models)
    if job.store is not None:
        facts |= {"data": job.store.name, "data fingerprint": job.store.fingerprint}
    facts |= options.path_settings(setting_of(job.settings, "path"))
    facts |= {"seeds": job.settings["seeds"], "labels": job.settings["labels"] or "none"}
    pictured = _draw_predictions(output.path, job, probes)
    splits = job.settings.get("splits")
    write_probe_report(pictured, output.path, facts=facts, command=command, splits=splits)
    if not has_answer(output):  # the page alone may have been missing
        output.save(Results("probes", output.settings, {"names": list(probes)}, {}, provenance()))


def _probe_fields(output: OutputFolder, job: ProbeRun) -> dict[str, ProbeResult]:
    """Every field probed, by display name; those that an earlier run has finished are loaded."""
    import torch

    from floracle.analysis.trajectories.probe import ProbeResult
    from floracle.analysis.trajectories.probe import probe as probe_field
    from floracle.core.paths import PATHS
    from floracle.run.results import setting_of, stored_answer

    settings = job.settings
    seeds, path = parse_seeds(settings["seeds"]), PATHS[setting_of(settings, "path")]
    labels = _labels(job, len(seeds))
    common: dict[str, Any] = {
        "labels": None if labels is None else torch.tensor(labels),
        "solver": settings["solver"],
        "path": path,
        **_probe_arguments(settings),
    }
    # What a network refuses is known before anything is measured and written.
    for name, field in job.models.items():
        if job.specs[name] != ORACLE:
            try_network(field, job.shape, None if labels is None else labels[:1])
    results: dict[str, ProbeResult] = {}
    for name, field in job.models.items():
        spec, convention = job.specs[name], job.conventions[name]
        field_settings = {"field": spec, "convention": convention, **settings}
        stored = stored_answer(output.path / folder_name(name), field_settings)
        if stored is not None:
            results[name] = ProbeResult.of_results(stored)
            continue
        if job.store is not None:
            text = _takes_text(job.text, spec)
            check_convention(field, job.store, text=text, declared=convention is not None)
        note_progress(f"sampling {name}")
        result = probe_field(on_path(field, path), seeds, job.shape, **common)
        results[name] = replace(result, settings=field_settings)
        output.save(results[name], folder_name(name))  # at once: a stopped run keeps it
    return results


def _labels(job: ProbeRun, count: int) -> list[int] | None:
    """A label for each seed, or None; networks that need labels get theirs in rotation."""
    from floracle.core.point_set import classes
    from floracle.models.field import ModelField

    typed = job.settings["labels"]
    if job.store is not None:
        return parse_labels(typed, count, classes(job.store), job.store.classes)
    if typed is not None:
        labels = parse_integers(typed, "--labels", "3 or 0,1,2")
    else:
        networks = [model for model in job.models.values() if isinstance(model, ModelField)]
        needy = [
            model
            for model in networks
            if model.classes and model.translated.convention.null_label is None
        ]
        if not needy:
            return None
        labels = list(range(min(model.classes or 1 for model in needy)))
        warn(f"{needy[0].name} needs labels; 0 to {labels[-1]} are used in rotation")
    return [labels[i % len(labels)] for i in range(count)]


def _draw_predictions(
    folder: Path, job: ProbeRun, probes: Mapping[str, ProbeResult]
) -> list[ProbedField]:
    """The probes with pictures of their predictions; each field has a file of its own."""
    from floracle.report.probe.figures import ProbedField
    from floracle.report.probe.page import prediction_pictures, tile_predictions
    from floracle.run.files import write_bytes

    pictured = []
    pictures = prediction_pictures(list(probes.values()), job.store, job.decoder)
    for (name, result), picture in zip(probes.items(), pictures, strict=True):
        if picture is not None:
            write_bytes(folder / folder_name(name) / "predictions.png", tile_predictions(picture))
        pictured.append(ProbedField(name, result, job.specs[name] == ORACLE, picture))
    return pictured


def _report(output: OutputFolder, job: ProbeRun) -> None:
    """Print when the fields settle."""
    from floracle.analysis.trajectories.probe import ProbeResult
    from floracle.report.probe import words
    from floracle.report.probe.figures import ProbedField
    from floracle.report.probe.page import PAGE
    from floracle.run.results import load_results

    fields = []
    for name, spec in job.specs.items():
        part = folder_name(name)
        result = ProbeResult.of_results(load_results(output.path / part, part=part))
        fields.append(ProbedField(name, result, spec == ORACLE))
    show_wide_table(words.summary(fields, job.settings.get("splits")))
    show_wide_table(words.by_label(fields))
    say(f"grid: {words.grid_in_short(fields[0].probe)}")
    for sentence in (words.headline(fields), *words.story(fields)[1:]):
        say(sentence)
    say(f"report: {visible(str(output.path / PAGE))}")
