"""`floracle inspect`: what a data set is, its traps, what it costs, which flags to use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from floracle.cli.data_options import DataOptions
from floracle.cli.output import Out, check_out, output_of

if TYPE_CHECKING:
    from floracle.analysis.inspection import Inspection
    from floracle.data.store import Store

OPENING = DataOptions()
SHOWN = 12
"""Classes and channels listed on the terminal at most."""


def inspect(
    data: str,
    /,
    *,
    opening: DataOptions = OPENING,
    verify: bool = False,
    memory: str | None = None,
    json_: bool = False,
    out: Out = None,
) -> Path | None:
    """Say what a data set is before anything is measured, and which flags to use.

    Choices that a stages run would ask for are made provisionally here, and named.

    Parameters
    ----------
    data
        Pictures, arrays, idx, latents of other projects, digits, or gaussian:POINTSxDIMS.
    opening
        How data is read.
    verify
        Read all of a packed store first, and check it against its checksums.
    memory
        How much may be used, like 4G; half of what is free by default.
    json_
        Print everything as JSON and nothing else.
    out
        A folder to keep it in, as JSON.
    """
    from floracle.analysis.inspection import inspect as described
    from floracle.cli.console import say

    check_out(out, "inspect", data)
    checked = _verified(data) if verify else None
    store, used, open_questions = _opened(data, opening, memory)
    found = described(store, moments=used.moments or "samples", memory=memory)
    if out is not None:
        settings = {"data": store.fingerprint, **used.settings()}
        with output_of("inspect", out, out, settings, data=[store]) as output:
            output.save(found)
    if json_:
        content = dict(found.to_results().values)
        content |= {"flags": _flags(data, used), "to_choose": open_questions}
        content |= {"verified": checked} if checked else {}
        say(json.dumps(content, indent=1, sort_keys=True))
        return out
    if checked:
        say(f"{'verified':<18}{checked}")
    _show(found, data, used, open_questions)
    return out


def _verified(data: str) -> str:
    """Check a packed store; what was checked."""
    from floracle.data.packed.verify import verify
    from floracle.report.formatting import format_bytes

    manifest = verify(data)
    return f"{len(manifest.sealed)} files, {format_bytes(manifest.size)}: all are as packed"


CHOICES: tuple[tuple[str, str, str], ...] = (
    (
        "layout",
        "repa",
        "--layout repa or --layout edm2: the files of both look alike; repa is taken meanwhile",
    ),
    (
        "moments",
        "mean",
        "--moments mean, sample or gaussian: every sample is stored as a Gaussian; its mean is"
        " taken meanwhile",
    ),
    (
        "flips",
        "no",
        "--flips or --no-flips: mirrors are stored, and double the set where they count; none are"
        " taken meanwhile",
    ),
)
"""What opening may ask for, what is taken meanwhile, and how the question reads."""


def _opened(
    data: str, opening: DataOptions, memory: str | None
) -> tuple[Store, DataOptions, list[str]]:
    """The data, the options it was opened with, and the questions left open."""
    from floracle.run.errors import InputError

    left: list[str] = []
    for _ in CHOICES:
        try:
            return opening.store(data, memory), opening, left
        except InputError as mistake:
            asked = _asked_for(str(mistake), opening)
            if asked is None:
                raise
            name, value, question = asked
            opening = replace(opening, **{name: False if name == "flips" else value})
            left.append(question)
    return opening.store(data, memory), opening, left


def _asked_for(words: str, opening: DataOptions) -> tuple[str, str, str] | None:
    """The choice that a mistake asks for, if it asks for one that is not made yet."""
    for choice in CHOICES:
        if f"{choice[0]}=" in words and getattr(opening, choice[0]) is None:
            return choice
    return None


def _flags(data: str, opening: DataOptions) -> str:
    import shlex

    return shlex.join(["floracle", "stages", data, *opening.words()])


def _show(found: Inspection, data: str, used: DataOptions, open_questions: Sequence[str]) -> None:
    from floracle.cli.console import as_typed, say, show_table
    from floracle.report.formatting import format_bytes, format_duration

    near = found.neighbourhood
    seconds = found.cost.seconds
    taking = "seconds" if seconds < 5 else f"about {format_duration(seconds)}"
    facts = {
        "layout": found.layout,
        "points": f"{found.points:,} of shape {' × '.join(map(str, found.shape))}",
        "stored": f"{found.dtype}, {format_bytes(found.size)}",
        "classes": _classes(found),
        "points are": found.moments + (", mirrors among them" if found.flips else ""),
        "exact duplicates": f"{found.duplicates:,}" if found.duplicates else "none",
        "near-duplicates": _near(near),
        "NaN or infinite": "none",
        "a stages run": f"{taking} on this machine, {format_bytes(found.cost.memory)} at the peak",
        "fingerprint": found.fingerprint,
    }
    for name, fact in facts.items():
        say(f"{name:<18}{fact}")
    channels = found.channels
    listed = [
        (str(i), *(f"{channels[name][i]:.4g}" for name in ("mean", "std", "low", "high")))
        for i in range(min(len(channels["mean"]), SHOWN))
    ]
    show_table(("channel", "mean", "std", "lowest", "highest"), listed)
    if len(channels["mean"]) > SHOWN:
        say(f"… and {len(channels['mean']) - SHOWN} channels more (--json has them)")
    for remark in found.remarks:
        say(f"note: {as_typed(remark)}")
    for question in open_questions:
        say(f"choose {question}")
    say(f"then: {_flags(data, used)}")


def _classes(found: Inspection) -> str:
    sizes = found.classes
    if set(sizes) == {"none"}:
        return "none"
    few = ", ".join(f"{name} ({count:,})" for name, count in list(sizes.items())[:SHOWN])
    return few + (f", … {len(sizes)} in all" if len(sizes) > SHOWN else "")


def _near(near) -> str:  # noqa: ANN001
    if not near.near:
        return f"none among {near.sampled} rows looked at"
    pairs = ", ".join(f"{a} and {b}" for a, b, _ in near.near[:4])
    return (
        f"{len(near.near)} of {near.sampled} rows looked at have a neighbour under a third of the"
        f" usual distance: {pairs}" + (", …" if len(near.near) > 4 else "")
    )
