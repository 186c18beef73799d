"""Files that are complete or absent: written aside, synced, renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

from .errors import InputError

DISK_FULL_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PART_NAME = re.compile(r"\..+\.[a-z0-9_]{8}\.part")
"""Names of files that are being written, or were when a run was killed."""
_ASIDE_FOLDERS: dict[str, Path] = {}
"""By the folder of an open run, where it writes its files first."""


class DiskFull(InputError):
    """There is no room to write a file; the error of the system is its cause."""


# Writing ------------------------------------------------------------------------------------


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """A temporary file that replaces `path` once it is written in full.

    It lies in the place that the run of that folder has for this, or else beside `path`. It is
    locked while somebody writes it, so that what killed runs left can be told apart. Only a
    regular file is replaced, and a link in the folder of a run is not followed.
    """
    folder, aside_folder = _folders_for(path)
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise InputError(f"{path} is no regular file, where this run writes one; remove it")
    try:
        handle, name = tempfile.mkstemp(".part", f".{path.name}.", aside_folder)
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(path) from error
        raise
    aside = Path(name)
    try:
        _lock(handle)
        yield aside
        aside.chmod(0o666 & ~_umask())
        _sync(aside)  # the content is on the disk before the name
        aside.replace(path)
        _sync(folder)
    except Exception as error:
        if is_disk_full(error):
            raise disk_full(path) from error
        if isinstance(error, OSError) and error.errno == errno.EXDEV:
            raise InputError(f"{folder} is on another device than its run; unmount it") from error
        raise
    finally:
        with suppress(FileNotFoundError):
            aside.unlink()
        os.close(handle)


@contextmanager
def redirect_writes(folder: Path, aside: Path) -> Iterator[None]:
    """Write all files of a folder in `aside` first, for as long as the context lasts."""
    root = os.path.abspath(folder)
    _ASIDE_FOLDERS[root] = aside
    try:
        yield
    finally:
        _ASIDE_FOLDERS.pop(root, None)  # processes that are threads, in tests, share it


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is never seen half-written."""
    with write_aside(path) as aside:
        aside.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text as `write_bytes` does; bytes of names that are not UTF-8 are escaped."""
    write_bytes(path, content.encode("utf-8", "backslashreplace"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON with sorted keys; NaN and infinities are refused, since JSON has none."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def writable_folder(folder: Path) -> Path:
    """Make a folder, or say why it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{folder} cannot be a folder: a file is in the way") from error
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"no permission to write to {folder}; choose another --out")
    return folder


def is_disk_full(error: Exception) -> bool:
    """Whether something could not be written for want of room; safetensors says so in words."""
    if isinstance(error, OSError):
        return error.errno in DISK_FULL_CODES
    return any(f"(os error {number})" in str(error) for number in DISK_FULL_CODES)


def disk_full(path: Path) -> DiskFull:
    """The error for a file that the disk has no room for."""
    return DiskFull(f"there is no room left to write {path}; make some, or choose another --out")


def _folders_for(path: Path) -> tuple[Path, Path]:
    """The folder of a file and where it is written first; both are made if they are missing."""
    absolute = Path(os.path.abspath(path))
    for root in absolute.parents:
        if (aside := _ASIDE_FOLDERS.get(str(root))) is not None:
            for folder in (absolute.parent, Path(os.path.abspath(aside))):
                _make_inside(root, folder)
            return path.parent, aside
    return writable_folder(path.parent), path.parent


def _make_inside(root: Path, folder: Path) -> None:
    """Make a folder below that of a run; links and files in the way are refused."""
    if not root.is_dir():
        raise InputError(
            f"{root} was removed while a run wrote into it; run the same command again"
        )
    current = writable_folder(root)
    for name in folder.relative_to(root).parts:
        current = current / name
        if current.is_symlink():
            raise InputError(f"{current} is a link, which no run follows; remove it")
        if not current.is_dir():
            writable_folder(current)


def _lock(handle: int) -> None:
    """Lock a file that is being written; the system unlocks it when its writer ends or dies."""
    with suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# Removing -----------------------------------------------------------------------------------


def folder_entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, by name."""
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def remove_leftovers(folder: Path) -> None:
    """Remove half-written files of killed runs from a folder that is a run's own."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for entry in folder_entries(folder):
        if is_leftover(entry) and not _is_locked(folder / entry.name):
            (folder / entry.name).unlink(missing_ok=True)


def is_leftover(entry: os.DirEntry[str]) -> bool:
    """Whether this is a file that is being written, or was when its writer died."""
    return entry.is_file(follow_symlinks=False) and bool(PART_NAME.fullmatch(entry.name))


def _is_locked(path: Path) -> bool:
    """Whether somebody is writing a file."""
    try:
        import fcntl

        with open_regular(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError, InputError):  # no locks on this system: its run is over
        return False
    return False


def remove_files(folder: Path, names: re.Pattern[str]) -> None:
    """Remove files of these names in and below a folder, and the folders that are empty then.

    Nothing else is removed, and neither links nor other devices are entered.
    """
    if folder.is_symlink() or not folder.is_dir() or os.path.ismount(folder):
        return
    for entry in folder_entries(folder):
        path = folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            remove_files(path, names)
        elif entry.is_file(follow_symlinks=False) and names.fullmatch(entry.name):
            path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


# Reading ------------------------------------------------------------------------------------


def open_regular(path: Path, *, links: bool = False) -> BufferedReader:
    """Open a file for reading; refuse a folder, pipe or device in its place without waiting.

    A link is refused as well, since no file of a run is one; `links` follows those of other
    people's files.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
    flags |= 0 if links else getattr(os, "O_NOFOLLOW", 0)
    try:
        handle = os.open(path, flags)
    except FileNotFoundError as error:
        raise InputError(f"there is no {path}") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(
                f"{path} is a link where a file belongs; it is not followed"
            ) from error
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{path} cannot be read: {reason}") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"{path} is no regular file, where one belongs; it is not read")
    return open(handle, "rb")


def read_regular(path: Path, *, links: bool = False) -> bytes:
    """The content of a file; see `open_regular`."""
    with open_regular(path, links=links) as file:
        return file.read()


def read_json(path: Path, *, links: bool = True) -> Any:
    """Read a JSON file, and name it if it is broken."""
    content = read_regular(path, links=links)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not readable JSON ({error}); remove it to start again"
        ) from error


def hash_file(path: Path, *, links: bool = False) -> str:
    """The hash of a file, 128 bits of BLAKE2b in hexadecimal."""
    with open_regular(path, links=links) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def check_hash(path: Path, expected: str) -> None:
    """Refuse a file whose bytes are not those that were written."""
    try:
        fault = f"its {path.stat().st_size:,} bytes are not those that were written"
        if hash_file(path) == expected:
            return
    except OSError as error:
        fault = (error.strerror or str(error)).lower()
    raise InputError(f"{path} is damaged ({fault})")


def digest(*parts: bytes | memoryview | str) -> str:
    """A short hash (128 bits of BLAKE2b, hexadecimal) of several parts."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        # the names of files may be no UTF-8: their bytes count as they are
        content = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        state.update(len(content).to_bytes(8, "little"))  # so that ("ab", "c") is not ("a", "bc")
        state.update(content)
    return state.hexdigest()
