"""How several processes end together: one says why, and all end with the same code.

The process that fails first writes it on the group's board and prints the message. The others,
which then miss it or are told to end by torchrun, find it there and print nothing. Nor does a
process that was frozen and goes on: the others have counted it as lost, and said so.
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

from .heartbeat import limit_board_calls
from .processes import ProcessGroup, leave_group, usable_cores

FAILED_KEY, READ_KEY = "floracle/failed", "floracle/told"
FIRST_PROCESS_SECONDS = 0.5
"""The start that the others leave to the first process, which speaks for all if it fails too."""
BOARD_SECONDS = 5.0
"""How long at most the process that keeps the board waits for others to read it."""
ANSWER_SECONDS = 2.0
"""In which a board answers that is not frozen."""


class Stopped(BaseException):
    """The process was told to end."""


@contextmanager
def silence_others(group: ProcessGroup) -> Iterator[None]:
    """Let only the first process of a group print."""
    with ExitStack() as stack:
        if not group.first:
            nowhere = stack.enter_context(
                Path(os.devnull).open("w", encoding="utf-8", errors="replace")
            )
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        yield


def agree_on_exit(group: ProcessGroup, code: int) -> tuple[bool, int]:
    """Whether this process prints why it failed, and the exit code of the group.

    The first process to fail prints, and the others take over its code.
    """
    speaks = group.heartbeat is None or not group.heartbeat.was_frozen
    if group.board is None:
        return speaks, code
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the message must not be cut off
    if not group.first:
        time.sleep(FIRST_PROCESS_SECONDS)
    claim = json.dumps([group.rank, code])
    with suppress(RuntimeError), limit_board_calls(ANSWER_SECONDS):
        rank, agreed_code = json.loads(group.board.compare_set(FAILED_KEY, "", claim))
        group.board.add(READ_KEY, 1)
        return speaks and rank == group.rank, agreed_code
    return speaks and group.rank <= 1, code  # the board went with the first process


def process_label(group: ProcessGroup) -> str:
    """Which process a message is from, if it is not the first."""
    if group.first:
        return ""
    return f" (process {group.rank} of {group.size}, on {socket.gethostname()})"


def idle_cores_note(group: ProcessGroup) -> str | None:
    """A note on cores that are not used, as under torchrun, which sets one thread each."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if not group.first or group.alone or not threads.isdigit():
        return None
    fair_share = usable_cores() // group.local_size
    if int(threads) >= fair_share:
        return None
    return (
        f"processes use {threads} of {usable_cores()} cores each, {group.local_size} here;"
        " torchrun sets OMP_NUM_THREADS=1 unless told otherwise:"
        f" OMP_NUM_THREADS={fair_share} uses all"
    )


def exit_process(group: ProcessGroup, code: int) -> None:
    """End at once: an orderly end of a broken group would only abort."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    leave_group(group)
    keeps_board = group.first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if group.board is not None and keeps_board:
        deadline = time.monotonic() + BOARD_SECONDS
        with suppress(RuntimeError):
            while group.board.add(READ_KEY, 0) < group.size and time.monotonic() < deadline:
                time.sleep(0.05)
    os._exit(code)
