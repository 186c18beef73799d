"""What a training run is: one frozen value, written next to everything the run makes.

Durations are in images seen. The default is the paper's recipe (its appendix C): AdamW, a constant
rate of 1e-4, no decay, gradients of norm 1 at most, an average of decay .9999, uniform times, a
tenth of the labels dropped, batches of 512. The presets are the projects' own:

    run = replace(PAPER, model="base", images=128_000_000)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from floracle.run.errors import InputError, suggestion

Kind = Literal["conditional", "oracle", "bank"]
TimesName = Literal["uniform", "logit-normal", "shifted", "split-aware"]
Precision = Literal["float32", "bf16"]
MOST_IMAGES = 10**12


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that decides which network comes out."""

    model: str = "xl"
    """The size of the network, where it is made here."""
    patch: int | None = None
    """Pixels of an edge that become one token; None: the fewest that leave at most 256 tokens."""
    images: int = 128_000_000
    """Images seen in all; the last batch is smaller where they are no whole number of batches."""
    batch: int = 512
    """Images in a step, over all processes."""
    rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    decay: float = 0.0
    """AdamW's weight decay."""
    clip: float | None = 1.0
    """The largest norm of a gradient; None leaves gradients as they are."""
    ema: float = 0.9999
    """How much of the averaged weights stays at a step."""
    ramp: bool = True
    """Average faster while steps k are few, by (1 + k) / (10 + k) at most."""
    drop: float = 0.1
    """The share of labels that are dropped."""
    target: Kind = "conditional"
    switch: float | None = None
    """From which t on the conditional target takes over; None: where only `share` is lost."""
    share: float = 0.01
    """The share of the residual variance that the switch leaves on the table."""
    bank: int = 256
    """Points of a class in a reference batch, the pair's own among them."""
    times: TimesName = "uniform"
    shift: float = 1.0
    """Of shifted times: below 1 more of them are near the noise."""
    split: float | None = None
    """Of split-aware times: where navigation ends; None: at the switch."""
    cosine: float = 0.0
    """The weight of 1 − the cosine of prediction and target over channels."""
    precision: Precision = "float32"
    accumulate: int = 1
    """Pieces that a process takes its part of a batch in."""
    recompute: bool = False
    """Forget what is inside a block, and compute it again for the gradient."""
    compile: bool = False
    repeatable: bool = True
    """On a GPU, the same sums in the same order every time, so that a resumed run is exact."""
    seed: int = 0
    every: int | None = None
    """Images between checkpoints, each with an evaluation; None: a tenth of all."""
    lines: int = 20
    """Batches between lines of metrics.jsonl."""
    keep: int = 2
    """Checkpoints that are kept."""

    def __post_init__(self) -> None:
        for name, known in (("target", Kind), ("times", TimesName), ("precision", Precision)):
            value = getattr(self, name)
            if value not in get_args(known):
                raise InputError(
                    f"{name} {value!r} is unknown; {suggestion(value, get_args(known))}"
                )
        _check_counts(self)
        _check_ranges(self)

    @property
    def interval(self) -> int:
        """Images between checkpoints."""
        return self.every or -(-self.images // 10)

    @property
    def steps(self) -> int:
        """Batches in all."""
        return -(-self.images // self.batch)

    def span(self, step: int) -> range:
        """The images of a step, counted from 0."""
        return range(step * self.batch, min((step + 1) * self.batch, self.images))

    def plain(self) -> dict[str, Any]:
        """As values that JSON gives back unchanged."""
        return asdict(self) | {"betas": list(self.betas)}

    @classmethod
    def of_plain(cls, values: Mapping[str, Any]) -> TrainingSettings:
        """The settings that were written down."""
        try:
            return cls(**{**values, "betas": tuple(values["betas"])})
        except (KeyError, TypeError) as error:
            raise InputError(f"these are not the settings of a training run ({error})") from error


def _check_counts(asked: TrainingSettings) -> None:
    least = {"images": 1, "batch": 1, "bank": 2, "accumulate": 1, "lines": 1, "keep": 1}
    for name, low in least.items():
        value = getattr(asked, name)
        if not low <= value <= MOST_IMAGES:
            raise InputError(f"{name} counts from {low} upwards, got {value}")
    for name in ("patch", "every"):
        value = getattr(asked, name)
        if value is not None and value < 1:
            raise InputError(
                f"{name} counts from 1 upwards, got {value}; leave it out to let it be"
            )
    if not 0 <= asked.seed < 2**32:
        raise InputError(f"seed lies in [0, 2**32), got {asked.seed}")


def _check_ranges(asked: TrainingSettings) -> None:
    if not 0 < asked.rate < float("inf"):
        raise InputError(f"rate is positive, got {asked.rate:g}; the paper's is 1e-4")
    for name, value in (("ema", asked.ema), ("drop", asked.drop), ("share", asked.share)):
        if not 0 <= value < 1:
            raise InputError(f"{name} is a share in [0, 1), got {value:g}")
    for beta in asked.betas:
        if len(asked.betas) != 2 or not 0 <= beta < 1:
            raise InputError(f"betas are two shares in [0, 1), got {asked.betas}")
    for name, value in (("switch", asked.switch), ("split", asked.split)):
        if value is not None and not 0 <= value < 1:
            raise InputError(f"{name} is a time in [0, 1), got {value:g}; t = 0 is noise")
    if asked.clip is not None and not asked.clip > 0:
        raise InputError(
            f"clip is a positive norm, got {asked.clip:g}; None leaves gradients alone"
        )
    if not asked.shift > 0 or asked.cosine < 0 or asked.decay < 0:
        raise InputError("shift is positive, cosine and decay are not negative")


PAPER = TrainingSettings()
LIGHTNINGDIT = replace(
    PAPER,
    images=81_920_000,
    batch=1024,
    rate=2e-4,
    betas=(0.9, 0.95),
    ramp=False,
    times="logit-normal",
    cosine=1.0,
)
"""80,000 steps of LightningDiT-XL/1."""
SIT = replace(PAPER, images=1_792_000_000, batch=256, clip=None, ramp=False)
"""7 million steps of SiT-XL/2."""
PRESETS = {"paper": PAPER, "lightningdit": LIGHTNINGDIT, "sit": SIT}
