"""Files that are whole or not there: written aside, synced, renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import Mistake


class NoRoom(Mistake):
    """Something could not be written for want of room; what the system said is its cause."""


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where there is no room left."""


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A temporary neighbour of `path` that takes its place once written in full."""
    folder = writable_folder(path.parent)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=folder)
    except OSError as error:
        if is_full(error):
            raise no_room(path) from error
        raise
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        aside.chmod(0o666 & ~_umask())
        _sync(aside)
        aside.replace(path)
        _sync(folder)
    except Exception as error:
        if is_full(error):
            raise no_room(path) from error
        raise
    finally:
        with suppress(FileNotFoundError):
            aside.unlink()


def is_full(error: Exception) -> bool:
    """Whether something could not be written for want of room; safetensors says so in words."""
    if isinstance(error, OSError):
        return error.errno in FULL
    return any(f"(os error {number})" in str(error) for number in FULL)


def no_room(path: Path) -> NoRoom:
    """What to say then."""
    return NoRoom(f"there is no room left to write {path}; make some, or choose another --out")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is never seen half-written."""
    with written_aside(path) as aside:
        aside.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text so that it is never seen half-written."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write JSON with sorted keys; NaN and infinities are refused, since JSON has none."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def sweep(folder: Path) -> None:
    """Remove what runs that were killed while they wrote have left in and below a folder."""
    for left in folder.rglob(".*.part"):
        left.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Read a JSON file, naming it where it is broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise Mistake(f"there is no {path}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Mistake(
            f"{path} is not readable JSON ({error}); remove it to start again"
        ) from error


def hash_of(path: Path) -> str:
    """The hash of a file, 128 bits of BLAKE2b in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def check_hash(path: Path, known: str) -> None:
    """Name a file whose bytes are not those that were written."""
    try:
        flaw = f"its {path.stat().st_size:,} bytes are not those that were written"
        if hash_of(path) == known:
            return
    except OSError as error:
        flaw = error.strerror or str(error)
    raise Mistake(f"{path} is damaged ({flaw})")


def writable_folder(folder: Path) -> Path:
    """Make a folder, or say why it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise Mistake(f"{folder} cannot be a folder: a file is in the way") from error
    except OSError as error:
        raise Mistake(f"cannot make the folder {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Mistake(f"no permission to write to {folder}; choose another --out")
    return folder


def digest(*parts: bytes | memoryview | str) -> str:
    """A short hash (128 bits of BLAKE2b, hexadecimal) of several parts."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        state.update(len(content).to_bytes(8, "little"))
        state.update(content)
    return state.hexdigest()


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
