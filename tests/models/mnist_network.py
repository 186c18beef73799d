"""Somebody else's flow model of MNIST, written afresh after its README; `network` makes it."""

import math
import os
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

HOME = Path(os.environ.get("FLORACLE_SHARED") or Path(__file__).parents[3] / "shared")
FOLDER = HOME / "weights" / "mnist_flow_vit"


class FlowViT(nn.Module):
    """Predicts the data, pictures [b, 1, 28, 28] in [0, 1]; label 10 is none."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(1, 64, 7, stride=7)
        self.pos_embed = nn.Parameter(torch.zeros(1, 16, 64))
        self.y_encoder = nn.Embedding(11, 128)
        self.transformer = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(64, 4, 256, activation="gelu", batch_first=True)
                for _ in range(4)
            )
        )
        self.unpatch = nn.ConvTranspose2d(64, 1, 7, stride=7)

    def forward(self, x, t, labels):
        waves = t[:, None] * torch.exp(-math.log(10_000) * torch.arange(64) / 63)
        time = torch.cat([waves.sin(), waves.cos()], dim=1).unflatten(1, (2, 64))
        label = self.y_encoder(labels).unflatten(1, (2, 64))
        patches = self.patch_embed(x).flatten(2).transpose(1, 2) + self.pos_embed
        seen = self.transformer(torch.cat([patches, time, label], dim=1))[:, :16]
        return self.unpatch(seen.transpose(1, 2).unflatten(2, (4, 4)))


def network() -> FlowViT:
    """The network with its weights."""
    made = FlowViT()
    made.load_state_dict(load_file(FOLDER / "mnist_flow_vit.safetensors"))
    return made
