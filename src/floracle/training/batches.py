"""Batches ready to be learned from, made while the network computes.

A batch is a function of its number: rows, noise, times and dropped labels of the whole batch are
drawn alike by every process, which then makes its own share of it. On a GPU, and where points have
to be read from files, the next one is made in a thread meanwhile: its rows, the slabs of its
classes and its targets, on a stream of their own.
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
from .data_order import DataOrder, noise_of, uniforms
from .targets import Target, TargetPairs
from .times import TimeDensity


@dataclass(frozen=True)
class Batch:
    """A process's share [b, …] of the batch of a step, on the network's device."""

    step: int
    whole: int
    """Images of the batch over all processes."""
    x: Tensor
    t: Tensor
    """float32 [b]."""
    labels: Tensor
    """int64 [b]; −1 where there is none or it was dropped."""
    target: Tensor
    weights: Tensor
    """What each pair's loss counts, float32 [b]."""
    touched: int
    """Pairs that touched their class."""

    def pieces(self, most: int) -> Iterator[Batch]:
        """The same in at most so many pieces of about the same size."""
        sizes = [part.stop - part.start for part in _parts(len(self.x), most)]
        names = ("x", "t", "labels", "target", "weights")
        split = [getattr(self, name).split(sizes) for name in names]
        for parts in zip(*split, strict=True):
            yield Batch(self.step, self.whole, *parts, touched=0)


def _parts(size: int, most: int) -> list[slice]:
    parts = [contiguous_share(size, ProcessGroup(rank, most)) for rank in range(most)]
    return [part for part in parts if part.stop > part.start] or [slice(0, 0)]


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
        """Of a step's batch, the share of this process."""
        settings, images = self.settings, self.settings.span(step)
        mine = contiguous_share(len(images), self.group)
        rows = self.order.rows(images)[mine]
        t = self.times.of(uniforms(settings.seed, "times", step, len(images)))[mine]
        dropped = uniforms(settings.seed, "drops", step, len(images))[mine] < settings.drop
        drawn = noise_of(settings.seed, step, len(images), self.data.shape, device=self.device)[
            mine
        ]
        labels = self.data.labels[rows]
        data = to_device(self.data.take(rows), self.device)
        x = LINEAR.sample(data, drawn, t)
        found = self.target(TargetPairs(rows, labels, t, data, drawn, x, step))
        kept = torch.where(dropped, NO_LABEL, labels)
        weights = self.times.weight(t).float()
        on_device = (values.to(self.device) for values in (t.float(), kept, weights))
        t, kept, weights = on_device
        return Batch(step, len(images), x, t, kept, found.velocity, weights, found.touched)

    def all(self, start: int, *, ahead: bool, stop: int | None = None) -> Iterator[Batch]:
        """Batches from a step on, up to one or to the end; with `ahead` the next is made early."""
        steps = range(start, self.settings.steps if stop is None else stop)
        return _ahead(self, steps) if ahead else map(self.batch, steps)


def _ahead(making: BatchMaker, steps: range) -> Iterator[Batch]:
    """Batches of which one is always being made in a thread."""
    cuda = making.device.type == "cuda"
    stream = torch.cuda.Stream(making.device) if cuda else None
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream(making.device))

    def made(step: int) -> tuple[Batch, Any]:
        with torch.cuda.stream(stream) if stream is not None else nullcontext():
            batch = making.batch(step)
            return batch, stream.record_event() if stream is not None else None

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        coming = pool.submit(made, steps.start) if len(steps) else None
        for step in count(steps.start + 1):
            if coming is None:
                return
            batch, event = coming.result()
            coming = pool.submit(made, step) if step < steps.stop else None
            if event is not None:
                _hand_over(batch, event)
            yield batch


def _hand_over(batch: Batch, event: torch.cuda.Event) -> None:
    """Let this thread's stream wait for a batch, and the memory of the batch for this stream."""
    here = torch.cuda.current_stream(batch.x.device)
    here.wait_event(event)
    for values in (batch.x, batch.t, batch.labels, batch.target, batch.weights):
        values.record_stream(here)
