"""LightningDiT: a diffusion transformer with the parts of recent language models.

Beside DiT it has RMS norms, SwiGLU layers and rotary positions (Yao et al. 2025); each can be
turned off, and with all of them off it is DiT and SiT. Tensors have the names of the reference
implementation, so that checkpoints load as they are.

    h ← h + gate · attention(norm(h) · (1 + scale) + shift)
    h ← h + gate · mlp(norm(h) · (1 + scale) + shift)           shift, scale, gate from (t, label)
"""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from floracle.models.typed_config import boolean, count, read_settings
from floracle.run.errors import InputError, suggestion

from .layers import (
    MLP,
    Attention,
    LabelEmbedding,
    PatchEmbedding,
    SwiGLU,
    TimeEmbedding,
    modulate,
    modulation,
    plain_norm,
    position_embedding,
    rms_norm,
    rotary_tables,
    unpatchify,
)


@dataclass(frozen=True)
class Architecture:
    """Everything that determines which tensors a network has, and what it does with them.

    The names of the fields are keys of saved networks.
    """

    depth: int
    width: int
    heads: int
    patch: int = 1
    channels: int = 4
    side: int = 32
    """Rows, and columns, of a sample."""
    classes: int = 1000
    null: bool = True
    """Whether there is a null label, which is `classes`."""
    rms: bool = True
    swiglu: bool = True
    rope: bool = True
    qk_norm: bool = False
    shift: bool = True
    """Whether blocks shift what they normalize; the opposite of LightningDiT's `wo_shift`."""
    sigma: bool = False
    """Whether there are C further outputs, which nobody uses: `learn_sigma` of SiT and DiT."""

    def __post_init__(self) -> None:
        counts = (self.depth, self.width, self.heads, self.patch, self.channels, self.side)
        if min(counts) < 1 or self.classes < 0:
            raise InputError(f"the numbers of an architecture must be positive, got {self}")
        # Positions need width / 4 frequencies, rotations pairs for rows and columns in each head.
        if self.width % 4 or self.width % ((4 if self.rope else 1) * self.heads):
            raise InputError(
                f"a width of {self.width} cannot be split into {self.heads} heads with pairs for"
                f" rows and columns; choose a multiple of {4 * self.heads}"
            )
        if self.side % self.patch:
            raise InputError(
                f"samples of {self.side} × {self.side} cannot be split into patches of"
                f" {self.patch}; choose a patch that divides {self.side}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one sample."""
        return self.channels, self.side, self.side

    @property
    def rows(self) -> int:
        """Rows of the label table."""
        return self.classes + self.null

    @property
    def hidden(self) -> int:
        """Numbers between the two layers of a block; a third fewer with SwiGLU's third matrix."""
        return int(2 / 3 * 4 * self.width) if self.swiglu else 4 * self.width

    def settings(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def architecture_from_settings(settings: object, source: object) -> Architecture:
    """The inverse of `Architecture.settings`; `source` says where the settings stand."""
    schema = {
        field.name: boolean if field.type == "bool" else count(field.name != "classes")
        for field in fields(Architecture)
    }
    parts = read_settings(settings, schema, source)
    missing = [field.name for field in fields(Architecture) if field.name not in parts]
    if missing or len(parts) != len(cast(Sized, settings)):
        lacks = f"it lacks {missing[0]}" if missing else "it has a key that no architecture has"
        raise InputError(f"{source} describes no network: {lacks}; write it again")
    return Architecture(**parts)


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
"""Depth, width and heads by name; pico, nano and tiny are ours, for two CPU cores."""


def architecture(size: str, **parts: Any) -> Architecture:
    """A size by name; `parts` are other fields of `Architecture`: patch, channels, side …."""
    if size not in SIZES:
        raise InputError(f"there is no size {size!r}; {suggestion(size, SIZES)}")
    return replace(SIZES[size], **parts)


class TransformerBlock(nn.Module):
    """Attention, then two layers, each normalized, modulated and gated."""

    def __init__(self, plan: Architecture) -> None:
        super().__init__()
        norm = rms_norm if plan.rms else plain_norm
        head_norm = (rms_norm if plan.rms else nn.LayerNorm) if plan.qk_norm else None
        self.parts = 6 if plan.shift else 4
        self.norm1, self.norm2 = norm(plan.width), norm(plan.width)
        self.attn = Attention(plan.width, plan.heads, norm=head_norm)
        self.mlp = (SwiGLU if plan.swiglu else MLP)(plan.width, plan.hidden)
        self.adaLN_modulation = modulation(plan.width, self.parts)

    def forward(self, x: Tensor, condition: Tensor, rotation: Tensor | None) -> Tensor:
        """Tokens [b, n, width] to tokens, given the condition [b, width]."""
        # Each [b, 1, width], in DiT's order: shift, scale, gate of attention, then of the MLP.
        parts = self.adaLN_modulation(condition)[:, None].chunk(self.parts, dim=2)
        shift, shift_mlp = None, None
        if self.parts == 6:
            shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts
        else:
            scale, gate, scale_mlp, gate_mlp = parts
        attended = self.attn(modulate(self.norm1(x), shift, scale), rotation)
        x = torch.addcmul(x, gate, attended)
        return torch.addcmul(x, gate_mlp, self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp)))


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
        return self.linear(modulate(self.norm_final(x), shift, scale))


