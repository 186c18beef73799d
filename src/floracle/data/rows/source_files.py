"""The files that data is read from: regular ones alone, each with its state when first opened.

A run reads its data more than once, and all results carry one fingerprint. A file that changes in
between would give numbers of two data sets under the name of one. So every file is opened by
`open_source`, which records its size, the time of its last change and its number on the disk;
whoever reads it again compares. Nothing is mapped into memory: a mapped file that is cut short
ends the process without a word, where a read says that something is missing.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from floracle.run.errors import InputError, suggestion
from floracle.run.files import open_regular

RUN_AGAIN = "nothing of this run is kept as an answer: run it again"
STATE_FORMAT = Struct("QqQ")
"""A state in the memory of a store; times before 1970 are negative."""

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Characters that would move the cursor of whoever reads a name."""


class Changed(InputError):
    """The data is no longer what it was when it was opened."""


class FileState(NamedTuple):
    """What changes, all but surely, whenever a file does."""

    size: int
    time: int  # of the last change, in nanoseconds
    number: int  # on the disk (inode): a file that replaces another has its own


def file_state(status: os.stat_result) -> FileState:
    """The state in what the system says of a file."""
    return FileState(status.st_size, status.st_mtime_ns, status.st_ino)


_recorded: ContextVar[dict[str, FileState] | None] = ContextVar("recorded", default=None)


@contextmanager
def record_opened_files() -> Iterator[Mapping[str, FileState]]:
    """All files that are opened meanwhile, each with its state when first opened."""
    states: dict[str, FileState] = {}
    token = _recorded.set(states)
    try:
        yield states
    finally:
        _recorded.reset(token)


def open_source(path: Path) -> BufferedReader:
    """Open a file of the data; what is no regular file, or a link to none, is refused at once."""
    try:
        file = open_regular(path, links=True)
    except InputError as error:
        if path.is_symlink() and not path.exists():
            raise InputError(f"{path} is a link to nowhere; remove it or mend it") from error
        raise
    try:
        _record(path, file_state(os.fstat(file.fileno())))
    except Changed:
        file.close()
        raise
    return file


def record_file(path: Path) -> FileState:
    """Record the state of a file that is read by other means than `open_source`."""
    state = file_state(path.stat())
    _record(path, state)
    return state


def _record(path: Path, state: FileState) -> None:
    recorded = _recorded.get()
    if recorded is not None and recorded.setdefault(str(path), state) != state:
        raise changed_file(path)


def changed_file(path: Path | str) -> Changed:
    """The error for a file in another state than before."""
    return Changed(
        f"{path} changed while it was read (its size, time or number on the disk is another);"
        f" {RUN_AGAIN}"
    )


def changed_row(name: str, row: int) -> Changed:
    """The error for a row that is no longer what was read at opening."""
    return Changed(
        f"{name}: row {row} is no longer what it was when the data was opened; {RUN_AGAIN}"
    )


@dataclass(frozen=True)
class SourceFile:
    """A file and its state when it was first opened."""

    path: Path
    state: FileState

    def reopen(self) -> BufferedReader:
        """Open it again, unless it has changed; for `read_at`, which reads past the buffer."""
        file = open_regular(self.path, links=True)
        if file_state(os.fstat(file.fileno())) != self.state:
            file.close()
            raise changed_file(self.path)
        return file


def source_file(path: Path, file: BufferedReader) -> SourceFile:
    """A file that has just been opened."""
    return SourceFile(path, file_state(os.fstat(file.fileno())))


def read_at(file: BufferedReader, begin: int, memory: memoryview, path: Path) -> None:
    """Fill memory with the bytes that begin at a position of a file."""
    descriptor, done = file.fileno(), 0
    while done < len(memory):
        count = os.preadv(descriptor, [memory[done:]], begin + done)
        if not count:
            raise Changed(f"{path} ended while it was read; is something writing to it?")
        done += count


@dataclass(frozen=True)
class SourceFiles:
    """All files of a store; a million of them take 32 bytes each beside their names."""

    names: tuple[str, ...] = ()
    states: bytes = b""

    @classmethod
    def of(cls, states: Mapping[str, FileState]) -> SourceFiles:
        """Those of `record_opened_files`."""
        return cls(tuple(states), b"".join(STATE_FORMAT.pack(*state) for state in states.values()))

    def check_unchanged(self) -> None:
        """Raise `Changed` for the first file that is in another state, or gone."""
        for name, state in zip(self.names, STATE_FORMAT.iter_unpack(self.states), strict=True):
            try:
                current = file_state(os.stat(name))
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                raise Changed(
                    f"{name} is gone since it was read ({reason}); {RUN_AGAIN}"
                ) from error
            if current != state:
                raise changed_file(name)


def find_change(error: InputError, check_unchanged: Callable[[], None]) -> Changed | None:
    """The change of the data that made a run fail, if there was one."""
    if isinstance(error, Changed):
        return error
    try:
        check_unchanged()
    except Changed as change:
        return change
    return None


@contextmanager
def remove_output_if_changed(
    check_unchanged: Callable[[], None], written: Callable[[], Iterable[Path]]
) -> Iterator[None]:
    """Remove what was written of data that has changed, so that the same command begins again.

    Whatever error a changed file caused, the change is the error that is raised.
    """
    try:
        yield
    except InputError as error:
        change = find_change(error, check_unchanged)
        if change is None:
            raise
        for path in written():
            path.unlink(missing_ok=True)
        if change is error:
            raise
        raise change from error


def check_exists(path: Path) -> None:
    """Refuse a path where nothing lies, and suggest the nearest name."""
    if os.path.lexists(path):
        return
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        path, folder = folder, folder.parent
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    hint = suggestion(path.name, names[:100]) if names else "that folder is empty"
    raise InputError(f"there is no {path.name} in {folder}; {hint}")


@contextmanager
def explain_read_errors(path: Path | str, kind: str) -> Iterator[None]:
    """Turn whatever a library raises into an `InputError` that names the file; mute warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise InputError(f"{path} cannot be read as {kind}: {CONTROL.sub('?', reason)}") from error
