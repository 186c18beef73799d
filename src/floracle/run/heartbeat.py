"""How processes of a group notice that one of them has died or is frozen.

Every process writes a count of its heartbeats on a board that all of them share, and reads the
counts of the others. Calls to a board whose own process is frozen are broken off after a time.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from socket import AF_INET, AF_INET6, SHUT_RDWR, socket
from threading import Event, Thread, Timer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store as MessageBoard

BEAT_KEY = "floracle/beat/{}"
MAX_PAUSE_SECONDS = 5.0
"""Between two heartbeats; a fifth of the timeout if that is shorter."""
STOP_SECONDS = 2.0
"""How long the end of the thread is waited for."""


@dataclass(eq=False)
class Heartbeat:
    """Lets the other processes know that this one lives, and listens for them.

    A thread counts beats on the board, also while the process computes or sleeps, but not while
    it is frozen. Silence is counted in beats of this process and not by the clock: processes that
    are stopped together and continued together have missed nothing of each other.
    """

    board: MessageBoard
    """By a connection of its own: calls of one connection wait for each other."""
    rank: int
    timeout: float
    """Seconds after which a silent process counts as lost."""
    missed_beats: list[int]
    """By rank, the beats of this process since the last new count of that rank."""
    beats: int = 0
    beats_at_look: int = 0
    unanswered: float = 0.0
    """Seconds of looking during which the board did not answer."""
    frozen: bool = False
    """Whether this process stood still, and has not heard of all the others again since."""
    pause_start: float = math.inf
    stopping: Event = field(default_factory=Event)
    thread: Thread | None = None

    @property
    def pause(self) -> float:
        """Seconds between two beats."""
        return min(MAX_PAUSE_SECONDS, self.timeout / 5)

    @property
    def was_frozen(self) -> bool:
        """Whether this process stood still for so long that the others may count it as lost."""
        return self.frozen or self._overslept()

    def look(self, seconds: float) -> None:
        """Notice whether the board answers; to be called every so many seconds while waiting."""
        no_beat = self.beats == self.beats_at_look
        self.unanswered = self.unanswered + seconds if no_beat else 0.0
        self.beats_at_look = self.beats

    def silent_for(self, seconds: float) -> tuple[int | None, float] | None:
        """The rank that is silent for so many seconds or more, and its silence; None for none.

        A rank of None stands for the board.
        """
        if self.unanswered >= seconds:
            return None, self.unanswered
        beats = max(self.missed_beats)
        silence = beats * self.pause
        return (self.missed_beats.index(beats), silence) if silence >= seconds else None

    def start(self) -> None:
        """Beat until `stop`, or until the board is gone."""
        self.thread = Thread(target=self._live, name="floracle heart", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """End the thread."""
        self.stopping.set()
        if self.thread is not None:
            with limit_board_calls(STOP_SECONDS):
                self.thread.join()

    def beat(self) -> None:
        """Write one more beat."""
        self.board.set(BEAT_KEY.format(self.rank), str(self.beats))
        self.beats += 1

    def _live(self) -> None:
        with suppress(RuntimeError, OSError):
            counts: Sequence[bytes] = [b""] * len(self.missed_beats)
            while not self._pause():
                overslept, self.pause_start = self._overslept(), math.inf
                self.frozen = self.frozen or overslept
                self.beat()
                counts = self._listen(counts)
                # Counts from before a long sleep do not say that the others are still there:
                # only after another round without a missed beat is this process up to date.
                self.frozen = overslept or (self.frozen and any(self.missed_beats))
        self.pause_start = math.inf

    def _pause(self) -> bool:
        """Wait for the next beat; returns whether to stop instead."""
        self.pause_start = time.monotonic()
        return self.stopping.wait(self.pause)

    def _overslept(self) -> bool:
        return time.monotonic() - self.pause_start > self.timeout / 2

    def _listen(self, former_counts: Sequence[bytes]) -> Sequence[bytes]:
        """Compare the counts on the board with those of the last time; returns them."""
        ranks = range(len(former_counts))
        counts = self.board.multi_get([BEAT_KEY.format(rank) for rank in ranks])
        self.missed_beats = [
            missed + 1 if count == former else 0
            for missed, count, former in zip(self.missed_beats, counts, former_counts, strict=True)
        ]
        return counts


@contextmanager
def limit_board_calls(seconds: float) -> Iterator[None]:
    """Let calls to the board fail after so many seconds; one to a frozen board never returns."""
    timer = Timer(seconds, _break_connections)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _break_connections() -> None:
    """Break this process's connections to the board, which ends every call to it.

    torch waits for answers outside of Python and without a timeout. A call that is left to a
    thread could return while the interpreter ends, which aborts the process.
    """
    port = int(os.environ["MASTER_PORT"])
    for number in os.listdir("/dev/fd"):
        with suppress(OSError):  # most are no sockets
            connection = socket(fileno=int(number))
            with suppress(OSError):  # some are not connected
                internet = connection.family in (AF_INET, AF_INET6)
                if internet and connection.getpeername()[1] == port:
                    connection.shutdown(SHUT_RDWR)
            connection.detach()  # torch closes it
