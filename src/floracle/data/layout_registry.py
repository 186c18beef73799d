"""The layouts that are read, in the order in which they are recognised.

A new layout is a file with a function that opens it, and a row here. The choices of `layout=` and
of the command line, and the list in error messages come from these rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from floracle.run.errors import InputError, suggestion

from .layouts.array_files import open_memory, open_npy, open_npz, open_safetensors
from .layouts.content import LayoutContent, ReadOptions
from .layouts.edm import is_edm, open_edm
from .layouts.fastdit import is_fastdit, open_fastdit
from .layouts.idx import idx_label_files, is_idx, open_idx
from .layouts.labels import label_files
from .layouts.lightningdit import STATS, is_lightningdit, open_lightningdit
from .layouts.mar import is_mar, open_mar
from .layouts.pictures import open_pictures
from .layouts.synthetic import open_digits, open_gaussian
from .packed.reader import PackedStore, is_packed, read_packed
from .rows.source_files import check_exists, explain_read_errors


@dataclass(frozen=True)
class Layout:
    """How the data of a project or format is recognised and opened."""

    name: str
    help: str  # what is read, for messages; empty where another row says it
    open: Callable[[Path, ReadOptions], LayoutContent | PackedStore] | None = None
    """None where files of any format are opened first, and the layout says what they mean."""
    recognize: Callable[[Path], bool] = lambda _: False
    named: bool = False
    """Whether `layout=` may name it; then it is opened without being recognised."""
    own_scale: bool = False
    """Whether its project feeds latents of another standard deviation than 1 to its model."""
    array: bool = False  # whether a file is one array, which holds moments if `layout=` says so
    moments: str | None = None
    """What an array of this layout holds beside means: "std" or "logvar"."""


def _has_ending(ending: str) -> Callable[[Path], bool]:
    return lambda path: path.suffix.lower() == ending


LAYOUTS = (
    Layout("packed", "packed stores", lambda path, _: read_packed(path), is_packed),
    Layout(
        "lightningdit", "latents of LightningDiT", open_lightningdit, is_lightningdit, named=True
    ),
    # EDM2 and REPA write the same files: the first row recognises them and asks whose they are.
    Layout("repa", "REPA", open_edm, is_edm, named=True, own_scale=True),
    Layout("edm2", "EDM2 (folder or .zip)", open_edm, named=True, own_scale=True),
    Layout("fast-dit", "fast-DiT", open_fastdit, is_fastdit, named=True, own_scale=True),
    Layout("idx", "*images-idx3-ubyte (.gz) or a folder of them", open_idx, is_idx, array=True),
    Layout("mar", "MAR", open_mar, is_mar, named=True, own_scale=True),
    Layout("pictures", "folders of pictures, or .zip", open_pictures, Path.is_dir),
    Layout("npy", ".npy", open_npy, _has_ending(".npy"), array=True),
    Layout("npz", ".npz", open_npz, _has_ending(".npz"), array=True),
    Layout(
        "safetensors", ".safetensors", open_safetensors, _has_ending(".safetensors"), array=True
    ),
    Layout("digits", "digits"),
    Layout("gaussian", "gaussian:POINTSxDIMS"),
    Layout("mean-std", "", named=True, moments="std"),
    Layout("mean-logvar", "", named=True, moments="logvar"),
)
"""In the order of recognition."""


def layout_names() -> tuple[str, ...]:
    """What `layout=` may be."""
    return tuple(row.name for row in LAYOUTS if row.named)


def has_own_scale(name: str) -> bool:
    """Whether the project of a layout feeds latents of another standard deviation than 1."""
    return any(row.name == name and row.own_scale for row in LAYOUTS)


def open_layout(data: Any, options: ReadOptions) -> tuple[str, LayoutContent | PackedStore]:
    """A short name of the data and what it holds."""
    named = _find_named(options.layout)
    if isinstance(data, (Tensor, np.ndarray)):
        name = f"array of {str(data.dtype).removeprefix('torch.')} {list(data.shape)}"
        return name, _as_moments(name, open_memory(data), named, options)
    if data == "digits":
        return data, _as_moments(data, open_digits(), named, options)
    if isinstance(data, str) and data.startswith("gaussian:"):
        return data, _as_moments(data, open_gaussian(data, options.budget), named, options)
    if not isinstance(data, (str, Path)) or not str(data):
        raise InputError(f"cannot open a {type(data).__name__}; give a path, tensor or array")
    path = Path(data).expanduser()
    with explain_read_errors(path, "data"):
        return str(data), _open_path(path, named, options)


def companions(data: Any) -> tuple[Path, ...]:
    """Files that are read with one that is named, where they are there: labels, statistics."""
    if not isinstance(data, (str, Path)) or not Path(data).expanduser().is_file():
        return ()
    path = Path(data).expanduser()
    idx_labels = idx_label_files(path) if is_idx(path) else ()
    return (*label_files(path), *idx_labels, path.with_name(STATS))


def _find_named(name: str | None) -> Layout | None:
    if name is not None and name not in layout_names():
        raise InputError(f"there is no layout {name!r}; {suggestion(name, layout_names())}")
    return next((row for row in LAYOUTS if row.name == name), None)


def _open_path(
    path: Path, named: Layout | None, options: ReadOptions
) -> LayoutContent | PackedStore:
    if not path.is_dir():
        check_exists(path)
    if named is not None and named.open is not None:
        return named.open(path, options)
    row = next((row for row in LAYOUTS if row.open and row.recognize(path)), None)
    if row is None or row.open is None:
        kinds = ", ".join(row.help for row in LAYOUTS if row.help)
        raise InputError(f"{path} is of no known kind; what is read: {kinds}")
    content = row.open(path, options)
    if row.array and not path.is_dir() and isinstance(content, LayoutContent):
        return _as_moments(str(path), content, named, options)
    if named is not None:
        raise InputError(f"layout={named.name!r} is for one array or file of moments, not {path}")
    return content


def _as_moments(
    name: str, content: LayoutContent, named: Layout | None, options: ReadOptions
) -> LayoutContent:
    """An array, which holds moments if `layout=` says so."""
    if named is None:
        return content
    if named.moments is None:
        raise InputError(f"{name} is no folder or archive in the layout {named.name!r}; drop it")
    options.check_flips(name, stored=False)
    return replace(content, moments=named.moments)
