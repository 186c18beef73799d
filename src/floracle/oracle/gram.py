"""The exact oracle of one class from its n × n inner products, whatever the dimension.

A trajectory of the oracle that starts from noise ε never leaves what the atoms and ε span,

    x = c m + Σ_i a_i z_i + b ε,        x_i = m + z_i,  m the class mean,

since u* = α' x̂ + (σ'/σ) (x − α x̂) is of this form if x is. Weights are known from logits against
any one atom L,

    l_i − l_L = log w_i / w_L + (α/σ²) ⟨x − α m − α (z_i + z_L)/2, z_i − z_L⟩,

and so from G = ZZᵀ, ⟨m, z_i⟩ and ⟨ε, z_i⟩: a step costs one product of b × n × n. The points are
read for G, once for the noise that is projected, and for the samples that are asked for. That
pays where points are fewer than dimensions; of more, the ambient oracle asks less.
Everything is float64; atoms close to one another are seen as differences (`gram_frame.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from floracle.core.seeds import generator
from floracle.core.seeds import noise as noise_of
from floracle.core.source import NO_LABEL, Source, classes, prepared
from floracle.core.spectrum import PASS_BYTES, moments
from floracle.run.budget import chosen_device, memory_budget
from floracle.run.errors import Mistake

from .gram_frame import (
    BLOCK_BYTES,
    ROOT,
    Frame,
    Near,
    Parts,
    Ties,
    close_pairs,
    parents_of,
    ties_of,
)


@dataclass(frozen=True)
class Gram:
    """Inner products of the vectors that stand for the atoms of a class; float64.

    The vector e_i of an atom is z_i, or its difference from its parent where the two are close.
    """

    label: int
    frame: Frame
    labels: Tensor
    """The class of every atom, int64 [n]."""
    log_weights: Tensor
    """[n]."""
    products: Tensor
    """⟨e_i, e_j⟩, [n, n]."""
    along: Tensor
    """⟨m, e_i⟩, [n]."""
    gains: Tensor
    """What each vector adds to ½ ‖z‖² along its chain, [n]."""
    ties: Ties | None
    near: Tensor | None
    """½ ‖x_i − x_j‖² of close atoms, sparse [n, n]."""

    def __len__(self) -> int:
        return len(self.log_weights)

    @property
    def device(self) -> torch.device:
        """Where the products lie."""
        return self.products.device

    @property
    def nbytes(self) -> int:
        """The memory it holds."""
        chains = 0 if self.ties is None else self.ties.chains.nbytes
        near = 0 if self.near is None else 24 * self.near.values().numel()
        return self.products.nbytes + chains + near

    @property
    def norms(self) -> Tensor:
        """‖z_i‖², [n]."""
        return 2 * self.summed(self.gains[None]).total[0]

    def gathered(self, weights: Tensor) -> Tensor:
        """Weights of atoms [b, n] as weights of vectors."""
        return weights if self.ties is None else self.ties.gathered(weights)

    def summed(self, values: Tensor) -> Parts:
        """Values of vectors [b, n] summed up to atoms."""
        return Parts(values) if self.ties is None else self.ties.summed(values)

    def halves(self, to: Tensor) -> Tensor:
        """½ ‖x_i − x_L‖² [b, n] from the atoms L at positions `to` [b]."""
        norms = self.norms
        half = ((norms[to, None] + norms) / 2 - self._rows(to)).clamp_(min=0)
        if self.near is not None:
            measured = self.near.index_select(0, to).to_dense()
            half = torch.where(measured > 0, measured, half)
        return half.scatter_(1, to[:, None], 0)

    def _rows(self, to: Tensor) -> Tensor:
        """⟨z_L, z_i⟩ [b, n] of the atoms L at positions `to` [b]."""
        if self.ties is None:
            return self.products[to]
        one = torch.zeros(len(to), len(self), dtype=torch.float64, device=self.device)
        one.scatter_(1, to[:, None], 1)
        return self.summed(self.gathered(one) @ self.products).total

    def positions(self, rows: Tensor) -> Tensor:
        """Where rows [b] stand among the atoms; those merged into another stand nowhere."""
        known, rows = self.frame.rows, rows.cpu()
        found = torch.searchsorted(known, rows).clamp(max=len(known) - 1)
        stray = known[found] != rows
        if stray.any():
            raise Mistake(
                f"row {rows[stray][0].item()} is not an atom of class {self.label}; draw rows from"
                f" atoms()"
            )
        return found.to(self.device)

    def distances(self, weights: Tensor, to: Tensor) -> Tensor:
        """‖x̂ − x_L‖² [b] of the means under weights [b, n] from the atoms at positions `to` [b].

        A² times this is the gap of a pair whose data is x_L.
        """
        moved = weights.scatter(1, to[:, None], 0)
        moved.scatter_(1, to[:, None], -moved.sum(1, keepdim=True))
        moved = self.gathered(moved)
        return torch.linalg.vecdot(moved @ self.products, moved).clamp_(min=0)

    def variance(self, weights: Tensor) -> Tensor:
        """Σ γ_i ‖x_i − x̂‖², tr Cov(data | x) [b] under weights [b, n]."""
        leader = weights.argmax(1)
        about = 2 * torch.linalg.vecdot(weights, self.halves(leader))
        return (about - self.distances(weights, leader)).clamp_(min=0)


def gram_of(
    source: Source,
    label: int = NO_LABEL,
    *,
    budget: int | str | None = None,
    device: torch.device | str | None = None,
) -> Gram:
    """The Gram matrix of a class, of the whole set for −1, within `budget` bytes.

    Reads the points a few times, in blocks; costs n² D multiplications in float64.
    """
    if label != NO_LABEL and not (source.labels == label).any():
        raise Mistake(f"there is no class {label}; labels are {classes(source) or 'all −1'}")
    atoms, room = source.atoms(label), memory_budget(budget)
    count = len(atoms.rows)
    _fits(8 * count**2, room, f"the inner products of {count} points")
    known = prepared(source, label)
    centre = known.centre if known else moments(source, label).mean.float().double()
    frame = Frame(atoms.rows, torch.full((count,), ROOT), centre)
    spare = min(BLOCK_BYTES, max((room - 8 * count**2) // 4, PASS_BYTES))
    products = torch.empty(count, count, dtype=torch.float64, device=chosen_device(device))
    _fill(products, frame, source, torch.arange(count), spare)
    near = close_pairs(frame, source, products, spare)
    if len(near):
        _fits(16 * count**2 + 48 * len(near), room, f"{count} points, {len(near)} pairs close,")
        frame = Frame(frame.rows, parents_of(near, count), centre)
        _fill(products, frame, source, (frame.parents != ROOT).nonzero()[:, 0], spare)
    return _assembled(source, label, frame, atoms.weights, products, near)


def _fits(needed: int, room: int, what: str) -> None:
    if needed > room:
        raise Mistake(
            f"{what} take {needed} bytes, but the memory budget is {room}; take a class with fewer"
            f" points, or follow the oracle itself"
        )


def _fill(products: Tensor, frame: Frame, source: Source, some: Tensor, size: int) -> None:
    """Write the products of some vectors with all."""
    for places, vectors in frame.blocks(source, some, size):
        vectors = vectors.to(products.device)
        stop = len(frame) if len(some) < len(frame) else int(places[-1]) + 1
        for others, against in frame.blocks(source, torch.arange(stop), size):
            part = vectors @ against.to(products.device).T
            products[places[:, None], others] = part
            products[others[:, None], places] = part.T


def _assembled(
    source: Source, label: int, frame: Frame, weights: Tensor, products: Tensor, near: Near
) -> Gram:
    device, ties = products.device, ties_of(frame.parents)
    gains = products.diagonal() / 2
    if ties is not None:
        ties = replace(ties, atoms=ties.atoms.to(device), chains=ties.chains.to(device))
        above = ties.chains - torch.eye(len(ties.atoms), dtype=torch.float64, device=device)
        gains[ties.atoms] += (above * products[ties.atoms[:, None], ties.atoms]).sum(1)
    return Gram(
        label=label,
        frame=frame,
        labels=source.labels[frame.rows],
        log_weights=weights.log().to(device),
        products=products,
        along=_products_with(frame, source, frame.centre[None].to(device))[0],
        gains=gains,
        ties=ties,
        near=near.matrix(len(frame)).to(device) if len(near) else None,
    )


def _products_with(frame: Frame, source: Source, others: Tensor) -> Tensor:
    """⟨ε, e_i⟩, float64 [b, n], of vectors [b, D]."""
    blocks = frame.blocks(source, torch.arange(len(frame)), BLOCK_BYTES)
    return torch.cat([others @ vectors.to(others.device).T for _, vectors in blocks], 1)


def project(gram: Gram, source: Source, noise: Tensor) -> Tensor:
    """What a class sees of noise [b, *shape]: ⟨ε, e_i⟩, float64 [b, n], in one pass."""
    if tuple(noise.shape[1:]) != tuple(source.shape):
        raise Mistake(
            f"noise has shape {tuple(noise.shape[1:])}, but points of the data {source.shape}"
        )
    return _products_with(gram.frame, source, noise.flatten(1).to(gram.device, torch.float64))


def combined(gram: Gram, source: Source, weights: Tensor) -> Tensor:
    """Σ weights_i e_i, float64 [b, *shape], of weights of vectors [b, n]."""
    total = torch.zeros(len(weights), len(gram.frame.centre), dtype=torch.float64)
    for places, vectors in gram.frame.blocks(source, torch.arange(len(gram)), BLOCK_BYTES):
        total += weights[:, places].cpu() @ vectors
    return total.reshape(-1, *source.shape)


def drawn(gram: Gram, seeds: Sequence[int]) -> Tensor:
    """Projections of noise that is never made: N(0, G) float64 [b, n], row i by seeds[i] alone.

    Noise enters the oracle by its projections alone, so trajectories are equal in law to those
    from noise of D dimensions. Costs an eigendecomposition of n × n.
    """
    plain = torch.stack(
        [torch.randn(len(gram), generator=generator(seed), dtype=torch.float64) for seed in seeds]
    )
    scale, values, vectors = _eigen(gram)
    return scale * (plain.to(gram.device) @ (vectors * values.sqrt()) @ vectors.T)


def completed(gram: Gram, source: Source, projections: Tensor, seeds: Sequence[int]) -> Tensor:
    """Noise float64 [b, *shape] with these projections, and otherwise as its seeds draw it.

    Where vectors almost depend on each other projections are met to 1e-7 of their lengths.
    """
    noise = noise_of(seeds, source.shape, dtype=torch.float64)
    scale, values, vectors = _eigen(gram)
    short = (projections - project(gram, source, noise)) / scale
    inverse = torch.where(values > 0, 1 / values, 0.0)
    weights = (short @ vectors * inverse) @ vectors.T / scale
    return noise + combined(gram, source, weights)


def _eigen(gram: Gram) -> tuple[Tensor, Tensor, Tensor]:
    """Lengths of the vectors [n], and eigenvalues and -vectors of what is left of their products.

    Vectors differ by orders of magnitude where atoms are tied; of unit length none is lost.
    """
    scale = gram.products.diagonal().sqrt().clamp(min=1e-150)
    values, vectors = torch.linalg.eigh(gram.products / scale / scale[:, None])
    least = len(gram) * torch.finfo(torch.float64).eps * values[-1]
    return scale, torch.where(values > least, values, 0.0), vectors
