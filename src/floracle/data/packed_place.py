"""The folder that a store is packed into: whose it is, what is unfinished, what is left over.

What a run has finished lies in `floracle/unfinished`, with the settings that it was for, until the
manifest is written. The same command goes on from there; another one is refused.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from floracle.run.errors import Mistake
from floracle.run.files import digest, read_json, writable_folder, write_json
from floracle.run.results import differences

from .packed import UNFINISHED, check_files
from .packed_files import OURS, read_record, write_record
from .packed_manifest import MANIFEST, Manifest, read_manifest

SETTINGS = f"{UNFINISHED}/settings.json"


def check_place(folder: Path, where: Any) -> None:
    """Refuse a folder that holds something else, or lies in the data."""
    if isinstance(where, (str, Path)):
        data, place = Path(where).expanduser().resolve(), folder.resolve()
        if data.exists() and place.is_relative_to(data):
            raise Mistake(f"{folder} lies inside the data {where}; choose a place beside it")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise Mistake(f"{folder} is a file; name a new folder to pack into")
    ours = any((folder / sign).exists() for sign in (MANIFEST, UNFINISHED))
    if not ours and any(path.is_file() for path in folder.rglob("*")):
        raise Mistake(f"{folder} exists and is no packed store; name a new folder to pack into")


def answered(folder: Path, settings: Mapping[str, Any], source: str | None) -> Manifest | None:
    """The finished store, if there is one for these settings; for others that is a mistake.

    While the fingerprint of the data is not among the settings, a store answers only if the files
    of its data look as they did when it was packed.
    """
    if not (folder / MANIFEST).is_file():
        return None
    manifest = read_manifest(folder)
    if "data" not in settings:
        if source is None or read_record(folder).get("source") != source:
            return None
        settings = {**settings, "data": manifest.settings["data"]}
    refuse_others(folder, settings, manifest.settings)
    check_files(folder, manifest)
    if read_record(folder).get("source") != source:
        write_record(folder, manifest.sealed, source)
    tidy(folder)
    return manifest


def begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Start here, or go on where a run with the same settings ended."""
    writable_folder(folder / UNFINISHED)
    for place in (folder, folder / OURS, folder / UNFINISHED):
        for left in place.glob(".*.part"):
            left.unlink(missing_ok=True)
    if (folder / SETTINGS).is_file():
        refuse_others(folder, settings, read_json(folder / SETTINGS))
    else:
        write_json(folder / SETTINGS, dict(settings))


def refuse_others(folder: Path, asked: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuse to go on with other settings than those of before."""
    unlike = differences(asked, found)
    if unlike:
        raise Mistake(
            f"{folder} is packed with other settings ({'; '.join(unlike)}); choose another folder,"
            " or remove this one"
        )


def tidy(folder: Path) -> None:
    """Remove what is of no use in a finished store."""
    if (folder / UNFINISHED).exists():
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    for place in (folder, folder / OURS):
        for left in place.glob(".*.part"):
            left.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs away from a folder for as long as this one writes there."""
    try:
        import fcntl
    except ImportError:  # not on this system: two runs at a time are the user's own fault
        yield
        return
    handle = os.open(writable_folder(folder), os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Mistake(f"another run is packing into {folder}; wait for it") from error
    finally:
        os.close(handle)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say what failed on the disk, and that nothing of what was done is lost."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Mistake(
            f"packing into {folder} failed: {reason.lower()}; put that right and run the same"
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
