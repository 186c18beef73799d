"""What every autoencoder is once it is loaded: pictures to latents and back, in one convention.

Pictures are RGB in [−1, 1]. With z as the network itself makes it, latents are (z − shift) ·
scale, and pictures come from latents / scale + shift. An autoencoder that maps a picture to a
Gaussian gives its mean and its deviation for every value; one that does not gives no deviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from floracle.models.networks.tensors import digest_of
from floracle.run.errors import InputError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LOWEST, HIGHEST = -30.0, 20.0
"""Where log variances are clamped (Rombach et al. 2022)."""
AutoencoderNetwork = TypeVar("AutoencoderNetwork", bound=nn.Module)


class LatentMoments(NamedTuple):
    """What a picture is encoded as, [b, C, h, w] each."""

    mean: Tensor
    std: Tensor | None
    """None where the autoencoder has one latent for a picture."""


class Coder(Protocol):
    """A network between pictures in [−1, 1] and z, before scale and shift."""

    def moments(self, images: Tensor) -> LatentMoments:
        """Mean and deviation of z [b, C, h, w] for pictures [b, 3, H, W]."""
        ...

    def images(self, z: Tensor) -> Tensor:
        """Pictures [b, 3, H, W] of z."""
        ...


@dataclass(frozen=True)
class Autoencoder:
    """A loaded autoencoder; made by `load_autoencoder`."""

    network: Coder
    name: str
    channels: int
    """Of latents."""
    downsampling: int
    """How many pixels a side become one."""
    fingerprint: str
    """A hash of its weights."""
    gaussian: bool
    """Whether it has a deviation for every value, and not one latent for a picture."""
    device: torch.device
    dtype: torch.dtype
    scale: float = 1.0
    shift: float = 0.0
    assumed: str = ""
    """What was taken for granted, as text for people."""

    @property
    def settings(self) -> dict[str, Any]:
        """All that latents depend on, as JSON values."""
        return {
            "name": self.name,
            "weights": self.fingerprint,
            "scale": self.scale,
            "shift": self.shift,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device.type,
        }

    @torch.no_grad()
    def encode(self, images: Tensor) -> LatentMoments:
        """Latents, mean and deviation, of pictures [b, 3, H, W] in [−1, 1]; in their type."""
        factor = self.downsampling
        if images.ndim != 4 or images.shape[1] != 3 or any(n % factor for n in images.shape[2:]):
            raise InputError(
                f"{self.name} takes pictures [b, 3, H, W] with edges that are multiples of"
                f" {factor}, got {list(images.shape)}"
            )
        mean, std = self.network.moments(images.to(self.device, self.dtype))
        mean = (mean.to(images) - self.shift) * self.scale
        return LatentMoments(mean, None if std is None else std.to(images) * self.scale)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [b, 3, H, W], about in [−1, 1] and not clamped, of latents; in their type."""
        if latents.ndim != 4 or latents.shape[1] != self.channels:
            raise InputError(
                f"{self.name} decodes latents [b, {self.channels}, h, w], got"
                f" {list(latents.shape)}; take those it has encoded"
            )
        z = latents / self.scale + self.shift
        return self.network.images(z.to(self.device, self.dtype)).to(latents)


def gaussian(parameters: Tensor) -> LatentMoments:
    """Mean and deviation from [mean ‖ log variance] [b, 2C, h, w]."""
    mean, logarithm = parameters.chunk(2, dim=1)
    return LatentMoments(mean, (logarithm.clamp(LOWEST, HIGHEST) / 2).exp())


def filled(
    network: AutoencoderNetwork, tensors: Mapping[str, Tensor], where: object
) -> AutoencoderNetwork:
    """A network made on the meta device, with these tensors; nothing is shared with the file."""
    wanted = network.state_dict()
    _refuse(where, "lacks", [name for name in wanted if name not in tensors], "fetch it again")
    foreign = [name for name in tensors if name not in wanted]
    _refuse(where, "has, beside those of this autoencoder,", foreign, "name another file")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            shapes = f"{list(tensor.shape)}, not {list(wanted[name].shape)}"
            raise InputError(f"{where}: {name} is {shapes} as in this autoencoder; is it another?")
        if tensor.dtype not in FLOATS:
            raise InputError(f"{where}: {name} holds {tensor.dtype}, no weights; fetch it again")
        if not bool(tensor.isfinite().all()):
            raise InputError(f"{where}: {name} holds NaN or infinite numbers; fetch it again")
    network.load_state_dict({name: tensors[name].clone() for name in wanted}, assign=True)
    return network.eval().requires_grad_(False)


def _refuse(where: object, fault: str, names: list[str], advice: str) -> None:
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise InputError(f"{where} {fault} the tensors {', '.join(names[:3])}{more}; {advice}")


def hash_of(network: nn.Module) -> str:
    """A hash of all tensors of a network, by name."""
    return digest_of(network.state_dict())
