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
from .ema import ema_decay, update_average
from .gradient_allreduce import GradientSums
from .meter import StageMeter


@dataclass(frozen=True)
class Stepper:
    """What a step needs besides its batch."""

    learner: Learner
    settings: TrainingSettings
    sums: GradientSums
    null_label: int | None
    """The network's label for "no label"; None where every label is passed on as it is."""
    network: Callable[..., Tensor]
    """Compiled or not."""

    def __call__(self, batch: Batch, meter: StageMeter, tally: Tally) -> None:
        """Learn from a batch; losses are added to the meter and the tally."""
        # 1. Gradients of this process, of the mean over the batch of all processes
        self.learner.optimizer.zero_grad(set_to_none=True)
        for piece in batch.pieces(self.settings.accumulate):
            losses, squared_errors = self.losses(piece)
            (piece.weights * losses).sum().div(batch.total).backward()
            meter.add(piece.t, squared_errors, piece.labels)
            tally.count(piece, squared_errors)
        tally.sums[3] += batch.touched
        # 2. Summed over all processes, then clipped, so that all clip alike
        parameters = list(self.learner.named().values())
        self.sums.gradients(parameters)
        tally.norm(self.clip_gradients(parameters))
        # 3. Weights and their average
        self.learner.optimizer.step()
        decay = ema_decay(self.settings, batch.step + 1)
        update_average(self.learner.average, self.learner.network, decay)

    def losses(self, piece: Batch) -> tuple[Tensor, Tensor]:
        """What is minimised of each pair, and its mean squared error, float32 [b]."""
        labels = piece.labels
        if self.null_label is not None:
            labels = torch.where(labels == NO_LABEL, self.null_label, labels)
        with _autocast(piece.x.device, self.settings.precision):
            # copies: the network may write into them, and the meter reads them afterwards
            prediction = self.network(piece.x.clone(), piece.t.clone(), labels.clone())
        prediction = prediction.float()
        squared_errors = (prediction - piece.target).square().flatten(1).mean(1)  # ‖v − c‖² / D
        if not self.settings.cosine:
            return squared_errors, squared_errors
        cosine = self.settings.cosine * cosine_loss(prediction, piece.target)
        return squared_errors + cosine, squared_errors

    def clip_gradients(self, parameters: list[nn.Parameter]) -> Tensor:
        """The norm of the gradient before it is clipped."""
        limit = float("inf") if self.settings.clip is None else self.settings.clip
        return nn.utils.clip_grad_norm_(parameters, limit)


class Tally:
    """Sums of losses and gradient norms since the last line, on the device: nothing waits."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)
        """Pairs, their losses, the losses of a network that predicts 0, touched pairs."""
        self.norms = torch.zeros(2, dtype=torch.float64, device=device)
        """Steps, and the norms of their gradients."""

    def count(self, piece: Batch, losses: Tensor) -> None:
        """Add the losses of some pairs."""
        zero_loss_sum = piece.target.square().flatten(1).mean(1).sum(dtype=torch.float64)
        self.sums[0] += len(losses)
        self.sums[1] += losses.detach().sum(dtype=torch.float64)
        self.sums[2] += zero_loss_sum

    def norm(self, value: Tensor) -> None:
        """Add the norm of a step's gradient."""
        self.norms[0] += 1
        self.norms[1] += value.detach()


def cosine_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """1 − the cosine over channels, averaged over positions, [b]."""
    cosine = F.cosine_similarity(prediction, target, dim=1)
    return 1 - cosine.flatten(1).mean(1) if cosine.ndim > 1 else 1 - cosine


def recompute_blocks(network: nn.Module) -> nn.Module:
    """The same network, whose blocks keep only their inputs for the gradient."""
    blocks = getattr(network, "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        raise InputError("recompute needs a network with `blocks`; leave it out for this one")
    for block in blocks:
        recomputed: Any = partial(checkpoint, block.forward, use_reentrant=False)
        block.forward = recomputed
    return network


def _autocast(device: torch.device, precision: str) -> Any:
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
