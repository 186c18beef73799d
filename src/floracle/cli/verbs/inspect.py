"""`floracle inspect`: what a data set is, its traps, what it costs, which flags to use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from floracle.cli.console import as_typed, say, say_facts
from floracle.cli.data_options import DATA_DEFAULTS, DataOptions
from floracle.cli.options import Memory, Out, typed_options
from floracle.cli.tables import show_table
from floracle.cli.verb_run import check_out, open_results
from floracle.run.errors import InputError

if TYPE_CHECKING:
    from floracle.analysis.inspection import Inspection, Neighbourhood
    from floracle.data.store import Store

MAX_SHOWN = 12
"""Classes and channels listed on the terminal."""


def inspect(
    data: str,
    /,
    *,
    data_options: DataOptions = DATA_DEFAULTS,
    verify: bool = False,
    memory: Memory = None,
    json_: bool = False,
    out: Out = None,
) -> Path | None:
    """Describe a data set: what it is, its traps, and which flags to use.

    Choices that a stages run would ask for are made provisionally here, and named.

    Parameters
    ----------
    data
        Pictures, arrays, idx files, latents of other projects, digits, or gaussian:POINTSxDIMS.
    verify
        First read all of a packed store, and check it against its checksums.
    json_
        Print everything as JSON and nothing else.
    out
        Folder for the same as JSON. Default: none.
    """
    from floracle.analysis.inspection import inspect as inspect_store

    check_out(out, "inspect", data)  # before --verify reads all of the data
    verified = _verify(data) if verify else None
    store, used, questions = _open(data, data_options, memory)
    result = inspect_store(store, moments=used.moments or "samples", memory=memory)
    if out is not None:
        settings = {"data": store.fingerprint, **used.settings()}
        with open_results("inspect", out, out, settings, data=[store]) as output:
            output.save(result)
    if json_:  # nothing but JSON on standard output, so that a program can read it
        content = dict(result.to_results().values)
        content |= {"flags": _next_command(data, used), "to_choose": questions}
        content |= {"verified": verified} if verified else {}
        say(json.dumps(content, indent=1, sort_keys=True))
        return out
    if verified:
        say(f"{'verified':<18}{verified}")
    _print(result, _next_command(data, used), questions)
    return out


def _verify(data: str) -> str:
    """Check a packed store; returns what was checked."""
    from floracle.data.packing.verify import verify
    from floracle.report.formatting import format_bytes

    manifest = verify(data)
    return f"{len(manifest.all_files)} files, {format_bytes(manifest.size)}: all are as packed"


class Choice(NamedTuple):
    """What the files cannot tell, what is assumed provisionally, and the question to the user."""

    option: str
    assumed: Any
    question: str


CHOICES = (
    Choice(
        "layout",
        "repa",
        "--layout repa or --layout edm2: the files of both look alike; repa is taken meanwhile",
    ),
    Choice(
        "moments",
        "mean",
        "--moments mean, sample or gaussian: every sample is stored as a Gaussian; its mean is"
        " taken meanwhile",
    ),
    Choice(
        "flips",
        False,
        "--flips or --no-flips: mirrors are stored, and double the set where they count; none are"
        " taken meanwhile",
    ),
)


def _open(
    data: str, data_options: DataOptions, memory: str | None
) -> tuple[Store, DataOptions, list[str]]:
    """The data, the options it was opened with, and the questions that are open."""
    questions: list[str] = []
    # Each refusal names one choice, so that as many attempts are enough.
    for _ in CHOICES:
        try:
            return data_options.open_store(data, memory), data_options, questions
        except InputError as error:
            choice = _choice_named_in(str(error), data_options)
            if choice is None:
                raise
            data_options = replace(data_options, **{choice.option: choice.assumed})
            questions.append(choice.question)
    return data_options.open_store(data, memory), data_options, questions


def _choice_named_in(message: str, data_options: DataOptions) -> Choice | None:
    """The choice that an error names, unless it is made already."""
    for choice in CHOICES:
        if f"{choice.option}=" in message and getattr(data_options, choice.option) is None:
            return choice
    return None


def _next_command(data: str, data_options: DataOptions) -> str:
    import shlex

    return shlex.join(["floracle", "stages", data, *typed_options(data_options)])


def _print(result: Inspection, command: str, questions: Sequence[str]) -> None:
    from floracle.report.formatting import format_bytes, format_duration

    seconds, peak = result.cost.seconds, format_bytes(result.cost.memory)
    duration = "seconds" if seconds < 5 else f"about {format_duration(seconds)}"
    facts = {
        "layout": result.layout,
        "points": f"{result.points:,} of shape {' × '.join(map(str, result.shape))}",
        "stored": f"{result.dtype}, {format_bytes(result.size)}",
        "classes": _class_sizes(result),
        "points are": result.moments + (", mirrors among them" if result.flips else ""),
        "exact duplicates": f"{result.duplicates:,}" if result.duplicates else "none",
        "near-duplicates": _near_duplicates(result.neighbourhood),
        "NaN or infinite": "none",
        "a stages run": f"{duration} on this machine, {peak} at the peak",
        "fingerprint": result.fingerprint,
    }
    say_facts(facts)
    channels = result.channels
    count = len(channels["mean"])
    rows = [
        (str(i), *(f"{channels[name][i]:.4g}" for name in ("mean", "std", "low", "high")))
        for i in range(min(count, MAX_SHOWN))
    ]
    show_table(("channel", "mean", "std", "lowest", "highest"), rows)
    if count > MAX_SHOWN:
        say(f"… and {count - MAX_SHOWN} channels more (--json has them)")
    for remark in result.remarks:
        say(f"note: {as_typed(remark)}")
    for question in questions:
        say(f"choose {question}")
    say(f"then: {command}")


def _class_sizes(result: Inspection) -> str:
    sizes = result.classes
    if set(sizes) == {"none"}:
        return "none"
    few = ", ".join(f"{name} ({count:,})" for name, count in list(sizes.items())[:MAX_SHOWN])
    return few + (f", … {len(sizes)} in all" if len(sizes) > MAX_SHOWN else "")


def _near_duplicates(neighbourhood: Neighbourhood) -> str:
    near, count = neighbourhood.near, neighbourhood.sampled
    if not near:
        return f"none among {count} rows looked at"
    pairs = ", ".join(f"{a} and {b}" for a, b, _ in near[:4])
    return (
        f"{len(near)} of {count} rows looked at have a neighbour under a third of the usual"
        f" distance: {pairs}" + (", …" if len(near) > 4 else "")
    )
