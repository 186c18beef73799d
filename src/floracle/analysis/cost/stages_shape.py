"""The shape of a stages run: what its memory and time depend on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from floracle.core.point_set import NO_LABEL, prepared
from floracle.data.store import Store
from floracle.oracle.gaussian_data import COPIES as GAUSSIAN_COPIES
from floracle.oracle.pairs.forward_pairs import bytes_of_pair
from floracle.run.budget import FREE_MEMORY_SHARE, memory_budget

ORACLE_SHARE = 0.75
"""The oracle's part of what the data leaves: it may exceed it by a quarter (`Oracle.room`)."""


@dataclass(frozen=True)
class StagesShape:
    """Sizes of a stages run, by label [C] where they depend on the class."""

    store: Store
    labels: tuple[int, ...]
    """−1 is the whole set."""
    pairs: int
    times: int
    held_out: Store | None = None
    deep: bool = False
    memory: int | str | None = None

    @cached_property
    def dims(self) -> int:
        """The dimension D of a point."""
        return torch.Size(self.store.shape).numel()

    @cached_property
    def points(self) -> Tensor:
        """The distinct training points n of each label, float64 [C]."""
        return class_sizes(self.store, self.labels)

    @property
    def numbers(self) -> Tensor:
        """Coordinates n·D of the points of each label, float64 [C]."""
        return self.points * self.dims

    @property
    def point_bytes(self) -> Tensor:
        """The same in bytes of float32."""
        return 4.0 * self.points * self.dims

    @cached_property
    def has_statistics(self) -> bool:
        """Whether norms and moments of classes are stored with the data."""
        return prepared(self.store, self.labels[0]) is not None

    @cached_property
    def needs_spectrum(self) -> Tensor:
        """Labels whose spectrum is to be computed, bool [C]; a single point has none."""
        statistics = [prepared(self.store, label) for label in {self.labels[0], self.labels[-1]}]
        stored = all(one is not None and one.spectrum is not None for one in statistics)
        return (self.points > 1) & (not stored)

    @cached_property
    def class_count(self) -> int:
        """Classes that are told apart in the whole set; 0 where it is not measured."""
        count = len(self.store.labels.unique()) if NO_LABEL in self.labels else 0
        return count if count > 1 else 0

    @property
    def class_counts(self) -> Tensor:
        """The same by label, float64 [C]: 0 but for the whole set."""
        counts = [self.class_count if label == NO_LABEL else 0 for label in self.labels]
        return torch.tensor(counts, dtype=torch.float64)

    @property
    def sums_covariances(self) -> bool:
        """Whether the covariance of the whole set is the sum of those of its classes."""
        count = len(self.labels) - 1
        complete = NO_LABEL in self.labels and count == len(self.store.labels.unique()) > 1
        return complete and bool((self.points > self.dims).all())

    @cached_property
    def held_bytes(self) -> int:
        """Bytes that the data, and the held-out data, hold of their points."""
        return sum(store_bytes(store) for store in (self.store, self.held_out) if store)

    @cached_property
    def budget(self) -> int:
        """Bytes of the memory that are left beside the data."""
        held = int(FREE_MEMORY_SHARE * self.held_bytes) if self.memory is None else self.held_bytes
        return max(0, memory_budget(self.memory) - held)

    @cached_property
    def oracle_bytes(self) -> int:
        """Bytes of the oracle's memory."""
        return memory_budget(oracle_memory(self.store, self.memory))

    @property
    def fits_oracle(self) -> Tensor:
        """Labels whose points fit the oracle's memory, bool [C]."""
        return self.point_bytes <= self.oracle_bytes

    @cached_property
    def work_bytes(self) -> Tensor:
        """Bytes that the oracle works with beside the points of each label, float64 [C]."""
        free = self.oracle_bytes - self.point_bytes * self.fits_oracle
        return free.clamp(min=self.oracle_bytes // 4)

    @cached_property
    def pair_bytes(self) -> Tensor:
        """Bytes of a pair of each label while it is computed, float64 [C]."""
        if self.store.stds is not None:
            return torch.full_like(self.points, 8 * GAUSSIAN_COPIES * self.dims)
        plain, with_class = (bytes_of_pair(self.dims, self.times, count) for count in (0, 1))
        return plain + (with_class - plain) * self.class_counts

    @cached_property
    def pairs_at_a_time(self) -> Tensor:
        """How many pairs of each label are computed at a time, float64 [C]."""
        return (self.work_bytes / self.pair_bytes).floor().clamp(min=1, max=self.pairs)

    @cached_property
    def copied_bytes(self) -> Tensor:
        """Bytes that the oracle holds of each label beside the data, float64 [C].

        Points of a class that lie one after the other, near the origin, need no copy.
        """
        labels, channels = self.store.labels, self.store.channels
        in_order = len(labels.unique_consecutive()) == len(labels.unique())
        far = bool(channels.mean.square().sum() > 4 * channels.std.square().sum())
        viewed = self.store.resident and in_order and not self.store.duplicates and not far
        return self.point_bytes * self.fits_oracle * (not viewed)


def store_bytes(store: Store) -> int:
    """Bytes that a store holds of its points: as float32, and as they are stored."""
    points = 4 * len(store) * torch.Size(store.shape).numel() if store.resident else 0
    stds = store.stds.nbytes if isinstance(store.stds, Tensor) else 0
    separate = isinstance(store.stored, Tensor) and store.stored is not store.points
    return points + stds + (store.size if separate else 0)


def oracle_memory(store: Store, memory: int | str | None) -> int | None:
    """The memory of the oracle of a store, so that both stay within `memory`."""
    if memory is None:
        return None
    return max(1, int(ORACLE_SHARE * (memory_budget(memory) - store_bytes(store))))


def class_sizes(store: Store, labels: tuple[int, ...]) -> Tensor:
    """The distinct points of several classes, float64 [C], from one pass over all rows."""
    first, row_labels = store.class_index.first.numpy(), store.labels.numpy()
    total = len(first)
    if store.duplicates:  # count a point once in each class that has it
        total = int((first == np.arange(len(first))).sum())
        row_labels = np.unique(np.stack([row_labels, first], 1), axis=0)[:, 0]
    present, counts = np.unique(row_labels, return_counts=True)
    index = np.searchsorted(present, labels).clip(max=len(present) - 1)
    sizes = np.where(present[index] == labels, counts[index], 0)
    whole = np.array(labels) == NO_LABEL
    for label in np.array(labels)[(sizes == 0) & ~whole][:1].tolist():
        store.atoms(label)  # raises: there is no such class
    sizes[whole] = total
    return torch.from_numpy(sizes).double()
