"""The settings of a training run: one frozen value, written next to everything the run makes.

Durations are in images seen. The default is the paper's recipe (its appendix C): AdamW, a constant
learning rate of 1e-4, no weight decay, gradients of norm 1 at most, an EMA decay of .9999, uniform
times, label dropout of .1, batches of 512. The presets are those of the projects:

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
MAX_COUNT = 10**12


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that decides which network comes out; the options of `floracle train`.

    Fields have the names of the options, which are also the keys of a run's files.
    """

    model: str = "xl"
    """The size of the network, where it is made here."""
    patch: int | None = None
    """Pixels of an edge that become one token; None: the fewest that leave at most 256 tokens."""
    images: int = 128_000_000
    """Images seen in all; the last batch is smaller if they are no whole number of batches."""
    batch: int = 512
    """Images in a step, over all processes."""
    rate: float = 1e-4
    """AdamW's learning rate, constant."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decays of first and second moments, per step."""
    decay: float = 0.0
    """AdamW's weight decay, per step and unit of rate."""
    clip: float | None = 1.0
    """The largest norm of a gradient of the mean loss; None does not clip."""
    ema: float = 0.9999
    """The EMA decay of the averaged weights, per step."""
    ramp: bool = True
    """EMA warm-up: the decay of step k is (1 + k) / (10 + k) at most."""
    drop: float = 0.1
    """Label dropout for classifier-free guidance: the share of labels that are dropped."""
    target: Kind = "conditional"
    switch: float | None = None
    """The time t from which on the target is conditional; None: where only `share` is lost."""
    share: float = 0.01
    """The share of the irreducible loss, over all times, that lies after a measured switch."""
    bank: int = 256
    """Points of a class in a bank, the pair's own among them."""
    times: TimesName = "uniform"
    """The density of training times."""
    shift: float = 1.0
    """s of shifted times: below 1 more of them are near the noise."""
    split: float | None = None
    """The end of navigation, as t, for split-aware times; None: the switch."""
    cosine: float = 0.0
    """The weight of the loss 1 − cos(prediction, target), taken over channels."""
    precision: Precision = "float32"
    """The type that the network computes in; weights are float32."""
    accumulate: int = 1
    """Pieces that a process splits its share of a batch into, to save memory."""
    recompute: bool = False
    """Compute blocks again for the gradient, to save memory."""
    compile: bool = False
    """Compile the network with torch.compile."""
    repeatable: bool = True
    """On a GPU, the same sums in the same order every time, so that a resumed run is exact."""
    seed: int = 0
    every: int | None = None
    """Images between checkpoints, each with an evaluation; None: a tenth of all."""
    lines: int = 20
    """Steps between lines of metrics.jsonl."""
    keep: int = 2
    """Checkpoints that are kept, the latest."""

    def __post_init__(self) -> None:
        for name, words in (("target", Kind), ("times", TimesName), ("precision", Precision)):
            value, allowed = getattr(self, name), get_args(words)
            if value not in allowed:
                raise InputError(f"{name} {value!r} is unknown; {suggestion(value, allowed)}")
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
        """The inverse of `plain`."""
        try:
            return cls(**{**values, "betas": tuple(values["betas"])})
        except (KeyError, TypeError) as error:
            raise InputError(f"these are not the settings of a training run ({error})") from error


def _check_counts(settings: TrainingSettings) -> None:
    minima = {"images": 1, "batch": 1, "bank": 2, "accumulate": 1, "lines": 1, "keep": 1}
    for name, low in minima.items():
        value = getattr(settings, name)
        if not low <= value <= MAX_COUNT:
            raise InputError(f"{name} counts from {low} upwards, got {value}")
    for name in ("patch", "every"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise InputError(
                f"{name} counts from 1 upwards, got {value}; leave it out to let it be"
            )
    if not 0 <= settings.seed < 2**32:
        raise InputError(f"seed lies in [0, 2**32), got {settings.seed}")


def _check_ranges(settings: TrainingSettings) -> None:
    if not 0 < settings.rate < float("inf"):
        raise InputError(f"rate is positive, got {settings.rate:g}; the paper's is 1e-4")
    for name, value in (("ema", settings.ema), ("drop", settings.drop), ("share", settings.share)):
        if not 0 <= value < 1:
            raise InputError(f"{name} is a share in [0, 1), got {value:g}")
    for beta in settings.betas:
        if len(settings.betas) != 2 or not 0 <= beta < 1:
            raise InputError(f"betas are two shares in [0, 1), got {settings.betas}")
    for name, value in (("switch", settings.switch), ("split", settings.split)):
        if value is not None and not 0 <= value < 1:
            raise InputError(f"{name} is a time in [0, 1), got {value:g}; t = 0 is noise")
    if settings.clip is not None and not settings.clip > 0:
        raise InputError(
            f"clip is a positive norm, got {settings.clip:g}; None leaves gradients alone"
        )
    if not settings.shift > 0 or settings.cosine < 0 or settings.decay < 0:
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
