"""The metrics of a run between two lines of its log, and when it must not continue."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from floracle.run.errors import InputError
from floracle.run.exchange import gather
from floracle.run.processes import ProcessGroup

from .checkpoint import last_good
from .meter import StageMeter, curves_of
from .metrics_log import MetricsLog
from .train_step import Tally

PREFIX = "counting/"
"""Of the names of metrics in a checkpoint that was written between two lines."""
EXPLODED = 10.0
"""A loss this many times that of a network which predicts 0 has exploded."""


@dataclass(frozen=True)
class TrainingProgress:
    """The state of a run."""

    images: int
    total: int
    loss: float
    """The mean squared error per dimension over the batches since the last progress."""
    images_per_second: float
    seconds_left: float
    """At that speed."""
    checkpoint: Path | None = None
    """The checkpoint that was just written."""
    evaluation: Mapping[str, Any] | None = None
    """The evaluation that was just made: losses by time."""
    notes: tuple[str, ...] = ()


class TrainMetrics:
    """Losses and speed since the last line of the log."""

    def __init__(
        self,
        out: Path,
        total: int,
        group: ProcessGroup,
        *,
        split: float,
        device: torch.device,
        labelled: bool,
    ) -> None:
        self.out, self.total, self.group, self.labelled = out, total, group, labelled
        self.meter, self.tally = StageMeter(split), Tally(device)
        self.start()

    def check(self, images: int) -> None:
        """Stop a run whose gradients are no longer finite; they are the same for all processes."""
        if not bool(self.tally.norms.isfinite().all()):
            raise InputError(self._explain_stop("the loss is no longer finite", images))

    def line(self, images: int, log: MetricsLog | None) -> TrainingProgress:
        """Write a line and start anew; every process takes part."""
        shares = gather([self.tally.sums.cpu(), self.meter.sums()], self.group, what="losses")
        sums = torch.stack([share[0] for share in shares]).sum(0)
        binned = torch.stack([share[1] for share in shares]).sum(0)
        seconds = time.perf_counter() - self.since
        pairs, loss_sum, zero_loss_sum, touched = sums.tolist()
        if loss_sum > EXPLODED * max(zero_loss_sum, 1e-30):
            words = f"the loss has exploded to {loss_sum / pairs:.3g}"
            raise InputError(self._explain_stop(words, images))
        steps, norm_sum = self.tally.norms.tolist()
        # pairs with a dropped label are left out, unless no data has a label
        by_time = binned[0] if self.labelled else binned[1]
        if log is not None:
            log.add(
                images,
                loss=loss_sum / pairs,
                zero=zero_loss_sum / pairs,
                norm=norm_sum / steps,
                touched=touched / pairs,
                by_t=curves_of(by_time, self.meter.edges, self.meter.split).plain(),
                seconds=seconds,
                images_per_second=pairs / seconds,
            )
        self.meter.clear()
        self.tally = Tally(self.tally.sums.device)
        self.start()
        seconds_left = (self.total - images) * seconds / pairs
        return TrainingProgress(
            images, self.total, loss_sum / pairs, pairs / seconds, seconds_left
        )

    def tensors(self) -> dict[str, Tensor]:
        """All sums since the last line, for a checkpoint."""
        sums = (self.tally.sums.cpu(), self.tally.norms.cpu(), self.meter.sums())
        return {PREFIX + n: v for n, v in zip(("sums", "norms", "meter"), sums, strict=True)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from the sums of a checkpoint, if it has any."""
        if PREFIX + "sums" in tensors:
            self.tally.sums.copy_(tensors[PREFIX + "sums"])
            self.tally.norms.copy_(tensors[PREFIX + "norms"])
            self.meter.restore(tensors[PREFIX + "meter"].to(self.tally.sums.device))

    def start(self) -> None:
        """Count seconds from now on."""
        self.since = time.perf_counter()

    def _explain_stop(self, words: str, images: int) -> str:
        return (
            f"{words} after {images:,} images; {last_good(self.out, 'no checkpoint is older')}."
            f" Take a smaller rate, precision float32 or a smaller clip, with another --out"
        )
