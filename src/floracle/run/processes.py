"""Several processes as one: who they are, and what falls to each.

torchrun starts P processes and numbers them; each reads a share of the data and all of them hold
the same results (exchange.py). While they are a group, each lets the others hear that it lives.
Nothing here imports torch before it is needed.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from socket import AF_INET, AF_INET6, SHUT_RDWR, socket
from threading import Event, Thread, Timer
from typing import TYPE_CHECKING, Any, Protocol, cast

from .errors import InputError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup as TorchGroup

LAUNCH_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun, and whoever starts processes by hand, tells each of them."""
TIMEOUT_VARIABLE = "FLORACLE_TIMEOUT"
"""The environment's name for the seconds after which a silent process counts as lost."""
DEFAULT_TIMEOUT_SECONDS = 300.0
PATIENT_TIMEOUT = timedelta(days=7)
"""How long others wait while one process, whose heart they hear, writes or draws."""
BEAT_KEY = "floracle/beat/{}"
MAX_PAUSE_SECONDS = 5.0
"""Between two heartbeats; a fifth of the timeout where that is shorter."""
MARGIN_SECONDS = 2.0
"""More than torch's own timeout, whose error says more than that of a broken connection."""


class MessageBoard(Protocol):
    """Where processes leave each other word, like the store of torch.distributed."""

    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes:
        """Write where nothing else than `expected` is written; returns what then is."""
        ...

    def add(self, key: str, amount: int, /) -> int:
        """Count; returns the count."""
        ...

    def set(self, key: str, value: str, /) -> None:
        """Write, whatever is written there."""
        ...

    def multi_get(self, keys: list[str], /) -> Sequence[bytes]:
        """What is written under each of the keys, once there is something under all."""
        ...


@dataclass(eq=False)
class Heartbeat:
    """Lets the others hear that this process lives, and listens for them.

    A thread counts beats on the board, also while the process computes or sleeps, but not while
    it is frozen. Silence is counted in beats of one's own and not by the clock: processes that
    are stopped all at once, and go on all at once, have missed nothing of each other.
    """

    board: MessageBoard
    """By a connection of its own: calls of one connection wait for each other."""
    rank: int
    timeout: float
    """The seconds after which a silent process counts as lost."""
    missed_beats: list[int]
    """By rank, the beats of this process since the last one that it heard of that rank."""
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
        """Whether this process stood still for so long that the others may have given it up."""
        return self.frozen or self._overslept()

    def look(self, seconds: float) -> None:
        """Notice whether the board answers; whoever waits looks every so many seconds."""
        same = self.beats == self.beats_at_look
        self.unanswered = self.unanswered + seconds if same else 0.0
        self.beats_at_look = self.beats

    def silent_for(self, seconds: float) -> tuple[int | None, float] | None:
        """Who has been silent for so many seconds, and for how many; no rank for the board."""
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
            with limit_board_calls(MARGIN_SECONDS):
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
                # what came during a long sleep does not say that the others are still there
                self.frozen = overslept or (self.frozen and any(self.missed_beats))
        self.pause_start = math.inf

    def _pause(self) -> bool:
        """Wait for the next beat; returns whether it is to stop instead."""
        self.pause_start = time.monotonic()
        return self.stopping.wait(self.pause)

    def _overslept(self) -> bool:
        return time.monotonic() - self.pause_start > self.timeout / 2

    def _listen(self, before: Sequence[bytes]) -> Sequence[bytes]:
        """Compare the counts on the board with those of the last time; returns them."""
        counts = self.board.multi_get([BEAT_KEY.format(rank) for rank in range(len(before))])
        self.missed_beats = [
            missed + 1 if now == last else 0
            for missed, now, last in zip(self.missed_beats, counts, before, strict=True)
        ]
        return counts


@dataclass(frozen=True, eq=False)
class ProcessGroup:
    """Processes that work as one, as one of them sees it."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Its number among those on this machine."""
    local_size: int = 1
    """How many of them are on this machine."""
    connections: dict[str, TorchGroup] = field(default_factory=dict)
    """Connections to the others: "prompt", and "patient" with time to wait for one of them."""
    board: MessageBoard | None = None
    """Where a process that fails says so."""
    heartbeat: Heartbeat | None = None
    """By which the others know that this process lives."""

    @property
    def first(self) -> bool:
        """Whether this process prints, writes and draws."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is nobody else."""
        return self.size == 1


ALONE = ProcessGroup()
"""A process without others."""
_JOINED: ContextVar[ProcessGroup] = ContextVar("group", default=ALONE)


def is_launched() -> bool:
    """Whether this process was started as one of several."""
    size = os.environ.get("WORLD_SIZE", "1")
    return (
        all(name in os.environ for name in LAUNCH_VARIABLES) and size.isdigit() and int(size) > 1
    )


def current_group() -> ProcessGroup:
    """The group that is joined; `ALONE` where there is none."""
    return _JOINED.get()


