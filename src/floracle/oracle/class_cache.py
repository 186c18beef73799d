"""The classes that an oracle holds in memory, and what they take."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from .class_points import ClassPoints
from .pruning.screen import Screen


class CachedClass(NamedTuple):
    """A class that is ready for queries."""

    points: ClassPoints
    screen: Screen | None
    """Its coarse view, from the first query on for which points may be left out."""

    @property
    def bytes(self) -> int:
        """What the points and the coarse view take."""
        resident = 0 if self.points.points is None else self.points.points.nbytes
        return resident + (0 if self.screen is None else self.screen.bytes)


@dataclass
class ClassCache:
    """Classes by label, the one used longest ago first."""

    classes: OrderedDict[int, CachedClass] = field(default_factory=OrderedDict)
    bytes: int = 0
    """Of all classes; added up anew for every query it would cost time for each of them."""

    def get(self, label: int) -> CachedClass | None:
        """A class, from now on the one used last; None where it is not in memory."""
        cached = self.classes.get(label)
        if cached is not None:
            self.classes.move_to_end(label)
        return cached

    def put(self, label: int, cached: CachedClass) -> None:
        """Hold a class, in place of what was held of it."""
        self.bytes += cached.bytes - self.bytes_of(label)
        self.classes[label] = cached

    def bytes_of(self, label: int) -> int:
        """What a class takes; 0 where it is not in memory."""
        cached = self.classes.get(label)
        return 0 if cached is None else cached.bytes

    def surplus(self, size: int, budget: int, *, keep: int = 0) -> int:
        """How many of the oldest classes are in the way of `size` bytes; the last `keep` are not.

        What does not fit at all displaces nothing.
        """
        held, count = self.bytes, 0
        for cached in islice(self.classes.values(), len(self.classes) - keep):
            if size > budget or held + size <= budget:
                break
            held -= cached.bytes
            count += 1
        return count

    def drop(self, count: int) -> None:
        """Let go of the oldest classes."""
        for _ in range(count):
            self.bytes -= self.classes.popitem(last=False)[1].bytes
