"""Stages and samples of data whose samples are Gaussians, as they are typed."""

from __future__ import annotations

import numpy as np
import pytest

import floracle
from floracle.cli import main


@pytest.fixture
def stored(tmp_path):
    """Forty means beside their deviations, [N, 2C, H, W]."""
    draw = np.random.default_rng(0)
    means = draw.normal(size=(40, 4, 3, 3)).astype(np.float32)
    stds = (0.05 + 0.1 * draw.random((40, 4, 3, 3))).astype(np.float32)
    np.save(tmp_path / "moments.npy", np.concatenate([means, stds], 1))
    return tmp_path / "moments.npy", means, stds


@pytest.mark.slow
@pytest.mark.parametrize("moments", ["mean", "sample", "gaussian"])
def test_stages_of_moments(stored, tmp_path, capsys, moments):
    where, means, stds = stored
    out = tmp_path / "out"
    asked = ["stages", str(where), "--layout", "mean-std", "--moments", moments]
    assert main([*asked, "--pairs", "32", "--out", str(out)]) == 0
    found = floracle.load(out)
    assert found.main.law_holds
    assert found.main.points == 40
    assert found.dims == 36
    assert moments in (out / "report.html").read_text()
    data = floracle.open_store(str(where), layout="mean-std", moments=moments)
    if moments == "sample":
        inner = (data.points.numpy() - means) / stds
        assert 0.9 < inner.std() < 1.1
    else:
        assert np.array_equal(data.points[:].numpy(), means)


def test_moments_are_asked_for(stored, capsys):
    assert main(["stages", str(stored[0]), "--layout", "mean-std"]) == 2
    told = capsys.readouterr().err
    assert "gaussian" in told
    assert "mean" in told


@pytest.mark.slow
def test_moments_taken_for_samples_are_noticed(stored, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["stages", str(stored[0]), "--pairs", "8", "--out", out]) == 0
    assert "moments" in capsys.readouterr().err
    assert "Look at the data first" in (tmp_path / "out" / "report.html").read_text()


def test_an_oracle_of_gaussians_samples_around_them(stored, tmp_path):
    where, means, stds = stored
    out = tmp_path / "samples"
    asked = ["sample", "oracle", str(where), "--layout", "mean-std", "--moments", "gaussian"]
    assert main([*asked, "--seeds", "0:16", "--steps", "60", "--out", str(out)]) == 0
    found = np.load(out / "samples.npz")
    apart = found["arr_0"] - means[found["rows"]]
    scaled = apart / stds[found["rows"]]
    assert 0.5 < scaled.std() < 1.3  # spread as the Gaussians are, not on their means
