"""Whose a folder is: what no run may write into, and what a run of ours has left its marks in."""

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
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
LOOKED_AT = 1000
"""Files of a folder that are looked at, to see whether it holds pictures."""
LISTED = 3
"""Names of other people's files that a refusal gives at most."""


@dataclass(frozen=True)
class FolderMarks:
    """Where a folder says what it is, and where a run keeps what is its own."""

    marker: str = "run.json"
    control: str = ".floracle"


RESULTS = FolderMarks()


def check_output(folder: Path, *data: str | Path, option: str = "--out") -> Path:
    """Refuse a folder that no run may write into, whatever lies in it; returns its path.

    Such are a root, a home, a mount point, a file, and a folder of data or of pictures, where
    what is drawn would be read as data from then on.
    """
    there = folder.expanduser()
    place = there.resolve()
    for where in (Path(one).expanduser() for one in data):
        inside = where.is_dir() and place.is_relative_to(where.resolve())
        if inside and (place == where.resolve() or _holds_pictures(where)):
            raise InputError(f"{folder} lies in the data {where}; choose an {option} beside it")
    special = _special(place)
    if special:
        raise InputError(f"{folder} is {special}; choose a folder inside it as {option}")
    parent = there
    while not os.path.lexists(parent):
        parent = parent.parent
    if not parent.is_dir():
        raise InputError(f"{folder} cannot be a folder: {parent} is a file")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"no permission to write to {parent}; choose another {option}")
    return there


def check_run_folder(
    folder: Path, verb: str, marks: FolderMarks = RESULTS
) -> Mapping[str, Any] | None:
    """The settings of the run of this verb in a folder; None where there is none yet.

    A folder that holds anything else is a mistake that names some of it.
    """
    if not folder.is_dir():
        return None
    marker, control = folder / marks.marker, folder / marks.control
    inside = {control.parent, control, control / "parts", control / "aside"} - {folder}
    for place in sorted(inside):
        if os.path.lexists(place) and (place.is_symlink() or not place.is_dir()):
            raise InputError(
                f"{place} is no folder of floracle; remove it, or choose another --out"
            )
    if not os.path.lexists(marker):
        foreign = _foreign(folder, marks)
        if foreign:
            listed = ", ".join(foreign[:LISTED]) + (", …" if len(foreign) > LISTED else "")
            raise InputError(
                f"{folder} holds what no run of floracle {verb} wrote ({listed}); choose a new or"
                " empty folder as --out"
            )
        return None
    try:
        said = read_record(marker, RUN_RECORD)
    except InputError as flaw:
        raise InputError(f"{flaw}; choose another --out") from flaw
    if said.get("verb") != verb or not isinstance(said.get("settings"), dict):
        raise InputError(
            f"{folder} is the folder of floracle {said.get('verb')}; choose another --out"
        )
    return said["settings"]


def _special(place: Path) -> str | None:
    """What a folder is, if it is one that no run may have for its own."""
    homes = {Path(home).expanduser().resolve() for home in ("~", f"~{_user()}")}
    if place == Path(place.anchor):
        return "the root of all files"
    if place in homes:
        return "a home folder"
    if place.is_dir() and (os.path.ismount(place) or str(place) in _mounts()):
        return "a mount point"
    return None


def _user() -> str:
    """The name of who runs this, for the home that the system knows, whatever HOME says."""
    with suppress(ImportError, KeyError):
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    return ""


def _mounts() -> set[str]:
    """All mount points, those bound from the same device among them."""
    with suppress(OSError):
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
        return {_unescaped(line.split(" ")[4]) for line in lines}
    return set()


def _unescaped(name: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), name)


def _foreign(folder: Path, marks: FolderMarks) -> list[str]:
    """The names in a folder that are not what a run killed at its very start leaves."""
    top = Path(marks.control).parts[0]
    names = [entry.name for entry in folder_entries(folder)]
    if names == [top] and _only_ours(folder, Path(marks.control).parts):
        return []
    return names


def _only_ours(folder: Path, parts: Sequence[str]) -> bool:
    """Whether nothing lies below but our own place, and half-written files in it."""
    place = folder
    for name in (*parts, "aside"):
        there = folder_entries(place)
        if any(entry.name != name or not entry.is_dir(follow_symlinks=False) for entry in there):
            return False
        if not there:
            return True
        place = place / name
    return all(map(is_leftover, folder_entries(place)))


def _holds_pictures(folder: Path) -> bool:
    some = islice(folder.rglob("*"), LOOKED_AT)
    return any(path.suffix.lower() in PICTURES for path in some)
