"""Landmarks from the number of points and their spectrum."""

from __future__ import annotations

import math

import pytest
import torch

from floracle.analysis.prediction.closed_form import predict
from floracle.core.paths import PATHS
from floracle.run.errors import InputError


@pytest.mark.parametrize(
    ("dims", "t"), [(4096, 0.056), (8192, 0.040), (3072, 0.064), (1024, 0.106)]
)
def test_isotropic_collapse(dims, t):
    """r = √(N^(2/D) − 1) for N = 1281 (FACTS 3.4)."""
    found = predict(1281, dims=dims)
    ratio = math.sqrt(1281 ** (2 / dims) - 1)
    assert found.collapse == pytest.approx(ratio / (1 + ratio), rel=1e-9)
    assert found.collapse == pytest.approx(t, abs=5e-4)
    assert found.self_weight(torch.tensor([found.collapse]).double()).item() == pytest.approx(
        0.5, abs=0.05
    )


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_times_invert_information(path):
    found = predict(1000, spectrum=torch.linspace(0.01, 2, 50), path=path)
    nats = torch.tensor([0.0, 0.1, 1.0, 5.0, 20.0]).double()
    times = found.times_of(nats)
    assert times[0] == 0
    assert (found.information(times) - nats).abs().max() < 1e-9
    assert found.centre < found.collapse


def test_scales_only_move_the_ratio():
    small, large = (predict(500, spectrum=s * torch.ones(30)) for s in (1e-6, 1e6))
    ratio = [one.collapse / (1 - one.collapse) for one in (small, large)]
    assert ratio[0] / ratio[1] == pytest.approx(1e6, rel=1e-6)


def test_what_if():
    found = predict(1000, spectrum=torch.linspace(0.01, 2, 50))
    rows = found.what_if([100, 1000], [1, 4])
    table = {(row["points"], row["scale"]): row for row in rows}
    assert len(rows) == 4
    assert table[1000, 1]["centre"] == pytest.approx(found.centre)
    assert table[1000, 1]["collapse"] == pytest.approx(found.collapse)
    repeated = predict(1000, spectrum=torch.linspace(0.01, 2, 50).repeat(4))
    assert table[1000, 4]["collapse"] == pytest.approx(repeated.collapse)
    assert table[100, 1]["collapse"] < table[1000, 1]["collapse"]
    assert table[1000, 4]["collapse"] < table[1000, 1]["collapse"]


@pytest.mark.parametrize(
    ("points", "options"),
    [
        (1, {"dims": 4}),
        (math.nan, {"dims": 4}),
        (10, {}),
        (10, {"dims": 4, "spectrum": [1.0]}),
        (10, {"dims": 0}),
        (10, {"spectrum": [1.0, -1.0]}),
        (10, {"spectrum": [0.0, 0.0]}),
        (10, {"spectrum": [math.nan]}),
        (10, {"spectrum": []}),
    ],
)
def test_nonsense_is_a_mistake(points, options):
    with pytest.raises(InputError):
        predict(points, **options)
