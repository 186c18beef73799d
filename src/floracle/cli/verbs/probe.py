"""`floracle probe`: what fields predict along their own trajectories, and when that settles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from floracle.cli.counts import Whole
from floracle.cli.data_options import READING, PathName, SampleDataOptions, show_remarks
from floracle.cli.field_options import called, command_of, conventions
from floracle.cli.fields import NO_TEXT, ORACLE, Text, identities, path_settings
from floracle.cli.output import Out, check_out, output_of
from floracle.cli.parsing import plain

from .probe_job import (
    ProbeJob,
    answer,
    check,
    load_decoder,
    load_fields,
    report,
    sample_shape,
    splits_of,
)


def probe(
    *fields: str,
    data: str | None = None,
    seeds: str = "0:16",
    labels: str | None = None,
    grid: Whole = 50,
    shift: float = 1.0,
    solver: str = "euler",
    threshold: float = 0.1,
    until: float = 0.9,
    show: str | None = None,
    names: str | None = None,
    convention: list[str] | None = None,
    text: Text = NO_TEXT,
    path: PathName = "linear",
    stages: Path | None = None,
    shape: str | None = None,
    autoencoder: Path | None = None,
    reading: SampleDataOptions = READING,
    out: Out = None,
    memory: str | None = None,
    device: str = "cpu",
) -> Path:
    """Follow fields from noise, and see what they predict on the way and when that settles.

    With a data set its oracle is followed from the same noise, and how much later a field settles
    is a number. Without one, fields are followed alone or side by side. Writes probe.html, figures
    and, for each field, its numbers and predictions.png: rows are seeds, columns times.

    Parameters
    ----------
    fields
        One or several: "oracle", or networks, each a run, a checkpoint, a folder of diffusers,
        module:function or file.py:function; see docs/how-to/models.md.
    data
        The training set; see floracle stages --help.
    seeds
        One trajectory for each: 0:16 or 3,5,8.
    labels
        A label for all trajectories, or several taken in turn; without, none is given.
    grid
        Steps from noise to data.
    shift
        Below 1 spends more steps near the noise, above 1 near the data.
    solver
        euler, midpoint, heun, and what else floracle knows.
    threshold
        The share of a prediction's squared way below which it has settled.
    until
        The late time whose prediction the others are compared with; 1 is the sample itself.
    show
        Times to show predictions at, like 0,.1,.2,.5.
    names
        What to call the fields, with commas between.
    convention
        How networks are to be read: a project's name, or words like
        predicts=data,null_label=10. Once for all of them, or as often as there are networks.
    text
        What SD3 and Flux are asked with; label i is the i-th prompt.
    path
        The path from noise to data, on which fields are followed and whose times these are; a
        network is taken there from its own.
    stages
        A run of floracle stages of the same data: how much later than its collapse and its end
        fields settle is told as well.
    shape
        Of one sample, like 4,64,64, where neither data nor network says.
    autoencoder
        What decodes latents for the pictures; see floracle encode --help.
    reading
        How data is read.
    out
        Folder for the page and its numbers; runs/probe-NAMES by default.
    memory
        How much may be used, like 4G; half of what is free by default.
    device
        cpu or cuda:0.
    """
    typed = dict(locals())
    from floracle.run.budget import choose_device
    from floracle.run.errors import InputError

    found = _fields(fields, names, data)
    check_out(out, "probe", *([] if data is None else [data]))
    if data is None:
        if stages is not None:
            raise InputError("--stages is of a data set; give --data too, or leave it out")
        for option in reading.words()[:1]:
            raise InputError(f"{option} is for --data; give that too, or leave {option} out")
    elif shape is not None:
        raise InputError("--shape is for fields without a data set; the data has its own")
    opening = reading.opening()
    settings: dict[str, Any] = {
        "data": None,
        "seeds": seeds,
        "labels": labels,
        "grid": grid,
        "shift": shift,
        "solver": solver,
        "threshold": threshold,
        "until": until,
        "show": show,
        "shape": shape,
        **path_settings(path),
        **opening.settings(),
        **text.settings(),
    }
    job = ProbeJob(
        called=found,
        conventions=conventions(found, convention),
        settings=settings,
        store=None,
        text=text,
        autoencoder=autoencoder,
        memory=memory,
        device=str(choose_device(device)),
    )
    check(job)
    if data is not None:
        store = opening.store(data, memory)
        show_remarks(store)
        known = {"data": store.fingerprint, **splits_of(stages, store, path, labels)}
        job = replace(job, store=store, settings={**settings, **known})
    loaded = load_fields(job)
    shape_of_sample = sample_shape(job, loaded)
    decoder = load_decoder(job, shape_of_sample)
    networks = identities(loaded, shape_of_sample)
    job = replace(job, settings={**job.settings, "networks": networks}, decoder=decoder)
    default = Path("runs") / f"probe-{'-'.join(map(plain, found))}"
    with output_of("probe", out, default, job.all_settings(), data=[job.store]) as output:
        answer(job, output, loaded, command_of(probe, "probe", typed))
        report(job, output.path)
    return output.path


def _fields(fields: tuple[str, ...], names: str | None, data: str | None) -> dict[str, str]:
    """The fields by their names; with data its oracle is the first."""
    from floracle.report.probe.figures import COLOURS
    from floracle.run.errors import InputError

    if data is not None and ORACLE not in fields:
        fields = (ORACLE, *fields)
        names = None if names is None else f"{ORACLE},{names}"
    if data is None and ORACLE in fields:
        raise InputError("the oracle is the field of a training set: give --data")
    if len(fields) > len(COLOURS):
        raise InputError(f"up to {len(COLOURS)} fields can be told apart, got {len(fields)}")
    return called(fields, names)
