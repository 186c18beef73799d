"""The options that say how data is to be read, the same for every verb."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from floracle.data.normalize import Normalizer
    from floracle.data.store import Store
    from floracle.oracle.gaussian_data import GaussianOracle
    from floracle.oracle.oracle import Oracle
    from floracle.run.processes import ProcessGroup

Layout = Literal["lightningdit", "repa", "edm2", "mar", "fast-dit", "mean-std", "mean-logvar"]
Moments = Literal["mean", "sample", "gaussian"]


Flips = Annotated[
    bool | None,
    Parameter(
        help="Count the mirror of every picture, or every stored mirrored latent, as a point of"
        " its own.",
        negative="--no-flips",
    ),
]
Scale = Annotated[
    str,
    Parameter(
        help="stored (as its project feeds it: bytes become -1 ... 1), raw, standard (every"
        " channel mean 0 and deviation 1), or a factor like 0.18215."
    ),
]
Whose = Annotated[
    Layout | None, Parameter(help="Whose layout it is, where the files cannot tell.")
]
Become = Annotated[
    Moments | None,
    Parameter(help="What a stored mean and deviation become: a point, one draw, a Gaussian."),
]


@Parameter(name="*")
@dataclass(frozen=True)
class DataOptions:
    """How data is read."""

    labels: Annotated[Path | None, Parameter(help="A .npy file with a label for each point.")] = (
        None
    )
    weights: Annotated[
        Path | None, Parameter(help="A .npy file with a weight for each point.")
    ] = None
    flips: Flips = None
    normalize: Scale = "stored"
    layout: Whose = None
    moments: Become = None

    def store(self, data: str, memory: str | None) -> Store:
        """The data, opened."""
        from floracle.data.store import open_store

        return open_store(data, memory=memory, **self.arguments())

    def held_out(
        self, where: str, store: Store, memory: str | None, labels: Path | None = None
    ) -> Store:
        """What was held out of the data, read and normalized alike."""
        from floracle.data.store import open_store
        from floracle.run.errors import InputError

        found = open_store(
            where,
            labels=labels,
            flips=self.flips,
            normalize=store.normalizer,
            layout=self.layout,
            moments=self.moments,
            memory=memory,
        )
        if tuple(found.shape) != tuple(store.shape):
            raise InputError(
                f"held-out points have shape {list(found.shape)}, those of the data"
                f" {list(store.shape)}"
            )
        return found

    def arguments(self) -> dict[str, Any]:
        """What `open_store` is to be told."""
        return {
            "labels": self.labels,
            "weights": self.weights,
            "flips": self.flips,
            "normalize": self.normalizer(),
            "layout": self.layout,
            "moments": self.moments,
        }

    def normalizer(self) -> str | float | Normalizer:
        """What was asked for, a factor as a number."""
        try:
            return float(self.normalize)
        except ValueError:
            return self.normalize

    def settings(self) -> dict[str, Any]:
        """What belongs to the settings of a result; labels and weights are in the fingerprint."""
        return {
            "flips": self.flips,
            "normalize": self.normalize,
            "layout": self.layout,
            "moments": self.moments,
        }

    def words(self) -> list[str]:
        """The options as they are typed, those left alone left out."""
        words: list[str] = []
        for name in ("labels", "weights", "normalize", "layout", "moments"):
            value = getattr(self, name)
            if value is not None and value != getattr(DataOptions, name, None):
                words += [f"--{name}", str(value)]
        if self.flips is not None:
            words += ["--flips" if self.flips else "--no-flips"]
        return words


@Parameter(name="*")
@dataclass(frozen=True)
class SampleDataOptions:
    """The same where --labels are those of samples."""

    data_labels: Annotated[
        Path | None, Parameter(help="A .npy file with a label for each training point.")
    ] = None
    flips: Flips = None
    normalize: Scale = "stored"
    layout: Whose = None
    moments: Become = None

    def opening(self) -> DataOptions:
        """How data is read."""
        how = (self.flips, self.normalize, self.layout, self.moments)
        return DataOptions(self.data_labels, None, *how)

    def words(self) -> list[str]:
        """The options as they are typed, those left alone left out."""
        return ["--data-labels" if word == "--labels" else word for word in self.opening().words()]


READING = SampleDataOptions()
PathName = Literal["linear", "cosine", "trigonometric"]


def oracle_of(
    store: Store,
    path: str,
    *,
    memory: int | str | None,
    device: str,
    group: ProcessGroup | None = None,
) -> Oracle | GaussianOracle:
    """The oracle of points, or of Gaussians where the store has deviations.

    The processes of a group share the points.
    """
    from floracle.core.paths import PATHS
    from floracle.oracle.gaussian_data import GaussianOracle
    from floracle.oracle.oracle import Oracle
    from floracle.run.errors import InputError

    together = None if group is None or group.alone else group
    if store.stds is None:
        return Oracle(store, path=PATHS[path], memory=memory, device=device, group=together)
    if together:
        raise InputError("Gaussians are followed by one process; start it without torchrun")
    return GaussianOracle(store, path=PATHS[path])


def show_remarks(store: Store) -> None:
    """What was noticed while the data was opened, on standard error."""
    import sys

    from .console import as_typed

    for remark in store.remarks:
        sys.stderr.write(f"note: {as_typed(remark)}\n")
