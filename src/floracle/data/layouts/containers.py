"""Many small files in one place: a folder, or a .zip archive that is read without unpacking it.

An archive comes from strangers: before any of it is read, its list of members must be plausible.
Names that leave the archive, links, passwords, repeated or overlapping members, and sizes that no
compression reaches are refused; checksums are compared whenever a member is read.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from floracle.data.rows.source_files import open_source
from floracle.run.errors import InputError

from .content import CONTROL, readable
from .folders import below

PACKINGS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
MOST_RATIO = 1100  # deflate reaches 1032 : 1
SLACK = 4096
ENCRYPTED = 0x1
LISTED = 16
"""Bytes that Python keeps for each byte of the list of members."""
LEAST_LIST = 2**24
LONGEST_END = 2**16 + 22
UNSAID = 2**32 - 1
OUTSIDE = re.compile(r"[\\/]|[A-Za-z]:|(.*[\\/])?\.\.([\\/]|$)|.*[\\\0]")


class Container(Protocol):
    """Files by name; names have forward slashes and are relative."""

    @property
    def path(self) -> Path:
        """Where the box lies."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """All files, in order."""
        ...

    def read(self, name: str, most: int) -> bytes:
        """The bytes of one file, at most so many."""
        ...


@dataclass(frozen=True)
class FolderContainer:
    """The files of a folder and all folders below."""

    path: Path
    names: Sequence[str]

    def read(self, name: str, most: int) -> bytes:
        """The bytes of one file, at most so many."""
        path = self.path / name
        with open_source(path) as file:
            content = file.read(most + 1)
        return _within(content, most, f"{path}")


@dataclass(frozen=True, eq=False)
class ZipContainer:
    """The files of a .zip archive."""

    path: Path
    names: Sequence[str]
    archive: zipfile.ZipFile

    def read(self, name: str, most: int) -> bytes:
        """The bytes of one file, at most so many."""
        with readable(f"{self.path}: {name}", "a member"), self.archive.open(name) as file:
            content = file.read(most + 1)
            return _within(content, most, f"{self.path}: {name}")


@dataclass(frozen=True)
class Member:
    """One file of a box."""

    box: Container
    name: str

    def __str__(self) -> str:
        return f"{self.box.path}: {self.name}"

    def read(self, most: int) -> bytes:
        """Its bytes, at most so many."""
        return self.box.read(self.name, most)


def open_container(path: Path, budget: int) -> Container:
    """The files of a folder or of an archive."""
    if path.is_dir():
        files = (file.relative_to(path) for file in below(path))
        return FolderContainer(path, sorted(file.as_posix() for file in files))
    with readable(path, "a .zip archive"):
        archive = open_archive(path, budget)
        return ZipContainer(path, sorted(checked_members(archive, path, budget)), archive)


def open_archive(path: Path, budget: int) -> zipfile.ZipFile:
    """The archive, unless the mere list of its members takes more memory than there is."""
    needed = LISTED * _list_size(path)
    if needed > max(budget, LEAST_LIST):
        raise InputError(
            f"{path} has so many members that their list takes {needed >> 20} MiB, more than the"
            f" memory of {budget >> 20} MiB; unpack it into a folder or raise the memory"
        )
    return zipfile.ZipFile(path)


def _list_size(path: Path) -> int:
    """Bytes of the list of members, as the end of the archive declares it; 0 where it has none."""
    with open_source(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LONGEST_END))
        end = file.read()
    place = end.rfind(b"PK\5\6")
    long = end.rfind(b"PK\6\6", 0, max(place, 0))
    short_size = int.from_bytes(end[place + 12 : place + 16], "little") if place >= 0 else 0
    long_size = int.from_bytes(end[long + 40 : long + 48], "little") if long >= 0 else 0
    if long >= 0 and short_size == UNSAID:
        short_size = 0
    return min(max(short_size, long_size), size)


def checked_members(
    archive: zipfile.ZipFile, path: Path, budget: int
) -> Mapping[str, zipfile.ZipInfo]:
    """The files of an archive by name; the first that cannot be trusted is a mistake."""
    members = [member for member in archive.infolist() if not member.is_dir()]
    for member in members:
        flaw = _flaw(member, budget)
        if flaw:
            raise InputError(f"{path}: {member.filename!r} {flaw}")
    _check_apart(members, path)
    by_name = {member.filename: member for member in members}
    if len(by_name) < len(members):
        ((repeated, _),) = Counter(member.filename for member in members).most_common(1)
        raise InputError(f"{path} holds {repeated!r} more than once; write the archive again")
    folders = {str(folder) for name in by_name for folder in PurePosixPath(name).parents}
    if inside := next((name for name in sorted(folders) if name in by_name), None):
        raise InputError(
            f"{path}: {inside!r} is both a file and a folder; write the archive again"
        )
    return by_name


def _flaw(member: zipfile.ZipInfo, budget: int) -> str | None:
    """Why a member cannot be trusted."""
    if OUTSIDE.match(member.filename):
        return "leads out of the archive; such names are never opened"
    if CONTROL.search(member.filename):
        return "is a name with control characters in it; write the archive again"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a link; archives with links are not opened"
    if member.flag_bits & ENCRYPTED:
        return "is locked with a password; write the archive without one"
    if member.compress_type not in PACKINGS:
        return "is packed in an unknown way; write it stored or deflated"
    if member.file_size > MOST_RATIO * member.compress_size + SLACK:
        return f"claims {member.file_size} bytes in {member.compress_size}, which cannot be"
    if member.compress_type != zipfile.ZIP_STORED and member.file_size > budget:
        size = member.file_size >> 20
        return (
            f"unpacks to {size} MiB, more than the memory of {budget >> 20} MiB;"
            " store it plain (np.savez, zip -0) or raise the memory"
        )
    return None


def _check_apart(members: list[zipfile.ZipInfo], path: Path) -> None:
    """Refuse members that share bytes: small archives would unpack to endless ones."""
    places = np.array([(each.header_offset, each.compress_size) for each in members], object)
    if not len(places):
        return
    places = places[places[:, 0].argsort()].astype(np.float64)
    if (places[:-1].sum(1) > places[1:, 0]).any():
        raise InputError(f"{path} is damaged: its members overlap; write the archive again")


def _within(content: bytes, most: int, name: str) -> bytes:
    if len(content) > most:
        raise InputError(f"{name} is larger than the {most} bytes that it should have at most")
    return content
