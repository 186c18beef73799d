"""`floracle compare`: the stages of several data sets, spaces or classes on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from floracle.cli import options
from floracle.cli.console import note_progress, say
from floracle.cli.data_options import DATA_DEFAULTS, DataOptions
from floracle.cli.parsing import folder_name
from floracle.cli.tables import show_table
from floracle.cli.verb_run import check_out, run_verb
from floracle.report.names import visible
from floracle.run.errors import InputError

from .stages import TimeCount

if TYPE_CHECKING:
    from floracle.report.comparison.page import DataSpace
    from floracle.run.output_folder import OutputFolder


def compare(
    *data: str,
    out: options.Out = None,
    names: str | None = None,
    data_options: DataOptions = DATA_DEFAULTS,
    classes: options.Classes = "both",
    pairs: options.Pairs = 512,
    times: TimeCount = 50,
    seed: options.Seed = 0,
    memory: options.Memory = None,
    path: options.PathName = "linear",
) -> Path:
    """Compare the stages of several data sets or spaces on one page.

    A folder that floracle stages wrote is used as it is: measure there what needs options of its
    own (labels, flips, layouts). Everything else is measured first.

    Parameters
    ----------
    data
        Two to six data sets, or folders that floracle stages wrote.
    out
        Folder for the page and its numbers. Default: runs/compare-NAMES.
    names
        Display names of the data sets, comma-separated. Default: the last parts of their paths.
    """
    arguments = dict(locals())  # first, while the options are all there is
    from floracle.report.comparison.figures import MAX_SPACES

    from .stages import stages

    if not 2 <= len(data) <= MAX_SPACES:
        raise InputError(f"name 2 to {MAX_SPACES} data sets to compare, got {len(data)}")
    display = _display_names(data, names)
    check_out(out, "compare", *(source for source in data if not _is_measured(source)))
    how: dict[str, Any] = {
        "classes": classes,
        "pairs": pairs,
        "times": times,
        "seed": seed,
        "path": path,
    }
    # The key and the words are those of 0.1, so that its results are recognised.
    typed = [
        "--labels" if word == "--label-file" else word
        for word in options.typed_options(data_options)
    ]
    settings = {"data": list(data), "names": display, **how, "opening": typed}

    # A data set that was not measured before has a folder of stages inside that of the comparison.
    def folder_of(output: OutputFolder, source: str, name: str) -> Path:
        return Path(source) if _is_measured(source) else output.path / folder_name(name, "data")

    def measure(output: OutputFolder) -> None:
        for source, name in zip(data, display, strict=True):
            if not _is_measured(source):
                note_progress(f"measuring {name}")
                folder = folder_of(output, source, name)
                stages(source, data_options=data_options, out=folder, memory=memory, **how)

    def report(output: OutputFolder) -> None:
        folders = {n: folder_of(output, p, n) for p, n in zip(data, display, strict=True)}
        _report(output, folders, options.command_of(compare, arguments))

    return run_verb(
        "compare",
        out,
        Path("runs") / f"compare-{'-'.join(folder_name(name, 'data') for name in display)}",
        settings,
        is_answered=lambda output: False,  # each data set answers for itself
        compute=measure,
        report=report,
        results=[],
    )


def _is_measured(source: str) -> bool:
    """Whether this is a folder that holds results."""
    return (Path(source) / "result.json").is_file()


def _display_names(data: Sequence[str], names: str | None) -> list[str]:
    """The name of each data set: as --names says, or the last part of its path, or numbered."""

    def are_distinct(candidates: list[str]) -> bool:
        return len({folder_name(name, "data") for name in candidates}) == len(data)

    if names is not None:
        display = [name.strip() for name in names.split(",")]
        if len(display) != len(data) or "" in display or not are_distinct(display):
            raise InputError(f"--names needs {len(data)} different names with commas between")
        return display
    short = [Path(source).name.removeprefix("stages-").split(".")[0] or source for source in data]
    return short if are_distinct(short) else [f"{name} {i + 1}" for i, name in enumerate(short)]


def _report(output: OutputFolder, folders: dict[str, Path], command: str) -> None:
    """Write the page, and print the landmarks and what differs."""
    from floracle.report.comparison.page import load_space, write_comparison_report
    from floracle.report.comparison.words import differences, headline
    from floracle.report.formatting import format_landmark, format_prediction, format_time

    spaces = [load_space(folder, name) for name, folder in folders.items()]
    page = write_comparison_report(spaces, output.path, command=command)

    def row(item: DataSpace) -> tuple[str, ...]:
        return (
            item.name,
            f"{item.main.points:,}",
            f"{item.stages.dims:,}",
            format_landmark(item.main, "centre"),
            format_time(item.main.collapse.value),
            format_prediction(item.main, "collapse"),
            format_time(item.main.end.value),
            f"{item.density:.2g}",
        )

    head = ("", "points", "dims", "centre", "collapse", "(predicted)", "end", "nats a dimension")
    show_table(head, [row(item) for item in spaces])
    for sentence in (headline(spaces), *differences(spaces)):
        say(sentence)
    say(f"comparison: {visible(str(page))}")
