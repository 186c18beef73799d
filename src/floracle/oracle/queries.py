"""Noisy points at their times, ready to be compared with the points of a class."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from floracle.core.paths import Coefficients, ProbabilityPath
from floracle.core.point_set import NO_LABEL, PointSet, classes
from floracle.run.errors import InputError

from .class_points import ClassPoints


@dataclass(frozen=True)
class Queries:
    """Noisy points, ready for a class; float64, [b] unless stated."""

    x: Tensor
    """[b, D]."""
    centred: Tensor
    """y = x − α m, [b, D]."""
    coefficients: Coefficients
    amplification: Tensor
    """A = α' − α σ'/σ: how much an error of the mean grows in the velocity."""
    gain: Tensor
    """g = α/σ², over the temperature."""

    @property
    def alpha(self) -> Tensor:
        """α."""
        return self.coefficients.alpha

    def of(self, indices: Tensor) -> Queries:
        """Some of the queries, in their order."""
        if len(indices) == len(self.x):
            return self
        coefficients = Coefficients(*(values[indices] for values in self.coefficients))
        amplification, gain = self.amplification[indices], self.gain[indices]
        return Queries(self.x[indices], self.centred[indices], coefficients, amplification, gain)

    def velocity(self, mean: Tensor) -> Tensor:
        """u* from the posterior mean, both float64 [b, D]."""
        return self.coefficients.velocity(self.x, mean)


def prepare_queries(
    members: ClassPoints, x: Tensor, t: Tensor, path: ProbabilityPath, *, temperature: float = 1.0
) -> Queries:
    """Queries x [b, D] at times t [b] < 1, for one class; logits are divided by `temperature`."""
    c = path.coefficients(t.to(x.device))
    if (c.sigma <= 0).any():
        raise ValueError("the oracle's velocity is 0 / 0 at t = 1; ask for it at t < 1")
    x = x.double()
    gain = c.alpha / (c.sigma**2 * temperature)
    return Queries(x, x - c.alpha[:, None] * members.centre, c, c.amplification, gain)


def check_queries(data: PointSet, x: Tensor, t: Tensor, labels: Tensor | None) -> None:
    """Refuse queries whose types or shapes do not fit the data."""
    for name, value in {"samples": x, "t": t, "labels": labels}.items():
        if not isinstance(value, Tensor) and not (name == "labels" and value is None):
            length = len(x) if isinstance(x, Tensor) and x.ndim else "b"
            form = {"samples": "[b, *shape]", "t": f"float64 [{length}]"}
            raise InputError(
                f"{name} must be a tensor {form.get(name, f'int64 [{length}]')}, one for each"
                f" sample, got {_describe_value(value)}"
            )
    if tuple(x.shape[1:]) != tuple(data.shape):
        raise ValueError(
            f"samples have shape {tuple(x.shape[1:])}, but points of the data {tuple(data.shape)}"
        )
    if not x.isfinite().all():
        raise ValueError("samples contain NaN or infinity")
    if t.shape != (len(x),):
        raise ValueError(f"t must be [{len(x)}], one time a sample, got {tuple(t.shape)}")
    if labels is not None and labels.shape != (len(x),):
        raise ValueError(f"labels must be [{len(x)}], one a sample, got {tuple(labels.shape)}")


def _describe_value(value: object) -> str:
    """A number as it is, anything else by its type."""
    return repr(value) if isinstance(value, (int, float)) else f"a {type(value).__name__}"


def check_label(data: PointSet, label: int) -> None:
    """Refuse a class that does not occur in the data."""
    if label != NO_LABEL and not (data.labels == label).any():
        raise InputError(f"there is no class {label}; labels are {classes(data) or 'all −1'}")
