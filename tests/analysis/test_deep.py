"""A deeper look: saved and read back whole, and drawn."""

from __future__ import annotations

import pytest
import torch

import floracle
from floracle.analysis.trajectories.trajectory_analysis import (
    analyse_trajectories,
    read_trajectory_analysis,
)
from floracle.cli import main
from floracle.run.results import load_results, save


@pytest.fixture(scope="module")
def looked():
    data = floracle.open_store("digits")
    oracle = floracle.Oracle(data)
    return analyse_trajectories(oracle, floracle.stages(oracle, pairs=32, classes=[3]))


@pytest.mark.slow
def test_it_has_the_fields_that_can_be_afforded(looked):
    assert looked.label == 3
    assert list(looked.distances.curves) == ["one Gaussian", "patches of 3", "patches of 7"]
    early = looked.distances.relative["one Gaussian"].mean
    assert early[0] < 0.05 < early[-1]
    assert len(looked.trajectories.rows) == 32
    assert (floracle.open_store("digits").labels[looked.trajectories.rows] == 3).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "label"), [([0, 1], 1), ([0, 1, -1], -1), ([1, 0, 2], 0)], ids=str
)
def test_it_looks_at_a_class_that_was_measured_or_the_whole_set(points_source, classes, label):
    """Never at the pool, which is no class: at the class in the middle by predicted collapse."""
    scales = torch.tensor([1.0, 0.5, 2.0])[torch.arange(30) % 3]
    points = torch.randn(30, 8) * scales[:, None]
    oracle = floracle.Oracle(points_source(points, torch.arange(30) % 3))
    found = analyse_trajectories(
        oracle, floracle.stages(oracle, pairs=8, times=12, classes=classes)
    )
    assert found.label == label
    assert found.distances.label == label
    labels = oracle.data.labels[found.trajectories.rows]
    assert label == -1 or (labels == label).all()


@pytest.mark.slow
def test_it_is_saved_and_read_back_whole(looked, tmp_path):
    save(looked, tmp_path)
    again = read_trajectory_analysis(load_results(tmp_path))
    assert again.shape == (1, 8, 8)
    assert list(again.distances.curves) == list(looked.distances.curves)
    for name, curve in looked.distances.relative.items():
        assert torch.equal(again.distances.relative[name].mean, curve.mean)
    assert again.bands.half == looked.bands.half
    assert torch.equal(again.trajectories.ends, looked.trajectories.ends)
    assert again.trajectories.straightness == looked.trajectories.straightness


@pytest.mark.slow
def test_the_report_shows_it_and_a_second_call_adds_it(tmp_path, capsys):
    out = str(tmp_path / "out")
    asked = ["stages", "gaussian:60x8", "--pairs", "8", "--times", "12", "--out", out]
    assert main(asked) == 0
    assert "frequency bands</h2>" not in (tmp_path / "out" / "report.html").read_text()
    assert main([*asked, "--deep"]) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "frequency bands</h2>" in page
    assert "end on" in page
    assert (tmp_path / "out" / "figures" / "baselines.csv").exists()
    assert main(["report", out]) == 0
    assert "frequency bands</h2>" in (tmp_path / "out" / "report.html").read_text()
