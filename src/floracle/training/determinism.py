"""Steps that are the same every time: sums on a GPU in one order, and dropout that is seeded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import deterministic

from floracle.run.errors import InputError

from .config import TrainingSettings
from .data_order import seed_for

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def repeatable(device: torch.device, asked: bool) -> Iterator[None]:
    """Have sums on a GPU taken in the same order every time, as long as the context lasts."""
    if device.type != "cuda" or not asked:
        yield
        return
    how: Any = deterministic
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = how.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    how.fill_uninitialized_memory = False  # nothing here reads what was not written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        how.fill_uninitialized_memory = filled


@contextmanager
def inner_randomness(device: torch.device, seed: int, number: int) -> Iterator[None]:
    """Give what a network draws by itself, like dropout, a seed of its own for this step."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        torch.default_generator.manual_seed(seed_for(seed, "inside", number))
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed_for(seed, "inside", number))
        yield


def ready(settings: TrainingSettings, device: torch.device) -> None:
    """What a GPU has to be told before its first product."""
    if device.type != "cuda":
        return
    if settings.repeatable:
        os.environ.setdefault(WORKSPACE, ":4096:8")
    if settings.target != "conditional" and torch.get_float32_matmul_precision() != "highest":
        raise InputError(
            "the oracle's products need all bits of float32, but this program allows TF32; call"
            " torch.set_float32_matmul_precision('highest') and train with precision='bf16'"
        )
