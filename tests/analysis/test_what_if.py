"""Measured landmarks and a profile answer for other numbers of points."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import floracle


def with_profile(points, pairs=256):
    store = floracle.open_store(points)
    stages = floracle.stages(floracle.Oracle(store), pairs=pairs)
    return stages, floracle.profile(store)


def test_its_own_number_gives_its_own_landmarks():
    stages, profile = with_profile(torch.randn(200, 8, generator=torch.Generator().manual_seed(0)))
    (found,) = floracle.what_if(stages, profile, [200])
    for name in ("centre", "collapse", "end"):
        assert getattr(found, name) == pytest.approx(getattr(stages.main, name).value, rel=1e-9)


@pytest.mark.slow
def test_more_points_come_later():
    stages, profile = with_profile(torch.randn(200, 8, generator=torch.Generator().manual_seed(0)))
    found = floracle.what_if(stages, profile, [10, 100, 1e4, 1e6])
    for name in ("centre", "collapse", "end"):
        marks = [getattr(one, name) for one in found]
        assert marks == sorted(marks)


@pytest.mark.slow
def test_the_landmarks_of_four_times_as_many_from_a_quarter(shared, tmp_path):
    """Three quarters of the automobiles are hidden: within 3 %, as docs/real-data.md has it."""
    tool = shared / "tools" / "cifar10_to_npz.py"
    subprocess.run([sys.executable, str(tool), "train", str(tmp_path / "c.npz")], check=True)
    content = np.load(tmp_path / "c.npz")
    names = content.files
    images = content[next(name for name in names if content[name].ndim == 4)]
    labels = content[next(name for name in names if content[name].ndim == 1)]
    cars = torch.from_numpy(images[labels == 1])
    every = floracle.stages(floracle.Oracle(floracle.open_store(cars)), pairs=512).main
    some, profile = with_profile(cars[::4], pairs=512)
    (found,) = floracle.what_if(some, profile, [5000])
    for name in ("centre", "collapse", "end"):
        assert getattr(found, name) == pytest.approx(getattr(every, name).value, rel=0.035), name


def test_nonsense_is_refused():
    stages = floracle.stages(floracle.Oracle(floracle.open_store("gaussian:50x3")), pairs=16)
    profile = floracle.profile(floracle.open_store("gaussian:50x3"))
    for points in (1.0, float("nan"), float("inf")):
        with pytest.raises(floracle.InputError, match="at least 2"):
            floracle.what_if(stages, profile, [points])
