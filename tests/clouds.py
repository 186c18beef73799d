"""A source of Gaussians, one for every point."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Clouds:
    """A source of means with deviations."""

    points: object
    stds: Tensor

    def __getattr__(self, name: str):
        return getattr(self.points, name)

    def __len__(self) -> int:
        return len(self.points)

    def take_stds(self, rows: Tensor) -> Tensor:
        return self.stds[rows]
