"""What processes exchange: tensors, summaries, decisions, and whether they agree.

Everything is gathered by every process and merged in the order of ranks, so results are the same
to the last bit on all of them. It travels by gloo through the memory of the host, from GPUs as
well: it is little, several processes may share a GPU, and gloo says at once when a peer has died.
Nothing here imports torch before it is needed.
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

SLOT_BYTES = 1024
"""Travel in one exchange; a longer message takes a second one."""
LENGTH_BYTES = 8
"""Of a slot, its first bytes: the length of the message, int64."""
CHECK_SECONDS = 0.5
"""Between two checks, while an exchange waits, of whether the others live."""


class PeerLost(RuntimeError):
    """Another process of the group has ended, is silent, or does something else."""


def gather(
    tensors: Sequence[Tensor], group: ProcessGroup = ALONE, *, what: str = "tensors"
) -> list[list[Tensor]]:
    """The tensors of every process, by rank, on the CPU; shapes may differ, their number may not.

    All processes take part, each with the same `what`.
    """
    if group.alone:
        return [list(tensors)]
    messages = [_from_bytes(content) for content in _all_gather(_to_bytes(tensors, what), group)]
    subjects = {subject for subject, _ in messages}
    if len(subjects) > 1:
        raise PeerLost(
            f"the processes no longer do the same ({' and '.join(sorted(subjects))} at a time);"
            " they must run the same program on the same data, on machines of one kind"
        )
    return [tensors for _, tensors in messages]


def gather_parts(group: ProcessGroup, summary: S, *, what: str | None = None) -> list[S]:
    """The summary, a dataclass of tensors, of every process, by rank; on this process's device.

    Fields that are no tensors are taken to be the same everywhere.
    """
    if group.alone:
        return [summary]
    from torch import Tensor

    values = {each.name: getattr(summary, each.name) for each in fields(summary)}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def summary_of(gathered: list[Tensor]) -> S:
        pairs = zip(tensors.items(), gathered, strict=True)
        return replace(summary, **{name: value.to(own.device) for (name, own), value in pairs})

    gathered = gather(list(tensors.values()), group, what=what or type(summary).__name__)
    return [summary_of(each) for each in gathered]


def merge_over_group(group: ProcessGroup, summary: S) -> S:
    """The summaries of all processes, merged in the order of ranks: the same on every one.

    A process that has read nothing brings an empty summary.
    """
    return reduce(lambda total, part: total.merge(part), gather_parts(group, summary))


def broadcast_from_first(group: ProcessGroup, values: Sequence[int]) -> list[int]:
    """The integers of the first process: decisions on which all must agree."""
    if group.alone:
        return list(values)
    import torch

    own = torch.tensor(list(values), dtype=torch.int64)
    return gather([own], group, what="a decision")[0][0].tolist()


def check_same(group: ProcessGroup, hashes: dict[str, str]) -> None:
    """Compare hashes of one length among processes; name one that differs, and its process."""
    if group.alone:
        return
    import torch

    own = torch.tensor(list("".join(hashes.values()).encode()), dtype=torch.uint8)
    contents = [bytes(part[0].tolist()) for part in gather([own], group, what="a comparison")]
    width = len(contents[0]) // len(hashes)
    for rank, content in enumerate(contents):
        for i, name in enumerate(hashes):
            span = slice(i * width, (i + 1) * width)
            if content[span] != contents[0][span]:
                raise InputError(
                    f"process {rank} has other {name} than process 0; all processes of a group"
                    " must ask the same of the same data, each gets the whole answer"
                )


def bytes_of(values: Tensor) -> Tensor:
    """The content of a tensor as bytes uint8 [n] on the CPU."""
    import torch

    flat = torch.empty(values.numel(), dtype=values.dtype)
    return flat.copy_(values.detach().reshape(-1)).view(torch.uint8)


def barrier(group: ProcessGroup) -> None:
    """Wait until every process arrives, for days if need be: one of them may be drawing.

    A process that is silent, because it is frozen or its machine is gone, is not waited for.
    """
    if not group.alone:
        import torch

        _all_gather(torch.zeros(0, dtype=torch.uint8), group, "patient")


def complete_exchange(
    exchange: Callable[..., Any], group: ProcessGroup, connection: TorchGroup
) -> None:
    """Take part in an exchange over gloo, and wait for it as long as all processes live."""
    try:
        work = exchange(group=connection, async_op=True)
        try:
            _wait_while_alive(work, group)
        except BaseException:
            if not work.is_completed():
                # gloo cannot cancel it, and would wait for it when Python frees the connection
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
            raise
    except PeerLost:
        raise
    except (RuntimeError, ValueError) as error:
        raise PeerLost(_explain(group, error)) from error


def _all_gather(content: Tensor, group: ProcessGroup, link: str = "prompt") -> list[Tensor]:
    """The bytes of every process, by rank: in one exchange if all of them are short."""
    import torch
    import torch.distributed as dist

    def exchange(own: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(own) for _ in range(group.size)]
        complete_exchange(partial(dist.all_gather, parts, own), group, group.connections[link])
        return parts

    # 1. A slot of fixed size from each: the length of its message, and as much as fits.
    length, room = content.numel(), SLOT_BYTES - LENGTH_BYTES
    slot = torch.zeros(SLOT_BYTES, dtype=torch.uint8)
    slot[:LENGTH_BYTES] = torch.tensor([length]).view(torch.uint8)
    slot[LENGTH_BYTES : LENGTH_BYTES + min(length, room)] = content[:room]
    slots = exchange(slot)
    lengths = [int(part[:LENGTH_BYTES].clone().view(torch.int64)) for part in slots]
    if max(lengths) <= room:
        return [
            part[LENGTH_BYTES : LENGTH_BYTES + size]
            for part, size in zip(slots, lengths, strict=True)
        ]
    # 2. If one is longer, all messages again, padded to the longest.
    body = torch.zeros(max(lengths), dtype=torch.uint8)
    body[:length] = content
    return [part[:size] for part, size in zip(exchange(body), lengths, strict=True)]


def _wait_while_alive(work: Any, group: ProcessGroup) -> None:
    """Wait for an exchange, but not for a process or a board that is silent for too long."""
    while True:
        with suppress(RuntimeError):
            work.wait(timedelta(seconds=CHECK_SECONDS))
        if work.is_completed() and work.wait():  # an exchange that has failed raises here
            return
        if group.heartbeat is not None:
            group.heartbeat.look(CHECK_SECONDS)
            if silent := group.heartbeat.silent_for(group.heartbeat.timeout):
                raise PeerLost(_explain_silence(group, *silent))


def _explain(group: ProcessGroup, error: Exception) -> str:
    late, heartbeat = "timed out" in str(error).lower(), group.heartbeat
    if late and heartbeat and (silent := heartbeat.silent_for(heartbeat.timeout / 2)):
        return _explain_silence(group, *silent)
    if late:
        return (
            f"process {group.rank} of {group.size} waited in vain for another one;"
            f" if it was only slow, give a larger {TIMEOUT_VARIABLE} (seconds)"
        )
    return (
        f"another of the {group.size} processes has ended (killed, or out of memory?); process"
        f" {group.rank} cannot go on without it; start all of them again"
    )


def _explain_silence(group: ProcessGroup, rank: int | None, seconds: float) -> str:
    """The message on a process without heartbeats; without a rank, on the one with the board."""
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    name = "torchrun" if agent and rank is None else f"process {rank or 0} of {group.size}"
    return (
        f"{name} has not been heard of for {seconds:.0f} s (stopped, or its machine is down?);"
        f" process {group.rank} cannot go on without it; start all of them again"
    )


def _to_bytes(tensors: Sequence[Tensor], what: str) -> Tensor:
    """Tensors as bytes: the length of the header, the header in JSON, the values."""
    import torch

    kinds = [(str(each.dtype).removeprefix("torch."), list(each.shape)) for each in tensors]
    header = json.dumps([what, kinds]).encode()
    prefix = bytearray(len(header).to_bytes(LENGTH_BYTES, "little") + header)
    return torch.cat([torch.frombuffer(prefix, dtype=torch.uint8), *map(bytes_of, tensors)])


def _from_bytes(content: Tensor) -> tuple[str, list[Tensor]]:
    import torch

    start = LENGTH_BYTES + int.from_bytes(bytes(content[:LENGTH_BYTES].tolist()), "little")
    what, kinds = json.loads(bytes(content[LENGTH_BYTES:start].tolist()))
    tensors = []
    for name, shape in kinds:
        dtype: torch.dtype = getattr(torch, name)
        stop = start + torch.Size(shape).numel() * dtype.itemsize
        tensors.append(content[start:stop].clone().view(dtype).reshape(shape))
        start = stop
    return what, tensors
