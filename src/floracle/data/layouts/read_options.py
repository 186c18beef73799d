"""Options of `open_store` for what files cannot say themselves.

Some layouts look alike and mean different things: moments, mirrors, two projects with one kind of
file. Where files leave it open, an option must say it; nothing is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

from floracle.run.errors import InputError

MOMENTS = ("mean", "sample", "gaussian")
MIN_FILE_BYTES = 2**22


@dataclass(frozen=True)
class ReadOptions:
    """The arguments of `open_store` that concern layouts."""

    budget: int
    """Bytes that may be held."""
    layout: str | None = None
    moments: str | None = None
    flips: bool | None = None
    stored: bool = True
    """Whether points are what the data's own project feeds to its model."""
    labelled: bool = False
    """Whether labels are given, so that none beside the data are looked for."""

    def __post_init__(self) -> None:
        if self.moments is not None and self.moments not in MOMENTS:
            raise InputError(f"moments are read as {', '.join(MOMENTS)}, not {self.moments!r}")

    @property
    def file_budget(self) -> int:
        """Bytes for a single file: never less than 4 MiB, so that small budgets open anything."""
        return max(self.budget, MIN_FILE_BYTES)

    def check_flips(self, data: object, *, stored: bool) -> bool:
        """Whether the mirrors `stored` with latents are points, which `flips` must say."""
        if stored and self.flips is None:
            raise InputError(
                f"{data} holds the mirror of every latent as well, and its project trains on"
                " both; say flips=True for those 2N points, or flips=False for N"
            )
        if self.flips and not stored:
            raise InputError(
                f"{data} holds no mirrors, and latents cannot be mirrored in latent space;"
                " say flips=False, or encode the mirrored pictures too"
            )
        return bool(self.flips)

    def require_moments(self, data: object) -> str:
        """What becomes of Gaussians, which `moments` must say."""
        if self.moments is None:
            raise InputError(
                f"{data} holds a Gaussian for every sample; say moments='mean' to take its mean"
                " for the point, 'sample' for one draw, or 'gaussian' to keep its deviations too"
            )
        return self.moments
