"""`floracle mix`: switch between a field and the oracle, or resume from held-out data, at τ."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from floracle.cli import options
from floracle.cli.console import note_progress, say
from floracle.cli.data_options import (
    DATA_DEFAULTS,
    HELD_OUT_DEFAULTS,
    DataOptions,
    HeldOutOptions,
)
from floracle.cli.fields import (
    check_fields,
    checked_fields,
    conventions_of,
    fingerprints,
    load_field,
    name_fields,
    start_facts,
)
from floracle.cli.parsing import check_seed, folder_name, parse_positive, parse_rows, parse_times
from floracle.cli.registry import current_command
from floracle.cli.tables import show_wide_table
from floracle.cli.verb_run import check_out, run_verb
from floracle.report.names import visible
from floracle.run.errors import InputError

if TYPE_CHECKING:
    from floracle.core.fields import VelocityField
    from floracle.data.store import Store
    from floracle.oracle.oracle import Oracle
    from floracle.report.mix.words import MixResults
    from floracle.run.output_folder import OutputFolder
    from floracle.run.results import Results

SWITCH, LANDING, RESUME = "switch", "landing", "resume"
PART_FOLDER = rf"{SWITCH}|{LANDING}-[0-9.e-]+|{RESUME}"
SAMPLE_ONLY = ("seeds", "labels")
"""Options of --switch and --landing."""
HELD_OUT_ONLY = ("held_out", "held_out_label_file", "drop_overlap")
RESUME_ONLY = (*HELD_OUT_ONLY, "rows", "noises", "edges", "seed")
"""Options of --resume."""


def mix(
    field: str,
    /,
    *,
    data: str,
    switch: str | None = None,
    landing: str | None = None,
    resume: str | None = None,
    sampling: options.SamplingOptions = options.SAMPLING_DEFAULTS,
    held_out_options: HeldOutOptions = HELD_OUT_DEFAULTS,
    rows: str = "0:64",
    noises: options.Count = 4,
    edges: str | None = None,
    name: str | None = None,
    convention: options.ConventionWords = None,
    data_options: DataOptions = DATA_DEFAULTS,
    oracle_options: options.OracleOptions = options.ORACLE_DEFAULTS,
    seed: options.Seed = 0,
    out: options.Out = None,
) -> Path:
    """Switch between the oracle and a model during sampling, or resume from held-out data.

    --switch: the oracle until τ, the field after. Where does the field copy training points?
    --landing: the field until τ, the oracle after. Is its navigation that of the data?
    --resume: held-out data noised to τ, the field after. What is decided by then?
    Each part has a folder of its own and is not measured again.

    Parameters
    ----------
    field
        A network (a run, a checkpoint, module:function or file.py:function; see
        docs/how-to/models.md), or "oracle".
    data
        The training set; see floracle stages --help.
    switch
        Switch times τ in [0, 1], such as 0,.1,.2,.4,1.
    landing
        Times τ in [0, 1), such as .1,.3.
    resume
        Times τ in [0, 1]; needs --held-out.
    rows
        Rows of the held-out data to resume from: 0:64 or 3,5,8.
    noises
        Noises that each of these rows is mixed with.
    edges
        Edges of the frequency bands, in cycles along the longer side. Default: 2, between coarse
        structure and detail.
    name
        Display name of the field. Default: the last part of its path.
    out
        Folder for the report and its numbers. Default: runs/mix-NAME.
    """
    arguments = dict(locals())  # first, while the options are all there is
    # 1. What needs no data is checked first.
    parts = _plan_parts(arguments)
    display, spec = next(iter(name_fields([field], name, "--name").items()))
    read = conventions_of({display: spec}, None if convention is None else [convention])[display]
    oracle_options.check()
    check_out(out, "mix", data)
    # 2. Data, oracle and network.
    memory = oracle_options.memory
    store = data_options.open(data, memory)
    other = held_out_options.open(store, data_options, memory)
    device = options.device_for(oracle_options.device)
    oracle = oracle_options.points_oracle(store, device=device)
    model = load_field(field, oracle, read, device)
    check_fields({display: model}, store)
    grid_settings = sampling.settings()
    # 3. What all parts have in common; seeds, labels, rows and τ belong to a part.
    settings = {
        "field": field,
        "networks": fingerprints({display: model}, store.shape),
        "convention": read,
        "data": store.fingerprint,
        **{key: grid_settings[key] for key in ("grid", "shift", "solver")},
        **oracle_options.settings(),
        **data_options.settings(),
    }
    commands = {part: _command(arguments, part) for part in parts}
    job = MixRun(display, oracle, store, other, parts, commands, start_facts({display: model}))
    return run_verb(
        "mix",
        out,
        Path("runs") / f"mix-{folder_name(display)}",
        settings,
        is_answered=lambda output: not _missing_parts(output, job),
        compute=lambda output: _measure(
            output, job, checked_fields({display: model}, store, oracle.path)[display]
        ),
        report=lambda output: _report(output, job),
        data=[store, other],
        results=list(parts),
    )


@dataclass(frozen=True)
class MixRun:
    """What is mixed. The settings of the output folder are what all parts have in common."""

    name: str
    oracle: Oracle
    store: Store
    held_out: Store | None
    parts: dict[str, dict[str, Any]]
    """What each part has in addition to the common settings, by the name of its folder."""
    commands: dict[str, str]
    """What to type to measure each part again."""
    start: dict[str, str]
    """What the report says of the field's start."""


