"""What all verbs that write have in common: their folder, its owner, and where a run stands."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import CycloptsError, Parameter, Token

if TYPE_CHECKING:
    from floracle.data.store import Store
    from floracle.run.output_folder import OutputFolder
    from floracle.run.processes import ProcessGroup


def folder(_: type, tokens: Sequence[Token]) -> Path:
    """A folder as it is typed; nothing at all is none."""
    typed = tokens[0].value
    if not typed.strip() or "\0" in typed:
        raise CycloptsError(
            msg=f"{tokens[0].keyword or 'OUT'} is the name of a folder, got {typed!r}"
        )
    return Path(typed)


Out = Annotated[Path | None, Parameter(converter=folder)]
"""How the folder for results is typed."""
OutArgument = Annotated[Path, Parameter(converter=folder)]
"""The same where it has to be given."""


def check_out(out: Path | None, verb: str, *data: str | Path) -> None:
    """Refuse a folder that was asked for and is not this verb's, before anything is read."""
    from floracle.run.folder_checks import check_output, check_run_folder

    if out is not None:
        check_run_folder(check_output(out, *data), verb)


@contextmanager
def output_of(
    verb: str,
    out: Path | None,
    default: Path,
    settings: Mapping[str, Any],
    *,
    group: ProcessGroup | None = None,
    data: Sequence[Store | None] = (),
    results: Sequence[str] = ("",),
) -> Iterator[OutputFolder]:
    """The folder of a run, locked; a default one that others have taken gets a number.

    Where the run stands is said first: that it is complete, which it is with all these `results`
    (folders in it), or that it goes on. Before anything is saved, the files of the data must look
    as they did when they were opened.
    """
    from floracle.run.output_folder import free_folder, open_output
    from floracle.run.processes import ALONE
    from floracle.run.results import has_result

    group = ALONE if group is None else group
    place = free_folder(default, verb, settings, group) if out is None else out.expanduser()

    def unchanged() -> None:
        for store in data:
            if store is not None:
                store.check_unchanged()

    with open_output(place, verb, settings, group=group, check_unchanged=unchanged) as output:
        if group.first and output.resumed and results:
            parts = len(output.finished_parts)
            more = f"; {parts} part(s) are finished" if parts else ""
            complete = all(has_result(output.path / name) for name in results)
            say_standing(output.path, COMPLETE if complete else f"going on from there{more}")
        yield output


COMPLETE = "complete; what was measured is not measured again"


def say_standing(place: Path, standing: str) -> None:
    """On standard error: where a run that was begun before stands."""
    from floracle.report.names import visible

    sys.stderr.write(f"note: {visible(str(place))} holds this run: {standing}\n")


@contextmanager
def store_in(out: Path, verb: str, manifest: str) -> Iterator[None]:
    """The same for stores: what is gone on with is said first, and what was complete at the end.

    They are known by their manifest once they are finished.
    """
    from floracle.data.destination import unfinished_verb

    place = out.expanduser()
    complete = (place / manifest).is_file()
    if not complete and place.is_dir() and unfinished_verb(place) == verb:
        shards = len(list(place.glob("latents_*.safetensors")))
        say_standing(place, f"going on from there; {shards} file(s) of latents are finished")
    yield
    if complete:
        say_standing(place, "complete; it was checked, and nothing was written again")