@contextmanager
def joined(timeout: float | None = None) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started, for as long as the context lasts.

    Alone where there are none, and the same group where it is joined already. `timeout` are the
    seconds after which a silent process counts as lost: FLORACLE_TIMEOUT, or 300.
    """
    if not is_launched() or not current_group().alone:
        yield current_group()
        return
    group = _formed(timeout_seconds() if timeout is None else timeout)
    token = _JOINED.set(group)
    try:
        _share_cores(group)
        yield group
    finally:
        _JOINED.reset(token)
        leave_group(group)


def leave_group(group: ProcessGroup) -> None:
    """Close the connections to the others, who notice it at once if they still need them."""
    import torch.distributed as dist

    if group.heartbeat is not None:
        group.heartbeat.stop()
    with suppress(RuntimeError, ValueError, AssertionError):
        if group.board is not None:
            dist.destroy_process_group()
        else:
            for link in group.connections.values():
                dist.destroy_process_group(link)
    group.connections.clear()


def contiguous_share(count: int, group: ProcessGroup = ALONE) -> slice:
    """A process's contiguous share of `count` things; shares differ by one at most."""
    each, rest = divmod(count, group.size)
    start = group.rank * each + min(group.rank, rest)
    return slice(start, start + each + (group.rank < rest))


def process_device(asked: str, group: ProcessGroup) -> str:
    """The device asked for; "cuda" is this process's own GPU of its machine."""
    if asked != "cuda" or group.alone:
        return asked
    import torch

    return f"cuda:{group.local_rank % max(1, torch.cuda.device_count())}"


def process_memory(asked: str | None, group: ProcessGroup) -> str | None:
    """A process's part of its machine's memory budget; half of what is free is divided too."""
    if group.alone:
        return asked
    from .budget import memory_budget

    return str(max(1, memory_budget(asked) // group.local_size))


def timeout_seconds() -> float:
    """The seconds after which a silent process counts as lost."""
    asked = os.environ.get(TIMEOUT_VARIABLE, str(DEFAULT_TIMEOUT_SECONDS))
    with suppress(ValueError):
        if 0 < float(asked) <= PATIENT_TIMEOUT.total_seconds():
            return float(asked)
    raise InputError(
        f"{TIMEOUT_VARIABLE}={asked!r} is no number of seconds; leave it out for"
        f" {DEFAULT_TIMEOUT_SECONDS:g}"
    )


@contextmanager
def limit_board_calls(seconds: float) -> Iterator[None]:
    """Calls to the board fail after so many seconds; a frozen one would let them wait for ever."""
    timer = Timer(seconds, _break_off)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _break_off() -> None:
    """Break this process's connections to the board, with which every call to it ends.

    torch waits for its answers beyond Python and without a timeout. Left to a thread, such a call
    could come back while the interpreter ends, which aborts the process.
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


def _formed(timeout: float) -> ProcessGroup:
    """Find the others, connect to each, and let them hear of this one."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_gloo_available()):
        raise InputError("this torch was built without gloo; start floracle without torchrun")
    size, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    try:
        board = None if dist.is_initialized() else _met(size, rank, timeout)
        with limit_board_calls(timeout + MARGIN_SECONDS):
            prompt = _connected(timedelta(seconds=timeout))
            heart = _heart(size, rank, timeout)
            patient = _connected(PATIENT_TIMEOUT)  # whoever has it finds the first beats of all
    except (RuntimeError, ValueError) as error:
        where = ":".join(os.environ[name] for name in LAUNCH_VARIABLES[2:])
        raise InputError(
            f"process {rank} of {size} did not find the others at {where} ({_line(error)});"
            " start all of them with torchrun, or unset WORLD_SIZE to work alone"
        ) from error
    heart.start()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    place = int(os.environ.get("LOCAL_RANK", rank))
    return ProcessGroup(
        rank, size, place, local, {"prompt": prompt, "patient": patient}, board, heart
    )


def _met(size: int, rank: int, timeout: float) -> MessageBoard:
    """Meet the others where the environment says; returns what they all can write on."""
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    limit = timedelta(seconds=timeout)
    with limit_board_calls(timeout + MARGIN_SECONDS):
        board, *_ = next(rendezvous("env://", timeout=limit))
    with limit_board_calls(timeout + MARGIN_SECONDS):
        dist.init_process_group("gloo", store=board, rank=rank, world_size=size, timeout=limit)
    return board


def _heart(size: int, rank: int, timeout: float) -> Heartbeat:
    """A heart that has beaten once, on the store by which torch.distributed met."""
    from torch._C._distributed_c10d import PrefixStore, TCPStore
    from torch.distributed.distributed_c10d import _get_default_store

    store: Any = _get_default_store()
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    if isinstance(store, TCPStore):  # other stores have no connections
        store = TCPStore(
            store.host,
            store.port,
            timeout=timedelta(seconds=timeout),
            wait_for_workers=False,
            use_libuv=store.libuvBackend,  # pyright: ignore[reportAttributeAccessIssue]
        )
    heart = Heartbeat(store, rank, timeout, [0] * size)
    heart.beat()
    return heart


def _connected(timeout: timedelta) -> TorchGroup:
    import torch.distributed as dist

    return cast("TorchGroup", dist.new_group(timeout=timeout, backend="gloo"))


def _share_cores(group: ProcessGroup) -> None:
    """Divide the cores of this machine, unless the environment says how many to use."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable_cores() // group.local_size))


def usable_cores() -> int:
    """The cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _line(error: Exception) -> str:
    return str(error).split("\n")[0][:120]
