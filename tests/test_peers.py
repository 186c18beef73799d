"""Faults seen in other projects (PEERS.md), each re-created here in a few lines of our own.

Every test states a fact, shows that floracle has it, and that the faulty code has not: otherwise
the fact would catch nothing.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from floracle.core.fields import as_field
from floracle.core.paths import LINEAR
from floracle.oracle.oracle import Oracle
from floracle.oracle.reference import reference
from floracle.sampling.grid import share_of_steps, shift_times, time_grid
from floracle.sampling.sample import sample


def logits_of(points, x, t):
    """−‖x − t x_i‖² / (2 (1 − t)²), float64 [b, N], at one time for all."""
    return -torch.cdist(x.double(), t * points.double()).square() / (2 * (1 - t) ** 2)


def pairs_at(points, t, count=8, seed=0):
    """Samples on the forward path and their times."""
    drawn = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(points), (count,), generator=drawn)
    noise = torch.randn(count, points.shape[1], generator=drawn, dtype=torch.float64)
    return t * points[rows].double() + (1 - t) * noise, torch.full((count,), t).double()


def catches(fact, ours, faulty):
    """Whether a fact holds of our result and fails of the faulty one."""
    fact(ours)
    with pytest.raises(AssertionError):
        fact(faulty)


def close_to(expected):
    """The fact of agreeing with velocities [b, D] to 1e-5 of their norm."""

    def fact(velocity):
        off = (velocity.double() - expected).norm(dim=1) / expected.norm(dim=1)
        assert off.max() <= 1e-5, off.max()

    return fact


# the oracle ------------------------------------------------------------------------------------


def test_weights_sum_to_one_over_chunks(points_source):
    """revsic/torch-flow-models: every chunk normalised by itself and then added."""
    points = torch.randn(300, 80)
    x, t = pairs_at(points, 0.05)
    chunks = logits_of(points, x, 0.05).split(100, dim=1)
    faulty = torch.cat([chunk.softmax(1) for chunk in chunks], 1)
    ours = Oracle(points_source(points), memory=1).posterior(x, t, top=300).top_weights

    def fact(weights):
        assert (weights.sum(1) - 1).abs().max() <= 1e-5

    catches(fact, ours, faulty)


def test_labels_choose_the_class(points_source):
    """revsic/torch-flow-models: the labels are accepted and not used."""
    points, labels = torch.randn(200, 80), torch.arange(200) % 2
    x, t = pairs_at(points, 0.1)
    oracle = Oracle(points_source(points, labels))
    truth = reference(points[labels == 1], x, t).velocity
    ones = torch.ones(8, dtype=torch.int64)
    catches(close_to(truth), oracle(x, t, ones), oracle(x, t))


def test_the_largest_logit_goes_before_any_bound(points_source):
    """linYDTHU/StableVelocity: logits bounded first, so that beyond D ≈ 20,000 all votes tie."""
    points = torch.randn(30, 24_000)
    x, t = pairs_at(points, 0.2)
    logits = logits_of(points, x, 0.2)
    mean = logits.clamp(min=-1e4).softmax(1) @ points.double()
    truth = reference(points, x, t).velocity
    catches(close_to(truth), Oracle(points_source(points))(x, t), (mean - x) / 0.8)


def test_all_points_vote(points_source):
    """GoldDiff, StableVelocity's bank: a random part of the points stands for all of them."""
    points = torch.randn(400, 80)
    x, t = pairs_at(points, 0.1)
    part = points[torch.randperm(400)[:256]]
    truth = reference(points, x, t).velocity
    ours = Oracle(points_source(points))(x, t)
    catches(close_to(truth), ours, reference(part, x, t).velocity)


