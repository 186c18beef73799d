"""`floracle stages`: measure the two stages of a data set and write a report.

Each class is saved as soon as it is measured, so the same command goes on where it was stopped, to
the same numbers bit for bit. With result.json in place it answers at once.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from floracle.cli import options
from floracle.cli.console import say, say_facts
from floracle.cli.data_options import (
    DATA_DEFAULTS,
    HELD_OUT_DEFAULTS,
    DataOptions,
    HeldOutOptions,
)
from floracle.cli.parsing import check_seed, default_folder, parse_classes
from floracle.cli.tables import show_table
from floracle.cli.verb_run import check_out, run_verb
from floracle.report.names import visible
from floracle.run.errors import InputError
from floracle.run.processes import current_group, process_memory

if TYPE_CHECKING:
    from floracle.analysis.cost.stages_shape import StagesShape
    from floracle.analysis.stages.resumable import ResumableStages
    from floracle.data.store import Store

MAX_CLASSES_SHOWN = 24
"""Classes listed on the terminal; the report has all."""
TimeCount = Annotated[options.Count, Parameter(help="Number of times between noise and data.")]


def stages(
    data: str,
    /,
    *,
    data_options: DataOptions = DATA_DEFAULTS,
    out: options.Out = None,
    classes: options.Classes = "both",
    pairs: options.Pairs = 512,
    times: TimeCount = 50,
    seed: options.Seed = 0,
    held_out_options: HeldOutOptions = HELD_OUT_DEFAULTS,
    deep: bool = False,
    dry_run: bool = False,
    memory: options.Memory = None,
    device: options.Device = "cpu",
    path: options.PathName = "linear",
) -> Path | None:
    """Measure where navigation ends in a data set, and write a report.

    The same command again goes on where it was stopped, or answers at once.

    Parameters
    ----------
    data
        Pictures, arrays, idx files, latents of other projects, digits, or gaussian:POINTSxDIMS.
    out
        Folder for the report and its numbers. Default: runs/stages-NAME.
    deep
        Also compare simple fields with the oracle, and follow trajectories; many more queries.
    dry_run
        Print what the run would take, and stop.
    """
    arguments = dict(locals())  # first, while the options are all there is
    from floracle.analysis.cost.memory_needs import check_memory
    from floracle.analysis.cost.stages_shape import StagesShape, oracle_memory
    from floracle.analysis.stages.plan import MIN_TIMES
    from floracle.analysis.stages.resumable import ResumableStages
    from floracle.core.point_set import classes as labels_in

    # 1. What needs no data is checked first.
    check_seed(seed)
    if pairs < 2 or times < MIN_TIMES:
        raise InputError(
            f"at least 2 --pairs and {MIN_TIMES} --times are needed, got {pairs} and {times}"
        )
    group = current_group()
    device = options.device_for(device, group)
    # 2. Data, and whether its stages fit the memory.
    if group.first:
        check_out(out, "stages", data)
        options.note_path(path)
    memory_share = process_memory(memory, group)
    store = data_options.open(data, memory_share)
    other = held_out_options.open(store, data_options, memory_share)
    labels = parse_classes(classes, labels_in(store), store.classes)
    _check_held_out(other, labels)
    plan = StagesShape(
        store, tuple(labels), pairs, times, held_out=other, deep=deep, memory=memory_share
    )
    check_memory(plan)
    if dry_run:
        _say_cost(plan)
        return None
    if deep and store.stds is not None:
        raise InputError("--deep compares fields of points; open the data with --moments mean")
    # 3. The question, and what the report says of where its numbers come from.
    settings = {
        "times": times,
        "pairs": pairs,
        "classes": labels,
        "seed": seed,
        "path": path,
        **data_options.settings(),
        "data": store.fingerprint,
        "held_out": other.fingerprint if other is not None else None,
    }
    facts = {
        "name": store.name,
        "layout": store.layout,
        "shape": list(store.shape),
        "points": len(store),
        "duplicates": store.duplicates,
        "held_out": f"{other.name}, {len(other):,} points" if other is not None else None,
        "command": options.command_of(stages, arguments),
        "remarks": list(store.remarks) or None,
        "mirrored": store.flips,
    }
    facts = {name: fact for name, fact in facts.items() if fact is not None}
    oracle_bytes = oracle_memory(store, memory_share)
    oracle = options.make_oracle(store, path, memory=oracle_bytes, device=device, group=group)
    return run_verb(
        "stages",
        out,
        default_folder("stages", data),
        settings,
        compute=lambda output: _measure(
            ResumableStages(oracle, output, held_out=other), store, facts
        ),
        report=lambda output: _report(ResumableStages(oracle, output, held_out=other), deep=deep),
        group=group,
        data=[store, other],
    )


def _check_held_out(held_out: Store | None, labels: list[int]) -> None:
    from floracle.core.point_set import classes as labels_in

    if held_out is None:
        return
    absent = [label for label in labels if label >= 0 and label not in labels_in(held_out)]
    if absent:
        raise InputError(
            f"the held-out data has no point of class {absent[0]}; choose --classes that it has"
        )


def _say_cost(plan: StagesShape) -> None:
    """Print what the run would take."""
    from floracle.analysis.cost.estimate import estimate_cost
    from floracle.report.formatting import format_bytes, format_duration

    cost = estimate_cost(plan)
    longest = sorted(cost.phases.items(), key=lambda phase: -phase[1])[:3]
    facts = {
        "groups": f"{cost.classes:,} of {len(plan.store):,} points",
        "reads": format_bytes(cost.read) if cost.read else "nothing more; the points are held",
        "operations": f"{cost.operations:.2g}",
        "memory": f"{format_bytes(cost.memory)} at the peak",
        "time": f"about {format_duration(cost.seconds)} on this machine, opening the data aside",
        "mostly": ", ".join(f"{name} {format_duration(seconds)}" for name, seconds in longest),
    }
    say_facts(facts, width=12)


def _measure(run: ResumableStages, store: Store, facts: dict[str, Any]) -> None:
    """Measure, and save with example pictures; the first process writes."""
    from floracle.oracle.oracle import Oracle
    from floracle.report.stages.examples import examples
    from floracle.report.stages.write import EXAMPLES

    result = run.stages()
    if not run.output.group.first:
        return
    result = replace(result, provenance={**result.provenance, **facts})
    # The other processes wait: what follows is small, and only the first one writes.
    oracle = run.oracle.alone() if isinstance(run.oracle, Oracle) else run.oracle
    followed = examples(oracle, result, store)
    run.write_timing()
    run.output.save(followed, EXAMPLES)
    run.output.save(result)  # last: with result.json the folder is complete


def _report(run: ResumableStages, *, deep: bool) -> None:
    """Analyse trajectories where that is asked for, draw what has changed, print the landmarks."""
    from floracle.analysis.stages.result import Stages
    from floracle.analysis.trajectories.trajectory_analysis import analyse_trajectories
    from floracle.oracle.oracle import Oracle
    from floracle.report.stages.write import DEEP, is_report_current, write_stages_report
    from floracle.run.results import has_result, load_results

    folder = run.output.path
    if deep and not has_result(folder / DEEP):
        assert isinstance(run.oracle, Oracle)
        result = Stages.of_results(load_results(folder))
        oracle, seed = run.oracle.alone(), run.settings["seed"]
        run.output.save(analyse_trajectories(oracle, result, seed=seed), DEEP)
    if not is_report_current(folder):
        write_stages_report(folder)
    run.output.clear_parts()
    _say_landmarks(folder)
    say(f"report: {visible(str(folder / 'report.html'))}")


def _say_landmarks(folder: Path) -> None:
    """Print the landmarks of the classes, the pooled ones and those of the whole set."""
    from floracle.analysis.stages.result import Stages
    from floracle.report.formatting import (
        format_interval,
        format_landmark,
        format_prediction,
        format_time,
    )
    from floracle.report.stages import words
    from floracle.run.results import load_results

    result = Stages.of_results(load_results(folder))
    groups = sorted(result.groups, key=lambda group: (group.label < 0, abs(group.label)))
    listed = [group for group in groups if group.label >= 0][:MAX_CLASSES_SHOWN]
    listed += [group for group in groups if group.label < 0]  # the whole set, the classes pooled
    rows = [
        (
            result.name(group.label),
            f"{group.points:,}",
            format_landmark(group, "centre"),
            format_prediction(group, "centre"),
            format_time(group.collapse.value),
            format_prediction(group, "collapse"),
            format_time(group.end.value),
            format_interval(group.end),
        )
        for group in listed
    ]
    head = ("", "points", "centre", "(predicted)", "collapse", "(predicted)", "end", "95 %")
    show_table(head, rows)
    if len(listed) < len(groups):
        say(f"… and {len(groups) - len(listed)} classes more in the report")
    say(words.headline(result))
    for sentence in filter(None, [words.single_points(result), words.law(result.main)]):
        say(sentence)
