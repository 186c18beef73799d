"""Processes that torchrun starts and that work as one: who they are, and the share of each.

Each of P processes reads a share of the data, and all of them hold the same results (exchange.py).
Nothing here imports torch before it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from .errors import InputError
from .heartbeat import Heartbeat, limit_board_calls

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store as MessageBoard
    from torch.distributed import ProcessGroup as TorchGroup

LAUNCH_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that torchrun sets for each process."""
TIMEOUT_VARIABLE = "FLORACLE_TIMEOUT"
"""The environment variable with the seconds after which a silent process counts as lost."""
DEFAULT_TIMEOUT_SECONDS = 300.0
PATIENT_TIMEOUT = timedelta(days=7)
"""How long others wait while one process, whose heartbeats they hear, writes or draws."""
MARGIN_SECONDS = 2.0
"""More than torch's own timeout, whose error says more than that of a broken connection."""


@dataclass(frozen=True, eq=False)
class ProcessGroup:
    """Processes that work as one, as one of them sees it."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Its number among the processes on this machine."""
    local_size: int = 1
    """How many of them are on this machine."""
    connections: dict[str, TorchGroup] = field(default_factory=dict)
    """To the others: "prompt", and "patient" with time to wait for one of them."""
    board: MessageBoard | None = None
    """Where a process that fails says so."""
    heartbeat: Heartbeat | None = None

    @property
    def first(self) -> bool:
        """Whether this process prints, writes and draws."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there are no other processes."""
        return self.size == 1


ALONE = ProcessGroup()
"""A process without others."""
_current_group: ContextVar[ProcessGroup] = ContextVar("group", default=ALONE)


def is_launched() -> bool:
    """Whether this process was started as one of several."""
    size = os.environ.get("WORLD_SIZE", "1")
    launched = all(name in os.environ for name in LAUNCH_VARIABLES)
    return launched and size.isdigit() and int(size) > 1


def current_group() -> ProcessGroup:
    """The group that is joined; `ALONE` if there is none."""
    return _current_group.get()


@contextmanager
def joined(timeout: float | None = None) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started, for as long as the context lasts.

    The group is `ALONE` if there are none, and the current one if one is joined already. `timeout`
    are the seconds after which a silent process counts as lost: FLORACLE_TIMEOUT, or 300.
    """
    if not is_launched() or not current_group().alone:
        yield current_group()
        return
    group = _form_group(timeout_seconds() if timeout is None else timeout)
    token = _current_group.set(group)
    try:
        _share_cores(group)
        yield group
    finally:
        _current_group.reset(token)
        leave_group(group)


def leave_group(group: ProcessGroup) -> None:
    """Close the connections to the others, who notice it at once if they still need them."""
    import torch.distributed as dist

    if group.heartbeat is not None:
        group.heartbeat.stop()
    with suppress(RuntimeError, ValueError, AssertionError):
        if group.board is not None:
            dist.destroy_process_group()
        else:  # torch.distributed was initialized by others, who go on using it
            for connection in group.connections.values():
                dist.destroy_process_group(connection)
    group.connections.clear()


def contiguous_share(count: int, group: ProcessGroup = ALONE) -> slice:
    """The contiguous share of a process in `count` things; shares differ by one at most."""
    quotient, remainder = divmod(count, group.size)
    start = group.rank * quotient + min(group.rank, remainder)
    return slice(start, start + quotient + (group.rank < remainder))


def process_device(device: str, group: ProcessGroup) -> str:
    """A device by its name; "cuda" is this process's own GPU of its machine."""
    if device != "cuda" or group.alone:
        return device
    import torch

    return f"cuda:{group.local_rank % max(1, torch.cuda.device_count())}"


def process_memory(memory: str | None, group: ProcessGroup) -> str | None:
    """The part of a process in its machine's memory budget, also in the default one."""
    if group.alone:
        return memory
    from .budget import memory_budget

    return str(max(1, memory_budget(memory) // group.local_size))


def timeout_seconds() -> float:
    """Seconds after which a silent process counts as lost, from the environment."""
    value = os.environ.get(TIMEOUT_VARIABLE, str(DEFAULT_TIMEOUT_SECONDS))
    with suppress(ValueError):
        if 0 < float(value) <= PATIENT_TIMEOUT.total_seconds():
            return float(value)
    raise InputError(
        f"{TIMEOUT_VARIABLE}={value!r} is no number of seconds; leave it out for"
        f" {DEFAULT_TIMEOUT_SECONDS:g}"
    )


def usable_cores() -> int:
    """The cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _form_group(timeout: float) -> ProcessGroup:
    """Find the other processes, connect to each, and start the heartbeat."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_gloo_available()):
        raise InputError("this torch was built without gloo; start floracle without torchrun")
    size, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    try:
        board = None if dist.is_initialized() else _rendezvous(size, rank, timeout)
        with limit_board_calls(timeout + MARGIN_SECONDS):
            prompt = _connect(timedelta(seconds=timeout))
            heartbeat = _first_beat(size, rank, timeout)
            patient = _connect(PATIENT_TIMEOUT)  # once it stands, the first beats of all do too
    except (RuntimeError, ValueError) as error:
        address = ":".join(os.environ[name] for name in LAUNCH_VARIABLES[2:])
        first_line = str(error).split("\n")[0][:120]
        raise InputError(
            f"process {rank} of {size} did not find the others at {address} ({first_line});"
            " start all of them with torchrun, or unset WORLD_SIZE to work alone"
        ) from error
    heartbeat.start()
    return ProcessGroup(
        rank,
        size,
        local_rank=int(os.environ.get("LOCAL_RANK", rank)),
        local_size=int(os.environ.get("LOCAL_WORLD_SIZE", size)),
        connections={"prompt": prompt, "patient": patient},
        board=board,
        heartbeat=heartbeat,
    )


def _rendezvous(size: int, rank: int, timeout: float) -> MessageBoard:
    """Meet the others where the environment says; returns the board that all of them share."""
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    limit = timedelta(seconds=timeout)
    with limit_board_calls(timeout + MARGIN_SECONDS):
        board, *_ = next(rendezvous("env://", timeout=limit))
    with limit_board_calls(timeout + MARGIN_SECONDS):
        dist.init_process_group("gloo", store=board, rank=rank, world_size=size, timeout=limit)
    return board


def _first_beat(size: int, rank: int, timeout: float) -> Heartbeat:
    """A heartbeat that has beaten once, on the store by which torch.distributed met."""
    from torch._C._distributed_c10d import PrefixStore, TCPStore
    from torch.distributed.distributed_c10d import _get_default_store

    store: Any = _get_default_store()
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    if isinstance(store, TCPStore):  # a connection of its own; other stores have no connections
        store = TCPStore(
            store.host,
            store.port,
            timeout=timedelta(seconds=timeout),
            wait_for_workers=False,
            use_libuv=store.libuvBackend,  # pyright: ignore[reportAttributeAccessIssue]
        )
    heartbeat = Heartbeat(store, rank, timeout, [0] * size)
    heartbeat.beat()
    return heartbeat


def _connect(timeout: timedelta) -> TorchGroup:
    import torch.distributed as dist

    return cast("TorchGroup", dist.new_group(timeout=timeout, backend="gloo"))


def _share_cores(group: ProcessGroup) -> None:
    """Divide the cores of this machine, unless the environment says how many to use."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable_cores() // group.local_size))
