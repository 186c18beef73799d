"""One step: predictions, losses, gradients of all processes, weights and their average."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from floracle.core.point_set import NO_LABEL
from floracle.run.errors import InputError

from .batches import Batch
from .checkpoint import Learner
from .config import TrainingSettings
from .ema import follow, share_kept
from .gradient_allreduce import GradientSums
from .meter import StageMeter


@dataclass(frozen=True)
class Stepper:
    """What a step needs besides its batch."""

    learner: Learner
    settings: TrainingSettings
    sums: GradientSums
    null: int | None
    """The network's label for "no label"; None where every label is passed on as it is."""
    ask: Callable[..., Tensor]
    """The network, compiled or not."""

    def __call__(self, batch: Batch, meter: StageMeter, tally: Tally) -> None:
        """Learn from a batch; losses are counted by time and in the tally."""
        self.learner.optimizer.zero_grad(set_to_none=True)
        for piece in batch.pieces(self.settings.accumulate):
            losses, plain = self.losses(piece)
            (piece.weights * losses).sum().div(batch.whole).backward()
            meter.add(piece.t, plain, piece.labels)
            tally.count(piece, plain)
        tally.sums[3] += batch.touched
        parameters = list(self.learner.named().values())
        self.sums.gradients(parameters)
        tally.norm(self.clipped(parameters))
        self.learner.optimizer.step()
        follow(
            self.learner.average, self.learner.network, share_kept(self.settings, batch.step + 1)
        )

    def losses(self, piece: Batch) -> tuple[Tensor, Tensor]:
        """What is minimised of each pair, and its mean squared error, float32 [b]."""
        labels = piece.labels
        if self.null is not None:
            labels = torch.where(labels == NO_LABEL, self.null, labels)
        with _precision(piece.x.device, self.settings.precision):
            said = self.ask(piece.x, piece.t, labels)
        said = said.float()
        plain = (said - piece.target).square().flatten(1).mean(1)
        if not self.settings.cosine:
            return plain, plain
        return plain + self.settings.cosine * cosine_loss(said, piece.target), plain

    def clipped(self, parameters: list[nn.Parameter]) -> Tensor:
        """The norm of the gradient before it was clipped."""
        most = float("inf") if self.settings.clip is None else self.settings.clip
        return nn.utils.clip_grad_norm_(parameters, most)


class Tally:
    """What is known of the losses since the last line; nothing waits for a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)
        """Pairs, their losses, the losses of a network that says zero, touched pairs."""
        self.norms = torch.zeros(2, dtype=torch.float64, device=device)
        """Steps, and the norms of their gradients."""

    def count(self, piece: Batch, losses: Tensor) -> None:
        """Add the losses of some pairs."""
        zero = piece.target.square().flatten(1).mean(1).sum(dtype=torch.float64)
        self.sums[0] += len(losses)
        self.sums[1] += losses.detach().sum(dtype=torch.float64)
        self.sums[2] += zero

    def norm(self, value: Tensor) -> None:
        """Add the norm of a step's gradient."""
        self.norms[0] += 1
        self.norms[1] += value.detach()


def cosine_loss(said: Tensor, target: Tensor) -> Tensor:
    """1 − the cosine over channels, averaged over places, [b]."""
    cosine = F.cosine_similarity(said, target, dim=1)
    return 1 - cosine.flatten(1).mean(1) if cosine.ndim > 1 else 1 - cosine


def forgetful(network: nn.Module) -> nn.Module:
    """The same network, whose blocks keep nothing for the gradient but what goes into them."""
    blocks = getattr(network, "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        raise InputError("recompute needs a network with `blocks`; leave it out for this one")
    for block in blocks:
        whole: Any = partial(checkpoint, block.forward, use_reentrant=False)
        block.forward = whole
    return network


def _precision(device: torch.device, name: str) -> Any:
    if name == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
