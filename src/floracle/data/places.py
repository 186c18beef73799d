"""From what the user names to the layout that reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from floracle.run.errors import Mistake

from .archives import open_npz, open_safetensors
from .arrays import open_memory, open_npy
from .content import Content, check_file, readable
from .idx import is_idx, open_idx, training_images
from .pictures import open_pictures
from .synthetic import open_digits, open_gaussian

KINDS = (
    ".npy, .npz, .safetensors, *images-idx3-ubyte, the same with .gz, folders of pictures or of"
    " idx files, digits, gaussian:POINTSxDIMS"
)


def find_content(where: Any, budget: int) -> tuple[str, Content]:
    """A short name and what was found there."""
    if isinstance(where, (Tensor, np.ndarray)):
        kind = str(where.dtype).removeprefix("torch.")
        return f"array of {kind} {list(where.shape)}", open_memory(where)
    if where == "digits":
        return "digits", open_digits()
    if isinstance(where, str) and where.startswith("gaussian:"):
        return where, open_gaussian(where, budget)
    if not isinstance(where, (str, Path)) or not str(where):
        raise Mistake(f"cannot open a {type(where).__name__}; give a path, tensor or array")
    path = Path(where).expanduser()
    with readable(path, "data"):
        return str(where), _open_path(path, budget)


def _open_path(path: Path, budget: int) -> Content:
    if path.is_dir():
        images = training_images(path)
        return open_idx(images, budget) if images else open_pictures(path, budget)
    check_file(path)
    if is_idx(path):
        return open_idx(path, budget)
    ending = path.suffix.lower()
    if ending == ".npy":
        return open_npy(path)
    if ending == ".npz":
        return open_npz(path, budget)
    if ending == ".safetensors":
        return open_safetensors(path)
    raise Mistake(f"{path} is of no known kind; what is read: {KINDS}")
