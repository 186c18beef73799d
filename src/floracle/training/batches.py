"""Batches to learn from, made while the network computes.

A batch is a function of its number: rows, noise, times and dropped labels are drawn alike by every
process for the whole batch, of which each then makes its own share. On a GPU, and where points
have to be read from files, the next batch is made in a thread meanwhile: its rows, the blocks of
its classes and its targets, on a stream of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor

from floracle.core.paths import LINEAR
from floracle.core.point_set import NO_LABEL, PointSet
from floracle.run.budget import to_device
from floracle.run.processes import ProcessGroup, contiguous_share

from .config import TrainingSettings
from .data_order import DataOrder, batch_noise, batch_uniforms
from .targets import Target, TargetPairs
from .times import TimeDensity


@dataclass(frozen=True)
class Batch:
    """A process's share [b, …] of the batch of a step, on the network's device."""

    step: int
    total: int
    """Images of the batch over all processes."""
    x: Tensor
    t: Tensor
    """float32 [b]."""
    labels: Tensor
    """int64 [b]; −1 where there is none or it was dropped."""
    target: Tensor
    weights: Tensor
    """m(t), the weight of each pair's loss, float32 [b]."""
    touched: int
    """Pairs whose target took a query of their class."""

    def pieces(self, most: int) -> Iterator[Batch]:
        """The same in at most so many pieces of about the same size."""
        shares = [contiguous_share(len(self.x), ProcessGroup(k, most)) for k in range(most)]
        sizes = [share.stop - share.start for share in shares if share.stop > share.start] or [0]
        tensors = (self.x, self.t, self.labels, self.target, self.weights)
        for piece in zip(*(values.split(sizes) for values in tensors), strict=True):
            yield Batch(self.step, self.total, *piece, touched=0)


@dataclass(frozen=True)
class BatchMaker:
    """How batches are made."""

    data: PointSet
    order: DataOrder
    settings: TrainingSettings
    times: TimeDensity
    target: Target
    group: ProcessGroup
    device: torch.device

    def batch(self, step: int) -> Batch:
        """The share of this process in a step's batch."""
        settings, images = self.settings, self.settings.span(step)
        total, share = len(images), contiguous_share(len(images), self.group)
        # all numbers of the whole batch are drawn, so that any number of processes has the same
        rows = self.order.rows(images)[share]
        t = self.times.of(batch_uniforms(settings.seed, "times", step, total))[share]
        dropped = batch_uniforms(settings.seed, "drops", step, total)[share] < settings.drop
        noise = batch_noise(settings.seed, step, total, self.data.shape, device=self.device)[share]
        labels, data = self.data.labels[rows], to_device(self.data.take(rows), self.device)
        x = LINEAR.sample(data, noise, t)
        # label dropout (classifier-free guidance): the target stays that of the pair's class, the
        # network gets no label
        target = self.target(TargetPairs(rows, labels, t, data, noise, x, step))
        labels = torch.where(dropped, NO_LABEL, labels)
        weights = self.times.weight(t).float()
        t, labels, weights = (v.to(self.device) for v in (t.float(), labels, weights))
        return Batch(step, total, x, t, labels, target.velocity, weights, target.touched)

    def all(self, start: int, *, ahead: bool, stop: int | None = None) -> Iterator[Batch]:
        """Batches from a step on, up to `stop` or the end; with `ahead` the next is made early."""
        steps = range(start, self.settings.steps if stop is None else stop)
        return _make_ahead(self, steps) if ahead else map(self.batch, steps)


def _make_ahead(maker: BatchMaker, steps: range) -> Iterator[Batch]:
    """Batches of which one is always being made in a thread."""
    cuda = maker.device.type == "cuda"
    stream = torch.cuda.Stream(maker.device) if cuda else None
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream(maker.device))

    def make(step: int) -> tuple[Batch, Any]:
        with torch.cuda.stream(stream) if stream is not None else nullcontext():
            batch = maker.batch(step)
            return batch, stream.record_event() if stream is not None else None

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        coming = pool.submit(make, steps.start) if len(steps) else None
        for step in count(steps.start + 1):
            if coming is None:
                return
            batch, event = coming.result()
            coming = pool.submit(make, step) if step < steps.stop else None
            if event is not None:
                _hand_over(batch, event)
            yield batch


def _hand_over(batch: Batch, event: torch.cuda.Event) -> None:
    """Let this thread's stream wait for a batch, and the memory of the batch for this stream."""
    stream = torch.cuda.current_stream(batch.x.device)
    stream.wait_event(event)
    for values in (batch.x, batch.t, batch.labels, batch.target, batch.weights):
        values.record_stream(stream)
