"""What the user says about data that cannot say it itself.

Some layouts look alike and mean different things: moments, mirrors, two projects with one kind of
file. What cannot be told from the files is asked, never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

from floracle.run.errors import InputError, suggestion

LAYOUTS = ("lightningdit", "repa", "edm2", "mar", "fast-dit", "mean-std", "mean-logvar")
PLAIN_MOMENTS = {"mean-std": "std", "mean-logvar": "logvar"}
LEAST = 2**22
MOMENTS = ("mean", "sample", "gaussian")


@dataclass(frozen=True)
class ReadOptions:
    """What `open_store` was asked for, as far as layouts are concerned."""

    budget: int
    """Bytes that may be held."""
    layout: str | None = None
    moments: str | None = None
    flips: bool | None = None
    stored: bool = True
    """Whether points are what the data's own project feeds to its model."""
    labelled: bool = False
    """Whether labels come along, so that none beside the data are looked for."""

    def __post_init__(self) -> None:
        if self.layout is not None and self.layout not in LAYOUTS:
            raise InputError(f"there is no layout {self.layout!r}; {suggestion_of(self.layout)}")
        if self.moments is not None and self.moments not in MOMENTS:
            raise InputError(f"moments are read as {', '.join(MOMENTS)}, not {self.moments!r}")

    @property
    def room(self) -> int:
        """Bytes for a single file; a few are always there."""
        return max(self.budget, LEAST)

    def mirrors(self, where: object, *, stored: bool) -> bool:
        """Whether the mirrors stored beside latents are points; to be said where there are any."""
        if stored and self.flips is None:
            raise InputError(
                f"{where} holds the mirror of every latent as well, and its project trains on"
                " both; say flips=True for those 2N points, or flips=False for N"
            )
        if self.flips and not stored:
            raise InputError(
                f"{where} holds no mirrors, and latents cannot be mirrored in latent space;"
                " say flips=False, or encode the mirrored pictures too"
            )
        return bool(self.flips)

    def holds_gaussians(self, where: object) -> str:
        """What moments are to become, which must be said."""
        if self.moments is None:
            raise InputError(
                f"{where} holds a Gaussian for every sample; say moments='mean' to take its mean"
                " for the point, 'sample' for one draw, or 'gaussian' to keep its deviations too"
            )
        return self.moments


def suggestion_of(layout: object) -> str:
    """Words for the layout that was meant."""
    return suggestion(str(layout), LAYOUTS)
