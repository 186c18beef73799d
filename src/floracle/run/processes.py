"""Several processes as one: who they are, and what falls to each.

torchrun starts P processes and numbers them; each reads a share of the data and all of them hold
the same results (exchange.py). Nothing here imports torch before it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, cast

from .errors import Mistake

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun, and whoever starts processes by hand, tells each of them."""
SILENCE = "FLORACLE_TIMEOUT"
"""The environment's name for the seconds after which a silent process counts as lost."""
SECONDS = 300.0
PATIENCE = timedelta(days=7)
"""How long others wait while one process writes or draws."""


class Board(Protocol):
    """Where processes leave each other word, like the store of torch.distributed."""

    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes:
        """Write where nothing else than `expected` is written; returns what then is."""
        ...

    def add(self, key: str, amount: int, /) -> int:
        """Count; returns the count."""
        ...


@dataclass(frozen=True, eq=False)
class Group:
    """Processes that work as one, as one of them sees it."""

    rank: int = 0
    size: int = 1
    place: int = 0
    """Its number among those on this machine."""
    local: int = 1
    """How many of them are on this machine."""
    links: dict[str, ProcessGroup] = field(default_factory=dict)
    """Connections to the others: "prompt", and "patient" with time to wait for one of them."""
    board: Board | None = None
    """Where a process that fails says so."""

    @property
    def first(self) -> bool:
        """Whether this process prints, writes and draws."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is nobody else."""
        return self.size == 1


ALONE = Group()
"""A process without others."""
_JOINED: ContextVar[Group] = ContextVar("group", default=ALONE)


def launched() -> bool:
    """Whether this process was started as one of several."""
    size = os.environ.get("WORLD_SIZE", "1")
    return all(name in os.environ for name in LAUNCHED) and size.isdigit() and int(size) > 1


def current() -> Group:
    """The group that is joined; `ALONE` where there is none."""
    return _JOINED.get()


@contextmanager
def joined(timeout: float | None = None) -> Iterator[Group]:
    """Join the processes that torchrun started, for as long as the context lasts.

    Alone where there are none, and the same group where it is joined already. `timeout` are the
    seconds after which a silent process counts as lost: FLORACLE_TIMEOUT, or 300.
    """
    if not launched() or not current().alone:
        yield current()
        return
    group = _formed(timedelta(seconds=silence() if timeout is None else timeout))
    token = _JOINED.set(group)
    try:
        _share_cores(group)
        yield group
    finally:
        _JOINED.reset(token)
        leave(group)


def leave(group: Group) -> None:
    """Close the connections to the others, who notice it at once if they still need them."""
    import torch.distributed as dist

    with suppress(RuntimeError, ValueError, AssertionError):
        if group.board is not None:
            dist.destroy_process_group()
        else:
            for link in group.links.values():
                dist.destroy_process_group(link)
    group.links.clear()


def share(count: int, group: Group = ALONE) -> slice:
    """A process's contiguous share of `count` things; shares differ by one at most."""
    each, rest = divmod(count, group.size)
    start = group.rank * each + min(group.rank, rest)
    return slice(start, start + each + (group.rank < rest))


def own_device(asked: str, group: Group) -> str:
    """The device asked for; "cuda" is this process's own GPU of its machine."""
    if asked != "cuda" or group.alone:
        return asked
    import torch

    return f"cuda:{group.place % max(1, torch.cuda.device_count())}"


def own_memory(asked: str | None, group: Group) -> str | None:
    """A process's part of its machine's memory budget; half of what is free is divided too."""
    if group.alone:
        return asked
    from .budget import memory_budget

    return str(max(1, memory_budget(asked) // group.local))


def silence() -> float:
    """The seconds after which a silent process counts as lost."""
    asked = os.environ.get(SILENCE, str(SECONDS))
    with suppress(ValueError):
        if 0 < float(asked) <= PATIENCE.total_seconds():
            return float(asked)
    raise Mistake(f"{SILENCE}={asked!r} is no number of seconds; leave it out for {SECONDS:g}")


def _formed(timeout: timedelta) -> Group:
    """Find the others and connect to each."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_gloo_available()):
        raise Mistake("this torch was built without gloo; start floracle without torchrun")
    size, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    try:
        board = None if dist.is_initialized() else _met(size, rank, timeout)
        links = {"prompt": _connected(timeout), "patient": _connected(PATIENCE)}
    except (RuntimeError, ValueError) as error:
        where = ":".join(os.environ[name] for name in LAUNCHED[2:])
        raise Mistake(
            f"process {rank} of {size} did not find the others at {where} ({_line(error)});"
            " start all of them with torchrun, or unset WORLD_SIZE to work alone"
        ) from error
    local = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    place = int(os.environ.get("LOCAL_RANK", rank))
    return Group(rank, size, place, local, links, board)


def _met(size: int, rank: int, timeout: timedelta) -> Board:
    """Meet the others where the environment says; returns what they all can write on."""
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    board, *_ = next(rendezvous("env://", timeout=timeout))
    dist.init_process_group("gloo", store=board, rank=rank, world_size=size, timeout=timeout)
    return board


def _connected(timeout: timedelta) -> ProcessGroup:
    import torch.distributed as dist

    return cast("ProcessGroup", dist.new_group(timeout=timeout, backend="gloo"))


def _share_cores(group: Group) -> None:
    """Divide the cores of this machine, unless the environment says how many to use."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, cores() // group.local))


def cores() -> int:
    """The cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _line(error: Exception) -> str:
    return str(error).split("\n")[0][:120]
