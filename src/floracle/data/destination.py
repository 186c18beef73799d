"""The folder that a store is written into: whose it is, what is unfinished, what is left over.

What a run has finished lies in `floracle/unfinished`, with the settings that it was for, until the
manifest is written. The same command goes on from there; another one is refused. Packing and
encoding differ in their words and in how a finished store is read: that is their `Kind`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from floracle.run.errors import Mistake
from floracle.run.exchange import barrier
from floracle.run.files import NoRoom, digest, read_json, sweep, writable_folder, write_json
from floracle.run.processes import ALONE, Group
from floracle.run.results import differences

from .packed_files import UNFINISHED

SETTINGS = f"{UNFINISHED}/settings.json"


class Finished(Protocol):
    """What the manifest of any store says."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that the store depends on."""
        ...


S = TypeVar("S", bound=Finished)


@dataclass(frozen=True)
class Kind(Generic[S]):
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


def check_place(folder: Path, where: Any, kind: Kind[Any]) -> None:
    """Refuse a folder that holds something else, or lies in the data."""
    if isinstance(where, (str, Path)):
        data, place = Path(where).expanduser().resolve(), folder.resolve()
        if data.exists() and place.is_relative_to(data):
            raise Mistake(f"{folder} lies inside the {kind.data} {where}; choose a place outside")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise Mistake(f"{folder} is a file; name a new folder to {kind.verb} into")
    ours = any((folder / sign).exists() for sign in (kind.manifest, UNFINISHED))
    if not ours and any(path.is_file() for path in folder.rglob("*")):
        raise Mistake(
            f"{folder} exists and is no {kind.done} store; name a new folder to {kind.verb} into"
        )


def answered(
    folder: Path, kind: Kind[S], settings: Mapping[str, Any], source: str | None
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
    tidy(folder)
    return found


def begin(folder: Path, kind: Kind[Any], settings: Mapping[str, Any]) -> None:
    """Start here, or go on where a run with the same settings ended."""
    writable_folder(folder / UNFINISHED)
    sweep(folder)
    if (folder / SETTINGS).is_file():
        refuse_others(folder, kind, settings, read_json(folder / SETTINGS))
    else:
        write_json(folder / SETTINGS, dict(settings))


def begun(folder: Path) -> Mapping[str, Any]:
    """The settings of an unfinished run; empty where there is none."""
    return read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}


def refuse_others(
    folder: Path, kind: Kind[Any], asked: Mapping[str, Any], found: Mapping[str, Any]
) -> None:
    """Refuse to go on with other settings than those of before."""
    if unlike := differences(asked, found):
        raise Mistake(
            f"{folder} is {kind.done} with other settings ({'; '.join(unlike)}); choose another"
            " folder, or remove this one"
        )


def tidy(folder: Path) -> None:
    """Remove what is of no use in a finished store."""
    if (folder / UNFINISHED).exists():
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    sweep(folder)


@contextmanager
def locked(folder: Path, kind: Kind[Any], group: Group = ALONE) -> Iterator[None]:
    """Keep other runs away from a folder for as long as any process of this one writes there.

    The first process of a group looks whether anybody else is there. Then all of them hold the
    lock together, since one that is slow to end may outlive the first.
    """
    try:
        import fcntl
    except ImportError:  # not on this system: two runs at a time are the user's own fault
        yield
        return
    if not group.first:
        barrier(group)
    handle = os.open(writable_folder(folder), os.O_RDONLY)
    try:
        if group.first:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not group.alone:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if group.first:
            barrier(group)
        yield
    except BlockingIOError as error:
        raise Mistake(f"another run is {kind.doing} into {folder}; wait for it") from error
    finally:
        os.close(handle)


@contextmanager
def writing(folder: Path, kind: Kind[Any]) -> Iterator[None]:
    """Say what failed on the disk, and that nothing of what was done is lost."""
    try:
        yield
    except (OSError, NoRoom) as error:
        refused = error.__cause__ if isinstance(error, NoRoom) else error
        reason = getattr(refused, "strerror", None) or type(refused).__name__
        raise Mistake(
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
        gigabytes = f"{(needed - held) / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free"
        raise Mistake(f"{folder} needs {gigabytes}; make room, or choose --dtype fp16")


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
