"""Gradients of several processes as those of one: summed, in pieces that fit the wires."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from floracle.run.exchange import PeerLost, bytes_of, complete_exchange
from floracle.run.processes import ProcessGroup

BUCKET_VALUES = 2**23  # numbers that are sent together: 32 MiB


@dataclass(frozen=True)
class GradientSums:
    """How processes add up what they hold."""

    group: ProcessGroup
    link: Any
    """The connection: NCCL where every process has a GPU of its own, gloo otherwise."""
    through_host: bool

    @classmethod
    def over(cls, group: ProcessGroup, device: torch.device) -> GradientSums:
        """For tensors on a device; every process takes part."""
        if group.alone:
            return cls(group, None, False)
        own_gpus = device.type == "cuda" and torch.cuda.device_count() >= group.local_size
        if own_gpus and dist.is_nccl_available():
            return cls(group, dist.new_group(backend="nccl"), False)
        return cls(group, group.connections["prompt"], device.type == "cuda")

    def gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum the gradients of all processes into those of each; missing ones count as zero."""
        if self.group.alone:
            return
        for bucket in _buckets(parameters):
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = self.tensor(torch.cat([grad.flatten() for grad in grads]))
            sizes = [parameter.numel() for parameter in bucket]
            for parameter, grad in zip(bucket, flat.split(sizes), strict=True):
                parameter.grad = grad.view_as(parameter)

    def tensor(self, values: Tensor) -> Tensor:
        """The sum over all processes of a tensor, the same to the last bit on each."""
        if self.group.alone:
            return values
        summed = values.cpu() if self.through_host else values
        try:
            dist.all_reduce(summed, group=self.link)
        except (RuntimeError, ValueError) as error:
            raise _lost(self.group) from error
        return summed.to(values.device)


def broadcast_weights(network: nn.Module, group: ProcessGroup) -> None:
    """Give every process the weights and buffers that the first one's network has."""
    if group.alone:
        return
    for values in (*network.parameters(), *network.buffers()):
        raw = bytes_of(values)
        complete_exchange(partial(dist.broadcast, raw, src=0), group, group.connections["patient"])
        values.detach().copy_(raw.view(values.dtype).view_as(values))


def _lost(group: ProcessGroup) -> PeerLost:
    return PeerLost(
        f"another of the {group.size} processes has ended (killed, or out of memory?); start all"
        f" of them again, they go on from the last checkpoint"
    )


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket, size = [], 0
    for parameter in parameters:
        bucket.append(parameter)
        size += parameter.numel()
        if size >= BUCKET_VALUES:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket
