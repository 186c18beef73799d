"""One lock for all runs that write: a folder is written by one run at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError
from .files import writable_folder
from .processes import ALONE, ProcessGroup


@contextmanager
def locked(folder: Path, group: ProcessGroup = ALONE) -> Iterator[None]:
    """Keep other runs away from a folder for as long as any process of this one writes there.

    The system lets go of the lock when a process ends, however it ends. The first process of a
    group looks whether anybody else is there; then all of them hold the lock together, since one
    that is slow to end may outlive the first.
    """
    handle = _locked_handle(folder, group)
    try:
        yield
    finally:
        os.close(handle)


def _locked_handle(folder: Path, group: ProcessGroup) -> int:
    """The folder, open and locked; the one that has the name now, not one that was removed."""
    while True:
        handle = os.open(writable_folder(folder), os.O_RDONLY)
        try:
            if group.first:
                _lock(handle, shared=False)
            if not group.alone:
                _lock(handle, shared=True)
        except BlockingIOError as error:
            os.close(handle)
            raise InputError(
                f"another run is writing into {folder}; wait for it to end"
            ) from error
        if folder.is_dir() and os.path.samestat(os.fstat(handle), folder.stat()):
            return handle
        os.close(handle)


def _lock(handle: int, *, shared: bool) -> None:
    """Lock a folder, or raise BlockingIOError; some network file systems have no such locks."""
    try:
        import fcntl
    except ImportError:  # not on this system: two runs at a time are the user's own fault
        return
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return
