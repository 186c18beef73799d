"""What the range, scale and axes of points say about their unit; the same for all types and ranks.

Points are used as they are stored unless an option or their project says otherwise, bytes apart.
So integers 0 ... 255 of another type, floats 0 ... 255 or 0 ... 1, pictures that were normalized
twice, and latents that were never scaled all open, and every time of the results is another one.
"""

from __future__ import annotations

from math import prod

import torch

from floracle.run.errors import InputError

from .channel_statistics import Channels, ChannelStatistics
from .layouts.content import INTEGERS, is_channels_last, is_picture
from .normalize import Normalizer

PICTURE_RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
"""Values for black and white that float pictures usually have, narrowest first."""
TOP_LEVELS = (255, 65535)  # white, where pictures are integers of 8 or 16 bits
MIN_LEVELS = 16  # fewer are counts or masks as likely as pictures
MIN_VECTOR_LEVELS = 128  # of floats that may be no pictures: more than half of 0 ... 255
ROUNDING = 1e-3  # of ends of a range; bytes in [−1, 1] are .0078 apart
TAIL = 3.0  # latents reach so many standard deviations to both sides; pictures are bounded
USUAL_STD = (0.5, 2.0)  # of channels of latents that fit noise of standard deviation 1
USUAL_MEAN = 1.0  # largest |mean| of such channels
USUAL_POOLED_STD = (0.4, 2.5)
"""Over all values, where it is not known which axis has the channels: a little wider, for one
statistic stands for all. Latents of Stable Diffusion have 5.5, and .18 of it is 1."""
MIN_LATENT_CHANNELS = 4
MIN_VECTOR_DIMS = 16  # shorter vectors are rarely latents


def check_standard(shape: tuple[int, ...], name: str) -> None:
    """Refuse normalize="standard" where the first axis of a point is not surely its channels."""
    if not _has_unknown_channels(shape):
        return
    raise InputError(
        f"{name}: normalize='standard' gives every channel deviation 1, and of points"
        f" {list(shape)} the first axis may not be the channels; bring them to the front, as"
        " tokens [N, C, T, 1] or pictures [N, C, H, W], or give a Normalizer"
    )


def check_mirrors(
    statistics: ChannelStatistics, shape: tuple[int, ...], dtype: torch.dtype, name: str
) -> None:
    """Refuse to mirror what is no picture; latents [3, H, W] look like one but for their values.

    `statistics` and `dtype` are those of the stored values.
    """
    if not is_picture(shape):
        raise InputError(f"{name}: points {list(shape)} are no pictures [1 or 3, H, W] to mirror")
    if not dtype.is_floating_point or shape[0] == 1:  # one channel is a field in space anyway
        return
    low, high = float(statistics.low.min()), float(statistics.high.max())
    bounds = enclosing_range(low, high)
    reached = bounds is not None and max(abs(low - bounds[0]), abs(high - bounds[1])) < ROUNDING
    values = Channels(statistics.mean, statistics.std, statistics.low, statistics.high)
    if bounds is None or (has_tails(values) and not reached):
        raise InputError(
            f"{name}: floats {low:.4g} ... {high:.4g} may be latents, which cannot be mirrored in"
            " latent space; if they are pictures, store them as bytes or as floats that reach from"
            " -1 to 1, and scale them with a Normalizer"
        )


def enclosing_range(low: float, high: float) -> tuple[float, float] | None:
    """The narrowest usual range of pictures that holds these values."""
    enclosing = (bounds for bounds in PICTURE_RANGES if bounds[0] <= low and high <= bounds[1])
    return next(enclosing, None)


def looks_like_levels(
    channels: Channels, shape: tuple[int, ...], dtype: torch.dtype
) -> tuple[str, ...]:
    """Whether values that are used as they are stored are levels of another unit.

    `channels` are those of the points, and `dtype` is the type of the stored values.
    """
    low, high = bounds_of(channels)
    if dtype in INTEGERS:
        return _integer_levels(channels, str(dtype).removeprefix("torch."))
    # 1. Floats of 0 ... 255, or of 0 ... 65535. Vectors have to look like them more closely.
    picture, vector = is_picture(shape), prod(shape) >= MIN_VECTOR_DIMS
    black = low >= 0 if picture else vector and abs(low) < ROUNDING
    top = next((top for top in TOP_LEVELS if high <= top), None)
    if black and top is not None and high > (1 if picture else MIN_VECTOR_LEVELS):
        return (_say_floats(f"0 ... {top}", top / 2),)
    # 2. Floats of 0 ... 1.
    white = 0.5 < high <= 1 + ROUNDING if picture else abs(high - 1) < ROUNDING
    if black and white:
        what = "of 0 and 1" if dtype == torch.bool else "of 0 ... 1"
        return (
            f"these look like pictures {what}, where bytes become -1 ... 1: right for a model that"
            " was trained so; for others store bytes, or open them in Python with"
            " Normalizer(0.5, 0.5)",
        )
    # 3. Pictures of another range.
    if abs(low + 3) < ROUNDING and abs(high - 1) < ROUNDING:
        return (
            "these look like pictures that were normalized twice: they reach -3 ... 1, as [-1, 1]"
            " does after another 2x - 1; store them as they were, or as bytes",
        )
    if not picture or (low >= -1 and high <= 1) or has_tails(channels):
        return ()
    return (_say_floats(f"{low:.4g} ... {high:.4g}"),)


