"""Checkpoints of other projects, read without running anything that is in them.

A .pt file is a zip archive with a pickle in it, and a pickle is a program. Only tensors and plain
values are let through, and `argparse.Namespace`, in which SiT and REPA keep their arguments.
"""

from __future__ import annotations

import argparse
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from floracle.run.errors import InputError, suggestion
from floracle.run.files import open_regular
from floracle.run.torch_archive import check_archive, check_bare_pickle, check_growth, is_archive

from .state_dict import check_plain, list_names, unwrapped_names
from .typed_config import show

ENDINGS = (".pt", ".pth", ".ckpt", ".bin")
WEIGHT_NAMES = ("ema", "model", "state_dict", "model_state_dict")
"""Where training code keeps weights, the preferred first."""
LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one network, and what its file says about it."""

    path: Path
    tensors: Mapping[str, Tensor]
    weights: str
    """The name of these weights in the file; empty where it holds nothing else."""
    config: Mapping[str, Any]
    """LightningDiT's settings, sections of a YAML file; empty where there are none."""
    arguments: Mapping[str, Any]
    """The command line of SiT or REPA; empty where there is none."""


def open_checkpoint(path: Path, weights: str | None = None) -> Checkpoint:
    """The weights of that name, by default the averaged ones (`ema`) where there are any."""
    if path.suffix == ".safetensors":
        content: Any = read_safetensors(path)
    elif path.suffix in ENDINGS:
        content = read_pickle(path)
    elif path.suffix == ".py":
        raise InputError(f"{path} is a Python file; name its function, too: {path}:network")
    else:
        endings = ", ".join((".safetensors", *ENDINGS))
        raise InputError(f"{path} is not a checkpoint by its ending; checkpoints end in {endings}")
    if not isinstance(content, Mapping) or not content:
        raise InputError(
            f"{path} holds a {type(content).__name__}; a checkpoint is a table of tensors"
        )
    name, tensors = _choose_weights(content, weights, path)
    check_plain(tensors, path)
    check_growth(path, sum(tensor.nbytes for tensor in tensors.values()))
    config, arguments = (_described(content, key, path) for key in ("config", "args"))
    return Checkpoint(path, unwrapped_names(tensors, path), name, config, arguments)


def _described(content: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    """What a file says about its network under this key; empty where it says nothing."""
    values = content.get(key)
    if isinstance(values, argparse.Namespace):
        values = vars(values)
    if values is None or isinstance(values, Tensor):  # a tensor of that name is a weight
        return {}
    if not isinstance(values, Mapping):
        raise InputError(
            f"{path}: its {key!r} is {show(values)}, so the settings of its network cannot be"
            f" read; save its weights alone as .safetensors, and load that"
        )
    return values


def _choose_weights(
    content: Mapping[str, Any], weights: str | None, path: Path
) -> tuple[str, Mapping[str, Tensor]]:
    """Name and tensors of the weights to load."""
    if _is_table_of_tensors(content):
        if weights is not None:
            raise InputError(f"{path} holds one network only; leave out weights={weights!r}")
        return "", content
    tables = [
        name for name in content if isinstance(name, str) and _is_table_of_tensors(content[name])
    ]
    name = weights or next((name for name in WEIGHT_NAMES if name in tables), None)
    if name is None:
        raise InputError(
            f"{path} holds {list_names([show(key, quotes=False) for key in content])}, but none"
            f" of the weights {', '.join(WEIGHT_NAMES)}"
        )
    if name not in tables:
        raise InputError(f"{path} has no weights {weights!r}; {suggestion(name, tables)}")
    return name, content[name]


def _is_table_of_tensors(content: object) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(content[name], Tensor) for name in content)
    )


def read_pickle(path: Path) -> Any:
    """The content of a .pt file, if it is whole and holds tensors and plain values alone.

    Tensors are mapped from the disk, except those of archives with compressed members.
    """
    check_whole(path)
    # mapped, compressed bytes would be read as numbers
    is_mapped = check_archive(path) if is_archive(path) else check_bare_pickle(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except pickle.UnpicklingError as error:
        raise InputError(_unpickling_error(path, str(error))) from error
    except Exception as error:  # pickle may raise anything
        raise InputError(
            f"{path} is damaged ({_first_line(error)}); fetch or save it again"
        ) from error


def check_whole(path: Path) -> None:
    """Refuse, without waiting, what is no regular file, and files that are empty or pointers."""
    with open_regular(path, links=True) as file:  # caches of downloads hold links
        start, size = file.read(len(LFS_POINTER)), file.seek(0, os.SEEK_END)
    if start == LFS_POINTER:
        raise InputError(f"{path} is a Git LFS pointer, not the weights; run git lfs pull")
    if not size:
        raise InputError(f"{path} is incomplete: it is empty; fetch it again")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, mapped from the disk."""
    check_whole(path)
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is incomplete or not a safetensors file ({_first_line(error)}): it ends after"
            f" {path.stat().st_size:,} bytes; fetch it again"
        ) from error
    except Exception as error:  # a type of numbers, or a shape, that torch does not have
        raise InputError(
            f"{path} holds tensors that this version of torch cannot read ({_first_line(error)});"
            f" convert them to float32, bfloat16 or float16"
        ) from error


def read_network_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file that holds one network, under its own names."""
    return unwrapped_names(read_safetensors(path), path)


def _unpickling_error(path: Path, message: str) -> str:
    code = re.search(r"GLOBAL ([\w.]+)", message)
    if code is None:
        return f"{path} was not written by torch.save; name a .pt, .pth or .safetensors checkpoint"
    return (
        f"{path} holds pickled code ({code[1]}), which can do anything once it is loaded, so it is"
        f" refused. If you trust it, load it in the project it came from and save its tensors"
        f" alone: safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else "no reason given"
