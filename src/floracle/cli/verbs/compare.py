"""`floracle compare`: the stages of several data sets, spaces or classes on one page."""

from __future__ import annotations

import shlex
from pathlib import Path

from floracle.cli.counts import Whole
from floracle.cli.data_options import DataOptions, PathName
from floracle.cli.output import Out, check_out, output_of

OPENING = DataOptions()


def compare(
    *data: str,
    out: Out = None,
    names: str | None = None,
    opening: DataOptions = OPENING,
    classes: str = "both",
    pairs: Whole = 512,
    times: Whole = 50,
    seed: Whole = 0,
    memory: str | None = None,
    path: PathName = "linear",
) -> Path:
    """Measure several data sets, or take measured ones, and write one page that compares them.

    A folder that floracle stages wrote is taken as it is: measure there what needs options of its
    own (labels, flips, layouts). Everything else is measured first.

    Parameters
    ----------
    data
        Two to six data sets, or folders that floracle stages wrote.
    opening
        How data is read.
    out
        Folder for the page and its numbers; runs/compare-NAMES by default.
    names
        What to call them, with commas between.
    classes
        each, whole, both, or labels like 0,3,5.
    pairs
        Pairs of data and noise drawn for each class.
    times
        Times between noise and data.
    seed
        Where the random draws start.
    memory
        How much may be used, like 4G; half of what is free by default.
    path
        The path from noise to data.
    """
    from floracle.cli.console import note, say, show_table
    from floracle.report.comparison.page import COLOURS, space, write_comparison
    from floracle.report.names import visible
    from floracle.run.errors import InputError

    from .stages import stages

    if not 2 <= len(data) <= len(COLOURS):
        raise InputError(f"name 2 to {len(COLOURS)} data sets to compare, got {len(data)}")
    called = _names(data, names)
    check_out(out, "compare", *(where for where in data if _measured(where) is None))
    chosen = {"classes": classes, "pairs": pairs, "times": times, "seed": seed, "path": path}
    settings = {"data": list(data), "names": called, **chosen, "opening": opening.words()}
    default = Path("runs") / f"compare-{'-'.join(map(_plain, called))}"
    with output_of("compare", out, default, settings, results=[]) as output:
        folders = []
        for where, name in zip(data, called, strict=True):
            measured = _measured(where)
            if measured is None:
                note(f"measuring {name}")
                measured = output.path / _plain(name)
                stages(where, opening=opening, out=measured, memory=memory, **chosen)
            folders.append(measured)
        spaces = [space(there, name) for there, name in zip(folders, called, strict=True)]
        words = ["floracle", "compare", *data, *(["--names", names] if names else [])]
        words += [*opening.words(), *_changed(**chosen)]
        page = write_comparison(spaces, output.path, command=shlex.join(words))
        _summarise(spaces, say, show_table)
        say(f"comparison: {visible(str(page))}")
    return output.path


def _changed(**options: str | int) -> list[str]:
    """The options as they are typed, those left alone left out."""
    from inspect import signature

    usual = signature(compare).parameters
    return [
        word
        for name, value in options.items()
        if value != usual[name].default
        for word in (f"--{name}", str(value))
    ]


def _measured(where: str) -> Path | None:
    """The folder of stages that `where` names, if it is one."""
    return Path(where) if (Path(where) / "result.json").is_file() else None


def _names(data: tuple[str, ...], names: str | None) -> list[str]:
    """What to call each: as asked, or by the last part of its path, told apart by numbers."""
    from floracle.run.errors import InputError

    if names is not None:
        called = [name.strip() for name in names.split(",")]
        if len(called) != len(data) or len(set(map(_plain, called))) < len(data) or "" in called:
            raise InputError(f"--names needs {len(data)} different names with commas between")
        return called
    short = [Path(where).name.removeprefix("stages-").split(".")[0] or where for where in data]
    if len(set(map(_plain, short))) == len(short):
        return short
    return [f"{name} {i + 1}" for i, name in enumerate(short)]


def _plain(name: str) -> str:
    from floracle.cli.parsing import plain

    return plain(name, "data")


def _summarise(spaces, say, show_table) -> None:  # noqa: ANN001
    from floracle.report.comparison.page import differences, headline
    from floracle.report.formatting import format_landmark, format_prediction, format_time

    rows = [
        (
            one.name,
            f"{one.main.points:,}",
            f"{one.stages.dims:,}",
            format_landmark(one.main, "centre"),
            format_time(one.main.collapse.value),
            format_prediction(one.main, "collapse"),
            format_time(one.main.end.value),
            f"{one.density:.2g}",
        )
        for one in spaces
    ]
    head = ("", "points", "dims", "centre", "collapse", "(predicted)", "end", "nats a dimension")
    show_table(head, rows)
    say(headline(spaces))
    for sentence in differences(spaces):
        say(sentence)
