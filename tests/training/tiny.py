"""The smallest runs that still have everything in them."""

import torch
from torch import nn

import floracle
from floracle.models.networks.lightningdit import Architecture, initialize
from floracle.training.config import TrainingSettings
from floracle.training.evaluation import EvaluationPlan

BLIND = EvaluationPlan(pairs=0, samples=0)
SMALL = TrainingSettings(
    model="nano", images=480, batch=32, rate=3e-3, every=160, lines=4, switch=0.5
)


class Linear(nn.Module):
    """v = W (x, 1), a matrix for each class; learnt in closed form it would be least squares."""

    def __init__(self, classes=10):
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(classes + 1, 64, 65))

    def forward(self, x, t, labels):
        given = torch.cat([x.flatten(1), torch.ones(len(x), 1)], 1)
        return torch.einsum("bij,bj->bi", self.matrix[labels], given).reshape(x.shape)


def digits():
    return floracle.open_store("digits")


def network(classes=10, seed=0, **parts):
    plan = {"patch": 4, "channels": 1, "side": 8, "classes": classes}
    return initialize(
        Architecture(1, 16, 2, **(plan | parts)), torch.Generator().manual_seed(seed)
    )


def trained(out, settings=SMALL, *, data=None, net=None, **more):
    """Everything a run says, and its network's averaged tensors."""
    data = digits() if data is None else data
    more.setdefault("look", BLIND)
    said = list(floracle.train(net or network(), data, settings, out=out, **more))
    return said, tensors(out)


def tensors(out):
    from safetensors.torch import load_file

    return load_file(out / "network.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
