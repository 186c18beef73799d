"""The options of guidance, the same for every verb that follows fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from floracle.core.fields import VelocityField

INTERVAL = "write .1,.6 in t, or in another clock's words edm:.34,1.02 or sigma:.4,.9"


@Parameter(name="*")
@dataclass(frozen=True)
class GuidanceOptions:
    """How fields are guided."""

    guidance: Annotated[
        str | None,
        Parameter(
            help="Push samples towards their labels by this scale, 1 is none; with --then also"
            " two, like 2.5,1, one for each field.",
            allow_leading_hyphen=True,
        ),
    ] = None
    interval: Annotated[
        str | None,
        Parameter(
            help="Where fields are guided: .1,.6 in t, or in another clock, like edm:.34,1.02 or"
            " sigma:.4,.9; see floracle convert-time --help.",
            allow_leading_hyphen=True,
        ),
    ] = None
    channels: Annotated[
        str | None,
        Parameter(
            help="Guide the first so many channels only; three, as DiT, SiT and LightningDiT do."
        ),
    ] = None
    reference: Annotated[
        str | None,
        Parameter(help="The field to be pushed away from, named as FIELD is, asked with labels."),
    ] = None

    def scales(self, fields: int) -> list[float]:
        """A scale for each of the fields; 1 where nobody asked for any."""
        from floracle.run.errors import InputError

        if self.guidance is None:
            return [1.0] * fields
        words = self.guidance.split(",")
        try:
            found = [float(word) for word in words]
        except ValueError as error:
            raise InputError(
                f"--guidance {self.guidance!r} is not understood; write 2.5"
            ) from error
        if len(found) not in (1, fields):
            more = "give --then for a second field" if fields == 1 else "write 2.5 or 2.5,1"
            raise InputError(f"--guidance {self.guidance} has {len(found)} scales; {more}")
        return found if len(found) == fields else found * fields

    def check(self, fields: int, *, labelled: bool) -> None:
        """Refuse what is malformed or has nothing to push towards, before anything is loaded."""
        from floracle.run.errors import InputError
        from floracle.sampling.guidance import guided

        if self.guidance is None:
            for name in ("interval", "channels", "reference"):
                if getattr(self, name) is not None:
                    raise InputError(
                        f"--{name} belongs to guidance; give --guidance with its scale"
                    )
            return
        for scale in self.scales(fields):
            guided(_nothing, scale, interval=self.times(), channels=self.count())
        if any(scale != 1 for scale in self.scales(fields)) and not (labelled or self.reference):
            raise InputError(
                "--guidance pushes samples towards their labels; give --labels, or a --reference"
                " to be pushed away from"
            )

    def check_acts(self, fields: int, *, acts: bool) -> None:
        """Refuse an interval that no time of the grid lies in."""
        from floracle.run.errors import InputError

        if self.interval is not None and not acts and set(self.scales(fields)) != {1.0}:
            raise InputError(
                f"no velocity of this grid is asked for inside --interval {self.interval}, so that"
                " nothing would be guided; widen it, or take more steps"
            )

    def around(
        self, field: VelocityField, scale: float, reference: VelocityField | None
    ) -> VelocityField:
        """A field with guidance around it; itself at scale 1."""
        from floracle.sampling.guidance import guided

        if scale == 1:
            return field
        how = {"interval": self.times(), "channels": self.count()}
        return guided(field, scale, reference=reference, **how)

    def times(self) -> tuple[float, float]:
        """The interval, in t."""
        from floracle.run.errors import InputError
        from floracle.sampling.guidance import guidance_interval

        if self.interval is None:
            return 0.0, 1.0
        clock, _, ends = self.interval.rpartition(":")
        try:
            low, high = (float(end) for end in ends.split(","))
        except ValueError as error:
            raise InputError(
                f"--interval {self.interval!r} is not understood; {INTERVAL}"
            ) from error
        return guidance_interval(clock or "t", low, high)

    def count(self) -> int | None:
        """How many channels are guided."""
        from floracle.sampling.guidance import count_guided_channels

        given = self.channels
        return count_guided_channels(
            int(given) if given is not None and given.isdigit() else given
        )

    def settings(self) -> dict[str, Any]:
        """What was asked for."""
        asked = {name: getattr(self, name) for name in ("guidance", "interval", "channels")}
        asked["reference"] = self.reference
        return {name: value for name, value in asked.items() if value is not None}


GUIDING = GuidanceOptions()


def _nothing(x: Any, t: Any, labels: Any = None) -> Any:
    """The field that moves nothing."""
    return x * 0
