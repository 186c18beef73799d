"""Stage curves in Gram space: all times of forward-path pairs, in float64 and without D.

The same curves as those of `pairs.py`, from the same identity,

    l_j − l_o = log w_j / w_o + r ⟨ε, x_j − x_o⟩ − r² d_j,        d_j = ½ ‖x_j − x_o‖²,  r = α/σ.
"""

from __future__ import annotations

import torch
from torch import Tensor

from floracle.core.paths import LINEAR, Path
from floracle.core.source import NO_LABEL

from .gram import Gram
from .gram_follow import votes_of
from .pairs import Pairs

CACHED = 2**17
"""Weights followed together."""


@torch.no_grad()
def gram_pairs(
    gram: Gram,
    rows: Tensor,
    projections: Tensor,
    times: Tensor,
    *,
    path: Path = LINEAR,
    mirrored: bool = False,
) -> Pairs:
    """The curves of pairs (rows int64 [p], projections of their noise [p, n]) at times [T] < 1.

    Mirrored pairs are averages of a pair and the same data with the opposite noise.
    """
    own, c = gram.positions(rows), path.coefficients(times)
    ratios = (c.alpha / c.sigma).tolist()
    index = _class_index(gram)
    curves, rivals = [], []
    for some in torch.arange(len(own)).split(max(1, CACHED // len(gram))):
        at, noise = own[some.to(own.device)], projections[some.to(own.device)]
        half, pull = gram.halves(at), gram.summed(noise).apart(at)
        found = _curves(gram, at, pull, half, ratios, index)
        if mirrored:
            found = (found + _curves(gram, at, -pull, half, ratios, index)) / 2
        curves.append(found.cpu())
        rivals.append(_nearest_other(half, at).cpu())
    variance, lean, top, weight, entropy, concentration, *rest = torch.cat(curves, 2).mT
    rival = torch.cat(rivals)
    return Pairs(
        times=times.double(),
        amplification=c.amplification,
        variance=variance,
        lean=lean,
        top=top,
        own=weight,
        entropy=entropy,
        concentration=concentration,
        rivals=torch.where(rival < 0, rival, gram.frame.rows[rival.clamp(min=0)]),
        class_entropy=rest[0] if rest else None,
    )


def _curves(
    gram: Gram, own: Tensor, pull: Tensor, half: Tensor, ratios: list[float], index: Tensor | None
) -> Tensor:
    """Variance, lean, top, own, entropy, concentration and that of classes: [6 or 7, T, p]."""
    norms = gram.norms / 2
    lean = norms - norms[own][:, None]
    weight = gram.log_weights - gram.log_weights[own][:, None]
    curves = []
    for r in ratios:
        votes = votes_of(torch.add(weight, pull, alpha=r).sub_(half, alpha=r * r))
        now = [
            torch.linalg.vecdot(votes.weights, half),
            torch.linalg.vecdot(votes.weights, lean),
            votes.top,
            votes.weights.gather(1, own[:, None])[:, 0],
            votes.entropy,
            votes.concentration,
        ]
        curves.append(torch.stack([*now, *_class_entropy(votes.weights, index)]))
    return torch.stack(curves, 1)


def _class_index(gram: Gram) -> Tensor | None:
    """Which of the known classes each atom is of; None unless several are pooled."""
    known, index = gram.labels.unique(return_inverse=True)
    return index.to(gram.device) if gram.label == NO_LABEL and len(known) > 1 else None


def _class_entropy(weights: Tensor, index: Tensor | None) -> list[Tensor]:
    if index is None:
        return []
    shares = weights.new_zeros(len(weights), int(index.max()) + 1).index_add_(1, index, weights)
    return [-torch.special.xlogy(shares, shares).sum(1).clamp_(max=0)]


def _nearest_other(half: Tensor, own: Tensor) -> Tensor:
    """The nearest atom [p] that is not the own one; −1 where there is none."""
    if half.shape[1] == 1:
        return torch.full_like(own, -1)
    return half.scatter(1, own[:, None], torch.inf).argmin(1)
