"""Labels and classes of a point set."""

import torch

from floracle.core.point_set import PointSet, classes


def test_classes_are_the_labels_without_none(points_source):
    source = points_source(torch.randn(5, 2), [3, -1, 0, 3, 7])
    assert isinstance(source, PointSet)
    assert classes(source) == [0, 3, 7]
