"""Classes as one mixture: the posterior over classes first, then over the points of each.

With priors π_c and p_c the density of noisy samples of class c,

    p(c | x, t) = softmax_c( log π_c + log p_c(x, t) ),      x̂ = Σ_c p(c | x, t) x̂_c.

With the priors that the data itself has this is the oracle of the whole set, computed class by
class; with others it is the oracle of a set whose classes come as often as they say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from floracle.core.paths import expand
from floracle.core.point_set import NO_LABEL, classes, mass
from floracle.run.errors import InputError

from .oracle import Oracle


@dataclass(frozen=True)
class Mixture:
    """An oracle whose classes have priors of their own; made by `mixture`."""

    oracle: Oracle
    labels: tuple[int, ...]
    log_priors: Tensor
    """log π_c, float64 [C], in the order of `labels`."""

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """u* at samples x [b, *shape], times t [b]; label −1 (or None) is the mixture."""
        if labels is None:
            labels = torch.full((len(x),), NO_LABEL)
        velocity, mixed = torch.empty_like(x), labels == NO_LABEL
        if (~mixed).any():
            velocity[~mixed] = self.oracle(x[~mixed], t[~mixed], labels[~mixed])
        if mixed.any():
            velocity[mixed] = self._mixed_velocity(x[mixed], t[mixed])
        return velocity

    @torch.no_grad()
    def class_posterior(self, x: Tensor, t: Tensor) -> Tensor:
        """p(c | x, t), float64 [b, C]: how likely x is a noisy sample of each class."""
        queries = (torch.full((len(x),), label) for label in self.labels)
        # The normalisation of p_c is the same for all classes, so that log masses do.
        masses = [self.oracle.posterior(x, t, labels, top=1).log_mass for labels in queries]
        return (self.log_priors + torch.stack(masses, 1)).softmax(1)

    def _mixed_velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """u* is linear in x̂, so that it is averaged as x̂ is."""
        weights = self.class_posterior(x, t)
        velocity = torch.zeros(x.shape, dtype=torch.float64)
        for label, weight in zip(self.labels, weights.T, strict=True):
            some = weight > 0
            if some.any():
                labels = torch.full((int(some.sum()),), label)
                of_class = self.oracle(x[some].double(), t[some], labels)
                velocity[some] += expand(weight[some], of_class) * of_class
        return velocity.to(x.dtype)


def mixture(oracle: Oracle, priors: Sequence[float] | Tensor | None = None) -> Mixture:
    """See an oracle's classes as a mixture with these priors [C], in the order of their labels.

    Without priors each class counts as often as it occurs, which gives the whole set's own oracle.
    Every row needs a label.
    """
    labels = tuple(classes(oracle.data))
    if not labels or (oracle.data.labels == NO_LABEL).any():
        raise InputError("a mixture of classes needs a label on every row; some have none")
    if priors is None:
        priors = [mass(oracle.data, label) for label in labels]
    values = torch.as_tensor(priors, dtype=torch.float64)
    if values.shape != (len(labels),) or not (values.isfinite() & (values >= 0)).all():
        raise InputError(f"priors are {len(labels)} finite numbers, one a class, none negative")
    if not values.sum() > 0:
        raise InputError("priors are all zero; at least one class must be possible")
    oracle.check_untempered("a mixture of classes")
    return Mixture(oracle, labels, (values / values.sum()).log())
