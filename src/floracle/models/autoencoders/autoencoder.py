"""A loaded autoencoder: images to latents and back, in one convention.

Images are RGB in [−1, 1]. With z as the network itself makes it, latents are (z − shift) · scale,
and images come from latents / scale + shift. Some have a mean m and a deviation s of each channel
besides (`latents_mean`, `latents_std` of diffusers), and then latents are

    (z − shift − m) / s · scale.

An autoencoder that maps an image to a Gaussian
gives its mean and its standard deviation; others give no deviation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from floracle.run.errors import InputError


class LatentMoments(NamedTuple):
    """The encoding of an image, [b, C, h, w] each."""

    mean: Tensor
    std: Tensor | None
    """None where the autoencoder has one latent for an image."""


class AutoencoderNetwork(Protocol):
    """A network between images in [−1, 1] and z, before scale and shift."""

    def moments(self, images: Tensor) -> LatentMoments:
        """Mean and deviation of z [b, C, h, w] for images [b, 3, H, W]."""
        ...

    def images(self, z: Tensor) -> Tensor:
        """Images [b, 3, H, W] of z."""
        ...


@dataclass(frozen=True)
class Autoencoder:
    """A loaded autoencoder; made by `load_autoencoder`."""

    network: AutoencoderNetwork
    name: str
    channels: int
    """Of latents."""
    downsampling: int
    """Pixels of an edge for each latent."""
    fingerprint: str
    """A hash of its weights."""
    gaussian: bool
    """Whether an image is encoded as a Gaussian, and not as one latent."""
    device: torch.device
    dtype: torch.dtype
    scale: float = 1.0
    shift: float = 0.0
    channel_mean: tuple[float, ...] = ()
    channel_std: tuple[float, ...] = ()
    """Of each channel of z; empty where there are none."""
    assumed: str = ""
    """What was assumed of it, as text for people."""

    @property
    def identity(self) -> str:
        """Whose latents it makes: its name and the hash of its weights."""
        return f"{self.name} ({self.fingerprint})"

    @property
    def settings(self) -> dict[str, Any]:
        """All that latents depend on, as JSON values."""
        by_channel = {"channel_mean": self.channel_mean, "channel_std": self.channel_std}
        return {
            "name": self.name,
            "weights": self.fingerprint,
            "scale": self.scale,
            "shift": self.shift,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device.type,
            **{name: list(values) for name, values in by_channel.items() if values},
        }

    @torch.no_grad()
    def encode(self, images: Tensor) -> LatentMoments:
        """Mean and deviation of the latents of images [b, 3, H, W] in [−1, 1]; in their type."""
        factor = self.downsampling
        if images.ndim != 4 or images.shape[1] != 3 or any(n % factor for n in images.shape[2:]):
            raise InputError(
                f"{self.name} encodes images [b, 3, H, W] with edges that are multiples of"
                f" {factor}, got {list(images.shape)}"
            )
        mean, std = self.network.moments(images.to(self.device, self.dtype))
        channel_mean, channel_std = self._channel_statistics(images)
        mean = (mean.to(images) - self.shift - channel_mean) / channel_std * self.scale
        return LatentMoments(
            mean, None if std is None else std.to(images) / channel_std * self.scale
        )

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images [b, 3, H, W], about in [−1, 1] and not clamped, of latents; in their type."""
        if latents.ndim != 4 or latents.shape[1] != self.channels:
            raise InputError(
                f"{self.name} decodes latents [b, {self.channels}, h, w], got"
                f" {list(latents.shape)}; use latents that it has encoded"
            )
        channel_mean, channel_std = self._channel_statistics(latents)
        z = latents / self.scale * channel_std + channel_mean + self.shift
        return self.network.images(z.to(self.device, self.dtype)).to(latents)

    def _channel_statistics(self, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Mean and deviation of each channel, [C, 1, 1] each; 0 and 1 change no bit."""
        if not self.channel_mean:
            return 0.0, 1.0
        mean, std = (
            like.new_tensor(s)[:, None, None] for s in (self.channel_mean, self.channel_std)
        )
        return mean, std
