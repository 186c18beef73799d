"""The options of classifier-free guidance."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from floracle.run.errors import InputError

from .parsing import parse_floats

if TYPE_CHECKING:
    from floracle.core.fields import VelocityField


@Parameter(name="*")
@dataclass(frozen=True)
class GuidanceOptions:
    """How fields are guided."""

    guidance: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """Guidance scale w; 1 is none. With --then also two, such as 2.5,1, one for each field."""
    interval: Annotated[
        str | None,
        Parameter(
            help="Guidance interval: .1,.6 in t, or in the time of another project, such as"
            " edm:.34,1.02 or sigma:.4,.9; see floracle convert-time --help. Default: 0,1.",
            allow_leading_hyphen=True,
        ),
    ] = None
    channels: str | None = None
    """Guide only so many first channels; three, as in the code of DiT and SiT. Default: all."""
    reference: str | None = None
    """Field to guide away from, named like FIELD. Default: the field itself without labels."""

    def scales(self, count: int) -> list[float]:
        """A scale for each of `count` fields; 1 without guidance."""
        if self.guidance is None:
            return [1.0] * count
        scales = parse_floats(self.guidance, "--guidance", "2.5")
        if len(scales) not in (1, count):
            remedy = "give --then for a second field" if count == 1 else "write 2.5 or 2.5,1"
            raise InputError(f"--guidance {self.guidance} has {len(scales)} scales; {remedy}")
        # One scale is for all fields.
        return scales if len(scales) == count else scales * count

    def check(self, count: int, path: str, *, labelled: bool) -> None:
        """Refuse what is malformed or has no effect, before anything is loaded."""
        from floracle.sampling.guidance import guided

        if path != "linear" and ":" in (self.interval or ""):
            raise InputError(
                f"--interval {self.interval} is a time of the linear path; with --path {path} give"
                " it in that path's own time, such as .1,.6"
            )
        if self.guidance is None:
            for name in ("interval", "channels", "reference"):
                if getattr(self, name) is not None:
                    raise InputError(
                        f"--{name} belongs to guidance; give --guidance with its scale"
                    )
            return
        # `guided` itself refuses what is out of range; it is called on a field that is never used.
        for scale in self.scales(count):
            guided(_no_velocity, scale, interval=self.times(), channels=self.channel_count())
        if self.scales(count) != [1.0] * count and not (labelled or self.reference):
            raise InputError(
                "--guidance pushes samples towards their labels; give --labels, or a --reference"
                " to be pushed away from"
            )

    def check_effect(self, count: int, *, acts: bool) -> None:
        """Refuse an interval that contains no time of the grid."""
        if self.interval is not None and not acts and set(self.scales(count)) != {1.0}:
            raise InputError(
                f"no velocity of this grid is evaluated inside --interval {self.interval}, so"
                " nothing would be guided; widen it, or take more --steps"
            )

    def guide(
        self, field: VelocityField, scale: float, reference: VelocityField | None
    ) -> VelocityField:
        """The guided field; at scale 1 the field itself."""
        from floracle.sampling.guidance import guided

        if scale == 1:
            return field
        limits = {"interval": self.times(), "channels": self.channel_count()}
        return guided(field, scale, reference=reference, **limits)

    def times(self) -> tuple[float, float]:
        """The interval, in t."""
        from floracle.sampling.guidance import guidance_interval

        if self.interval is None:
            return 0.0, 1.0
        convention, _, ends = self.interval.rpartition(":")
        try:
            low, high = (float(end) for end in ends.split(","))
        except ValueError as error:
            raise InputError(
                f"--interval {self.interval!r} is not understood; write .1,.6 in t, or the time of"
                " another project such as edm:.34,1.02 or sigma:.4,.9"
            ) from error
        return guidance_interval(convention or "t", low, high)

    def channel_count(self) -> int | None:
        """How many channels are guided."""
        from floracle.sampling.guidance import count_guided_channels

        count = self.channels
        return count_guided_channels(
            int(count) if count is not None and count.isdigit() else count
        )

    def settings(self) -> dict[str, Any]:
        """The options that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}


NO_GUIDANCE = GuidanceOptions()


def _no_velocity(x: Any, t: Any, labels: Any = None) -> Any:
    return x * 0
