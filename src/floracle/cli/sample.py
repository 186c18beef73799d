"""`floracle sample`: follow a field from noise to samples."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .opening import Layout, Moments, Opening, oracle_of, show_remarks

if TYPE_CHECKING:
    from torch import Tensor

    from floracle.core.fields import VelocityField
    from floracle.core.nearest import Neighbours
    from floracle.data.store import Store
    from floracle.oracle.gaussians import GaussianOracle
    from floracle.oracle.oracle import Oracle
    from floracle.run.processes import Group

AT_ONCE = 64
ORACLE = "oracle"
COLUMNS = 8
DRAWN = 64
"""Samples in the picture at most."""
LANDED = 1e-3
"""A sample this near to a training row, relative to the row's norm, has landed on it."""
SHOWN = 20


def sample(
    field: str,
    data: str,
    /,
    *,
    seeds: str = "0:64",
    labels: str | None = None,
    grid: int = 50,
    shift: float = 1.0,
    solver: str = "euler",
    then: str | None = None,
    at: float | None = None,
    convention: str | None = None,
    data_labels: Path | None = None,
    flips: bool | None = None,
    normalize: str = "stored",
    layout: Layout | None = None,
    moments: Moments | None = None,
    out: Path | None = None,
    memory: str | None = None,
    device: str = "cpu",
) -> None:
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
    convention
        How networks are to be read: a project's name, or words like predicts=data,null=10.
    data_labels
        A .npy file with a label for each training point.
    flips
        Count the mirror of every picture as a point of its own.
    normalize
        stored, raw, standard, or a factor.
    layout
        Whose layout the data is, where the files cannot tell.
    moments
        What a stored mean and deviation become: a point, one draw, a Gaussian.
    out
        Folder for the samples; runs/sample-NAME by default.
    memory
        How much may be used, like 4G; half of what is free by default.
    device
        cpu or cuda:0.
    """
    from floracle.core.source import classes as labels_in
    from floracle.run.budget import chosen_device
    from floracle.run.processes import current, own_device, own_memory
    from floracle.sampling.grid import time_grid
    from floracle.sampling.solvers import named

    from .console import say
    from .options import check_writable, folder_for, labels_for, seeds_of

    _check_fields(field, then, at, convention)
    chosen, times, method = seeds_of(seeds), time_grid(grid, shift=shift), named(solver)
    group, folder = current(), out or folder_for("sample", data)
    device = str(chosen_device(own_device(device, group)))
    if group.first:
        folder = check_writable(folder)
    opening = Opening(data_labels, None, flips, normalize, layout, moments)
    store = opening.store(data, own_memory(memory, group))
    show_remarks(store)
    given = labels_for(labels, len(chosen), labels_in(store))
    settings = {
        "field": field,
        "data": store.fingerprint,
        "seeds": seeds,
        "labels": labels,
        "grid": grid,
        "shift": shift,
        "solver": solver,
        **_second(then, at, convention),
        **opening.settings(),
    }
    if not _answered(folder, settings, group):
        oracle = oracle_of(store, "linear", memory=memory, device=device, group=group)
        fields = [_field(name, oracle, convention, device) for name in (field, then) if name]
        found = _followed(fields, at, store.shape, chosen, given, times=times, solver=method)
        near = _nearest(store, found, group)
        if group.first:
            _save(folder, store, settings, chosen, given, found, near)
    if group.first:
        _report(folder)
    say(f"samples: {folder / 'samples.npz'}")


def _answered(folder: Path, settings: dict[str, Any], group: Group) -> bool:
    """Whether the first process finds these samples in the folder; it alone looks."""
    from floracle.run.exchange import first_says
    from floracle.run.results import answered

    there = group.first and answered(folder, settings) is not None
    return bool(first_says(group, [there])[0])


def _nearest(store: Store, found: Tensor, group: Group) -> Neighbours:
    """The training row that each sample is nearest to; each process looks in its share."""
    import torch

    from floracle.core.nearest import Neighbours, nearest
    from floracle.oracle.sharded import Share
    from floracle.run.exchange import merged_over

    if group.alone:
        return nearest(store, found)
    mine = Share(store, group)
    none = torch.zeros(len(found), 0)
    own = Neighbours(none.double(), none.long(), 1)
    return merged_over(group, nearest(mine, found) if len(mine.atoms().rows) else own)


def _check_fields(field: str, then: str | None, at: float | None, convention: str | None) -> None:
    """Refuse options that do not go together."""
    from floracle.run.errors import Mistake

    if (then is None) != (at is None):
        raise Mistake("--then names the second field and --at its first time; give both or none")
    if at is not None and not 0 < at < 1:
        raise Mistake(f"--at lies between noise (0) and data (1), got {at:g}")
    if convention is not None and {field, then or field} == {ORACLE}:
        raise Mistake("--convention says how a network is read, but only the oracle is followed")


def _second(then: str | None, at: float | None, convention: str | None) -> dict[str, Any]:
    """The settings of what was asked for beyond one field."""
    asked = {"then": then, "at": at, "convention": convention}
    return {name: value for name, value in asked.items() if value is not None}


def _field(
    name: str, oracle: Oracle | GaussianOracle, convention: str | None, device: str
) -> VelocityField:
    """A field by its name: the oracle, or a network with what was assumed of it said."""
    if name == ORACLE:
        return oracle
    import sys

    from floracle.models.zoo import load_model

    from .console import as_typed

    found = load_model(name, convention=convention, device=device)
    sys.stderr.write(f"note: {as_typed(f'{found.name}: {found.assumed}')}\n")
    return found


def _followed(
    fields: list[VelocityField],
    at: float | None,
    shape: tuple[int, ...],
    seeds: list[int],
    labels: list[int] | None,
    *,
    times: Tensor,
    solver: Any,
) -> Tensor:
    """The samples [b, *shape], some at a time; sample i depends on its own seed alone."""
    import torch

    from floracle.core.seeds import noise
    from floracle.run.progress import tracked
    from floracle.sampling.grid import cut
    from floracle.sampling.sample import sample as follow

    starts = range(0, len(seeds), AT_ONCE)
    pieces = [times] if at is None else cut(times, at)
    parts = []
    for start in tracked(starts, "samples", total=len(starts)):
        some = slice(start, start + AT_ONCE)
        voting = None if labels is None else torch.tensor(labels[some])
        x = noise(seeds[some], shape)
        for field, piece in zip(fields, pieces, strict=True):
            x = follow(field, x, piece, labels=voting, solver=solver)
        parts.append(x)
    return torch.cat(parts)


def _save(
    folder: Path,
    store: Store,
    settings: dict[str, Any],
    seeds: list[int],
    labels: list[int] | None,
    found: Tensor,
    near: Neighbours,
) -> None:
    """Samples, their picture, and last the result."""
    import numpy as np
    import torch

    from floracle.run.files import write_bytes
    from floracle.run.images import display_for, enlarged, png, tiles
    from floracle.run.results import Results, provenance, save

    rows, distances = near.rows[:, 0], near.distances[:, 0]
    norms = store.take(rows).double().flatten(1).norm(dim=1).clamp(min=1e-12)
    given = torch.tensor(labels) if labels is not None else torch.full((len(found),), -1)
    arrays = {
        "seeds": torch.tensor(seeds),
        "rows": rows,
        "distances": distances,
        "landed": distances <= LANDED * norms,
    }
    display = display_for(store.shape, store.picture_range, store.take(rows))
    content = found
    if store.picture_range is not None and display is not None:
        content = display.pictures(found).movedim(1, -1).contiguous()
    file = io.BytesIO()
    np.savez(
        file,
        arr_0=content.numpy(),
        labels=given.numpy(),
        **{name: values.numpy() for name, values in arrays.items() if name != "landed"},
    )
    write_bytes(folder / "samples.npz", file.getvalue())
    if display is not None:
        shown = enlarged(display.pictures(found[:DRAWN]), 64)
        write_bytes(folder / "samples.png", png(tiles(shown, COLUMNS)))
    known = provenance(name=store.name)
    save(Results("samples", settings, {}, {**arrays, "labels": given}, known), folder)


def _report(folder: Path) -> None:
    """Where the samples landed, on the terminal."""
    from floracle.run.results import load_results

    from .console import say, show_table

    found = load_results(folder).arrays
    seeds, rows = found["seeds"].tolist(), found["rows"].tolist()
    labels, distances = found["labels"].tolist(), found["distances"].tolist()
    landed = found["landed"].tolist()
    table = [
        (
            str(seed),
            str(label) if label >= 0 else "–",
            str(row),
            f"{distance:.2e}",
            "yes" if on else "no",
        )
        for seed, label, row, distance, on in zip(
            seeds, labels, rows, distances, landed, strict=True
        )
    ]
    show_table(("seed", "label", "nearest row", "distance", "landed"), table[:SHOWN])
    if len(table) > SHOWN:
        say(f"… and {len(table) - SHOWN} more in samples.npz")
    count = len(set(rows))
    say(f"{sum(landed)} of {len(rows)} samples landed on a training row; {count} different rows")