def test_a_reference_batch_is_not_the_oracle(points_source):
    """Newbeeer/stf: the pair's own point and a few others, weights normalised among them."""
    points = torch.randn(300, 80)
    rows = torch.arange(8)
    t = torch.full((8,), 0.1, dtype=torch.float64)
    x = LINEAR.sample(points[rows].double(), torch.randn(8, 80).double(), t)
    some = torch.cat([points[rows], points[100:124]])
    truth = reference(points, x, t).velocity
    ours = Oracle(points_source(points))(x, t)
    catches(close_to(truth), ours, reference(some, x, t).velocity)


PEAK = """
import re, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from memory_source import make_source
from floracle.oracle.oracle import Oracle

def peak():  # not ru_maxrss, which a process inherits from its parent
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def grown(call):
    before = peak()
    call()
    return peak() - before

torch.set_num_threads(1)
points, x, t = torch.randn(4000, 512), torch.randn(64, 512), torch.full((64,), 0.1)
oracle = Oracle(make_source(points))
oracle(x[:1], t[:1])
print(grown(lambda: oracle(x, t)))
print(grown(lambda: (x[:, None] - 0.1 * points[None]).square().sum(2)))
"""


@pytest.mark.slow
def test_no_tensor_of_queries_times_points_times_dimensions():
    """closedformfm, stf: N × B × D numbers at once, here 500 MiB; measured in a fresh process."""
    command = [sys.executable, "-c", PEAK, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    ours, faulty = map(float, done.stdout.split())

    def fact(growth):
        assert growth < 150

    catches(fact, ours, faulty)


# time ------------------------------------------------------------------------------------------


def test_time_runs_from_noise_to_data(points_source):
    """A field of the other clock, used as it is: samples run away from the data."""
    point = torch.full((1, 80), 3.0)
    oracle, noise = Oracle(points_source(point)), torch.randn(4, 80)

    def backwards(x, t, labels=None):
        return -oracle(x, (1 - t).clamp(max=0.9999), labels)

    def fact(found):
        assert (found - point).norm(dim=1).max() <= 1e-3

    grid = time_grid(20, start=1e-4, stop=1 - 1e-4)
    translated = as_field(backwards, noise_time=1.0, data_time=0.0)
    last = torch.cat([grid, torch.ones(1).double()])
    catches(fact, sample(translated, noise, last), sample(backwards, noise, last))


def test_times_are_not_scaled_twice(points_source):
    """A clock of 0 … 1000 read as 0 … 1, or the other way round."""
    points = torch.randn(50, 80)
    oracle = Oracle(points_source(points))
    x, t = pairs_at(points, 0.3)

    def thousand(x, t, labels=None):
        return oracle(x, t / 1000, labels)

    fact = close_to(oracle(x, t))
    catches(fact, as_field(thousand, noise_time=0.0, data_time=1000.0)(x, t), thousand(x, t))


def test_steps_mean_steps():
    """SiT, LightningDiT: 250 "steps" are 250 times, which is 249 steps."""

    def fact(grid):
        assert len(grid.diff()) == 250

    catches(fact, time_grid(250), torch.linspace(0, 1, 250))


def test_a_shift_below_one_spends_steps_early():
    """LightningDiT's .3 is 3.33 to SD3 and Flux; with the other meaning steps go to the data."""

    def fact(grid):
        assert share_of_steps(grid, 0.2) == pytest.approx(0.46)  # Table 2

    noise_times = 1 - torch.linspace(0, 1, 51, dtype=torch.float64)
    sd3 = 1 - 0.3 * noise_times / (1 + (0.3 - 1) * noise_times)
    same = 1 - (1 / 0.3) * noise_times / (1 + (1 / 0.3 - 1) * noise_times)
    catches(fact, time_grid(50, shift=0.3), sd3)
    assert torch.allclose(time_grid(50, shift=0.3), same)


def test_a_shift_is_applied_once():
    """diffusers: shifted in the constructor and again in set_timesteps."""

    def fact(grid):
        assert share_of_steps(grid, 0.2) == pytest.approx(0.34)  # Table 2

    catches(fact, time_grid(50, shift=0.5), shift_times(time_grid(50, shift=0.5), 0.5))
