"""The options that say how data is read, the same for every verb."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

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
        _print_remarks(store)
        return store

    def open_store(self, data: str, memory: str | None) -> Store:
        """Open the data."""
        from floracle.data.store import open_store

        return open_store(data, memory=memory, **self.arguments())

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


@Parameter(name="*")
@dataclass(frozen=True)
class HeldOutOptions:
    """Data that was not trained on, beside the training set."""

    held_out: str | None = None
    """Held-out data of the same kind; its classes are joined by name."""
    held_out_label_file: Path | None = None
    """A .npy file with a label for each held-out point."""
    drop_overlap: Annotated[bool, Parameter(negative="")] = False
    """Leave out held-out points that are training points, exactly or nearly."""

    def open(
        self, store: Store, data_options: DataOptions, memory: int | str | None
    ) -> Store | None:
        """Open held-out data, read and normalized like the training set, and join it with it.

        What was noticed and what was left out is printed on standard error.
        """
        from floracle.data.held_out import join_held_out
        from floracle.data.store import Store, open_store

        if self.held_out is None:
            return None
        # The normalizer of the training set, not the same option: "standard" would measure anew.
        other = {
            "labels": self.held_out_label_file,
            "weights": None,
            "normalize": store.normalizer,
        }
        held_out = open_store(
            self.held_out, memory=memory, **{**data_options.arguments(), **other}
        )
        joined = join_held_out(store, held_out, drop_overlap=self.drop_overlap)
        assert isinstance(joined, Store)
        _print_remarks(joined)
        return joined


HELD_OUT_DEFAULTS = HeldOutOptions()


def _print_remarks(store: Store) -> None:
    for remark in store.remarks:
        sys.stderr.write(f"note: {as_typed(remark)}\n")
