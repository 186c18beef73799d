"""`floracle sample`: sample from a model or from the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from floracle.cli import options
from floracle.cli.data_options import DATA_DEFAULTS, DataOptions
from floracle.cli.fields import (
    NO_TEXT,
    ORACLE,
    TextOptions,
    check_fields,
    checked_fields,
    fingerprints,
    load_field,
)
from floracle.cli.guidance_options import NO_GUIDANCE, GuidanceOptions
from floracle.cli.parsing import default_folder, folder_name, parse_labels
from floracle.cli.verb_run import check_out, run_verb
from floracle.run.errors import InputError
from floracle.run.processes import current_group, process_memory
from floracle.run.progress import track

if TYPE_CHECKING:
    from torch import Tensor

    from floracle.core.fields import VelocityField
    from floracle.core.paths import ProbabilityPath
    from floracle.sampling.solvers import Solver

SAMPLES_PER_BATCH = 64


def sample(
    field: str,
    data: str,
    /,
    *,
    sampling: options.SamplingOptions = options.SAMPLING_DEFAULTS,
    then: str | None = None,
    at: float | None = None,
    guidance_options: GuidanceOptions = NO_GUIDANCE,
    convention: options.ConventionWords = None,
    text_options: TextOptions = NO_TEXT,
    data_options: DataOptions = DATA_DEFAULTS,
    oracle_options: options.OracleOptions = options.ORACLE_DEFAULTS,
    out: options.Out = None,
) -> Path:
    """Sample from a model or from the oracle, and report each sample's nearest training row.

    Writes samples.npz (arr_0 with the samples, labels, seeds, rows, distances) and, for pictures,
    samples.png. Processes started by torchrun share the data.

    Parameters
    ----------
    field
        "oracle", or a network: a run, a checkpoint, a folder of diffusers, module:function or
        file.py:function; see docs/how-to/models.md.
    data
        The training set; see floracle stages --help.
    then
        A second field, which takes over at the time --at; named like FIELD.
    at
        Switch time of --then; it becomes a time of the grid.
    out
        Folder for the samples. Default: runs/sample-FIELD-DATA, without the oracle's name.
    """
    from floracle.core.point_set import classes as labels_in
    from floracle.sampling.grid import split_grid
    from floracle.sampling.solvers import find_solver

    from .sample_output import has_samples, nearest_rows, report, save_samples

    # 1. What needs no data is checked first.
    names = [name for name in (field, then) if name is not None]
    declared = convention if guidance_options.reference in (None, ORACLE) else None
    _check_fields(names, at, declared, text_options, labelled=sampling.labels is not None)
    guidance_options.check(
        len(names), oracle_options.path, labelled=bool(sampling.labels or text_options)
    )
    sampling.check()
    oracle_options.check(queried=ORACLE in (*names, guidance_options.reference))
    seeds, grid, solver = sampling.seed_list(), sampling.grid(), find_solver(sampling.solver)
    # 2. Data, oracle and networks; the processes of a group share the points.
    group = current_group()
    device = options.device_for(oracle_options.device, group)
    if group.first:
        check_out(out, "sample", data)
    store = data_options.open(data, process_memory(oracle_options.memory, group))
    labels = parse_labels(sampling.labels, len(seeds), labels_in(store), store.classes)
    oracle = options.make_oracle(
        store,
        oracle_options.path,
        memory=oracle_options.memory,
        device=device,
        tolerance=oracle_options.tolerance,
        group=group,
    )
    # A network that is named twice is loaded once.
    loaded = dict.fromkeys(
        name for name in (*names, guidance_options.reference) if name is not None
    )
    models = {
        name: load_field(name, oracle, convention, device, text=text_options) for name in loaded
    }
    check_fields(models, store, text=bool(text_options))
    # 3. The question; options that are not given are left out, as in results of 0.1.
    optional = {"then": then, "at": at, "convention": convention}
    settings = {
        "field": field,
        "networks": fingerprints(models, store.shape),
        "data": store.fingerprint,
        **sampling.settings(),
        **{name: value for name, value in optional.items() if value is not None},
        **oracle_options.settings(),
        **guidance_options.settings(),
        **text_options.settings(),
        **data_options.settings(),
    }

    def compute(output) -> None:  # noqa: ANN001
        declared = convention is not None
        fields = checked_fields(
            models, store, oracle.path, text=bool(text_options), declared=declared
        )
        # The switch time becomes a time of the grid: sampling in pieces equals the whole.
        grids = [grid] if at is None else split_grid(grid, at)
        reference = fields.get(guidance_options.reference or "")
        scales = guidance_options.scales(len(names))
        legs = [
            SampleLeg(
                guidance_options.guide(fields[name], scale, reference),
                times,
                # A text is label 0 of its network; the oracle has no text.
                [0] * len(seeds) if text_options and name != ORACLE else labels,
            )
            for name, scale, times in zip(names, scales, grids, strict=True)
        ]
        cost = _count_evaluations(legs, solver)
        guidance_options.check_effect(len(names), acts=cost["evaluations"] > cost["velocities"])
        samples = _generate(legs, store.shape, seeds, solver, oracle.path)
        near = nearest_rows(store, samples, group)
        if group.first:
            save_samples(output, store, seeds, labels, samples, near, cost)

    networks = [folder_name(name) for name in names if name != ORACLE]
    return run_verb(
        "sample",
        out,
        default_folder("-".join(["sample", *networks]), data),
        settings,
        is_answered=has_samples,
        compute=compute,
        report=report,
        group=group,
        data=[store],
    )


class SampleLeg(NamedTuple):
    """A field, the part of the grid that it is integrated on, and the labels it gets."""

    field: VelocityField
    grid: Tensor
    labels: list[int] | None


def _check_fields(
    names: Sequence[str],
    at: float | None,
    convention: str | None,
    text: TextOptions,
    *,
    labelled: bool,
) -> None:
    """Refuse options that do not go together."""
    if (len(names) == 1) != (at is None):
        raise InputError(
            "--then names the second field and --at its first time; give both or none"
        )
    if at is not None and not 0 < at < 1:
        raise InputError(f"--at lies between noise (0) and data (1), got {at:g}")
    if convention is not None and set(names) == {ORACLE}:
        raise InputError("--convention is for networks, but only the oracle is sampled")
    if text and labelled:
        raise InputError("labels are unsupported for text; give --labels or --prompt, not both")
    if text and set(names) == {ORACLE}:
        raise InputError("the oracle knows no text; --prompt and --embeddings belong to a network")


def _count_evaluations(legs: Sequence[SampleLeg], solver: Solver) -> dict[str, int]:
    """Velocities of a sample, and the evaluations of networks and oracles that they take."""
    from floracle.sampling.sample import evaluations

    return {
        "velocities": sum(evaluations(leg.grid, solver) for leg in legs),
        "evaluations": sum(evaluations(leg.grid, solver, field=leg.field) for leg in legs),
    }


def _generate(
    legs: Sequence[SampleLeg],
    shape: tuple[int, ...],
    seeds: list[int],
    solver: Solver,
    path: ProbabilityPath,
) -> Tensor:
    """The samples [b, *shape], in batches; sample i depends on its own seed alone."""
    import torch

    from floracle.core.seeds import noise
    from floracle.sampling import sample as sampler
    from floracle.sampling.solvers import NotFiniteError

    starts = range(0, len(seeds), SAMPLES_PER_BATCH)  # bounds the memory of a network
    batches = []
    for start in track(starts, "samples", total=len(starts)):
        batch = slice(start, start + SAMPLES_PER_BATCH)
        x = noise(seeds[batch], shape)
        for field, grid, labels in legs:
            label = None if labels is None else torch.tensor(labels[batch])
            try:
                x = sampler.sample(field, x, grid, labels=label, solver=solver, path=path)
            except NotFiniteError as error:
                seed = seeds[batch][error.index]
                raise InputError(f"{error}; nothing was written (seed {seed})") from error
        batches.append(x)
    return torch.cat(batches)