def _plan_parts(arguments: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of each part; what cannot be done is refused before data is read."""
    switch, landing, resume = (arguments[kind] for kind in (SWITCH, LANDING, RESUME))
    if switch is None and landing is None and resume is None:
        raise InputError(
            "nothing to do; give --switch, --landing or --resume, with times like .1,.2,.4"
        )
    if resume is not None and arguments["held_out_options"].held_out is None:
        raise InputError("--resume starts from data that was not trained on; give --held-out")
    if resume is None:
        options.refuse_unused(mix, arguments, RESUME_ONLY, "--resume")
    if switch is None and landing is None:
        options.refuse_unused(mix, arguments, SAMPLE_ONLY, "--switch or --landing")
    sampling: options.SamplingOptions = arguments["sampling"]
    sampling.check()
    which_samples = {key: sampling.settings()[key] for key in SAMPLE_ONLY}
    parts: dict[str, dict[str, Any]] = {}
    if switch is not None:
        parts[SWITCH] = {**which_samples, "taus": parse_times(switch, "--switch")}
    for tau in [] if landing is None else parse_times(landing, "--landing"):
        if tau == 1:
            raise InputError("--landing takes a time τ before 1, from which the oracle goes on")
        # A part for each τ: another τ later does not measure the first one again.
        parts[f"{LANDING}-{tau:.12g}"] = {**which_samples, "taus": [tau]}
    if resume is not None:
        if arguments["edges"] is not None:
            parse_positive(arguments["edges"], "--edges")
        parse_rows(arguments["rows"])
        check_seed(arguments["seed"])
        which_rows = {key: arguments[key] for key in ("rows", "noises", "edges", "seed")}
        # Rows and edges were parsed above to refuse errors; settings hold them as they are typed.
        parts[RESUME] = {**which_rows, "taus": parse_times(resume, "--resume")}
    return parts


def _command(arguments: Mapping[str, Any], part: str) -> str:
    """What to type to measure one part again, with its own options alone."""
    kind, _, tau = part.partition("-")
    of_part = dict(arguments)
    unused = {SWITCH, LANDING, RESUME} - {kind}
    if kind == RESUME:
        of_part["sampling"] = replace(arguments["sampling"], **dict.fromkeys(SAMPLE_ONLY))
    else:
        unused |= {"held_out_options", *RESUME_ONLY} - set(HELD_OUT_ONLY)
    of_part |= {name: signature(mix).parameters[name].default for name in unused}
    return options.command_of(mix, {**of_part, kind: tau or arguments[kind]})


def _missing_parts(output: OutputFolder, job: MixRun) -> dict[str, dict[str, Any]]:
    """The full settings of those parts that are not measured yet."""
    from floracle.run.results import stored_answer

    missing = {}
    for part, added in job.parts.items():
        settings = {**output.settings, **added}
        if part == RESUME and job.held_out is not None:
            settings["held_out"] = job.held_out.fingerprint
        if stored_answer(output.path / part, settings) is None:
            missing[part] = settings
    return missing


def _measure(output: OutputFolder, job: MixRun, field: VelocityField) -> None:
    """Measure and save the parts that are missing."""
    measures: dict[str, Callable[..., Any]] = {
        SWITCH: _measure_switch,
        LANDING: _measure_landing,
        RESUME: _measure_resume,
    }
    # Each part is saved before the next one starts: a stopped run keeps what it has measured.
    for part, settings in _missing_parts(output, job).items():
        note_progress(f"{part} of {job.name}")
        result = measures[part.partition("-")[0]](job, field, settings)
        provenance = {**result.provenance, "command": job.commands[part]}
        if part == RESUME and job.held_out is not None:
            provenance["held-out data"] = f"{job.held_out.name}, {len(job.held_out):,} points"
        output.save(replace(result, settings=settings, provenance=provenance), part)


def _measure_switch(job: MixRun, field: VelocityField, settings: Mapping[str, Any]) -> Any:
    from floracle.analysis.mixing.field_switching import switch_fields
    from floracle.core.point_set import classes

    how = options.sampling_arguments(settings, classes(job.store), job.store.classes)
    return switch_fields(field, job.oracle, switch_times=settings["taus"], **how)


def _measure_landing(job: MixRun, field: VelocityField, settings: Mapping[str, Any]) -> Any:
    from floracle.analysis.mixing.landing_test import landing_test
    from floracle.core.point_set import classes

    how = options.sampling_arguments(settings, classes(job.store), job.store.classes)
    return landing_test(field, job.oracle, switch_time=settings["taus"][0], **how)


def _measure_resume(job: MixRun, field: VelocityField, settings: Mapping[str, Any]) -> Any:
    from floracle.analysis.mixing.forward_backward import forward_backward
    from floracle.core.point_set import classes

    assert job.held_out is not None
    edges = settings["edges"]
    return forward_backward(
        field,
        job.held_out,
        job.store,
        switch_times=settings["taus"],
        rows=parse_rows(settings["rows"]),
        noises=settings["noises"],
        labelled=bool(classes(job.store)),
        grid=options.saved_grid(settings),
        path=job.oracle.path,
        solver=settings["solver"],
        edges=None if edges is None else parse_positive(edges, "--edges"),
        seed=settings["seed"],
    )


def _report(output: OutputFolder, job: MixRun) -> None:
    """Draw all parts of the folder, and print what they show; those just asked for first."""
    import torch

    from floracle.report.mix import words as mix_words
    from floracle.report.mix.page import write_mix_report
    from floracle.run.images import display_for
    from floracle.run.results import setting_of

    results, settings, store = _load_parts(output, job.name), output.settings, job.store
    facts = {
        "field": settings["field"],
        "data": store.name,
        "data fingerprint": store.fingerprint,
        **options.path_settings(setting_of(settings, "path")),
        "grid": f"{settings['grid']} steps, shift {settings['shift']:g}",
        **job.start,
    }
    few_points = store.take(torch.arange(min(len(store), 64)))  # which set the range of display
    display = display_for(store.shape, store.picture_range, few_points)
    page = write_mix_report(results, output.path, display=display, facts=facts)
    for result in _split_kinds(results, list(job.parts)):
        show_wide_table(mix_words.switch_table(result.switch), "the oracle until τ")
        show_wide_table(mix_words.landing_table(result.landings), "the oracle from τ on")
        show_wide_table(mix_words.resume_table(result.resume), "from held-out points at τ")
        for sentence in mix_words.story(result):
            say(sentence)
    say(f"report: {visible(str(page))}")


def _load_parts(output: OutputFolder, name: str) -> MixResults:
    """All parts in the folder, those of earlier runs included."""
    from floracle.analysis.mixing.field_switching import SwitchResult
    from floracle.analysis.mixing.forward_backward import ForwardBackwardResult
    from floracle.analysis.mixing.landing_test import LandingResult
    from floracle.report.mix.words import MixResults
    from floracle.run.results import has_result, load_results

    parts: dict[str, Results] = {}
    for folder in sorted(output.path.iterdir()):
        if not re.fullmatch(PART_FOLDER, folder.name) or not has_result(folder):
            continue
        results = load_results(folder, part=folder.name)
        if {key: results.settings.get(key) for key in output.settings} != output.settings:
            raise InputError(f"{folder} is part of another run; remove it")
        if command := results.provenance.get("command"):  # of an earlier version, perhaps
            today = {**results.provenance, "command": current_command(command)}
            results = replace(results, provenance=today)
        parts[folder.name] = results
    landings = [
        LandingResult.of_results(results)
        for part, results in parts.items()
        if part.startswith(LANDING)
    ]
    return MixResults(
        name,
        switch=SwitchResult.of_results(parts[SWITCH]) if SWITCH in parts else None,
        landings={
            result.switch_time: result
            for result in sorted(landings, key=lambda landing: landing.switch_time)
        },
        resume=ForwardBackwardResult.of_results(parts[RESUME]) if RESUME in parts else None,
    )


def _split_kinds(results: MixResults, asked_parts: list[str]) -> list[MixResults]:
    """The kinds of parts, each for itself: those that were just asked for come first."""
    kinds = {
        SWITCH: replace(results, landings={}, resume=None) if results.switch is not None else None,
        LANDING: replace(results, switch=None, resume=None) if results.landings else None,
        RESUME: replace(results, switch=None, landings={}) if results.resume is not None else None,
    }
    order = sorted(kinds, key=lambda kind: not any(part.startswith(kind) for part in asked_parts))
    return [result for kind in order if (result := kinds[kind]) is not None]
