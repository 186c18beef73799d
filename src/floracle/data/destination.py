"""The folder that a store is written into: whose it is, what is unfinished, what is left over.

What a run has finished lies in `floracle/unfinished`, with the settings that it was for, until the
manifest is written. The same command goes on from there; another one is refused. Packing and
encoding differ in their words and in how a finished store is read: that is their `Kind`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from floracle.run.errors import InputError
from floracle.run.files import DiskFull, digest, remove_files
from floracle.run.folder_checks import FolderMarks, check_output, check_run_folder
from floracle.run.folder_lock import locked
from floracle.run.output_folder import OutputFolder, open_output
from floracle.run.processes import ALONE, ProcessGroup
from floracle.run.results import differences

from .packed.files import UNFINISHED

MARKS = FolderMarks(marker=f"{UNFINISHED}/settings.json", control=UNFINISHED)
MADE = re.compile(
    r"settings\.json|(shard|classes)-\d+\.tensors|encoded-\d+\.json|\..+\.[a-z0-9_]{8}\.part"
)
"""Files that an unfinished store has in its place, by their names."""


class Finished(Protocol):
    """What the manifest of any store says."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that the store depends on."""
        ...


S = TypeVar("S", bound=Finished)


@dataclass(frozen=True)
class DestinationKind(Generic[S]):
    """A kind of store: its words, and how a finished one is read, checked and remembered."""

    verb: str
    doing: str
    done: str
    data: str
    """What it is made of."""
    fingerprint: str
    """The setting that holds the fingerprint of the data."""
    manifest: str
    """The file that is written last."""
    read: Callable[[Path], S]
    check: Callable[[Path, S], object]
    """Raises what is wrong with the files of a store."""
    source: Callable[[Path], str | None]
    """How the files of the data looked."""
    remember: Callable[[Path, S, str | None], object]
    """Keep how they look now."""


def check_destination(folder: Path, where: Any, kind: DestinationKind[Any]) -> None:
    """Refuse a folder that holds something else, or lies in the data."""
    if isinstance(where, (str, Path)):
        data, place = Path(where).expanduser().resolve(), folder.resolve()
        if data.exists() and place.is_relative_to(data):
            raise InputError(
                f"{folder} lies inside the {kind.data} {where}; choose a place outside"
            )
    check_output(folder, option="OUT")
    if not (folder / kind.manifest).is_file():
        check_run_folder(folder, kind.verb, MARKS)


def find_finished(
    folder: Path, kind: DestinationKind[S], settings: Mapping[str, Any], source: str | None
) -> S | None:
    """The finished store, if there is one for these settings; for others that is a mistake.

    While the fingerprint of the data is not among the settings, a store answers only if the files
    of its data look as they did when it was written.
    """
    if not (folder / kind.manifest).is_file():
        return None
    found = kind.read(folder)
    if kind.fingerprint not in settings:
        if source is None or kind.source(folder) != source:
            return None
        settings = {**settings, kind.fingerprint: found.settings[kind.fingerprint]}
    refuse_others(folder, kind, settings, found.settings)
    kind.check(folder, found)
    if kind.source(folder) != source:
        kind.remember(folder, found, source)
    if (folder / UNFINISHED).exists():  # a run was killed just after it had finished
        with suppress(OSError, InputError), locked(folder):
            remove_unfinished(folder)
    return found


def unfinished_verb(folder: Path) -> str | None:
    """The verb of an unfinished run in a folder; None where there is none."""
    for verb in ("pack", "encode"):
        with suppress(InputError):
            if check_run_folder(folder, verb, MARKS) is not None:
                return verb
    return None


def refuse_others(
    folder: Path, kind: DestinationKind[Any], asked: Mapping[str, Any], found: Mapping[str, Any]
) -> None:
    """Refuse to go on with other settings than those of before."""
    if unlike := differences(asked, found):
        raise InputError(
            f"{folder} is {kind.done} with other settings ({'; '.join(unlike)}); choose another"
            " folder, or remove this one"
        )


def remove_unfinished(folder: Path) -> None:
    """Remove what is of no use in a finished store."""
    remove_files(folder / UNFINISHED, MADE)


@contextmanager
def unfinished(
    folder: Path,
    kind: DestinationKind[Any],
    settings: Mapping[str, Any],
    group: ProcessGroup = ALONE,
) -> Iterator[OutputFolder]:
    """Start a store here, or go on where a run with the same settings ended; nobody else may."""
    with open_output(folder, kind.verb, settings, marks=MARKS, group=group) as output:
        yield output


@contextmanager
def writing(folder: Path, kind: DestinationKind[Any]) -> Iterator[None]:
    """Say what failed on the disk, and that nothing of what was done is lost."""
    try:
        yield
    except (OSError, DiskFull) as error:
        refused = error.__cause__ if isinstance(error, DiskFull) else error
        reason = getattr(refused, "strerror", None) or type(refused).__name__
        raise InputError(
            f"{kind.doing} into {folder} failed: {reason.lower()}; put that right and run the same"
            " command again, which goes on from there"
        ) from error


def check_room(folder: Path, needed: int) -> None:
    """Refuse to start where the disk cannot hold what is to be written."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    held = sum(file.stat().st_size for file in folder.glob("*") if file.is_file())
    free = shutil.disk_usage(place).free
    if needed - held > free:
        sizes = f"{_megabytes(needed - held)} more, and {_megabytes(free)} are free"
        raise InputError(f"{folder} needs {sizes}; make room, or choose --dtype fp16")


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.2g} MB"


def source_stamp(*places: Any) -> str | None:
    """How the files of data look: names, sizes, times; None where data is in memory."""
    seen: list[str] = []
    for place in places:
        if place is None:
            continue
        if not isinstance(place, (str, Path)):
            return None
        path = Path(place).expanduser().resolve()
        seen += [str(place) if not path.exists() else str(path), *_looks(path)]
    return digest(*seen)


def _looks(path: Path) -> Iterator[str]:
    if path.is_file():
        yield _look(path)
    for folder, names, files in os.walk(path, followlinks=True):
        names.sort()
        for name in sorted(files):
            file = Path(folder, name)
            if file.is_file():
                yield f"{folder}/{name} {_look(file)}"


def _look(path: Path) -> str:
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ino}"
