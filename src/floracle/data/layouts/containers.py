"""Many small files in one place: a folder, or a .zip archive that is read without unpacking it.

An archive may be hostile: before any of it is read, its list of members must be plausible. Names
that lead out of the archive, links, passwords, repeated or overlapping members, and sizes that no
compression reaches are refused; checksums are compared whenever a member is read.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np

from floracle.data.rows.rows import ComputedRows, file_per_row, torch_type
from floracle.data.rows.source_files import CONTROL, explain_read_errors, open_source
from floracle.run.errors import InputError

File = TypeVar("File")

COMPRESSIONS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
MAX_RATIO = 1100  # deflate reaches 1032 : 1
PLAUSIBLE_RATIO, PLAUSIBLE_BYTES = 256, 2**26
"""Data that unpacks beyond both is one value over and over, and would fill the memory for that."""
SLACK_BYTES = 4096  # of members too small for a ratio to mean anything
ENCRYPTED = 0x1
BYTES_PER_LISTED_BYTE = 16  # memory that Python takes for each byte of the list of members
MIN_LIST_BYTES = 2**24
END_RECORD_BYTES = 2**16 + 22  # of the end of an archive, with the longest comment
SIZE_IN_ZIP64 = 2**32 - 1  # stands for "see the record of the 64-bit format"
OUTSIDE = re.compile(r"[\\/]|[A-Za-z]:|(.*[\\/])?\.\.([\\/]|$)|.*[\\\0]")
ROW_FILE_SLACK_BYTES = 2**16  # around the array of a row: headers, names, a list of members
SYSTEM_NAMES = {
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir"),
    *("$recycle.bin", "system volume information", "lost+found"),
}
"""Of files and folders that macOS, Windows, Linux and storage servers make, in lower case."""
DATA_ENDINGS = {".npy", ".npz", ".safetensors", ".json", ".png", ".jpg", ".jpeg", ".webp"}


@dataclass(frozen=True, eq=False)
class Container:
    """The files of a folder and all folders below, or of an archive."""

    path: Path
    names: Sequence[str]  # relative, with forward slashes, in order; of no hidden files
    folders: Collection[str] = ()  # those that are not below others, empty ones too
    archive: zipfile.ZipFile | None = None
    prefix: str = ""  # of a folder in an archive: what its names leave out

    def read(self, name: str, max_bytes: int) -> bytes:
        """The bytes of one file, which may not be larger."""
        file_name = self.place(name)
        if self.archive is None:
            with open_source(self.path / name) as file:
                content = file.read(max_bytes + 1)
        else:
            member = self.prefix + name
            with explain_read_errors(file_name, "a member"), self.archive.open(member) as file:
                content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise InputError(f"{file_name} is larger than the {max_bytes} bytes expected")
        return content

    def place(self, name: str) -> str:
        """Where a file or folder lies, for messages."""
        return f"{self.path / name}" if self.archive is None else f"{self.path}: {name}"

    def advise_opening(self, folder: str) -> str:
        """How to have one folder of this read, for messages."""
        if self.archive is None:
            return f"open one of them: {self.path / folder}"
        return f"unpack it and open one of them, such as {folder}"

    def files(self, names: Iterable[str]) -> tuple[Path | Member, ...]:
        """Files of it as they can be handed on."""
        if self.archive is None:
            return tuple(self.path / name for name in names)
        return tuple(Member(self, name) for name in names)

    def below(self, folder: str) -> Container:
        """A folder of it by itself."""
        start = f"{folder}/"
        names = [name.removeprefix(start) for name in self.names if name.startswith(start)]
        folders = {name.split("/")[0] for name in names if "/" in name}
        if self.archive is None:
            return Container(self.path / folder, names, folders)
        return Container(self.path, names, folders, self.archive, self.prefix + start)


@dataclass(frozen=True)
class Member:
    """One file of a container."""

    container: Container
    name: str

    def __str__(self) -> str:
        return self.container.place(self.name)

    def read(self, max_bytes: int) -> bytes:
        """Its bytes, at most so many."""
        return self.container.read(self.name, max_bytes)


def stack_files(
    files: Sequence[File],
    load: Callable[[File, int], np.ndarray],
    describe: Callable[[File], str],
    budget: int,
) -> ComputedRows:
    """One array a file as rows; all arrays have the shape and type of the first.

    `load` reads a file of at most so many bytes; only the first one may take all of the budget.
    """
    first = load(files[0], budget)
    if not first.size or not first.ndim:
        raise InputError(f"{describe(files[0])} is empty: its shape is {first.shape}")
    max_bytes = min(budget, 4 * first.nbytes + ROW_FILE_SLACK_BYTES)

    def load_alike(file: File) -> np.ndarray:
        array = load(file, max_bytes)
        if (array.shape, array.dtype) != (first.shape, first.dtype):
            raise InputError(
                f"{describe(file)} is {array.dtype} {list(array.shape)}, but the first file is"
                f" {first.dtype} {list(first.shape)}; keep one kind"
            )
        return array

    return file_per_row(files, load_alike, first.shape, torch_type(first.dtype))


def open_container(path: Path, budget: int) -> Container:
    """The files of a folder or of an archive; those of the system do not count."""
    if path.is_dir():
        return _open_folder(path)
    with explain_read_errors(path, "a .zip archive"):
        archive = open_zip(path, budget)
        names = list(check_members(archive, path, budget))
        prefix = "./" if all(name.startswith("./") for name in names) else ""
        entries = [name.removeprefix(prefix) for name in (*names, *archive.namelist())]
        entries = [entry for entry in entries if not _is_system(entry)]
        folders = {entry.split("/")[0] for entry in entries if "/" in entry}
        files = sorted({entry for entry in entries if entry and not entry.endswith("/")})
        return Container(path, files, folders, archive, prefix)


def _open_folder(path: Path) -> Container:
    """The files of a folder; a folder that links reach twice is read once for each class."""
    entries = [Path(entry) for entry in os.scandir(path) if not is_hidden(entry.name)]
    folders = [entry for entry in entries if entry.is_dir()]
    for entry in folders:
        check_folder(entry)
    folders = [entry for entry in folders if not leads_back(entry, path)]
    files = [entry for entry in entries if not entry.is_dir()]
    for entry in folders:
        files += files_below(entry)
    names = sorted(file.relative_to(path).as_posix() for file in files)
    return Container(path, names, {entry.name for entry in folders})


def open_zip(path: Path, budget: int) -> zipfile.ZipFile:
    """The archive, unless the mere list of its members takes more memory than there is."""
    needed = BYTES_PER_LISTED_BYTE * _list_bytes(path)
    if needed > max(budget, MIN_LIST_BYTES):
        raise InputError(
            f"{path} has so many members that their list takes {needed >> 20} MiB, more than the"
            f" memory of {budget >> 20} MiB; unpack it into a folder or raise the memory"
        )
    try:  # names without a mark of their encoding are UTF-8 where macOS wrote them
        return zipfile.ZipFile(path, metadata_encoding="utf-8")
    except UnicodeDecodeError:
        return zipfile.ZipFile(path)


def check_plausible(name: str, size: int, packed_bytes: int) -> None:
    """Refuse what unpacks to much more than a file of real data holds."""
    if size > max(PLAUSIBLE_BYTES, PLAUSIBLE_RATIO * packed_bytes):
        raise InputError(
            f"{name} unpacks to {size >> 20} MiB from {packed_bytes >> 10} KiB: nearly all of it"
            " is one value, which is no data; if it is, write it uncompressed"
        )


def _list_bytes(path: Path) -> int:
    """Size of the list of members, as the end of the archive declares it; 0 where it has none.

    Read here because zipfile reads the list whole before anybody could object.
    """
    with open_source(path) as file:
        file_bytes = file.seek(0, os.SEEK_END)
        file.seek(max(0, file_bytes - END_RECORD_BYTES))
        tail = file.read()
    end = tail.rfind(b"PK\5\6")  # the end record, and before it that of the 64-bit format
    end64 = tail.rfind(b"PK\6\6", 0, max(end, 0))
    size = int.from_bytes(tail[end + 12 : end + 16], "little") if end >= 0 else 0
    size64 = int.from_bytes(tail[end64 + 40 : end64 + 48], "little") if end64 >= 0 else 0
    if end64 >= 0 and size == SIZE_IN_ZIP64:
        size = 0
    return min(max(size, size64), file_bytes)


def check_members(
    archive: zipfile.ZipFile, path: Path, budget: int
) -> Mapping[str, zipfile.ZipInfo]:
    """The files of an archive by name; the first that cannot be trusted is an error."""
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
        raise InputError(f"{path}: {inside!r} is both a file and a folder; archive it again")
    return by_name


def _flaw(member: zipfile.ZipInfo, budget: int) -> str | None:
    """Why a member cannot be trusted."""
    # a chain, not a table: an archive of ImageNet has 1.3 million members
    packed, size = member.compress_size, member.file_size
    if OUTSIDE.match(member.filename):
        return "leads out of the archive; such names are never opened"
    if CONTROL.search(member.filename):
        return "is a name with control characters in it; write the archive again"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a link; archives with links are not opened"
    if member.flag_bits & ENCRYPTED:
        return "is locked with a password; write the archive without one"
    if member.compress_type not in COMPRESSIONS:
        return "is packed in an unknown way; write it stored or deflated"
    if size > MAX_RATIO * packed + SLACK_BYTES:
        return f"claims {size} bytes in {packed}, which cannot be"
    if member.compress_type != zipfile.ZIP_STORED and size > budget:
        return (
            f"unpacks to {size >> 20} MiB, more than the memory of {budget >> 20} MiB;"
            " store it plain (np.savez, zip -0) or raise the memory"
        )
    return None


def _check_apart(members: list[zipfile.ZipInfo], path: Path) -> None:
    """Refuse members that share bytes: small archives would unpack to endless ones."""
    spans = np.array([(each.header_offset, each.compress_size) for each in members], object)
    if not len(spans):
        return
    # sorted as Python's integers, for a hostile offset may not fit in 64 bits
    spans = spans[spans[:, 0].argsort()].astype(np.float64)
    if (spans[:-1].sum(1) > spans[1:, 0]).any():
        raise InputError(f"{path} is damaged: its members overlap; write the archive again")


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder but hidden ones; a folder that links reach twice is read once."""
    visited = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        visible = [Path(parent, name) for name in folders if not is_hidden(name)]
        for entry in visible:
            check_folder(entry)
        # os.walk descends into what is left in its own list
        folders[:] = [entry.name for entry in visible if not leads_back(entry, folder.parent)]
        yield from (Path(parent, name) for name in files if not is_hidden(name))


def is_hidden(name: str) -> bool:
    """Whether a file or folder is the system's own."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def _is_system(name: str) -> bool:
    """Whether a file of an archive is the system's own, or lies in a folder that is."""
    return any(map(is_hidden, name.split("/")))


def check_folder(entry: Path) -> None:
    """Refuse a folder where a file belongs: passed over, its row would be missing unnoticed."""
    if entry.suffix.lower() in DATA_ENDINGS:
        raise InputError(f"{entry} is a folder, where its name says file; rename or remove it")


def leads_back(entry: Path, folder: Path) -> bool:
    """Whether a link points to the folder itself or above it."""
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(entry))
