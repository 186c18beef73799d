"""The folder that a store is written into: whose it is, what is unfinished, what is left over.

What a run has finished lies in `floracle/unfinished`, with the settings of the run, until the
manifest is written. The same command resumes from there; another one is refused. The rules are
those of all runs (run/output_folder.py). Packing and encoding differ in how a finished store is
read: that is their `DestinationKind`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from floracle.run.errors import InputError
from floracle.run.files import DiskFull, digest, remove_files
from floracle.run.folder_checks import FolderMarks, check_output, check_run_folder
from floracle.run.folder_lock import locked
from floracle.run.output_folder import open_output
from floracle.run.processes import ALONE, ProcessGroup
from floracle.run.results import differences

OWN_FOLDER = "floracle"
"""The folder inside a store for all files that LightningDiT does not know."""
UNFINISHED = f"{OWN_FOLDER}/unfinished"
"""The folder of a store that is being packed or encoded."""
MARKS = FolderMarks(marker=f"{UNFINISHED}/settings.json", control=UNFINISHED)
UNFINISHED_FILES = re.compile(
    r"settings\.json|(shard|classes)-\d+\.tensors|encoded-\d+\.json|\..+\.[a-z0-9_]{8}\.part"
)
"""The files of an unfinished store, by name; versions before 0.2 wrote encoded-….json."""


@dataclass(frozen=True)
class DestinationKind:
    """A kind of store: the verb that writes it, and how a finished one is read and checked."""

    verb: str
    fingerprint: str
    """The setting that holds the fingerprint of the data."""
    manifest: str
    """The file that is written last."""
    read: Callable[[Path], Any]
    """Reads the manifest, which has `settings`."""
    check: Callable[[Path, Any], object]
    """Raises what is wrong with the files of a store."""
    read_source: Callable[[Path], str | None]
    """How the files of the data looked."""
    write_source: Callable[[Path, str | None], object]
    """Record how they look now."""


def as_folder(out: str | Path) -> Path:
    """The folder that an argument names."""
    if not isinstance(out, (str, Path)):
        raise InputError(f"the folder to write is a path, not a {type(out).__name__}")
    return Path(out).expanduser()


def check_destination(folder: Path, where: Any, kind: DestinationKind) -> None:
    """Refuse a folder that holds something else, or lies inside the data."""
    if isinstance(where, (str, Path)):
        data = Path(where).expanduser().resolve()
        if data.exists() and folder.resolve().is_relative_to(data):
            raise InputError(f"{folder} lies inside the data {where}; choose a folder outside")
    check_output(folder, option="OUT")
    if not (folder / kind.manifest).is_file():
        check_run_folder(folder, kind.verb, MARKS)


def find_finished(
    folder: Path, kind: DestinationKind, settings: Mapping[str, Any], source: str | None
) -> Any:
    """The manifest of the finished store of these settings; None if there is no store yet.

    A store of other settings, or a damaged one, is an InputError. As long as the fingerprint of
    the data is not among the settings, a store answers only if the files of its data look as they
    did when it was written.
    """
    if not (folder / kind.manifest).is_file():
        return None
    manifest = kind.read(folder)
    if kind.fingerprint not in settings:
        if source is None or kind.read_source(folder) != source:
            return None
        settings = {**settings, kind.fingerprint: manifest.settings[kind.fingerprint]}
    if unlike := differences(settings, manifest.settings):
        raise InputError(
            f"{folder} holds a store of floracle {kind.verb} with other settings"
            f" ({'; '.join(unlike)}); choose another folder, or remove this one"
        )
    kind.check(folder, manifest)
    if kind.read_source(folder) != source:
        kind.write_source(folder, source)
    if (folder / UNFINISHED).exists():  # a run was killed just after it had finished
        with suppress(OSError, InputError), locked(folder):
            remove_unfinished(folder)
    return manifest


def unfinished_verb(folder: Path) -> str | None:
    """The verb of the unfinished run in a folder; None if there is none."""
    for verb in ("pack", "encode"):
        with suppress(InputError):
            if check_run_folder(folder, verb, MARKS) is not None:
                return verb
    return None


def remove_unfinished(folder: Path) -> None:
    """Remove what only an unfinished store needs."""
    remove_files(folder / UNFINISHED, UNFINISHED_FILES)


@contextmanager
def open_destination(
    folder: Path,
    kind: DestinationKind,
    settings: Mapping[str, Any],
    group: ProcessGroup = ALONE,
) -> Iterator[None]:
    """Start a store, or resume one of the same settings; the folder is locked meanwhile.

    A full disk and the like are one InputError, which says that nothing is lost.
    """
    try:
        with open_output(folder, kind.verb, settings, marks=MARKS, group=group):
            yield
    except (OSError, DiskFull) as error:
        system_error = error.__cause__ if isinstance(error, DiskFull) else error
        reason = getattr(system_error, "strerror", None) or type(system_error).__name__
        raise InputError(
            f"floracle {kind.verb} into {folder} failed: {reason.lower()}; put that right and run"
            " the same command again, which goes on from there"
        ) from error


def check_room(folder: Path, needed_bytes: int) -> None:
    """Refuse to start if the disk cannot hold what will be written."""
    disk = folder.resolve()
    while not disk.exists():
        disk = disk.parent
    written_bytes = sum(file.stat().st_size for file in folder.glob("*") if file.is_file())
    missing_bytes, free_bytes = needed_bytes - written_bytes, shutil.disk_usage(disk).free
    if missing_bytes > free_bytes:
        raise InputError(
            f"{folder} needs {_format_bytes(missing_bytes)} more, and {_format_bytes(free_bytes)}"
            " are free; make room, or choose --dtype fp16"
        )


def _format_bytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.2g} MB"


def source_state(*sources: Any) -> str | None:
    """A digest of how the files of data look: names, sizes, times; None for data in memory."""
    states: list[str] = []
    for source in sources:
        if source is None:
            continue
        if not isinstance(source, (str, Path)):
            return None
        path = Path(source).expanduser().resolve()
        # what is no path is a name of data that is made, like "digits"
        states += [str(path) if path.exists() else str(source), *_file_states(path)]
    return digest(*states)


def _file_states(path: Path) -> Iterator[str]:
    """The state of a file, or the names and states of all files in and below a folder, sorted."""
    if path.is_file():
        yield _file_state(path)
    for folder, folders, files in os.walk(path, followlinks=True):
        folders.sort()
        for name in sorted(files):
            file = Path(folder, name)
            if file.is_file():
                yield f"{folder}/{name} {_file_state(file)}"


def _file_state(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"
