"""How several processes end together: one says why, all end with the same code.

Whoever fails first writes it on the group's board and speaks; the others, who then miss it or are
told to end by torchrun, find it there and keep quiet.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import FrameType

from .processes import Group, cores, leave

FAILED, TOLD = "floracle/failed", "floracle/told"
GRACE = 0.5
"""Seconds that others leave to the first process, which speaks for all if it fails as well."""
LINGER = 5.0
"""Seconds at most that the process which keeps the board waits for others to read it."""


class Stopped(BaseException):
    """The process was told to end."""


@contextmanager
def told_to_end() -> Iterator[None]:
    """Let SIGTERM, by which torchrun ends the others where one has failed, raise `Stopped`."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def quiet(group: Group) -> Iterator[None]:
    """Only the first process of a group prints."""
    with ExitStack() as stack:
        if not group.first:
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        yield


def ended(group: Group, code: int) -> tuple[bool, int]:
    """Whether this process says why it failed, and the code it ends with.

    The first to come speaks, with its own code; the others take over that.
    """
    if group.board is None:
        return True, code
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the word must not be cut off
    if not group.first:
        time.sleep(GRACE)
    claim = json.dumps([group.rank, code])
    with suppress(RuntimeError, OSError):
        found = json.loads(group.board.compare_set(FAILED, "", claim))
        group.board.add(TOLD, 1)
        return found[0] == group.rank, found[1]
    return group.rank <= 1, code  # the board went with the first process


def whose(group: Group) -> str:
    """Which process says it, where it is not the first."""
    if group.first:
        return ""
    return f" (process {group.rank} of {group.size}, on {socket.gethostname()})"


def left_idle(group: Group) -> str | None:
    """Words for cores that nobody uses, as under torchrun, which asks for one thread each."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if not group.first or group.alone or not threads.isdigit():
        return None
    fair = cores() // group.local
    if int(threads) >= fair:
        return None
    return (
        f"processes use {threads} of {cores()} cores each, {group.local} here; torchrun sets"
        f" OMP_NUM_THREADS=1 unless told otherwise: OMP_NUM_THREADS={fair} uses all"
    )


def gone(group: Group, code: int) -> None:
    """End at once: what is left of a broken group would only abort."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    leave(group)
    keeps = group.first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if group.board is not None and keeps:
        until = time.monotonic() + LINGER
        while group.board.add(TOLD, 0) < group.size and time.monotonic() < until:
            time.sleep(0.05)
    os._exit(code)
