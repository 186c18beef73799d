"""The oracle on a GPU: the same contract, resident and streamed."""

from __future__ import annotations

import pytest
import torch

from floracle.core.paths import LINEAR
from floracle.oracle.oracle import Oracle
from floracle.oracle.pruning import search as pruning
from floracle.oracle.reference import reference
from floracle.run.budget import memory_budget, to_device

pytestmark = pytest.mark.gpu
TIMES = torch.tensor([0.0, 0.05, 0.1, 0.2, 0.5, 0.9, 0.999], dtype=torch.float64)


@pytest.mark.parametrize("memory", [None, 4 * 64 * 1024])
@pytest.mark.parametrize(("tolerance", "launches"), [(0.0, 0), (1e-5, 0), (1e-5, 1e30)])
def test_it_keeps_to_the_contract(points_source, monkeypatch, memory, tolerance, launches):
    """Scanned, pruned, and where pruning would not pay."""
    monkeypatch.setattr(pruning, "GPU_MIN_PRODUCTS", launches)
    points = torch.randn(2000, 256) * (1 + torch.arange(256)) ** -0.5
    data, noise = points_source(points), torch.randn(len(TIMES), 256)
    oracle = Oracle(data, memory=memory, device="cuda", tolerance=tolerance)
    x = LINEAR.sample(points[: len(TIMES)], noise, TIMES)
    truth = reference(points, x, TIMES).velocity
    found = oracle(x.double(), TIMES).cpu()
    assert ((found - truth).norm(dim=1) <= 1e-5 * truth.norm(dim=1)).all()


def test_pairs_are_those_of_the_processor(points_source):
    data = points_source(torch.randn(300, 96))
    rows, noise = torch.arange(8), torch.randn(8, 96)
    ours = Oracle(data).pairs(rows, noise, TIMES, mirrored=True)
    theirs = Oracle(data, device="cuda").pairs(rows, noise, TIMES, mirrored=True)
    torch.testing.assert_close(theirs.variance, ours.variance, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(theirs.entropy, ours.entropy, rtol=1e-4, atol=1e-5)


def test_points_travel_whole():
    points = torch.randn(1000, 64)
    assert torch.equal(to_device(points, torch.device("cuda")).cpu(), points)


def test_the_budget_is_that_of_the_device():
    device = torch.device("cuda")
    free = torch.cuda.mem_get_info(device)[0]
    assert 0.3 * free < memory_budget(None, device) < 0.7 * free
