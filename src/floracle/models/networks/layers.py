"""The parts of a diffusion transformer.

Tokens are [b, n, width], the condition (time and label together) is [b, width]. Names of
parameters are those of DiT and its descendants, so that their checkpoints fit.

    adaptive norm    norm(h) · (1 + scale(c)) + shift(c), gated by g(c)     (Peebles & Xie 2023)
    SwiGLU           w₃ (silu(w₁ h) · w₂ h)                                 (Shazeer 2020)
    rotary           pairs of each head turned by row · ω and column · ω    (Su et al. 2021)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PERIOD = 10_000
FREQUENCIES = 256
"""Numbers that a time is written in before the first layer sees it."""
EPS = 1e-6
Norm = Callable[[int], nn.Module]
"""Makes the norm of a width."""


class PatchEmbedding(nn.Module):
    """Pictures [b, C, S, S] as tokens [b, (S / patch)², width], rows first."""

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """One token for each patch."""
        return self.proj(x).flatten(2).transpose(1, 2)


class TimeEmbedding(nn.Module):
    """Times [b] as conditions [b, width]: waves of many lengths, then two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """The waves are float32 whatever the network's type is."""
        return self.mlp(waves(t).to(next(self.parameters()).dtype))


def waves(t: Tensor) -> Tensor:
    """Cosines and sines of times [b], float32 [b, 256]; frequencies fall from 1 to 1 / PERIOD."""
    half = FREQUENCIES // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t[:, None].float() * torch.exp(-math.log(PERIOD) * steps / half)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class LabelEmbedding(nn.Module):
    """Labels int64 [b] as conditions [b, width]."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        table = torch.zeros(rows, width)  # drawing it for the meta device would load the compiler
        self.embedding_table = nn.Embedding.from_pretrained(table, freeze=False)

    def forward(self, labels: Tensor) -> Tensor:
        """One row of the table for each label."""
        return self.embedding_table(labels)


def positions(side: int, width: int) -> Tensor:
    """Fixed embedding float32 [1, side², width]: sines and cosines of the column, then the row."""
    steps = torch.arange(width // 4, dtype=torch.float64, device="cpu")
    places = torch.arange(side, dtype=torch.float64, device="cpu")
    angles = places[:, None] * PERIOD ** -(steps / (width / 4))
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns = axis[None, :].expand(side, side, -1)
    rows = axis[:, None].expand(side, side, -1)
    return torch.cat([columns, rows], dim=2).reshape(1, side**2, -1).float()


def rotary(side: int, head: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles that pairs of a head turn by, float32 [side², head / 2].

    Half of the pairs turn with the row, half with the column. The tables are made on the CPU also
    where modules are being built without memory.
    """
    exact = {"dtype": torch.float32, "device": "cpu"}
    frequencies = PERIOD ** -(torch.arange(0, head // 2, 2, **exact) / (head // 2))
    axis = torch.arange(side, **exact)[:, None] * frequencies
    rows = axis[:, None].expand(side, side, -1)
    columns = axis[None, :].expand(side, side, -1)
    angles = torch.cat([rows, columns], dim=2).reshape(side**2, -1)
    return angles.cos(), angles.sin()


def rotated(x: Tensor, turn: Tensor) -> Tensor:
    """Heads [..., n, head] times turn [n, head / 2, 2]; neighbours are complex numbers."""
    exact = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # which fuses products of real numbers, not of complex ones
        (a, b), (cos, sin) = exact.unbind(-1), turn.unbind(-1)
        product = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1)
    else:
        product = torch.view_as_real(torch.view_as_complex(exact) * torch.view_as_complex(turn))
    return product.flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Every token looks at every other, in several heads."""

    def __init__(self, width: int, heads: int, *, norm: Norm | None) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = norm(width // heads) if norm else nn.Identity()
        self.k_norm = norm(width // heads) if norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, turn: Tensor | None) -> Tensor:
        """Tokens [b, n, width] to tokens."""
        heads = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = heads.unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if turn is not None:
            q, k = rotated(q, turn), rotated(k, turn)
        seen = F.scaled_dot_product_attention(q, k, v)
        return self.proj(seen.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """Two layers, the first gated by itself; `hidden` numbers between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens to tokens."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class MLP(nn.Module):
    """Two layers with a GELU (its tanh form) between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens to tokens."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def modulation(width: int, parts: int) -> nn.Sequential:
    """Conditions [b, width] to [b, parts · width]: shifts, scales and gates, in DiT's order."""
    return nn.Sequential(nn.SiLU(), nn.Linear(width, parts * width))


def modulated(x: Tensor, shift: Tensor | None, scale: Tensor) -> Tensor:
    """Normed tokens scaled by 1 + scale, and shifted."""
    return x * (1 + scale) if shift is None else torch.addcmul(shift, x, 1 + scale)


def rms_norm(width: int) -> nn.Module:
    """Divides by the root mean square; with a learned scale."""
    return nn.RMSNorm(width, eps=EPS)


def plain_norm(width: int) -> nn.Module:
    """Mean 0 and deviation 1; learns nothing."""
    return nn.LayerNorm(width, elementwise_affine=False, eps=EPS)


def unpatched(tokens: Tensor, patch: int) -> Tensor:
    """Tokens [b, n, patch² · C], in which channels come last, as pictures [b, C, S, S]."""
    side = math.isqrt(tokens.shape[1])
    x = tokens.unflatten(1, (side, side)).unflatten(3, (patch, patch, -1))
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
