"""The options that say how data is read, the same for every verb."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from floracle.run.errors import InputError

from .console import as_typed

if TYPE_CHECKING:
    from floracle.data.normalize import Normalizer
    from floracle.data.store import Store


@Parameter(name="*")
@dataclass(frozen=True)
class DataOptions:
    """How data is read."""

    label_file: Path | None = None
    """A .npy file with a label for each training point."""
    weights: Path | None = None
    """A .npy file with a weight for each training point."""
    normalize: Annotated[
        str,
        Parameter(
            help="Scale of the data: stored (as its project feeds it to a model; bytes become"
            " -1 ... 1), raw, standard (each channel with mean 0 and standard deviation 1), or a"
            " factor such as 0.18215."
        ),
    ] = "stored"
    layout: (
        Literal["lightningdit", "repa", "edm2", "mar", "fast-dit", "mean-std", "mean-logvar"]
        | None
    ) = None
    """Layout of the files. Default: inferred where the files allow it."""
    moments: Literal["mean", "sample", "gaussian"] | None = None
    """What a stored mean and deviation become: their mean, one draw, or a Gaussian."""
    flips: Annotated[bool | None, Parameter(negative="--no-flips")] = None
    """Count the mirror image of every picture, or every stored mirrored latent, as a point."""

    def open(self, data: str, memory: str | None) -> Store:
        """Open the data, and print what was noticed on standard error."""
        store = self.open_store(data, memory)
        for remark in store.remarks:
            sys.stderr.write(f"note: {as_typed(remark)}\n")
        return store

    def open_store(self, data: str, memory: str | None) -> Store:
        """Open the data."""
        from floracle.data.store import open_store

        return open_store(data, memory=memory, **self.arguments())

    def open_held_out(
        self, data: str | None, store: Store, memory: str | None, label_file: Path | None = None
    ) -> Store | None:
        """Open held-out data, read and normalized like the training set `store`."""
        from floracle.data.store import open_store

        if data is None:
            return None
        # The normalizer of the training set, not the same option: "standard" would measure anew.
        other = {"labels": label_file, "weights": None, "normalize": store.normalizer}
        held_out = open_store(data, memory=memory, **{**self.arguments(), **other})
        if tuple(held_out.shape) != tuple(store.shape):
            raise InputError(
                f"held-out points have shape {list(held_out.shape)}, those of the data"
                f" {list(store.shape)}"
            )
        return held_out

    def arguments(self) -> dict[str, Any]:
        """The options as arguments of `open_store`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        # The library says labels; on the command line that word is for the classes of samples.
        return {"labels": values.pop("label_file"), **values, "normalize": self.normalizer()}

    def normalizer(self) -> str | float | Normalizer:
        """The scale, a factor as a number."""
        try:
            return float(self.normalize)
        except ValueError:
            return self.normalize

    def settings(self) -> dict[str, Any]:
        """What belongs to the settings of a result; labels and weights are in the fingerprint."""
        names = ("flips", "normalize", "layout", "moments")
        return {name: getattr(self, name) for name in names}


DATA_DEFAULTS = DataOptions()
