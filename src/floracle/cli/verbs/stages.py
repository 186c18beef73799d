"""`floracle stages`: measure the two stages of a data set and write a report.

Classes are kept as soon as they are measured, so that the same command goes on where
it was stopped, to the same numbers bit for bit. With result.json in place it answers at once.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from floracle.cli.counts import Whole
from floracle.cli.data_options import DataOptions, PathName, oracle_of, show_remarks
from floracle.cli.output import Out, check_out, output_of

if TYPE_CHECKING:
    from floracle.analysis.memory_needs import StagesRun
    from floracle.analysis.stages.result import Stages
    from floracle.analysis.stages.resumable import ResumableStages
    from floracle.data.store import Store

OPENING = DataOptions()


def stages(
    data: str,
    /,
    *,
    opening: DataOptions = OPENING,
    out: Out = None,
    classes: str = "both",
    pairs: Whole = 512,
    times: Whole = 50,
    seed: Whole = 0,
    held_out: str | None = None,
    deep: bool = False,
    dry_run: bool = False,
    memory: str | None = None,
    device: str = "cpu",
    path: PathName = "linear",
) -> Path | None:
    """Measure where navigation ends in a data set, and write a report.

    The same command again goes on where it was stopped, or answers at once.

    Parameters
    ----------
    data
        Pictures, arrays, idx, latents of other projects, digits, or gaussian:POINTSxDIMS.
    opening
        How data is read.
    out
        Folder for the report and its numbers; runs/stages-NAME by default.
    classes
        each, whole, both, or labels like 0,3,5.
    pairs
        Pairs of data and noise drawn for each class.
    times
        Times between noise and data.
    seed
        Where the random draws start.
    held_out
        Data of the same kind that the training set does not hold.
    deep
        Look deeper: simple fields beside the oracle, trajectories, layout and detail.
    dry_run
        Say what it would take, and stop.
    memory
        How much may be used, like 4G; half of what is free by default.
    device
        cpu or cuda:0.
    path
        The path from noise to data.
    """
    from floracle.analysis.memory_needs import StagesRun, check_memory, oracle_memory
    from floracle.analysis.stages.measure import FEWEST
    from floracle.analysis.stages.resumable import ResumableStages
    from floracle.cli.console import say
    from floracle.cli.parsing import checked_seed, classes_of, folder_for
    from floracle.core.point_set import classes as labels_in
    from floracle.report.names import visible
    from floracle.run.budget import choose_device
    from floracle.run.errors import InputError
    from floracle.run.processes import current_group, process_device, process_memory

    checked_seed(seed)
    if pairs < 2 or times < FEWEST:
        raise InputError(
            f"at least 2 --pairs and {FEWEST} --times are needed, got {pairs} and {times}"
        )
    group = current_group()
    device = str(choose_device(process_device(device, group)))
    if group.first:
        check_out(out, "stages", data)
    store = opening.store(data, process_memory(memory, group))
    show_remarks(store)
    other = None if held_out is None else opening.held_out(held_out, store, memory)
    chosen = classes_of(classes, labels_in(store))
    _check_held_out(other, chosen)
    own = process_memory(memory, group)
    planned = StagesRun(store, tuple(chosen), pairs, times, held_out=other, deep=deep, memory=own)
    check_memory(planned)
    if dry_run:
        _say_cost(planned)
        return None
    settings = {
        "times": times,
        "pairs": pairs,
        "classes": chosen,
        "seed": seed,
        "path": path,
        **opening.settings(),
        "data": store.fingerprint,
        "held_out": other.fingerprint if other is not None else None,
    }
    asked = {"--classes": classes, "--held-out": held_out, "--path": path}
    asked |= {"--pairs": pairs, "--times": times, "--seed": seed}
    facts = {
        "name": store.name,
        "layout": store.layout,
        "shape": list(store.shape),
        "points": len(store),
        "duplicates": store.duplicates,
        "held_out": _held_out_words(other),
        "command": _command(data, opening, asked),
        "remarks": list(store.remarks) or None,
        "mirrored": store.flips,
    }
    if deep and store.stds is not None:
        raise InputError("--deep compares fields of points; open the data with --moments mean")
    room = oracle_memory(store, own)
    oracle = oracle_of(store, path, memory=room, device=device, group=group)
    default = folder_for("stages", data)
    with output_of("stages", out, default, settings, group=group, data=[store, other]) as output:
        _finish(
            StagesJob(ResumableStages(oracle, output, held_out=other), store, facts), deep=deep
        )
    if group.first:
        _summarise(output.path)
    say(f"report: {visible(str(output.path / 'report.html'))}")
    return output.path


def _say_cost(planned: StagesRun) -> None:
    """What the run would take, on the terminal."""
    from floracle.analysis.cost import estimate_cost
    from floracle.cli.console import say
    from floracle.report.formatting import format_bytes, format_duration

    found = estimate_cost(planned)
    longest = sorted(found.phases.items(), key=lambda phase: -phase[1])[:3]
    facts = {
        "groups": f"{found.classes:,} of {len(planned.store):,} points",
        "reads": format_bytes(found.read) if found.read else "nothing more; the points are held",
        "operations": f"{found.operations:.2g}",
        "memory": f"{format_bytes(found.memory)} at the peak",
        "time": f"about {format_duration(found.seconds)} on this machine, opening the data aside",
        "mostly": ", ".join(f"{name} {format_duration(seconds)}" for name, seconds in longest),
    }
    for name, fact in facts.items():
        say(f"{name:<12}{fact}")


@dataclass(frozen=True)
class StagesJob:
    """What is measured, and what is said of it."""

    kept: ResumableStages
    store: Store
    facts: dict[str, Any]


def _finish(job: StagesJob, *, deep: bool) -> None:
    """Measure what is not there yet, and draw it; the first process writes."""
    from floracle.run.exchange import broadcast_from_first
    from floracle.run.results import stored_answer

    output = job.kept.output
    there = output.group.first and stored_answer(output.path, output.settings) is not None
    stages = None if broadcast_from_first(output.group, [there])[0] else job.kept.stages()
    if output.group.first:
        _write(job, stages, deep=deep)


def _write(job: StagesJob, stages: Stages | None, *, deep: bool) -> None:
    """Save stages that are new, look deeper where that is asked, draw what has changed."""
    from floracle.oracle.oracle import Oracle
    from floracle.report.stages.examples import examples
    from floracle.report.stages.write import EXAMPLES, draw, is_drawn

    kept, output, oracle = job.kept, job.kept.output, job.kept.oracle
    oracle = oracle.alone() if isinstance(oracle, Oracle) else oracle
    if stages is not None:
        facts = {key: value for key, value in job.facts.items() if value is not None}
        stages = replace(stages, provenance={**stages.provenance, **facts})
        shown = examples(oracle, stages, job.store)
        kept.write_timing()
        output.save(shown, EXAMPLES)
        output.save(stages)  # last, so that with it all is there
    if deep:
        _look_deeper(replace(kept, oracle=oracle))
    if not is_drawn(output.path):
        draw(output.path)
    output.clear_parts()


def _look_deeper(kept: ResumableStages) -> None:
    """Look deeper where that was not done yet."""
    from floracle.analysis.saved import stages_of_results
    from floracle.analysis.trajectories.trajectory_analysis import analyse_trajectories
    from floracle.oracle.oracle import Oracle
    from floracle.report.stages.write import DEEP
    from floracle.run.results import has_result, load_results

    output = kept.output
    if has_result(output.path / DEEP):
        return
    assert isinstance(kept.oracle, Oracle)
    stages = stages_of_results(load_results(output.path))
    output.save(analyse_trajectories(kept.oracle, stages, seed=kept.settings["seed"]), DEEP)


def _check_held_out(other: Store | None, chosen: list[int]) -> None:
    from floracle.core.point_set import classes as labels_in
    from floracle.run.errors import InputError

    if other is None:
        return
    absent = [label for label in chosen if label >= 0 and label not in labels_in(other)]
    if absent:
        raise InputError(
            f"the held-out data has no point of class {absent[0]}; choose --classes that it has"
        )


def _held_out_words(other: Store | None) -> str | None:
    return f"{other.name}, {len(other):,} points" if other is not None else None


def _command(data: str, opening: DataOptions, asked: dict[str, Any]) -> str:
    """What to type to measure the same again."""
    words = ["floracle", "stages", data, *opening.words()]
    usual = {"--classes": "both", "--path": "linear"}
    for option, value in asked.items():
        if value is not None and value != usual.get(option):
            words += [option, str(value)]
    return shlex.join(words)


SHOWN = 24
"""Classes on the terminal at most; the report has them all."""


def _summarise(folder: Path) -> None:
    """The landmarks on the terminal."""
    from floracle.analysis.saved import stages_of_results
    from floracle.cli.console import say, show_table
    from floracle.report.formatting import (
        format_interval,
        format_landmark,
        format_prediction,
        format_time,
    )
    from floracle.report.stages import words
    from floracle.run.results import load_results

    found = stages_of_results(load_results(folder))
    groups = sorted(found.groups, key=lambda g: (g.label < 0, abs(g.label)))
    shown = [*[g for g in groups if g.label >= 0][:SHOWN], *[g for g in groups if g.label < 0]]
    rows = [
        (
            found.name(group.label),
            f"{group.points:,}",
            format_landmark(group, "centre"),
            format_prediction(group, "centre"),
            format_time(group.collapse.value),
            format_prediction(group, "collapse"),
            format_time(group.end.value),
            format_interval(group.end),
        )
        for group in shown
    ]
    head = ("", "points", "centre", "(predicted)", "collapse", "(predicted)", "end", "95 %")
    show_table(head, rows)
    if len(shown) < len(groups):
        say(f"… and {len(groups) - len(shown)} classes more in the report")
    say(words.headline(found))
    for sentence in filter(None, [words.single_points(found), words.law(found.main)]):
        say(sentence)