class LightningDiT(nn.Module):
    """The network: samples [b, C, S, S], times [b] and labels [b] to outputs [b, C, S, S].

    Times are those it was trained with, and "no label" is the label `null`; a convention
    translates both. It drops no labels itself.
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
        self.pos_embed = nn.Parameter(position_embedding(tokens, plan.width), requires_grad=False)
        self.blocks = nn.ModuleList(TransformerBlock(plan) for _ in range(plan.depth))
        self.final_layer = FinalLayer(plan)
        cos, sin = rotary_tables(tokens, plan.width // plan.heads) if plan.rope else (None, None)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @property
    def null(self) -> int | None:
        """The null label; None where the network has none."""
        return self.plan.classes if self.plan.null else None

    @property
    def rotation(self) -> Tensor | None:
        """Cosines and sines that heads are turned by, float32 [tokens, head / 2, 2]."""
        if self.cos is None or self.sin is None:
            return None
        return torch.stack((self.cos.float(), self.sin.float()), dim=-1)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """The prediction; the second half of 2C outputs is dropped."""
        condition = self.t_embedder(t) + self.y_embedder(labels)  # [b, width]
        tokens, rotation = self.x_embedder(x) + self.pos_embed, self.rotation  # [b, n, width]
        for block in self.blocks:
            tokens = block(tokens, condition, rotation)
        output = unpatchify(self.final_layer(tokens, condition), self.plan.patch)
        return output[:, : self.plan.channels]


@torch.no_grad()
def initialize(plan: Architecture, generator: torch.Generator) -> LightningDiT:
    """A network as the family starts it: every block the identity, every output zero."""
    network = LightningDiT(plan)
    # The order of draws is part of a training run's result: layers first, then embeddings.
    for name, module in network.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        nn.init.zeros_(module.bias)
        if "adaLN_modulation" in name or name == "final_layer.linear":
            nn.init.zeros_(module.weight)  # gates of 0 make a block the identity
        else:
            nn.init.xavier_uniform_(module.weight, generator=generator)
    tensors = dict(network.named_parameters())
    kernel = tensors["x_embedder.proj.weight"]
    nn.init.xavier_uniform_(kernel.view(len(kernel), -1), generator=generator)  # as a linear layer
    nn.init.zeros_(tensors["x_embedder.proj.bias"])
    for name in ("y_embedder.embedding_table", "t_embedder.mlp.0", "t_embedder.mlp.2"):
        nn.init.normal_(tensors[f"{name}.weight"], std=0.02, generator=generator)
    return network
