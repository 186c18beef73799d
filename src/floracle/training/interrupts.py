"""Ctrl-C and SIGTERM while a network learns: noted at once, obeyed once the run is saved.

In the middle of a step some weights are new and others are not. A signal that comes then is kept
until the step is done and a checkpoint is written; a second one ends the process as usual.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def deferred() -> Iterator[list[int]]:
    """Keep signals back; the list has those that came, which are delivered on leaving."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only that one has handlers
        yield received
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            _deliver(number, before[number], frame)

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if received:
        _deliver(received[0], before[received[0]], None)


def _deliver(number: int, handler: Any, frame: FrameType | None) -> None:
    """Do what the signal would have done."""
    if callable(handler):
        handler(number, frame)
    elif handler != signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
