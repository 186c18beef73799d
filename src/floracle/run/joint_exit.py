"""How several processes end together: one says why, all end with the same code.

Whoever fails first writes it on the group's board and speaks; the others, who then miss it or are
told to end by torchrun, find it there and keep quiet. A process that was frozen and goes on keeps
quiet as well: the others have given it up, and said so.
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

from .processes import ProcessGroup, leave_group, limit_board_calls, usable_cores

FAILED, TOLD = "floracle/failed", "floracle/told"
GRACE = 0.5
"""Seconds that others leave to the first process, which speaks for all if it fails as well."""
LINGER = 5.0
"""Seconds at most that the process which keeps the board waits for others to read it."""
ANSWER = 2.0
"""Seconds in which a board answers that is not frozen."""


class Stopped(BaseException):
    """The process was told to end."""


@contextmanager
def silence_others(group: ProcessGroup) -> Iterator[None]:
    """Only the first process of a group prints."""
    with ExitStack() as stack:
        if not group.first:
            nowhere = stack.enter_context(
                Path(os.devnull).open("w", encoding="utf-8", errors="replace")
            )
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        yield


def agree_on_exit(group: ProcessGroup, code: int) -> tuple[bool, int]:
    """Whether this process says why it failed, and the code it ends with.

    The first to come speaks, with its own code; the others take over that.
    """
    speaks = group.heartbeat is None or not group.heartbeat.was_frozen
    if group.board is None:
        return speaks, code
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the word must not be cut off
    if not group.first:
        time.sleep(GRACE)
    claim = json.dumps([group.rank, code])
    with suppress(RuntimeError), limit_board_calls(ANSWER):
        word = json.loads(group.board.compare_set(FAILED, "", claim))
        group.board.add(TOLD, 1)
        return speaks and word[0] == group.rank, word[1]
    return speaks and group.rank <= 1, code  # the board went with the first process


def process_label(group: ProcessGroup) -> str:
    """Which process says it, where it is not the first."""
    if group.first:
        return ""
    return f" (process {group.rank} of {group.size}, on {socket.gethostname()})"


def idle_cores_note(group: ProcessGroup) -> str | None:
    """Words for cores that nobody uses, as under torchrun, which asks for one thread each."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if not group.first or group.alone or not threads.isdigit():
        return None
    fair = usable_cores() // group.local_size
    if int(threads) >= fair:
        return None
    return (
        f"processes use {threads} of {usable_cores()} cores each, {group.local_size} here;"
        f" torchrun sets OMP_NUM_THREADS=1 unless told otherwise: OMP_NUM_THREADS={fair} uses all"
    )


def exit_process(group: ProcessGroup, code: int) -> None:
    """End at once: what is left of a broken group would only abort."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    leave_group(group)
    keeps = group.first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if group.board is not None and keeps:
        until = time.monotonic() + LINGER
        with suppress(RuntimeError):
            while group.board.add(TOLD, 0) < group.size and time.monotonic() < until:
                time.sleep(0.05)
    os._exit(code)
