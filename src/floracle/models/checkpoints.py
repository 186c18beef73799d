"""Foreign checkpoints, read without running anything that is in them.

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
from floracle.run.torch_archive import checked_records, is_archive

ENDINGS = (".pt", ".pth", ".ckpt", ".bin")
WEIGHTS = ("ema", "model", "state_dict", "model_state_dict")
"""Where training code keeps weights, the most wanted first."""
PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put in front of names."""
POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one network, and what its file says about it."""

    path: Path
    tensors: Mapping[str, Tensor]
    which: str
    """The name of these weights in the file; empty where it holds nothing else."""
    config: Mapping[str, Any]
    """LightningDiT's settings, sections of a YAML file; empty where there are none."""
    arguments: Mapping[str, Any]
    """The command line of SiT or REPA; empty where there is none."""


def open_checkpoint(path: Path, weights: str | None = None) -> Checkpoint:
    """The weights asked for, by default the averaged ones (`ema`) where there are any."""
    if path.suffix == ".safetensors":
        content: Any = read_safetensors(path)
    elif path.suffix in ENDINGS:
        content = read_pickle(path)
    elif path.suffix == ".py":
        raise InputError(f"{path} is a file of Python; name its function too: {path}:network")
    else:
        known = ", ".join((".safetensors", *ENDINGS))
        raise InputError(f"{path} is not a checkpoint by its ending; known are {known}")
    if not isinstance(content, Mapping) or not content:
        raise InputError(
            f"{path} holds a {type(content).__name__}; a checkpoint is a table of tensors"
        )
    which, tensors = chosen(content, weights, path)
    config, arguments = content.get("config"), content.get("args")
    return Checkpoint(
        path,
        plain_names(tensors),
        which,
        config if isinstance(config, Mapping) else {},
        vars(arguments) if isinstance(arguments, argparse.Namespace) else {},
    )


def chosen(
    content: Mapping[str, Any], weights: str | None, path: Path
) -> tuple[str, Mapping[str, Tensor]]:
    """Name and tensors of the weights that were asked for."""
    if tensors_only(content):
        if weights is not None:
            raise InputError(
                f"{path} holds one network only; ask for it without weights={weights!r}"
            )
        return "", content
    there = [name for name in content if isinstance(name, str) and tensors_only(content[name])]
    wanted = [weights] if weights is not None else [name for name in WEIGHTS if name in there]
    if not wanted:
        raise InputError(
            f"{path} holds {', '.join(map(str, content))}, but no weights that are known"
        )
    if wanted[0] not in there:
        raise InputError(f"{path} has no weights {weights!r}; {suggestion(wanted[0], there)}")
    return wanted[0], content[wanted[0]]


def tensors_only(content: object) -> bool:
    """Whether this is a table of tensors by their names, and nothing else."""
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(content[name], Tensor) for name in content)
    )


def plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, without what wrappers put in front of their names."""
    found = {}
    for name, tensor in tensors.items():
        while name.startswith(PREFIXES):
            name = name.partition(".")[2]
        found[name] = tensor
    return found


def read_pickle(path: Path) -> Any:
    """What a .pt file holds, if it is whole and holds tensors and plain values alone.

    Tensors are mapped from the disk, except those of archives with compressed members.
    """
    check_whole(path)
    records = checked_records(path) if is_archive(path) else []
    # mapped, compressed bytes would be read as numbers
    is_mapped = bool(records) and not any(record.is_compressed for record in records)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except pickle.UnpicklingError as error:
        raise InputError(_refusal(path, str(error))) from error
    except Exception as error:  # the documentation of pickle rules out none
        raise InputError(
            f"{path} is damaged ({_first_line(error)}); fetch or save it again"
        ) from error


def check_whole(path: Path) -> None:
    """Refuse, without waiting, what is no regular file, and files that are empty or pointers."""
    with open_regular(path, links=True) as file:  # as caches of downloads have
        start, size = file.read(len(POINTER)), file.seek(0, os.SEEK_END)
    if start == POINTER:
        raise InputError(f"{path} is a pointer of Git LFS, not the weights; run git lfs pull")
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


def _refusal(path: Path, said: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", said)
    if found is None:
        return f"{path} is not a file of torch.save; name a .pt, .pth or .safetensors checkpoint"
    return (
        f"{path} holds pickled code ({found[1]}), which could do anything once loaded, so it is"
        f" refused. Where you trust it, load it in the project it came from and save its tensors"
        f" alone: safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else "no reason given"
