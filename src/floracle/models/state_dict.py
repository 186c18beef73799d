"""Tensors by name: put into a network, with every misfit refused, and hashed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from floracle.run.errors import InputError
from floracle.run.files import digest

WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MAX_NAMES_SHOWN = 4
Network = TypeVar("Network", bound=nn.Module)


def fill_network(
    network: Network, tensors: Mapping[str, Tensor], file: object, *, advice: str
) -> Network:
    """Put tensors into a network that was built on the meta device, ready for evaluation.

    The network takes their types; nothing is shared with the file that they are mapped from.

    Raises
    ------
    InputError
        If a tensor is missing, superfluous, of another shape or type, or not finite. The error
        names `file`, and says `advice` where the network is another one.
    """
    expected = network.state_dict()
    if missing := [name for name in expected if name not in tensors]:
        raise InputError(
            f"{file} lacks {len(missing)} tensors: {list_names(missing)}; it was not saved in"
            f" full, fetch or save it again"
        )
    if unknown := [name for name in tensors if name not in expected]:
        raise InputError(
            f"{file} has {len(unknown)} tensors that this network does not have:"
            f" {list_names(unknown)}; {advice}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"{file}: {name} is {list(tensor.shape)}, not {list(expected[name].shape)} as in"
                f" this architecture; {advice}"
            )
        if tensor.dtype not in WEIGHT_TYPES:
            raise InputError(
                f"{file}: {name} holds {tensor.dtype}, which are no weights; fetch it again"
            )
        if not bool(tensor.isfinite().all()):
            raise InputError(
                f"{file}: {name} holds NaN or infinite numbers; training diverged, or the file is"
                f" damaged"
            )
    network.load_state_dict({name: tensors[name].clone() for name in expected}, assign=True)
    return network.eval().requires_grad_(False)


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """A hash of tensors: their names, types, shapes and bytes, in the order of their names."""
    parts = []
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        parts.append(f"{name} {tensor.dtype} {list(tensor.shape)}")
        parts.append(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest(*parts)


def list_names(names: Sequence[str]) -> str:
    """The first few of many names."""
    more = len(names) - MAX_NAMES_SHOWN
    return ", ".join(names[:MAX_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
