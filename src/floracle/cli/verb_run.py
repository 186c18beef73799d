"""What all verbs that write results have in common.

A verb prepares its settings, then `run_verb` does the same for each of them:

1. It takes the folder of the results, locks it, and says what an earlier run has left there.
2. If the results for these settings are there, nothing is computed.
3. Otherwise it computes and saves.
4. It draws and prints the report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from floracle.report.names import visible
from floracle.run.exchange import barrier, broadcast_from_first
from floracle.run.folder_checks import check_output, check_run_folder
from floracle.run.processes import ALONE

from .console import warn

if TYPE_CHECKING:
    from floracle.data.store import Store
    from floracle.run.output_folder import OutputFolder
    from floracle.run.processes import ProcessGroup


def check_out(out: Path | None, verb: str, *data: str | Path) -> None:
    """Refuse an --out that is not this verb's folder, before anything is read."""
    if out is not None:
        check_run_folder(check_output(out, *data), verb)


def has_answer(output: OutputFolder) -> bool:
    """Whether the result for these settings is in the folder."""
    from floracle.run.results import stored_answer

    return stored_answer(output.path, output.settings) is not None


def run_verb(
    verb: str,
    out: Path | None,
    default: Path,
    settings: Mapping[str, Any],
    *,
    compute: Callable[[OutputFolder], object],
    report: Callable[[OutputFolder], object],
    is_answered: Callable[[OutputFolder], bool] = has_answer,
    group: ProcessGroup | None = None,
    data: Sequence[Store | None] = (),
    results: Sequence[str] = ("",),
) -> Path:
    """Answer a question that is its `settings`; returns the folder of the results.

    `compute` runs in all processes of a group, `is_answered` and `report` in the first one.
    """
    group = ALONE if group is None else group
    with open_results(
        verb, out, default, settings, group=group, data=data, results=results
    ) as output:
        # One process looks and tells the others: all of them must take the same branch, or those
        # that compute would wait for the others for ever.
        answered = group.first and is_answered(output)
        if not broadcast_from_first(group, [answered])[0]:
            compute(output)
        if group.first:
            report(output)
        barrier(group)  # the folder stays locked until the first process has written everything
    return output.path


@contextmanager
def open_results(
    verb: str,
    out: Path | None,
    default: Path,
    settings: Mapping[str, Any],
    *,
    group: ProcessGroup | None = None,
    data: Sequence[Store | None] = (),
    results: Sequence[str] = ("",),
) -> Iterator[OutputFolder]:
    """The folder of a run, locked; a default one that other results have taken gets a number.

    The run is complete with all `results` (folders in it). Before anything is saved, the files of
    the data must look as they did when they were opened.
    """
    from floracle.run.output_folder import free_folder, open_output
    from floracle.run.results import has_result

    group = ALONE if group is None else group
    # NAME, or NAME-2, … where the folder holds results of another question.
    folder = free_folder(default, verb, settings, group) if out is None else out.expanduser()

    def check_data() -> None:
        for store in data:
            if store is not None:
                store.check_unchanged()

    with open_output(folder, verb, settings, group=group, check_unchanged=check_data) as output:
        if group.first and output.resumed and results:
            parts = len(output.finished_parts)
            finished = f"; {parts} part(s) are finished" if parts else ""
            complete = all(has_result(output.path / name) for name in results)
            say_state(output.path, COMPLETE if complete else f"going on from there{finished}")
        yield output


COMPLETE = "complete; what was measured is not measured again"


def say_state(folder: Path, state: str) -> None:
    """Print on standard error what an earlier run has left in the folder."""
    warn(f"{visible(str(folder))} holds this run: {state}")


@contextmanager
def open_new_store(out: Path, verb: str, manifest: str) -> Iterator[None]:
    """Say which files of a store exist before it is written; its manifest is written last."""
    from floracle.data.destination import unfinished_verb

    folder = out.expanduser()
    complete = (folder / manifest).is_file()
    if not complete and folder.is_dir() and unfinished_verb(folder) == verb:
        shards = len(list(folder.glob("latents_*.safetensors")))
        say_state(folder, f"going on from there; {shards} file(s) of latents are finished")
    yield
    if complete:
        say_state(folder, "complete; it was checked, and nothing was written again")
