"""The layers of a diffusion transformer.

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

PERIOD = 10_000  # the longest wave over 2π, of times, positions and rotations alike
TIME_FEATURES = 256  # cosines and sines of a time, before the first layer
EPSILON = 1e-6  # of all norms, as in the reference implementations
NormFactory = Callable[[int], nn.Module]
"""Makes the norm of a width."""


class PatchEmbedding(nn.Module):
    """Images [b, C, S, S] as tokens [b, (S / patch)², width], row by row."""

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """One token for each patch."""
        return self.proj(x).flatten(2).transpose(1, 2)


class TimeEmbedding(nn.Module):
    """Times [b] as conditions [b, width]: sinusoids, then two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, t: Tensor) -> Tensor:
        """The sinusoids are float32 whatever the network's type is."""
        return self.mlp(time_features(t).to(next(self.parameters()).dtype))


def time_features(t: Tensor) -> Tensor:
    """cos(ω_k t) and sin(ω_k t) of times [b], float32 [b, 256]; ω_k falls from 1 to 1 / PERIOD."""
    half = TIME_FEATURES // 2
    k = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t[:, None].float() * torch.exp(-math.log(PERIOD) * k / half)  # [b, 128]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class LabelEmbedding(nn.Module):
    """Labels int64 [b] as conditions [b, width]."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        # nn.Embedding would draw its table, which on the meta device loads the compiler
        table = torch.zeros(rows, width)
        self.embedding_table = nn.Embedding.from_pretrained(table, freeze=False)

    def forward(self, labels: Tensor) -> Tensor:
        """One row of the table for each label."""
        return self.embedding_table(labels)


def position_embedding(side: int, width: int) -> Tensor:
    """Fixed embedding float32 [1, side², width]: sinusoids of the column, then of the row.

    float64 inside, as in MAE's numpy code, from which DiT has it.
    """
    k = torch.arange(width // 4, dtype=torch.float64, device="cpu")
    position = torch.arange(side, dtype=torch.float64, device="cpu")
    angles = position[:, None] * PERIOD ** -(k / (width / 4))  # [side, width / 4]
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # [side, width / 2]
    columns = axis[None, :].expand(side, side, -1)
    rows = axis[:, None].expand(side, side, -1)
    return torch.cat([columns, rows], dim=2).reshape(1, side**2, -1).float()


def rotary_tables(side: int, head: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles that pairs of a head turn by, float32 [side², head / 2].

    Half of the pairs turn with the row, half with the column. The tables are made on the CPU also
    where modules are being built on the meta device.
    """
    exact = {"dtype": torch.float32, "device": "cpu"}
    frequencies = PERIOD ** -(torch.arange(0, head // 2, 2, **exact) / (head // 2))  # [head / 4]
    axis = torch.arange(side, **exact)[:, None] * frequencies
    rows = axis[:, None].expand(side, side, -1)
    columns = axis[None, :].expand(side, side, -1)
    angles = torch.cat([rows, columns], dim=2).reshape(side**2, -1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Heads [..., n, head] turned by `rotation` [n, head / 2, 2], as complex numbers.

    Neighbouring numbers are the real and imaginary part; at least in float32.
    """
    exact = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # which fuses products of real numbers, not of complex ones
        (a, b), (cos, sin) = exact.unbind(-1), rotation.unbind(-1)
        product = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1)
    else:
        product = torch.view_as_real(
            torch.view_as_complex(exact) * torch.view_as_complex(rotation)
        )
    return product.flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Self-attention in several heads, with optional norms of queries and keys."""

    def __init__(self, width: int, heads: int, *, norm: NormFactory | None) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = norm(width // heads) if norm else nn.Identity()
        self.k_norm = norm(width // heads) if norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: Tensor | None) -> Tensor:
        """Tokens [b, n, width] to tokens."""
        # [b, n, 3 · width] → [3, b, heads, n, head]
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        values = F.scaled_dot_product_attention(q, k, v)  # [b, heads, n, head]
        return self.proj(values.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """Two layers, the first gated by itself; `hidden` numbers between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """w₃ (silu(w₁ x) · w₂ x), tokens to tokens."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class MLP(nn.Module):
    """Two layers with a GELU (its tanh form, as in DiT) between them."""

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


def modulate(x: Tensor, shift: Tensor | None, scale: Tensor) -> Tensor:
    """Normalized tokens times 1 + scale, plus shift."""
    # addcmul: one kernel and one temporary fewer than a product and a sum
    return x * (1 + scale) if shift is None else torch.addcmul(shift, x, 1 + scale)


def rms_norm(width: int) -> nn.Module:
    """Division by the root mean square, with a learned scale."""
    return nn.RMSNorm(width, eps=EPSILON)


def plain_norm(width: int) -> nn.Module:
    """Mean 0 and deviation 1, with nothing learned: scale and shift come from the condition."""
    return nn.LayerNorm(width, elementwise_affine=False, eps=EPSILON)


def unpatchify(tokens: Tensor, patch: int) -> Tensor:
    """Tokens [b, n, patch² · C], in which channels come last, as images [b, C, S, S]."""
    side = math.isqrt(tokens.shape[1])
    x = tokens.unflatten(1, (side, side)).unflatten(3, (patch, patch, -1))  # [b, h, w, p, p, C]
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