def looks_like_few_bytes(channels: Channels) -> tuple[str, ...]:
    """Whether bytes, which became −1 ... 1, are masks or levels of fewer than 8 bits."""
    low, high = (round(127.5 * value + 127.5) for value in bounds_of(channels))
    if high > MIN_LEVELS or low == high:
        return ()
    return (
        f"these bytes reach only {low} ... {high} of 0 ... 255, so all points lie near -1; if"
        f" {high} is white, multiply them by {255 / high:g} before, or open them in Python with"
        f" Normalizer({high / 2:g}, {high / 2:g}); say normalize='raw' if they are no pictures",
    )


def looks_unnormalised(
    channels: Channels, shape: tuple[int, ...], normalizer: Normalizer, layout: str
) -> tuple[str, ...]:
    """Whether points have another scale than their noise, which has deviation 1 and mean 0.

    Channels count one by one where they surely are channels, latents [C ≥ 4, H, W]. Tokens, video
    and vectors are judged by all values together; pictures and short vectors are left alone.
    """
    std, mean = pooled(channels)
    low, high = bounds_of(channels)
    if len(shape) == 3 and shape[0] >= MIN_LATENT_CHANNELS and not is_channels_last(shape):
        (least, most), stds, means = USUAL_STD, channels.std, channels.mean
    else:
        (least, most), stds, means = USUAL_POOLED_STD, torch.tensor([std]), torch.tensor([mean])
        # pictures as vectors or tokens: sparse ones deviate little, but they reach black and white
        bounded = abs(low + 1) < ROUNDING and high <= 1 + ROUNDING
        picture = is_picture(shape) and not (has_tails(channels) and low < -1 and high > 1)
        if bounded or picture or prod(shape) < MIN_VECTOR_DIMS or std == 0:
            return ()
    if bool(((stds >= least) & (stds <= most) & (means.abs() <= USUAL_MEAN)).all()):
        return ()
    stats = "its latents_stats.pt fits these latents, or " if layout == "lightningdit" else ""
    stored = channels.std * normalizer.per_channel(len(channels.std))[1]  # as they are stored
    scale = 1 / max(float(stored.square().mean().sqrt()), 1e-12)
    standard = "" if _has_unknown_channels(shape) else ", or say normalize='standard'"
    return (
        f"this looks unnormalised: channel deviations are {_range(channels.std)} and means"
        f" {_range(channels.mean)}, where noise has 1 and 0; check that {stats}the factor or"
        f" Normalizer of its project is given, such as normalize={scale:.4g}{standard}",
    )


def looks_channels_last(shape: tuple[int, ...]) -> tuple[str, ...]:
    """Whether points are [H, W, C], which nothing here takes for pictures."""
    if not is_channels_last(shape):
        return ()
    return (
        f"points {list(shape)} look like pictures with their channels last, but the first axis"
        " counts as channels: move it to the front, as in numpy.moveaxis(data, -1, 1)",
    )


def has_tails(channels: Channels) -> bool:
    """Whether values reach far to both sides of their mean, as those of latents do."""
    std, mean = pooled(channels)
    low, high = bounds_of(channels)
    return high - mean > TAIL * std and mean - low > TAIL * std > 0


def pooled(channels: Channels) -> tuple[float, float]:
    """Standard deviation and mean of all values together."""
    mean = channels.mean.mean()
    variance = channels.std.square().mean() + (channels.mean - mean).square().mean()
    return float(variance.sqrt()), float(mean)


def _has_unknown_channels(shape: tuple[int, ...]) -> bool:
    """Whether the first axis may not be the channels: tokens, [H, W, C], frames [T, 3, H, W]."""
    frames = len(shape) == 4 and shape[1] in (1, 3) and shape[0] not in (1, 3)
    return len(shape) == 2 or is_channels_last(shape) or frames


def _integer_levels(channels: Channels, name: str) -> tuple[str, ...]:
    """Of integers that are no bytes of pictures by their type; few of them are counts."""
    low, high = bounds_of(channels)
    if name == "uint8" or max(-low, high) < MIN_LEVELS:
        return ()
    what = f"these are {name} values {low:.10g} ... {high:.10g}, used as they are"
    if low >= 0 and high <= TOP_LEVELS[-1]:
        top = TOP_LEVELS[0] if high <= TOP_LEVELS[0] else TOP_LEVELS[-1]
        store = "store them as uint8, which becomes" if top == TOP_LEVELS[0] else "bring them to"
        return (
            f"{what}; if they are pictures, {store} -1 ... 1, or open them in Python with"
            f" Normalizer({top / 2:g}, {top / 2:g})",
        )
    scale = 1 / max(pooled(channels)[0], 1e-12)
    return (f"{what}; noise has deviation 1: say their scale, such as normalize={scale:.4g}",)


def _say_floats(reach: str, middle: float = 127.5) -> str:
    return (
        f"these look like pictures of floats beyond -1 ... 1: they reach {reach}; store bytes, or"
        f" say how they are scaled with a Normalizer, such as mean {middle:g} and std {middle:g}"
    )


def bounds_of(channels: Channels) -> tuple[float, float]:
    """The smallest and the largest of all values."""
    return float(channels.low.min()), float(channels.high.max())


def _range(values: torch.Tensor) -> str:
    low, high = (float(value) for value in torch.aminmax(values))
    return f"{low:.3g} ... {high:.3g}"
