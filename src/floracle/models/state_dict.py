"""Tensors by name: one check of every file of a network, put into a network, and hashed."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from floracle.run.errors import InputError
from floracle.run.files import digest

WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MAX_NAMES_SHOWN = 4
WRAPPERS = (
    "module",  # DistributedDataParallel
    "_orig_mod",  # torch.compile
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",  # recomputed activations
)
"""Parts of names that wrappers of torch add, around a network or around modules inside it."""
Network = TypeVar("Network", bound=nn.Module)
Value = TypeVar("Value")


def unwrapped_names(tensors: Mapping[str, Value], file: object) -> dict[str, Value]:
    """The same tensors, without what wrappers add to names; two may not become one."""
    unwrapped: dict[str, Value] = {}
    for name, tensor in tensors.items():
        short = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if short in unwrapped:
            raise InputError(
                f"{file} has {short} twice, with the name of a wrapper of torch and without;"
                f" save one of them alone"
            )
        unwrapped[short] = tensor
    return unwrapped


def check_plain(tensors: Mapping[str, Tensor], file: object) -> None:
    """Refuse tensors of which not every number stands in the file, whatever network they fit."""
    for name, tensor in tensors.items():
        if fault := _storage_fault(tensor):
            raise InputError(
                f"{file}: {name} {fault}; save it again as a plain tensor of floating-point"
                f" numbers, with .contiguous()"
            )


def _storage_fault(tensor: Tensor) -> str | None:
    """What keeps a tensor from being plain; None where it is."""
    if tensor.is_quantized:
        return f"is quantized ({tensor.dtype})"
    if tensor.layout != torch.strided:
        return f"is sparse ({str(tensor.layout).removeprefix('torch.')})"
    if tensor.device.type == "meta":
        return "has a shape and no numbers (it was saved on the meta device)"
    if not tensor.numel():
        return f"is empty ({list(tensor.shape)})"
    return None


def check_requested_type(dtype: torch.dtype | None) -> None:
    """Refuse a type that no network is evaluated in; None is the type of the file."""
    if dtype is not None and dtype not in WEIGHT_TYPES:
        raise InputError(
            f"networks are evaluated in one of {', '.join(map(str, WEIGHT_TYPES))}, not in"
            f" {dtype}; choose one, or leave out dtype="
        )


def weight_type(tensors: Mapping[str, Tensor], file: object) -> torch.dtype:
    """The type that holds every number of these tensors: their own, or the widest of several."""
    for name, tensor in tensors.items():
        if tensor.dtype not in WEIGHT_TYPES:
            raise InputError(
                f"{file}: {name} holds {tensor.dtype}, and weights are of one of"
                f" {', '.join(map(str, WEIGHT_TYPES))}; convert it back to one of them, or fetch"
                f" a file that has not been converted"
            )
    kinds = {tensor.dtype for tensor in tensors.values()}
    return functools.reduce(torch.promote_types, sorted(kinds, key=str))


def mixed_types(tensors: Mapping[str, Tensor]) -> list[str]:
    """What is assumed of tensors of several types, as a phrase in a list; empty for one type."""
    kinds = {tensor.dtype for tensor in tensors.values() if tensor.dtype in WEIGHT_TYPES}
    if len(kinds) < 2:
        return []
    names = [str(kind).removeprefix("torch.") for kind in sorted(kinds, key=str)]
    return [f"weights of {' and '.join(names)}, all in the widest"]


def check_tensors(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], file: object, *, advice: str
) -> None:
    """Refuse tensors unless they are all that a network has, in its shapes, finite and plain.

    The one check of every loader. The error names `file` and the tensors, and says `advice` where
    the network is another one.
    """
    if missing := [name for name in expected if name not in tensors]:
        count = f"{len(missing)} tensors: " if len(missing) > 1 else ""
        raise InputError(
            f"{file} lacks {count}{list_names(missing)}; it was not saved in full, fetch or save"
            f" it again"
        )
    if unknown := [name for name in tensors if name not in expected]:
        raise InputError(
            f"{file} has {len(unknown)} tensors that this network does not have:"
            f" {list_names(unknown)}; {advice}"
        )
    check_plain(tensors, file)
    weight_type(tensors, file)
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"{file}: {name} is {list(tensor.shape)}, not {list(expected[name].shape)} as in"
                f" this architecture; {advice}"
            )
        check_finite(name, tensor, file)


def check_finite(name: str, tensor: Tensor, file: object) -> None:
    """Refuse NaN and infinite numbers."""
    if not bool(tensor.isfinite().all()):
        raise InputError(
            f"{file}: {name} holds NaN or infinite numbers; training diverged, or the file is"
            f" damaged"
        )


def fill_network(
    network: Network,
    tensors: Mapping[str, Tensor],
    file: object,
    *,
    advice: str,
    dtype: torch.dtype | None = None,
) -> Network:
    """Put tensors into a network that was built on the meta device, ready for evaluation.

    Parameters get one type, since a network cannot run on several: `dtype`, or by default their
    own, the widest of several. Buffers keep the type that the network gives them. Nothing is
    shared with the file that the tensors are mapped from.

    Raises
    ------
    InputError
        As `check_tensors`.
    """
    expected = network.state_dict()
    check_tensors(expected, tensors, file, advice=advice)
    types = {name: buffer.dtype for name, buffer in network.named_buffers()}
    dtype = weight_type(tensors, file) if dtype is None else dtype
    plain = {name: tensors[name].to(types.get(name, dtype), copy=True) for name in expected}
    network.load_state_dict(plain, assign=True)
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
