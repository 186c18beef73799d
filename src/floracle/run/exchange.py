"""What processes tell each other: tensors, summaries, decisions, and whether they agree.

Everything is gathered by everyone and merged in the order of ranks, so that results are the same
to the last bit on every process. It travels by gloo through the memory of the host, from GPUs
as well: it is little, several processes may share a GPU, and gloo says at once when a peer has
died. Nothing here imports torch before it is needed.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from datetime import timedelta
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import InputError
from .processes import ALONE, TIMEOUT_VARIABLE, ProcessGroup

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.distributed import ProcessGroup as TorchGroup

S = TypeVar("S", bound=Any)

SLOT = 1024
"""Bytes that travel in one exchange; what is longer takes a second."""
CHECK_SECONDS = 0.5
"""Between two looks, while an exchange waits, at whether the others live."""


class PeerLost(RuntimeError):
    """Another process of the group has ended, keeps silent, or does something else."""


def gather(
    tensors: Sequence[Tensor], group: ProcessGroup = ALONE, *, what: str = "tensors"
) -> list[list[Tensor]]:
    """The tensors of every process, by rank, on the CPU; shapes may differ, numbers may not.

    All processes take part, each with the same `what`.
    """
    if group.alone:
        return [list(tensors)]
    content = _packed(tensors, what)
    found = [_unpacked(part) for part in _exchanged(content, group)]
    others = {told for told, _ in found}
    if len(others) > 1:
        raise PeerLost(
            f"the processes no longer do the same ({' and '.join(sorted(others))} at a time);"
            " they must run the same program on the same data, on machines of one kind"
        )
    return [parts for _, parts in found]


def gather_parts(group: ProcessGroup, summary: S, *, what: str | None = None) -> list[S]:
    """A summary, a dataclass of tensors, of every process, by rank; on this one's device.

    What is not a tensor is taken to be the same everywhere.
    """
    if group.alone:
        return [summary]
    from torch import Tensor

    held = {one.name: getattr(summary, one.name) for one in fields(summary)}
    own = {name: value for name, value in held.items() if isinstance(value, Tensor)}
    every = gather(list(own.values()), group, what=what or type(summary).__name__)
    places = [value.device for value in own.values()]

    def summary_of(parts: list[Tensor]) -> S:
        there = (part.to(place) for part, place in zip(parts, places, strict=True))
        return replace(summary, **dict(zip(own, there, strict=True)))

    return [summary_of(parts) for parts in every]


def merge_over_group(group: ProcessGroup, summary: S) -> S:
    """The summaries of all processes, merged in the order of ranks: the same on every one.

    A process that has read nothing brings an empty summary.
    """
    return reduce(lambda total, part: total.merge(part), gather_parts(group, summary))


def broadcast_from_first(group: ProcessGroup, values: Sequence[int]) -> list[int]:
    """What the first process says, whatever the others thought: decisions that must agree."""
    if group.alone:
        return list(values)
    import torch

    told = torch.tensor(list(values), dtype=torch.int64)
    return gather([told], group, what="a decision")[0][0].tolist()


def check_same(group: ProcessGroup, content: dict[str, str]) -> None:
    """Compare hashes among processes; where one differs, say which and for whom."""
    if group.alone:
        return
    import torch

    names = list(content)
    told = torch.tensor(list("".join(content.values()).encode()), dtype=torch.uint8)
    every = [bytes(part[0].tolist()) for part in gather([told], group, what="a comparison")]
    width = len(every[0]) // len(names)
    for rank, other in enumerate(every):
        for i, name in enumerate(names):
            if other[i * width : (i + 1) * width] != every[0][i * width : (i + 1) * width]:
                raise InputError(
                    f"process {rank} has other {name} than process 0; every process of a group"
                    " must ask the same of the same data, each gets the whole answer"
                )


def bytes_of(values: Tensor) -> Tensor:
    """What a tensor holds, as bytes uint8 [n] on the CPU."""
    import torch

    flat = torch.empty(values.numel(), dtype=values.dtype)
    return flat.copy_(values.detach().reshape(-1)).view(torch.uint8)


def barrier(group: ProcessGroup) -> None:
    """Wait until every process is here, for days if need be: one of them may be drawing.

    A process that is silent, because it is frozen or its machine is gone, is not waited for.
    """
    if not group.alone:
        import torch

        _exchanged(torch.zeros(0, dtype=torch.uint8), group, "patient")


def _exchanged(content: Tensor, group: ProcessGroup, link: str = "prompt") -> list[Tensor]:
    """The bytes of every process, by rank: at once where all are short."""
    import torch

    length, room = content.numel(), SLOT - 8
    slot = torch.zeros(SLOT, dtype=torch.uint8)
    slot[:8] = torch.tensor([length]).view(torch.uint8)
    slot[8 : 8 + min(length, room)] = content[:room]
    slots = _all(slot, group, link)
    lengths = [int(one[:8].clone().view(torch.int64)) for one in slots]
    if max(lengths) <= room:
        return [one[8 : 8 + size] for one, size in zip(slots, lengths, strict=True)]
    body = torch.zeros(max(lengths), dtype=torch.uint8)
    body[:length] = content
    bodies = _all(body, group, link)
    return [one[:size] for one, size in zip(bodies, lengths, strict=True)]


def _all(content: Tensor, group: ProcessGroup, link: str) -> list[Tensor]:
    import torch
    import torch.distributed as dist

    found = [torch.empty_like(content) for _ in range(group.size)]
    complete_exchange(partial(dist.all_gather, found, content), group, group.connections[link])
    return found


def complete_exchange(exchange: Callable[..., Any], group: ProcessGroup, link: TorchGroup) -> None:
    """Take part in an exchange over gloo, and wait for it as long as all processes live."""
    try:
        work = exchange(group=link, async_op=True)
        try:
            _wait_alive(work, group)
        except BaseException:
            if not work.is_completed():
                # gloo cannot cancel it, and would wait for it where Python frees the link
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(link))
            raise
    except PeerLost:
        raise
    except (RuntimeError, ValueError) as error:
        raise PeerLost(_lost(group, error)) from error


def _wait_alive(work: Any, group: ProcessGroup) -> None:
    """Wait for an exchange, but not for a process or a board that is silent for too long."""
    while not _ended_within(CHECK_SECONDS, work):
        if group.heartbeat is not None:
            group.heartbeat.look(CHECK_SECONDS)
            if silent := group.heartbeat.silent_for(group.heartbeat.timeout):
                raise PeerLost(_silent(group, *silent))


def _ended_within(seconds: float, work: Any) -> bool:
    """Whether an exchange has come to its end; where that is an error, raises it."""
    with suppress(RuntimeError):
        work.wait(timedelta(seconds=seconds))
    return work.is_completed() and work.wait()


def _lost(group: ProcessGroup, error: Exception) -> str:
    late = "timed out" in str(error).lower()
    if (
        late
        and group.heartbeat
        and (silent := group.heartbeat.silent_for(group.heartbeat.timeout / 2))
    ):
        return _silent(group, *silent)
    if late:
        return (
            f"process {group.rank} of {group.size} waited in vain for another one;"
            f" if it was only slow, give a larger {TIMEOUT_VARIABLE} (seconds)"
        )
    return (
        f"another of the {group.size} processes has ended (killed, or out of memory?); process"
        f" {group.rank} cannot go on without it; start all of them again"
    )


def _silent(group: ProcessGroup, rank: int | None, seconds: float) -> str:
    """Words for a process that does not beat; without a rank, for the one with the board."""
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    who = "torchrun" if agent and rank is None else f"process {rank or 0} of {group.size}"
    return (
        f"{who} has not been heard of for {seconds:.0f} s (stopped, or its machine is down?);"
        f" process {group.rank} cannot go on without it; start all of them again"
    )


def _packed(tensors: Sequence[Tensor], what: str) -> Tensor:
    """Tensors as bytes: the length of the header, the header, the values."""
    import torch

    kinds = [(str(one.dtype).removeprefix("torch."), list(one.shape)) for one in tensors]
    header = json.dumps([what, kinds]).encode()
    told = torch.frombuffer(
        bytearray(len(header).to_bytes(8, "little") + header), dtype=torch.uint8
    )
    return torch.cat([told, *map(bytes_of, tensors)])


def _unpacked(content: Tensor) -> tuple[str, list[Tensor]]:
    import torch

    start = 8 + int.from_bytes(bytes(content[:8].tolist()), "little")
    what, kinds = json.loads(bytes(content[8:start].tolist()))
    tensors = []
    for name, shape in kinds:
        dtype: torch.dtype = getattr(torch, name)
        stop = start + torch.Size(shape).numel() * dtype.itemsize
        tensors.append(content[start:stop].clone().view(dtype).reshape(shape))
        start = stop
    return what, tensors
