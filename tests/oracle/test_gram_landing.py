"""Where trajectories of the oracle land: on atoms as these weigh (FACTS 3.11)."""

from __future__ import annotations

import pytest
import torch

from floracle.core.seeds import noise as noise_of
from floracle.data.store import open_store
from floracle.oracle.gram import drawn, gram_of, project
from floracle.oracle.gram_follow import (
    landed,
    lifted,
    points,
)
from floracle.sampling.grid import time_grid


def landings(gram, rows):
    """χ² over its degrees of freedom of rows [b] against the weights of the atoms."""
    expected = gram.log_weights.exp() * len(rows)
    counts = torch.bincount(gram.positions(rows), minlength=len(gram))
    return float(((counts - expected).square() / expected).sum() / (len(gram) - 1))


@pytest.mark.slow
def test_pure_oracle_trajectories_land_on_atoms_as_these_weigh():
    """FACTS 3.11: χ²/dof 0.99 to 1.04 there; here within 3.3 errors √(2/dof) of 1, pooled."""
    data, found, freedom = open_store("digits"), 0.0, 0
    for label in (0, 1, 5):
        gram = gram_of(data, label)
        end = landed(gram, drawn(gram, range(4000)), time_grid(50))
        assert (end.weights > 0.9).double().mean() > 0.99
        found += landings(gram, end.rows) * (len(gram) - 1)
        freedom += len(gram) - 1
    assert abs(found / freedom - 1) < 3.3 * (2 / freedom) ** 0.5


@pytest.mark.slow
def test_weights_decide_where_trajectories_land(points_source):
    """Weighted atoms and noise that is never made, on a set small enough for many trajectories."""
    weights = torch.linspace(1, 6, 16).double()
    data = points_source(torch.randn(16, 8), weights=weights)
    gram = gram_of(data)
    for projections in (
        drawn(gram, range(4000)),
        project(gram, data, noise_of(range(4000), data.shape)),
    ):
        end = landed(gram, projections, time_grid(50), solver="heun")
        assert landings(gram, end.rows) < 1 + 3.3 * (2 / 15) ** 0.5


@pytest.mark.slow
def test_landing_measures_the_diversity_of_navigation():
    """A field that knows half of the data until t = .5 is found out; the whole field is not."""
    digits, turn = open_store("digits"), 0.5
    rows = digits.atoms(0).rows
    data = open_store(digits.take(rows))
    half = open_store(digits.take(rows[::2]))
    gram, noise = gram_of(data), noise_of(range(3000), data.shape).double()
    found = []
    for known in (data, half):
        early = gram_of(known)
        middle = landed(early, project(early, known, noise), time_grid(25, stop=turn)).point
        x = points(early, known, middle, noise)
        start, projections = lifted(gram, data, x, torch.full((len(x),), turn))
        end = landed(gram, projections, time_grid(25, start=turn), start=start)
        found.append(landings(gram, end.rows))
    whole, partial = found
    assert abs(whole - 1) < 3.3 * (2 / (len(gram) - 1)) ** 0.5
    assert partial > 2
