"""From what the user names to the layout that reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from floracle.data.packed.reader import is_packed, open_packed
from floracle.run.errors import InputError

from . import idx, labels
from .archives import open_npz, open_safetensors
from .arrays import open_memory, open_npy
from .content import LayoutContent, check_there, readable
from .edm import is_edm, open_edm
from .fastdit import is_fastdit, open_fastdit
from .idx import is_idx, open_idx, training_images
from .lightningdit import STATS, is_lightningdit, open_lightningdit
from .mar import is_mar, open_mar
from .pictures import open_pictures
from .read_options import PLAIN_MOMENTS, ReadOptions
from .synthetic import open_digits, open_gaussian

KINDS = (
    ".npy, .npz, .safetensors, .zip, *images-idx3-ubyte, the same with .gz, folders of pictures,"
    " of idx files or of the latents of LightningDiT, REPA, EDM2, MAR and fast-DiT, packed stores,"
    " digits, gaussian:POINTSxDIMS"
)
FOREIGN: dict[str, Callable[[Path, ReadOptions], LayoutContent]] = {
    "lightningdit": open_lightningdit,
    "repa": open_edm,
    "edm2": open_edm,
    "mar": open_mar,
    "fast-dit": open_fastdit,
}
SIGNS = (
    (is_packed, open_packed),
    (is_lightningdit, open_lightningdit),
    (is_edm, open_edm),
    (is_fastdit, open_fastdit),
)


def open_layout(where: Any, asked: ReadOptions) -> tuple[str, LayoutContent]:
    """A short name and what was found there."""
    if isinstance(where, (Tensor, np.ndarray)):
        kind = str(where.dtype).removeprefix("torch.")
        name = f"array of {kind} {list(where.shape)}"
        return name, _plain(name, open_memory(where), asked)
    if where == "digits":
        return "digits", _plain(where, open_digits(), asked)
    if isinstance(where, str) and where.startswith("gaussian:"):
        return where, _plain(where, open_gaussian(where, asked.budget), asked)
    if not isinstance(where, (str, Path)) or not str(where):
        raise InputError(f"cannot open a {type(where).__name__}; give a path, tensor or array")
    path = Path(where).expanduser()
    with readable(path, "data"):
        return str(where), _open_path(path, asked)


def companions(where: Any) -> tuple[Path, ...]:
    """Files that are read with one that is named, where they are there: labels, statistics."""
    if not isinstance(where, (str, Path)) or not Path(where).expanduser().is_file():
        return ()
    path = Path(where).expanduser()
    of_images = idx.label_files(path) if is_idx(path) else ()
    return (*labels.label_files(path), *of_images, path.with_name(STATS))


def _open_path(path: Path, asked: ReadOptions) -> LayoutContent:
    if not path.is_dir():
        check_there(path)
    if asked.layout in FOREIGN:
        return FOREIGN[asked.layout](path, asked)
    for fits, opened in SIGNS:
        if fits(path):
            return _whole(path, opened(path, asked), asked)
    if path.is_dir():
        return _whole(path, _open_folder(path, asked), asked)
    return _plain(str(path), _open_file(path, asked), asked)


def _open_folder(folder: Path, asked: ReadOptions) -> LayoutContent:
    images = training_images(folder)
    if images:
        return open_idx(images, asked.budget)
    return open_mar(folder, asked) if is_mar(folder) else open_pictures(folder, asked.budget)


def _open_file(path: Path, asked: ReadOptions) -> LayoutContent:
    budget = asked.budget
    if is_idx(path):
        return open_idx(path, budget)
    ending = path.suffix.lower()
    if ending == ".npy":
        return open_npy(path, budget, labelled=asked.labelled)
    if ending == ".npz":
        return open_npz(path, budget)
    if ending == ".safetensors":
        return open_safetensors(path)
    raise InputError(f"{path} is of no known kind; what is read: {KINDS}")


def _plain(name: str, content: LayoutContent, asked: ReadOptions) -> LayoutContent:
    """An array, which holds moments if the user says so."""
    if asked.layout is None:
        return content
    if asked.layout not in PLAIN_MOMENTS:
        raise InputError(f"{name} is no folder or archive in the layout {asked.layout!r}; drop it")
    asked.mirrors(name, stored=False)
    return replace(content, moments=PLAIN_MOMENTS[asked.layout])


def _whole(path: Path, content: LayoutContent, asked: ReadOptions) -> LayoutContent:
    """A folder, which says itself what it holds."""
    if asked.layout in PLAIN_MOMENTS:
        raise InputError(
            f"layout={asked.layout!r} is for one array or file of moments, not {path}"
        )
    return content
