"""What a run counts between two lines of its log, and when it must not go on."""

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

from .checkpoint import latest
from .meter import StageMeter, curves_of
from .metrics_log import MetricsLog
from .train_step import Tally

PART = "counting/"
"""What a checkpoint that was written between two lines keeps of the counts, by name."""
EXPLODED = 10.0
"""A loss this many times that of a network which always says zero has exploded."""


@dataclass(frozen=True)
class TrainingProgress:
    """Where a run stands."""

    images: int
    total: int
    loss: float
    """The mean squared error per dimension over the batches since the last progress."""
    images_per_second: float
    left: float
    """Seconds to go, at that speed."""
    checkpoint: Path | None = None
    """The checkpoint that was just written."""
    evaluation: Mapping[str, Any] | None = None
    """The look that was just taken: losses by time."""
    notes: tuple[str, ...] = ()


class TrainMetrics:
    """Losses and speed since the last line."""

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
        self.since = time.perf_counter()

    def check(self, images: int) -> None:
        """Stop a run whose gradients are no longer finite; all processes see the same ones."""
        if not bool(self.tally.norms.isfinite().all()):
            raise InputError(self._stopped("the loss is no longer finite", images))

    def line(self, images: int, log: MetricsLog | None) -> TrainingProgress:
        """Write a line, and start to count anew; every process takes part."""
        every = gather([self.tally.sums.cpu(), self.meter.sums()], self.group, what="losses")
        sums = torch.stack([one[0] for one in every]).sum(0)
        binned = torch.stack([one[1] for one in every]).sum(0)
        seconds = time.perf_counter() - self.since
        pairs, loss, zero, touched = sums.tolist()
        if loss > EXPLODED * max(zero, 1e-30):
            raise InputError(self._stopped(f"the loss has exploded to {loss / pairs:.3g}", images))
        steps, norms = self.tally.norms.tolist()
        # pairs whose label was dropped stay apart; where no data has one, all are shown
        shown = binned[0] if self.labelled else binned[1]
        if log is not None:
            log.add(
                images,
                loss=loss / pairs,
                zero=zero / pairs,
                norm=norms / steps,
                touched=touched / pairs,
                by_t=curves_of(shown, self.meter.edges, self.meter.split).plain(),
                seconds=seconds,
                images_per_second=pairs / seconds,
            )
        self.meter.clear()
        self.tally = Tally(self.tally.sums.device)
        self.start()
        left = (self.total - images) * seconds / pairs
        return TrainingProgress(images, self.total, loss / pairs, pairs / seconds, left)

    def tensors(self) -> dict[str, Tensor]:
        """All counts since the last line, for a checkpoint."""
        counts = (self.tally.sums.cpu(), self.tally.norms.cpu(), self.meter.sums())
        return {PART + name: c for name, c in zip(("sums", "norms", "meter"), counts, strict=True)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on counting from what a checkpoint kept; where it kept nothing, from nothing."""
        if PART + "sums" in tensors:
            self.tally.sums.copy_(tensors[PART + "sums"])
            self.tally.norms.copy_(tensors[PART + "norms"])
            self.meter.restore(tensors[PART + "meter"].to(self.tally.sums.device))

    def start(self) -> None:
        """Count seconds from now on."""
        self.since = time.perf_counter()

    def _stopped(self, what: str, images: int) -> str:
        kept, _ = latest(self.out)
        good = "no checkpoint is older"
        if kept is not None:
            good = f"the last good checkpoint is {kept.path}"
        return (
            f"{what} after {images:,} images; {good}. Take a smaller rate, precision float32 or a"
            f" smaller clip, with another --out"
        )
