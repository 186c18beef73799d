"""`floracle mix`: a field mixed with the oracle, or with unseen data, at a time τ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from floracle.cli.counts import Whole
from floracle.cli.data_options import READING, PathName, SampleDataOptions, show_remarks
from floracle.cli.field_options import (
    called,
    check_useful,
    command_of,
    conventions,
    points_oracle,
    rows_of,
    times_of,
)
from floracle.cli.fields import field_of, identities, path_settings
from floracle.cli.output import Out, check_out, output_of
from floracle.cli.parsing import plain

from .mix_job import LANDING, RESUME, SWITCH, MixJob, measure, report

OF_SEEDS = ("seeds", "labels")
"""Options of --switch and --landing."""
OF_RESUME = ("held_out", "held_out_labels", "rows", "noises", "edges", "seed")
"""Options of --resume."""


def mix(
    field: str,
    /,
    *,
    data: str,
    switch: str | None = None,
    landing: str | None = None,
    resume: str | None = None,
    seeds: str = "0:64",
    labels: str | None = None,
    held_out: str | None = None,
    held_out_labels: Path | None = None,
    rows: str = "0:64",
    noises: Whole = 4,
    edges: str | None = None,
    grid: Whole = 50,
    shift: float = 1.0,
    solver: str = "euler",
    name: str | None = None,
    convention: str | None = None,
    path: PathName = "linear",
    reading: SampleDataOptions = READING,
    seed: Whole = 0,
    out: Out = None,
    memory: str | None = None,
    device: str = "cpu",
) -> Path:
    """Let a field and the oracle take over from each other, or a field go on from unseen data.

    --switch: the oracle until τ, the field after. Where does the field copy what was chosen?
    --landing: the field until τ, the exact oracle after. Is its navigation that of the data?
    --resume: unseen data mixed with noise at τ, the field after. What has settled by then?
    Each part is kept in a folder of its own and is not measured again.

    Parameters
    ----------
    field
        A network: a run, a checkpoint, module:function or file.py:function; see
        docs/how-to/models.md; or "oracle".
    data
        The training set; see floracle stages --help.
    switch
        Times τ in [0, 1] like 0,.1,.2,.4,1.
    landing
        Times τ in [0, 1) like .1,.3.
    resume
        Times τ in [0, 1]; needs --held-out.
    seeds
        One sample for each, of --switch and --landing: 0:64 or 3,5,8.
    labels
        A class for all samples, or several taken in turn; without, the whole set votes.
    held_out
        Data of the same kind that was not trained on.
    held_out_labels
        A .npy file with a label for each held-out point.
    rows
        Rows of the held-out data to go on from: 0:64 or 3,5,8.
    noises
        Noises that each of them is mixed with.
    edges
        Where bands of frequencies part, in cycles along the longer side; at 2 without, where
        layout ends and detail begins.
    grid
        Steps from noise to data.
    shift
        Below 1 spends more steps near the noise, above 1 near the data.
    solver
        euler, midpoint, heun, and what else floracle knows.
    name
        What to call the field.
    convention
        How the network is to be read: a project's name, or words like predicts=data,null_label=10.
    path
        The path from noise to data, on which fields are followed and whose times these are; a
        network is taken there from its own.
    reading
        How data is read.
    seed
        Where the noises of --resume start.
    out
        Folder for the page and its numbers; runs/mix-NAME by default.
    memory
        How much may be used, like 4G; half of what is free by default.
    device
        cpu or cuda:0.
    """
    typed = dict(locals())
    from floracle.run.budget import choose_device
    from floracle.run.errors import InputError

    if switch is None and landing is None and resume is None:
        raise InputError(
            "say what to do: --switch, --landing or --resume, with times like .1,.2,.4"
        )
    if resume is not None and held_out is None:
        raise InputError("--resume goes on from data that was not trained on: give --held-out")
    places = called([field], name, "--name")
    read = conventions(places, None if convention is None else [convention])
    asked = _asked(typed)
    called_so = next(iter(places))
    check_out(out, "mix", data)
    opening = reading.opening()
    store = opening.store(data, memory)
    show_remarks(store)
    other = None
    if held_out is not None:
        other = opening.held_out(held_out, store, memory, held_out_labels)
    where = str(choose_device(device))
    oracle = points_oracle(store, memory, where, path)
    network = field_of(field, oracle, read[called_so], where)
    settings = {
        "field": field,
        "networks": identities({called_so: network}, store.shape),
        "convention": read[called_so],
        "data": store.fingerprint,
        "grid": grid,
        "shift": shift,
        "solver": solver,
        **path_settings(path),
        **opening.settings(),
    }
    commands = {part: _command(typed, part) for part in asked}
    default = Path("runs") / f"mix-{plain(called_so)}"
    with output_of(
        "mix", out, default, settings, data=[store, other], results=list(asked)
    ) as output:
        job = MixJob(called_so, output, oracle, store, other, commands)
        measure(job, asked, network)
        report(job)
    return output.path


def _asked(typed: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What every part is asked with; what could not be done is refused before data is read."""
    from floracle.cli.parsing import checked_seed, numbers, seeds_of, whole_numbers
    from floracle.run.errors import InputError
    from floracle.sampling.grid import time_grid
    from floracle.sampling.solvers import find_solver

    if typed["resume"] is None:
        check_useful(mix, typed, OF_RESUME, "--resume")
    if typed["switch"] is None and typed["landing"] is None:
        check_useful(mix, typed, OF_SEEDS, "--switch or --landing")
    find_solver(typed["solver"])
    time_grid(typed["grid"], shift=typed["shift"])
    following = {name: typed[name] for name in OF_SEEDS}
    seeds_of(typed["seeds"])
    if typed["labels"] is not None:
        whole_numbers(typed["labels"], "--labels", "3 or 0,1,2")
    asked: dict[str, dict[str, Any]] = {}
    if typed["switch"] is not None:
        asked[SWITCH] = {**following, "taus": times_of(typed["switch"], "--switch")}
    for tau in [] if typed["landing"] is None else times_of(typed["landing"], "--landing"):
        if tau == 1:
            raise InputError("--landing takes a time τ before 1, where the oracle is to go on")
        asked[f"{LANDING}-{tau:.12g}"] = {**following, "taus": [tau]}
    if typed["resume"] is not None:
        if typed["edges"] is not None:
            numbers(typed["edges"], "--edges")
        going = {name: typed[name] for name in ("rows", "noises", "edges", "seed")}
        rows_of(typed["rows"])
        checked_seed(typed["seed"])
        asked[RESUME] = {**going, "taus": times_of(typed["resume"], "--resume")}
    return asked


def _command(typed: dict[str, Any], part: str) -> str:
    """What to type to measure one part again, with its own options alone."""
    from inspect import signature

    kind, _, tau = part.partition("-")
    known = signature(mix).parameters
    others = {SWITCH, LANDING, RESUME} - {kind}
    others |= set(OF_SEEDS if kind == RESUME else OF_RESUME)
    only = {**typed, **{name: known[name].default for name in others}}
    return command_of(mix, "mix", {**only, kind: tau or typed[kind]})
