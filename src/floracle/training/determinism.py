"""Steps that are the same every time: GPU sums in a fixed order, and seeded dropout."""

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


@contextmanager
def repeatable(device: torch.device, enabled: bool) -> Iterator[None]:
    """Take sums on a GPU in the same order every time, as long as the context lasts."""
    if device.type != "cuda" or not enabled:
        yield
        return
    options: Any = deterministic
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = options.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    options.fill_uninitialized_memory = False  # costs a pass, and nothing here reads such memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        options.fill_uninitialized_memory = fill


@contextmanager
def inner_randomness(device: torch.device, seed: int, number: int) -> Iterator[None]:
    """Seed what a network draws by itself, like dropout, for one step of one process."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        torch.default_generator.manual_seed(seed_for(seed, "inside", number))
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed_for(seed, "inside", number))
        yield


def prepare_device(settings: TrainingSettings, device: torch.device) -> None:
    """What a GPU has to be told before its first product."""
    if device.type != "cuda":
        return
    if settings.repeatable:  # cuBLAS is deterministic with a fixed workspace alone
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if settings.target != "conditional" and torch.get_float32_matmul_precision() != "highest":
        raise InputError(
            "the oracle's products need all bits of float32, but this program allows TF32; call"
            " torch.set_float32_matmul_precision('highest') and train with precision='bf16'"
        )
