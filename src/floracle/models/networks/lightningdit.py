"""LightningDiT: a diffusion transformer with what language models have learned since.

Beside DiT it has RMS norms, SwiGLU layers and rotary positions (Yao et al. 2025); each can be
turned off, and with all of them off it is DiT and SiT. Tensors have the names of the reference
implementation, so that checkpoints load as they are.

    h ← h + gate · attention(norm(h) · (1 + scale) + shift)
    h ← h + gate · mlp(norm(h) · (1 + scale) + shift)           shift, scale, gate from (t, label)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from floracle.run.errors import InputError, suggestion

from .layers import (
    MLP,
    Attention,
    LabelEmbedding,
    PatchEmbedding,
    SwiGLU,
    TimeEmbedding,
    modulated,
    modulation,
    plain_norm,
    positions,
    rms_norm,
    rotary,
    unpatched,
)


@dataclass(frozen=True)
class Architecture:
    """Everything that decides which tensors a network has, and what it does with them."""

    depth: int
    width: int
    heads: int
    patch: int = 1
    channels: int = 4
    side: int = 32
    """Rows, and columns, of a sample."""
    classes: int = 1000
    null: bool = True
    """Whether the label `classes` means "no label"."""
    rms: bool = True
    swiglu: bool = True
    rope: bool = True
    qk_norm: bool = False
    shift: bool = True
    """Whether blocks shift what they norm; the `wo_shift` of LightningDiT is its opposite."""
    sigma: bool = False
    """Whether C further outputs are made, which nobody uses: `learn_sigma` of SiT and DiT."""

    def __post_init__(self) -> None:
        counts = (self.depth, self.width, self.heads, self.patch, self.channels, self.side)
        if min(counts) < 1 or self.classes < 0:
            raise InputError(f"an architecture counts from 1 upwards, got {self}")
        if self.width % 4 or self.width % ((4 if self.rope else 1) * self.heads):
            raise InputError(
                f"a width of {self.width} cannot be cut into {self.heads} heads, each with rows"
                f" and columns of pairs; choose a multiple of {4 * self.heads}"
            )
        if self.side % self.patch:
            raise InputError(
                f"samples of {self.side} × {self.side} cannot be cut into patches of {self.patch};"
                f" choose another patch"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one sample."""
        return self.channels, self.side, self.side

    @property
    def rows(self) -> int:
        """Rows of the table of labels."""
        return self.classes + self.null

    @property
    def hidden(self) -> int:
        """The numbers between the two layers of a block; a third fewer where there are gates."""
        return int(2 / 3 * 4 * self.width) if self.swiglu else 4 * self.width

    def settings(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


SIZES = {
    "pico": Architecture(4, 48, 4),
    "nano": Architecture(4, 128, 4),
    "tiny": Architecture(6, 256, 4),
    "small": Architecture(12, 384, 6),
    "base": Architecture(12, 768, 12),
    "large": Architecture(24, 1024, 16),
    "xl": Architecture(28, 1152, 16),
    "1p0b": Architecture(24, 1536, 24),
    "1p6b": Architecture(28, 1792, 28),
}
"""Depth, width and heads by name; pico, nano and tiny are ours, for two cores."""


def architecture(size: str, **parts: Any) -> Architecture:
    """A size of the family by name; `parts` are what else differs: patch, channels, side …."""
    if size not in SIZES:
        raise InputError(f"there is no size {size!r}; {suggestion(size, SIZES)}")
    return replace(SIZES[size], **parts)


class TransformerBlock(nn.Module):
    """Attention, then two layers, each normed, modulated and gated."""

    def __init__(self, plan: Architecture) -> None:
        super().__init__()
        norm = rms_norm if plan.rms else plain_norm
        of_heads = (rms_norm if plan.rms else nn.LayerNorm) if plan.qk_norm else None
        self.parts = 6 if plan.shift else 4
        self.norm1, self.norm2 = norm(plan.width), norm(plan.width)
        self.attn = Attention(plan.width, plan.heads, norm=of_heads)
        self.mlp = (SwiGLU if plan.swiglu else MLP)(plan.width, plan.hidden)
        self.adaLN_modulation = modulation(plan.width, self.parts)

    def forward(self, x: Tensor, condition: Tensor, turn: Tensor | None) -> Tensor:
        """Tokens [b, n, width] to tokens, given the condition [b, width]."""
        parts = self.adaLN_modulation(condition)[:, None].chunk(self.parts, dim=2)
        shift, shift_mlp = None, None
        if self.parts == 6:
            shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts
        else:
            scale, gate, scale_mlp, gate_mlp = parts
        seen = self.attn(modulated(self.norm1(x), shift, scale), turn)
        x = torch.addcmul(x, gate, seen)
        return torch.addcmul(x, gate_mlp, self.mlp(modulated(self.norm2(x), shift_mlp, scale_mlp)))


class FinalLayer(nn.Module):
    """Tokens as patches."""

    def __init__(self, plan: Architecture) -> None:
        super().__init__()
        outputs = plan.channels * (2 if plan.sigma else 1)
        self.norm_final = (rms_norm if plan.rms else plain_norm)(plan.width)
        self.linear = nn.Linear(plan.width, plan.patch**2 * outputs)
        self.adaLN_modulation = modulation(plan.width, 2)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Tokens [b, n, width] to [b, n, patch² · outputs]."""
        shift, scale = self.adaLN_modulation(condition)[:, None].chunk(2, dim=2)
        return self.linear(modulated(self.norm_final(x), shift, scale))


class LightningDiT(nn.Module):
    """The network: samples [b, C, S, S], times [b] and labels [b] to outputs [b, C, S, S].

    It knows no clock and drops no labels: times are those it was trained with, and "no label" is
    the label `null`.
    """

    cos: Tensor | None
    sin: Tensor | None

    def __init__(self, plan: Architecture) -> None:
        super().__init__()
        self.plan = plan
        tokens = plan.side // plan.patch
        self.x_embedder = PatchEmbedding(plan.channels, plan.patch, plan.width)
        self.t_embedder = TimeEmbedding(plan.width)
        self.y_embedder = LabelEmbedding(plan.rows, plan.width)
        self.pos_embed = nn.Parameter(positions(tokens, plan.width), requires_grad=False)
        self.blocks = nn.ModuleList(TransformerBlock(plan) for _ in range(plan.depth))
        self.final_layer = FinalLayer(plan)
        cos, sin = rotary(tokens, plan.width // plan.heads) if plan.rope else (None, None)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @property
    def null(self) -> int | None:
        """The label that means none; None where the network has none."""
        return self.plan.classes if self.plan.null else None

    @property
    def turn(self) -> Tensor | None:
        """What heads are turned by, float32 [tokens, head / 2, 2]: cosines and sines."""
        if self.cos is None or self.sin is None:
            return None
        return torch.stack((self.cos.float(), self.sin.float()), dim=-1)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """What it predicts; the second half of 2C outputs is dropped."""
        condition = self.t_embedder(t) + self.y_embedder(labels)
        tokens, turn = self.x_embedder(x) + self.pos_embed, self.turn
        for block in self.blocks:
            tokens = block(tokens, condition, turn)
        return unpatched(self.final_layer(tokens, condition), self.plan.patch)[
            :, : self.plan.channels
        ]


@torch.no_grad()
def initialized(plan: Architecture, generator: torch.Generator) -> LightningDiT:
    """A network as the family starts it: every block the identity, every output zero."""
    network = LightningDiT(plan)
    for name, part in network.named_modules():
        if not isinstance(part, nn.Linear):
            continue
        nn.init.zeros_(part.bias)
        if "adaLN_modulation" in name or name == "final_layer.linear":
            nn.init.zeros_(part.weight)
        else:
            nn.init.xavier_uniform_(part.weight, generator=generator)
    tensors = dict(network.named_parameters())
    kernel = tensors["x_embedder.proj.weight"]
    nn.init.xavier_uniform_(kernel.view(len(kernel), -1), generator=generator)
    nn.init.zeros_(tensors["x_embedder.proj.bias"])
    for name in ("y_embedder.embedding_table", "t_embedder.mlp.0", "t_embedder.mlp.2"):
        nn.init.normal_(tensors[f"{name}.weight"], std=0.02, generator=generator)
    return network
