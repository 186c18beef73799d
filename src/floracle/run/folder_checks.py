"""Whose a folder is: what no run may write into, and how a folder of a run is recognised."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from .errors import InputError
from .files import folder_entries, is_leftover
from .records import read_record

RUN_RECORD = "run"
"""The kind of record that marks a folder."""
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MAX_FILES_CHECKED = 1000
"""For pictures, in a folder of data."""
MAX_NAMES_LISTED = 3
"""Of other people's files, in an error."""


@dataclass(frozen=True)
class FolderMarks:
    """The file that says which run a folder belongs to, and the folder inside for bookkeeping."""

    marker: str = "run.json"
    control: str = ".floracle"


RESULTS = FolderMarks()


def check_output(folder: Path, *data: str | Path, option: str = "--out") -> Path:
    """Refuse a folder that no run may write into, whatever lies in it; returns its path.

    Such are a root, a home, a mount point, a file, and a folder of data or of pictures, where
    a result with pictures would be read as data from then on.
    """
    path = folder.expanduser()
    resolved = path.resolve()
    for source in (Path(each).expanduser() for each in data):
        is_inside = source.is_dir() and resolved.is_relative_to(source.resolve())
        if is_inside and (resolved == source.resolve() or _holds_pictures(source)):
            raise InputError(f"{folder} lies in the data {source}; choose an {option} beside it")
    if special := _special_folder(resolved):
        raise InputError(f"{folder} is {special}; choose a folder inside it as {option}")
    existing = path
    while not os.path.lexists(existing):
        existing = existing.parent
    if not existing.is_dir():
        raise InputError(f"{folder} cannot be a folder: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"no permission to write to {existing}; choose another {option}")
    return path


def check_run_folder(
    folder: Path, verb: str, marks: FolderMarks = RESULTS
) -> Mapping[str, Any] | None:
    """The settings of the run of this verb in a folder; None if there is none yet.

    A folder that holds anything else is refused, and some of that is named.
    """
    if not folder.is_dir():
        return None
    marker, control = folder / marks.marker, folder / marks.control
    for path in sorted({control.parent, control, control / "parts", control / "aside"} - {folder}):
        if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
            raise InputError(
                f"{path} is no folder of floracle; remove it, or choose another --out"
            )
    if not os.path.lexists(marker):
        if foreign := _foreign_names(folder, marks):
            names = [*foreign[:MAX_NAMES_LISTED], *("…",) * (len(foreign) > MAX_NAMES_LISTED)]
            raise InputError(
                f"{folder} holds what no run of floracle {verb} wrote ({', '.join(names)}); choose"
                " a new or empty folder as --out"
            )
        return None
    try:
        record = read_record(marker, RUN_RECORD)
    except InputError as error:
        raise InputError(f"{error}; choose another --out") from error
    if record.get("verb") != verb or not isinstance(record.get("settings"), dict):
        raise InputError(
            f"{folder} is the folder of floracle {record.get('verb')}; choose another --out"
        )
    return record["settings"]


def _special_folder(folder: Path) -> str | None:
    """Words for a folder that no run may have for its own; None for others."""
    homes = {Path(home).expanduser().resolve() for home in ("~", f"~{_user()}")}
    if folder == Path(folder.anchor):
        return "the root of all files"
    if folder in homes:
        return "a home folder"
    if folder.is_dir() and (os.path.ismount(folder) or str(folder) in _mount_points()):
        return "a mount point"
    return None


def _user() -> str:
    """The user's name, for the home that the system knows, whatever HOME says."""
    with suppress(ImportError, KeyError):
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    return ""


def _mount_points() -> set[str]:
    """All mount points, including those bound from the same device, which ismount misses."""
    with suppress(OSError):
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
        return {
            re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split(" ")[4])
            for line in lines
        }
    return set()


def _foreign_names(folder: Path, marks: FolderMarks) -> list[str]:
    """The names in a folder, unless they are what a run killed at its very start leaves."""
    control = Path(marks.control).parts
    names = [entry.name for entry in folder_entries(folder)]
    return [] if names == [control[0]] and _holds_only(folder, control) else names


def _holds_only(folder: Path, control: Sequence[str]) -> bool:
    """Whether nothing lies in and below a folder but `control`, and half-written files there."""
    for name in (*control, "aside"):
        below = folder_entries(folder)
        if any(e.name != name or not e.is_dir(follow_symlinks=False) for e in below):
            return False
        if not below:
            return True
        folder = folder / name
    return all(map(is_leftover, folder_entries(folder)))


def _holds_pictures(folder: Path) -> bool:
    files = islice(folder.rglob("*"), MAX_FILES_CHECKED)
    return any(path.suffix.lower() in PICTURE_SUFFIXES for path in files)
