"""The lock of a folder: one run at a time writes into it."""

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

    The system releases the lock when a process ends, however it ends. The first process of a
    group checks that no other run holds it; then all of them hold it together, since one that is
    slow to end may outlive the first.
    """
    handle = _locked_handle(folder, group)
    try:
        yield
    finally:
        os.close(handle)


def _locked_handle(folder: Path, group: ProcessGroup) -> int:
    """A handle of the folder, locked; of the folder that has the name now, not a removed one."""
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
    """Lock a folder, or raise BlockingIOError; some network file systems have no locks."""
    try:
        import fcntl
    except ImportError:  # this system has no locks: nothing stops a second run
        return
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return
