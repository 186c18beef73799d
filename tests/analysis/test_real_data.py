"""The landmarks of real data, against the table of predicted and measured values in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

import floracle

# class: predicted and measured collapse, predicted and measured centre (CIFAR-10, 5000 × 3072)
KNOWN = {
    0: (0.1663, 0.1673, 0.114, 0.117),
    1: (0.1472, 0.1465, 0.102, 0.105),
    4: (0.1826, 0.1824, 0.127, 0.132),
}


@pytest.fixture(scope="module")
def cifar(shared):
    """CIFAR-10's training set, from its lossless sheets."""
    folder = shared / "data" / "cifar10"

    def sheet(path):
        tiles = np.asarray(Image.open(path)).reshape(50, 32, 50, 32, 3)
        return tiles.transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)

    images = np.concatenate([sheet(path) for path in sorted(folder.glob("train-*.webp"))])
    labels = np.load(folder / "labels.npz")["train_labels"]
    return floracle.open_store(images, labels=labels)


@pytest.mark.slow
def test_cifar_classes_part_where_they_are_known_to(cifar):
    stages = floracle.stages(floracle.Oracle(cifar), classes=list(KNOWN))
    for label, (predicted_collapse, collapse, predicted_centre, centre) in KNOWN.items():
        group = stages.group(label)
        assert group.predicted_collapse == pytest.approx(predicted_collapse, abs=1e-4)
        assert group.predicted_centre == pytest.approx(predicted_centre, abs=6e-4)
        assert group.collapse.value == pytest.approx(collapse, abs=0.005)
        assert group.centre.value == pytest.approx(centre, abs=0.003)
        assert group.max_information == pytest.approx(math.log(5000))
        assert abs(group.area.value - group.max_information) <= 4 * group.area.error
        assert group.area.error <= 0.02 * group.max_information


@pytest.mark.slow
def test_fewer_points_collapse_earlier(cifar):
    """Automobiles: 1000 of them collapse at .092 (measured .0957), 250 at .082 (.0847)."""
    rows = (cifar.labels == 1).nonzero()[:, 0]
    found = {}
    for count in (250, 1000):
        store = floracle.open_store(cifar.take(rows[:count]))
        found[count] = floracle.stages(floracle.Oracle(store)).main
    for count, (predicted, measured) in {1000: (0.0923, 0.0957), 250: (0.0817, 0.0847)}.items():
        assert found[count].predicted_centre == pytest.approx(predicted, rel=0.02)
        assert found[count].centre.value == pytest.approx(measured, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_predictions_hold_on_idx_files(shared, name):
    store = floracle.open_store(shared / "data" / name)
    stages = floracle.stages(floracle.Oracle(store), pairs=256, classes=[0, 1, 2])
    for group in stages.groups:
        assert (
            abs(group.area.value - group.max_information + group.remaining_information)
            <= 4 * group.area.error
        )
        assert group.predicted_centre == pytest.approx(group.centre.value, rel=0.15)
        # the Gaussian bound: information cannot outrun it, so the centre cannot come earlier
        assert group.centre.high is not None
        assert group.predicted_centre <= group.centre.high


@pytest.mark.slow
def test_an_aligned_space_collapses_behind_its_prediction_and_a_plain_one_on_it(shared):
    """The numbers of docs/spaces.md."""
    known = {
        "f16d32": (0.390, 0.499, 0.502, 0.654, 12.4),
        "f16d32_vfdinov2": (0.393, 0.512, 0.495, 0.669, 16.4),
    }
    behind = {}
    for name, (centre, collapse, predicted, end, directions) in known.items():
        store = floracle.open_store(shared / f"data/vavae_tokens/{name}.safetensors")
        found = floracle.stages(floracle.Oracle(store)).main
        assert found.centre.value == pytest.approx(centre, abs=0.002)
        assert found.collapse.value == pytest.approx(collapse, abs=0.002)
        assert found.predicted_collapse == pytest.approx(predicted, abs=0.001)
        assert found.end.value == pytest.approx(end, abs=0.005)
        points = store.take(torch.arange(len(store))).double()
        spread = torch.linalg.eigvalsh(points.T.cov(correction=0))
        assert float(spread.sum() ** 2 / spread.square().sum()) == pytest.approx(
            directions, abs=0.06
        )
        behind[name] = found.collapse.low / found.predicted_collapse - 1
    assert behind["f16d32"] < 0 < 0.02 < behind["f16d32_vfdinov2"]
