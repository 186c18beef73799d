"""The folder that a run writes into: whose it is, who is writing there, what is unfinished.

    OUT/run.json            which run it is: verb, settings, version; a record, written first
    OUT/.floracle/parts/    the finished parts of an unfinished run
    OUT/.floracle/aside/    files while they are being written (files.py)

A run takes a folder that is new, that is empty, or that has the run.json of the same verb and the
same settings; everything else is refused before anything is computed (folder_checks.py). Only
files that a run made are ever deleted, by their names, inside .floracle. Other people's files,
links, and runs in folders below are neither followed nor looked at.

Stores (pack, encode) keep the same order under other names, their `FolderMarks`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from .errors import InputError
from .exchange import barrier, broadcast_from_first
from .files import folder_entries, redirect_writes, remove_files, remove_leftovers
from .folder_checks import RESULTS, RUN_RECORD, FolderMarks, check_output, check_run_folder
from .folder_lock import locked
from .processes import ALONE, ProcessGroup
from .records import write_record
from .results import Results, Saveable, differences, has_result, load_results, save

PART_FILES = re.compile(r"result\.json|arrays\.safetensors")
"""The files of a part."""
FILES_WITHOUT_RUN = {
    *("result.json", "arrays.safetensors", "examples", "deep", "timing.json"),
    *("figures", "report.html", ".floracle"),
}
"""Names in a folder that a result of stages was saved and drawn into without a run."""
PLAN_PART = "plan"
"""A part that takes no work worth keeping by itself."""


@dataclass(frozen=True)
class OutputFolder:
    """The folder of a run, while it is locked."""

    path: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    """All that the result depends on, as JSON has it; the same for all that is saved here."""
    marks: FolderMarks = RESULTS
    group: ProcessGroup = ALONE
    resumed: bool = False
    """Whether an earlier run of the same settings has finished something here."""
    check_unchanged: Callable[[], object] = lambda: None
    """Raises an InputError if data has changed since the run began."""

    @property
    def control(self) -> Path:
        """The folder inside for what only an unfinished run needs."""
        return self.path / self.marks.control

    @property
    def parts(self) -> Path:
        """The folder of finished parts."""
        return self.control / "parts"

    @property
    def aside(self) -> Path:
        """The folder of files that are being written."""
        return self.control / "aside"

    @property
    def has_work(self) -> bool:
        """Whether a run has finished anything here that would be missed."""
        bookkeeping = {Path(name).parts[0] for name in (self.marks.marker, self.marks.control)}
        if {entry.name for entry in folder_entries(self.path)} - bookkeeping:
            return True
        return any(Path(name).name != PLAN_PART for name in self.finished_parts)

    @property
    def finished_parts(self) -> list[str]:
        """The names of the finished parts, the oldest first."""
        records = list(self.parts.glob("**/result.json"))
        times = {
            str(path.parent.relative_to(self.parts)): path.parent.stat().st_mtime_ns
            for path in records
        }
        return sorted(times, key=lambda name: times[name])

    def check(self) -> None:
        """Refuse to save anything of data that has changed; the parts of the run go."""
        try:
            self.check_unchanged()
        except InputError:
            self.clear_parts()
            raise

    def save(self, result: Saveable, name: str = "") -> Path:
        """Save a result of this run, or one of several by its name; returns its folder."""
        self.check()
        results = result.to_results()
        if not results.settings:
            results = replace(results, settings=self.settings)
        return save(results, self.path / name, part=name)

    def save_part(self, result: Results, name: str) -> None:
        """Save a part of an unfinished run."""
        self.check()
        save(replace(result, settings=self.settings), self.parts / name, part=name)

    def load_part(self, name: str) -> Results | None:
        """A finished part; None if there is none. A part of another run is refused."""
        if not has_result(self.parts / name):
            return None
        part = load_results(self.parts / name, part=name)
        if unlike := differences(self.settings, part.settings):
            raise InputError(
                f"{self.parts / name} is part of another run ({'; '.join(unlike)}); remove it"
            )
        return part

    def clear_parts(self) -> None:
        """Remove the parts, which only an unfinished run needs."""
        remove_files(self.parts, PART_FILES)

    def close(self) -> None:
        """Leave no trace of a run that has finished nothing, nor half-written files."""
        if not self.path.is_dir():  # somebody has removed it meanwhile
            return
        if not self.has_work:
            self.clear_parts()
            (self.path / self.marks.marker).unlink(missing_ok=True)
        remove_leftovers(self.aside)
        folders = [self.aside, self.control, *self.control.parents]
        _remove_empty(folders[: folders.index(self.path)])


def free_folder(
    folder: Path,
    verb: str,
    settings: Mapping[str, Any],
    group: ProcessGroup = ALONE,
    growing: Collection[str] = (),
) -> Path:
    """The default folder for a run: this one, or NAME-2, NAME-3, … if others have taken it."""
    number = 0
    if group.first:
        check_output(folder)
        wanted = as_json(settings)
        number = next(i for i in count(1) if _is_free(_numbered(folder, i), verb, wanted, growing))
    return _numbered(folder, broadcast_from_first(group, [number])[0])


def _is_free(
    folder: Path, verb: str, settings: Mapping[str, Any], growing: Collection[str]
) -> bool:
    """Whether a folder is new, or that of a run of these settings."""
    with suppress(InputError):
        recorded = check_run_folder(folder, verb)
        return recorded is None or not differences(settings, _grow(recorded, settings, growing))
    return False


def _numbered(folder: Path, number: int) -> Path:
    return folder if number == 1 else folder.with_name(f"{folder.name}-{number}")


@contextmanager
def open_output(
    folder: Path,
    verb: str,
    settings: Mapping[str, Any],
    *,
    marks: FolderMarks = RESULTS,
    group: ProcessGroup = ALONE,
    check_unchanged: Callable[[], object] = lambda: None,
    growing: Collection[str] = (),
) -> Iterator[OutputFolder]:
    """Take a folder for a run, locked against all others for as long as the context lasts.

    Settings in `growing`, such as how long a run is, may be larger than those of before. A run
    that fails before it has finished anything leaves nothing behind.
    """
    output = OutputFolder(folder, as_json(settings), marks, group, check_unchanged=check_unchanged)
    if not group.first:
        barrier(group)  # the first process has locked the folder, or has said why it cannot
        with locked(folder, group), redirect_writes(folder, output.aside):
            yield output
        return
    check_run_folder(folder, verb, marks)
    missing_folders = [path for path in (folder, *folder.parents) if not path.exists()]
    with locked(folder, group):
        try:
            resumed = _begin(output, verb, growing)
            with redirect_writes(folder, output.aside):
                barrier(group)
                yield replace(output, resumed=resumed)
        finally:
            output.close()
            _remove_empty(missing_folders)


@contextmanager
def redraw_folder(folder: Path) -> Iterator[None]:
    """Write pages and figures into the folder of a run, which may be going on meanwhile.

    A folder without a run.json, say one that a result was saved into by hand, may hold nothing but
    files of a run: a page might replace others.
    """
    if not (folder / RESULTS.marker).is_file():
        names = [entry.name for entry in folder_entries(folder)]
        foreign = [name for name in names if name not in FILES_WITHOUT_RUN]
        if foreign:
            raise InputError(
                f"{folder} holds other files beside its result ({', '.join(foreign[:3])}); save"
                " the result into a folder of its own"
            )
    output = OutputFolder(folder)
    remove_leftovers(output.aside)
    try:
        with redirect_writes(folder, output.aside):
            yield
    finally:
        _remove_empty((output.aside, output.control))  # unless the run that goes on uses them


def _begin(output: OutputFolder, verb: str, growing: Collection[str]) -> bool:
    """Check again, now that nobody else writes; refuse other settings, and record whose it is.

    Returns whether an earlier run has finished something.
    """
    folder, marks, settings = output.path, output.marks, output.settings
    recorded = check_run_folder(folder, verb, marks)
    remove_leftovers(output.aside)
    former = {} if recorded is None else _grow(recorded, settings, growing)
    unlike = differences(settings, former)
    if recorded is not None and unlike and output.has_work:
        raise InputError(
            f"{folder} holds a run of floracle {verb} with other settings ({'; '.join(unlike)});"
            " choose another --out"
        )
    if unlike:
        output.clear_parts()
    if recorded is None or differences(settings, recorded):
        content = {"verb": verb, "settings": dict(settings)}
        with redirect_writes(folder, output.aside):
            write_record(folder / marks.marker, RUN_RECORD, content)
    return recorded is not None and output.has_work


def _grow(
    recorded: Mapping[str, Any], settings: Mapping[str, Any], growing: Collection[str]
) -> dict[str, Any]:
    """Recorded settings, with those that may grow as large as they are requested now."""
    larger = {
        name: settings[name]
        for name in growing
        if name in recorded and name in settings and settings[name] > recorded[name]
    }
    return {**recorded, **larger}


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, the innermost first, unless something lies in them or they are gone."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back, so that they can be compared with recorded ones."""
    return json.loads(json.dumps(dict(settings), allow_nan=False))
