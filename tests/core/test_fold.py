from dataclasses import dataclass

from floracle.core.fold import fold
from floracle.core.point_set import PointSet, classes


@dataclass(frozen=True)
class Heard:
    words: tuple[str, ...] = ()

    def merge(self, other):
        return Heard(self.words + other.words)


def test_blocks_are_read_in_order_and_once():
    assert fold(iter("abc"), lambda word: Heard((word,)), Heard()).words == ("a", "b", "c")


def test_nothing_read_is_the_empty_summary():
    assert fold([], Heard, Heard()) == Heard()


def test_classes_are_the_labels_without_none(points_source):
    import torch

    source = points_source(torch.randn(5, 2), [3, -1, 0, 3, 7])
    assert isinstance(source, PointSet)
    assert classes(source) == [0, 3, 7]
