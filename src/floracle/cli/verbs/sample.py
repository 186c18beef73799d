"""`floracle sample`: follow a field from noise to samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from floracle.cli.counts import Whole
from floracle.cli.data_options import READING, PathName, SampleDataOptions, oracle_of, show_remarks
from floracle.cli.fields import (
    NO_TEXT,
    ORACLE,
    Text,
    field_of,
    followed,
    identities,
    path_settings,
    warn_of_misreading,
)
from floracle.cli.guidance_options import GUIDING, GuidanceOptions
from floracle.cli.output import Out, check_out, output_of

if TYPE_CHECKING:
    from torch import Tensor

    from floracle.core.fields import VelocityField
    from floracle.core.paths import ProbabilityPath as NoisePath
    from floracle.oracle.gaussian_data import GaussianOracle
    from floracle.oracle.oracle import Oracle
    from floracle.sampling.solvers import Solver

AT_ONCE = 64


class SampleStage(NamedTuple):
    """A field, the part of the grid that it is followed on, and what it is asked with."""

    field: VelocityField
    grid: Tensor
    labels: list[int] | None


def sample(
    field: str,
    data: str,
    /,
    *,
    seeds: str = "0:64",
    labels: str | None = None,
    grid: Whole = 50,
    shift: float = 1.0,
    solver: str = "euler",
    then: str | None = None,
    at: float | None = None,
    guiding: GuidanceOptions = GUIDING,
    convention: str | None = None,
    path: PathName = "linear",
    text: Text = NO_TEXT,
    reading: SampleDataOptions = READING,
    out: Out = None,
    memory: str | None = None,
    device: str = "cpu",
) -> Path:
    """Follow a field from noise to samples, and say which training row each is nearest to.

    Writes samples.npz (arr_0 with the samples, labels, seeds, rows, distances) and, for pictures,
    samples.png. Processes started by torchrun share the data.

    Parameters
    ----------
    field
        "oracle", the training set's own field, or a network: a run, a checkpoint, a folder of
        diffusers, module:function or file.py:function; see docs/how-to/models.md.
    data
        The training set; see floracle stages --help.
    seeds
        One sample for each: 0:64 or 3,5,8.
    labels
        A class for all samples, or several taken in turn; without, the whole set votes.
    grid
        Steps from noise to data.
    shift
        Below 1 spends more steps near the noise, above 1 near the data.
    solver
        euler, midpoint, heun, and what else floracle knows.
    then
        A second field, followed from the time --at on; named as the first is.
    at
        Where the second field takes over; it becomes a point of the grid.
    guiding
        How fields are guided.
    convention
        How networks are to be read: a project's name, or words like predicts=data,null_label=10.
    path
        The path from noise to data, on which fields are followed and whose times these are; a
        network is taken there from its own.
    text
        What SD3 and Flux are asked with.
    reading
        How data is read.
    out
        Folder for the samples; runs/sample-FIELD-DATA by default, without the oracle's name.
    memory
        How much may be used, like 4G; half of what is free by default.
    device
        cpu or cuda:0.
    """
    from floracle.cli.console import say
    from floracle.cli.parsing import folder_for, labels_for, plain, seeds_of
    from floracle.core.point_set import classes as labels_in
    from floracle.report.names import visible
    from floracle.run.budget import choose_device
    from floracle.run.exchange import barrier, broadcast_from_first
    from floracle.run.processes import current_group, process_device, process_memory
    from floracle.sampling.grid import split_grid, time_grid
    from floracle.sampling.solvers import find_solver

    from .sample_output import is_whole, nearest_rows, report, write

    names = [name for name in (field, then) if name is not None]
    _check_fields(names, at, convention)
    _check_text(text, names, labels)
    guiding.check(len(names), labelled=bool(labels or text))
    _check_interval(guiding, path)
    chosen, times, method = seeds_of(seeds), time_grid(grid, shift=shift), find_solver(solver)
    verb = "-".join(["sample", *(plain(name) for name in names if name != ORACLE)])
    group = current_group()
    device = str(choose_device(process_device(device, group)))
    if group.first:
        check_out(out, "sample", data)
    opening = reading.opening()
    store = opening.store(data, process_memory(memory, group))
    show_remarks(store)
    given = labels_for(labels, len(chosen), labels_in(store))
    oracle = oracle_of(store, path, memory=memory, device=device, group=group)
    networks = _networks([*names, guiding.reference], oracle, (convention, device), text)
    settings = {
        "field": field,
        "networks": identities(networks, store.shape),
        "data": store.fingerprint,
        "seeds": seeds,
        "labels": labels,
        "grid": grid,
        "shift": shift,
        "solver": solver,
        **path_settings(path),
        **_more({"then": then, "at": at, "convention": convention}),
        **guiding.settings(),
        **text.settings(),
        **opening.settings(),
    }
    default = folder_for(verb, data)
    with output_of("sample", out, default, settings, group=group, data=[store]) as output:
        if not broadcast_from_first(group, [group.first and is_whole(output)])[0]:
            declared = convention is not None
            for network in networks.values():
                warn_of_misreading(network, store, told=bool(text), declared=declared)
            moving = {name: followed(field, oracle.path) for name, field in networks.items()}
            fields = _guided(names, moving, guiding)
            asked = [_labels(name, given, text, len(chosen)) for name in names]
            pieces = [times] if at is None else split_grid(times, at)
            stages = [SampleStage(*parts) for parts in zip(fields, pieces, asked, strict=True)]
            cost = _cost(stages, method)
            guiding.check_acts(len(names), acts=cost["evaluations"] > cost["velocities"])
            samples = _followed(stages, store.shape, chosen, method, oracle.path)
            near = nearest_rows(store, samples, group)
            if group.first:
                write(output, store, chosen, given, samples, near, cost)
        barrier(group)
    if group.first:
        report(output.path)
    say(f"samples: {visible(str(output.path / 'samples.npz'))}")
    return output.path


def _check_fields(names: list[str], at: float | None, convention: str | None) -> None:
    """Refuse options that do not go together."""
    from floracle.run.errors import InputError

    if (len(names) == 1) != (at is None):
        raise InputError(
            "--then names the second field and --at its first time; give both or none"
        )
    if at is not None and not 0 < at < 1:
        raise InputError(f"--at lies between noise (0) and data (1), got {at:g}")
    if convention is not None and set(names) == {ORACLE}:
        raise InputError(
            "--convention says how a network is read, but only the oracle is followed"
        )


def _check_interval(guiding: GuidanceOptions, path: str) -> None:
    """Refuse an interval in a foreign clock where times are those of another path."""
    from floracle.run.errors import InputError

    if path != "linear" and ":" in (guiding.interval or ""):
        raise InputError(
            f"--interval {guiding.interval} is read as a time of the linear path; with --path"
            f" {path} give it in that path's own time, like .1,.6"
        )


def _check_text(text: Text, names: list[str], labels: str | None) -> None:
    from floracle.run.errors import InputError

    if text and labels is not None:
        raise InputError("labels are unsupported for text; give --labels or --prompt, not both")
    if text and set(names) == {ORACLE}:
        raise InputError("the oracle knows no text; --prompt and --embeddings belong to a network")


def _more(asked: dict[str, Any]) -> dict[str, Any]:
    """What was asked for beyond one field."""
    return {name: value for name, value in asked.items() if value is not None}


def _networks(
    names: list[str | None],
    oracle: Oracle | GaussianOracle,
    read: tuple[str | None, str],
    text: Text,
) -> dict[str, VelocityField]:
    """The fields by their names; a network that is named twice is loaded once."""
    chosen = dict.fromkeys(name for name in names if name is not None)
    return {name: field_of(name, oracle, *read, text=text) for name in chosen}


def _guided(
    names: list[str], networks: dict[str, VelocityField], guiding: GuidanceOptions
) -> list[VelocityField]:
    """The fields that are followed, guided as asked."""
    reference = None if guiding.reference is None else networks[guiding.reference]
    scales = guiding.scales(len(names))
    return [
        guiding.around(networks[name], scale, reference)
        for name, scale in zip(names, scales, strict=True)
    ]


def _labels(name: str, given: list[int] | None, text: Text, count: int) -> list[int] | None:
    """What a field is asked with; a text is the label 0 of networks, and the oracle knows none."""
    return [0] * count if text and name != ORACLE else given


def _cost(stages: list[SampleStage], solver: Solver) -> dict[str, int]:
    """How many velocities a sample has followed, and what they take of networks and oracles."""
    from floracle.sampling.sample import evaluations

    return {
        "velocities": sum(evaluations(one.grid, solver) for one in stages),
        "evaluations": sum(evaluations(one.grid, solver, field=one.field) for one in stages),
    }


def _followed(
    stages: list[SampleStage],
    shape: tuple[int, ...],
    seeds: list[int],
    solver: Solver,
    path: NoisePath,
) -> Tensor:
    """The samples [b, *shape], some at a time; sample i depends on its own seed alone."""
    import torch

    from floracle.core.seeds import noise
    from floracle.run.progress import track
    from floracle.sampling.sample import sample as follow

    starts = range(0, len(seeds), AT_ONCE)
    parts = []
    for start in track(starts, "samples", total=len(starts)):
        some = slice(start, start + AT_ONCE)
        x = noise(seeds[some], shape)
        for field, grid, labels in stages:
            voting = None if labels is None else torch.tensor(labels[some])
            x = follow(field, x, grid, labels=voting, solver=solver, path=path)
        parts.append(x)
    return torch.cat(parts)
