"""One measured information curve answers for other numbers of points."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import floracle
from floracle.analysis.what_if import bent, unbent


@pytest.mark.slow
def test_its_own_number_gives_its_own_landmarks():
    stages = floracle.stages(floracle.Oracle(floracle.open_store("digits")), pairs=128)
    whole = stages.group(-1)
    (found,) = floracle.what_if(stages, [whole.points], label=-1)
    assert found.centre == pytest.approx(whole.centre.value, abs=2e-3)
    assert found.collapse == pytest.approx(whole.collapse.value, abs=2e-3)


@pytest.mark.slow
def test_more_points_come_later():
    stages = floracle.stages(floracle.Oracle(floracle.open_store("digits")), pairs=64)
    found = floracle.what_if(stages, [10, 100, 1e4, 1e6])
    centres = [one.centre for one in found]
    collapses = [one.collapse for one in found]
    assert centres == sorted(centres)
    assert collapses == sorted(collapses)


@pytest.mark.slow
def test_automobiles_as_measured_with_fewer(shared, tmp_path):
    """The curve of 5000 automobiles tells where 1000 and 250 of them have their centre.

    FACTS 3.4 has .0957 and .0847 measured; here fewer are measured as well.
    """
    tool = shared / "tools" / "cifar10_to_npz.py"
    subprocess.run([sys.executable, str(tool), "train", str(tmp_path / "c.npz")], check=True)
    content = np.load(tmp_path / "c.npz")
    names = content.files
    images = content[next(name for name in names if content[name].ndim == 4)]
    labels = content[next(name for name in names if content[name].ndim == 1)]
    cars = torch.from_numpy(images[labels == 1])
    stages = floracle.stages(floracle.Oracle(floracle.open_store(cars)), pairs=256, times=40)
    found = floracle.what_if(stages, [1000, 250])
    for one, published in zip(found, (0.0957, 0.0847), strict=True):
        assert one.centre == pytest.approx(published, rel=0.04)
    fewer = floracle.stages(floracle.Oracle(floracle.open_store(cars[::5])), pairs=256, times=40)
    assert found[0].centre == pytest.approx(fewer.main.centre.value, rel=0.04)
    assert found[0].collapse == pytest.approx(fewer.main.collapse.value, rel=0.06)
    (more,) = floracle.what_if(fewer, [5000])
    assert more.centre == pytest.approx(stages.main.centre.value, rel=0.04)


def test_bending_is_undone_and_bounded():
    mean = np.linspace(0, 30, 200)
    seen = bent(mean, 1000.0)
    assert abs(seen[0]) < 1e-12
    assert (np.diff(seen) > 0).all()
    assert seen[-1] < np.log(1000)
    free = seen < 0.9 * np.log(1000)
    assert np.allclose(unbent(seen[free], 1000.0), mean[free], atol=1e-6)
    assert np.allclose(bent(mean[:20], 1e12), mean[:20], atol=1e-3)


def test_nonsense_is_refused():
    stages = floracle.stages(floracle.Oracle(floracle.open_store("gaussian:50x3")), pairs=16)
    with pytest.raises(floracle.Mistake, match="above 1"):
        floracle.what_if(stages, [1.0])
    with pytest.raises(floracle.Mistake, match="above 1"):
        floracle.what_if(stages, [float("nan")])
