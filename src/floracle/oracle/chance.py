"""Bounds on the logits of known pairs that hold with a stated probability.

For a pair (data x_o, noise ε) and r = α/σ, with centred points z and Y = ε + r z_o, the logits are

    l_j − l_o = log w_j / w_o + r ⟨Y, z_j − z_o⟩ − (r²/2) (‖z_j‖² − ‖z_o‖²).

Of z_j only V z_j and the length ρ_j of the rest, R z_j, are held. The own point is known, so of
⟨RY, Rz_j⟩ all that is unknown is the angle θ between Rz_j and Rz_o, and the noise across Rz_o: one
standard normal number for each j, independent of V ε and of h = ⟨RY, Rz_o⟩ / ρ_o. It exceeds q
with probability Φ(−q); otherwise, for every t and every angle,

    ⟨RY, Rz_j⟩ ≤ ρ_j (h cos θ + q sin θ) ≤ ρ_j √(h² + q²),

as if the rest were one more coordinate. With q the length of Rε itself this is Cauchy–Schwarz and
holds for certain; the event brings that down from about √D to q = Φ⁻¹(1 − failure / (pairs · n)).

It is the noise that is random here. Where it was selected (the best of several, an encoding of a
sample, a state that a solver arrived at) the bound means nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from floracle.core.coarse import Coarse, defect, product_rounding
from floracle.core.paths import Path, checked_times
from floracle.run.errors import Mistake

from .members import Members

THIN = 1e-3
"""Where the rest of the own point has less than this share of its squared length, its direction
is not used: rounding would show."""
UNIT, HALF_STEP = 2.0**-24, 2.0**-25
"""The rounding of a float32, and of the smallest float16."""


@dataclass
class Ledger:
    """The probability that any bound relied on so far does not hold: a sum over calls.

    A run reports `spent`; with a `limit` the call that would exceed it is refused.
    """

    limit: float = 1.0
    spent: float = field(default=0.0, init=False)

    def spend(self, probability: float) -> None:
        """Count a call whose bounds may fail with this probability."""
        if not 0 <= probability <= 1:
            raise ValueError(f"a probability lies in [0, 1], got {probability:g}")
        if self.spent + probability > self.limit:
            raise Mistake(
                f"bounds may fail with probability {self.spent + probability:.3g} by now, but the"
                f" ledger's limit is {self.limit:g}; ask a smaller failure, or a larger limit"
            )
        self.spent += probability


@dataclass(frozen=True)
class Known:
    """Pairs of an atom and unselected noise at a time each; float64 [p] unless stated."""

    own: Tensor
    """Where the own atom stands in its class, int64."""
    data: Tensor
    """[p, D]."""
    noise: Tensor
    """[p, D]."""
    t: Tensor
    ratio: Tensor
    """r = α / σ."""
    amplification: Tensor
    """A = α' − α σ'/σ."""
    conditional: Tensor
    """α' data + σ' noise, [p, D]: u* is A (x̂ − data) further."""

    def of(self, chosen: Tensor) -> Known:
        """Some of the pairs."""
        return Known(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


def known_pairs(members: Members, path: Path, own: Tensor, noise: Tensor, t: Tensor) -> Known:
    """Pairs of the atoms at positions own [p] with noise [p, *shape], at times t [p] < 1."""
    device = members.centre.device
    t = checked_times(t).to(device)
    c = path.coefficients(t)
    if (c.sigma <= 0).any():
        raise ValueError("the oracle's velocity is 0 / 0 at t = 1; ask for it at t < 1")
    data, noise = members.originals(own), noise.flatten(1).to(device, torch.float64)
    conditional = c.d_alpha[:, None] * data + c.d_sigma[:, None] * noise
    amplification = c.amplification
    return Known(own, data, noise, t, c.alpha / c.sigma, amplification, conditional)


@dataclass(frozen=True)
class Outline:
    """A class and its coarse view, ready to bound logits; made once by `outline_of`."""

    members: Members
    centre: Tensor
    """What the coarse view subtracts, float64 [D]."""
    norms: Tensor
    """‖z‖², float64 [n]."""
    directions: Tensor
    """V, float64 [K, D]."""
    coordinates: Tensor
    """V z, float32 or float16 [n, K]."""
    features: Tensor
    """The length of the rest, −‖z‖²/2, log w and 1; float32 [n, 4]."""
    skew: float
    """How far from orthonormal the directions are, ‖V Vᵀ − 1‖, and what computing V y loses."""
    sizes: Tensor
    """The largest |feature| of an atom, float64 [4]."""

    @property
    def widest(self) -> float:
        """The largest ‖z‖."""
        return math.sqrt(2 * float(self.sizes[1]))

    @property
    def whole(self) -> bool:
        """Whether the directions leave nothing unread."""
        return len(self.directions) == self.members.dims

    @property
    def product_rounding(self) -> float:
        """Relative error of a float32 product over coordinates and features, in any order."""
        return (len(self.directions) + 12) * UNIT

    @property
    def coordinate_rounding(self) -> float:
        """What ⟨V Y, V z⟩ may err by, relative to ‖V Y‖ and the largest ‖z‖, products included."""
        stored = torch.finfo(self.coordinates.dtype).eps / 2
        if self.coordinates.dtype == torch.float16:
            stored += HALF_STEP * len(self.directions) ** 0.5 / self.widest
        return self.product_rounding + stored + 4 * self.skew

    def upper(self, bound: Bound, these: slice) -> Tensor:
        """U of some atoms, float32 [p, some]: above l_j − l_o, unless the unlikely happened."""
        upper = bound.leading @ self.coordinates[these].float().T
        return upper.addmm_(bound.features, self.features[these].T)


def outline_of(members: Members, coarse: Coarse) -> Outline:
    """Make a class ready for bounds, given leading coordinates of its atoms, in their order."""
    if len(coarse.coordinates) != len(members):
        raise ValueError(
            f"the coarse view holds {len(coarse.coordinates)} atoms, the class {len(members)}"
        )
    device = members.centre.device
    centre, directions = coarse.centre.to(device), coarse.directions.to(device, torch.float64)
    skew = defect(directions) + product_rounding(directions)
    norms = _norms(members, centre)
    rest = coarse.remainders.to(device, torch.float64).square().sum(1).sqrt() * (1 + 4 * UNIT)
    rest = torch.minimum(rest + 2 * skew * norms.sqrt(), norms.sqrt() * (1 + 4 * UNIT))
    features = torch.stack([rest, -norms / 2, members.log_weights, torch.ones_like(rest)], 1)
    return Outline(
        members,
        centre,
        norms,
        directions[: coarse.edges[0]],
        coarse.coordinates.to(device),
        features.float(),
        skew,
        features.abs().amax(0).clamp(min=1e-30),
    )


def _norms(members: Members, centre: Tensor) -> Tensor:
    """‖x_i − centre‖² of every atom, float64 [n]."""
    if torch.equal(centre, members.centre):
        return members.norms
    original = members if members.exact else members.unshifted()
    slabs = original.slabs(max(1, 2**22 // members.dims), wide=True)
    return torch.cat([(slab.points.double() - centre).square().sum(1) for slab in slabs])


@dataclass(frozen=True)
class Bound:
    """What multiplies the coordinates and features of an atom to give U, for p pairs."""

    leading: Tensor
    """r V Y, float32 [p, K]."""
    features: Tensor
    """r √(h² + q²), r², 1, and what the own logit and rounding come to: float32 [p, 4]."""

    def of(self, chosen: Tensor) -> Bound:
        """Those of some pairs."""
        return Bound(self.leading[chosen], self.features[chosen])


def bounds(outline: Outline, known: Known, tail: float, *, less: Tensor | None = None) -> Bound:
    """Bounds on l_j − l_o, `less` [p]: each holds with probability 1 − tail, for certain at 0."""
    members, r = outline.members, known.ratio
    centred = known.data - outline.centre
    noise_seen, data_seen = known.noise @ outline.directions.T, centred @ outline.directions.T
    leading = r[:, None] * (noise_seen + r[:, None] * data_seen)
    reach = _reach(outline, known, centred, noise_seen, data_seen, tail)
    own = r * (known.noise * centred).sum(1) + r.square() * outline.norms[known.own] / 2
    level = own + members.log_weights[known.own] + (0 if less is None else less)
    features = torch.stack([r * reach, r.square(), torch.ones_like(r), -level], 1)
    allowed = outline.product_rounding * (features.abs() @ outline.sizes)
    allowed += outline.coordinate_rounding * leading.norm(dim=1) * outline.widest
    features[:, 3] += allowed
    return Bound(leading.float(), features.float())


def _reach(
    outline: Outline,
    known: Known,
    centred: Tensor,
    noise_seen: Tensor,
    data_seen: Tensor,
    tail: float,
) -> Tensor:
    """√(h² + q²), [p]; where the own point has hardly any rest, q + r ρ_o, which is no less safe.

    Which of the two it is depends on the data alone, so the noise is not selected by it.
    """
    across = _across(known.noise, noise_seen, tail, outline.skew)
    length = outline.norms[known.own]
    rest = length - data_seen.square().sum(1)
    pull = (known.noise * centred).sum(1) - (noise_seen * data_seen).sum(1)
    slack = 2 * outline.skew * length
    mixed = 2 * outline.skew * noise_seen.norm(dim=1) * data_seen.norm(dim=1)
    thin = rest <= THIN * length + 2 * slack
    shortest = torch.where(thin, 1.0, rest - slack).sqrt()
    along = ((pull + known.ratio * rest).abs() + mixed + known.ratio * slack) / shortest
    longest = (rest.clamp(min=0) + slack).sqrt()
    return torch.where(thin, across + known.ratio * longest, torch.hypot(along, across))


def _across(noise: Tensor, seen: Tensor, tail: float, skew: float) -> Tensor:
    """How much noise there may be along a direction: q, or all that is there if that is less."""
    whole = noise.square().sum(1)
    rest = (whole - (1 - 2 * skew) * seen.square().sum(1)).clamp(min=0) + 1e-12 * whole
    quantile = float(-torch.special.ndtri(torch.tensor(tail, dtype=torch.float64)))
    return rest.sqrt().clamp(max=quantile)
