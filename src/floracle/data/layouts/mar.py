"""The cache of MAR: `CACHE/<class>/<name>.npz`, one file a sample, a folder for each class.

Every file holds `moments` and `moments_flip` [2C, H, W] = [mean ‖ log variance] of a picture and
of its mirror. The model is fed draws times 0.2325.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from floracle.data.normalize import scale_normalizer
from floracle.data.rows.rows import hold_if_fits
from floracle.data.rows.source_files import explain_read_errors, open_source
from floracle.run.errors import InputError

from .containers import Container, check_members, open_container, stack_files
from .content import LayoutContent, ReadOptions, describe_unused
from .npy import parse_npy

SCALE = 0.2325  # of MAR's KL-16 autoencoder
KEYS = ("moments", "moments_flip")

KeyAndName = tuple[str, str]
"""One array of one file."""


def is_mar(folder: Path) -> bool:
    """Whether the first class folder holds .npz files with moments."""
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        files = sorted(entry.glob("*.npz")) if entry.is_dir() else []
        if files:
            with (
                explain_read_errors(entry, "a cache"),
                open_source(files[0]) as file,
                zipfile.ZipFile(file) as archive,
            ):
                return f"{KEYS[0]}.npy" in archive.namelist()
    return False


def is_mar_sample(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the arrays of a file are those of one sample, moments [2C, H, W]."""
    return len(shapes.get(KEYS[0], ())) == 3


def open_mar(path: Path, options: ReadOptions) -> LayoutContent:
    """All samples; mirrors follow as rows N ... 2N − 1 where they are points."""
    folder, budget = path, options.file_budget
    if path.suffix == ".npz" and path.is_file():  # one sample alone, which has no class
        container, names = Container(path.parent, (path.name,)), [path.name]
        folder, labels, classes = path.parent, None, []
    else:
        container = open_container(folder, budget)
        names = [name for name in container.names if name.endswith(".npz")]
        if not names or any(name.count("/") != 1 for name in names):
            raise InputError(f"{folder} should hold CLASS/NAME.npz, one folder for each class")
        folders = [name.split("/")[0] for name in names]
        classes = sorted(set(folders))
        ranks = {name: rank for rank, name in enumerate(classes)}
        labels = torch.tensor([ranks[name] for name in folders])
    with _open_sample(container, names[0], budget) as (_, arrays):
        flips = options.check_flips(folder, stored=f"{KEYS[1]}.npy" in arrays)
        others = [f"{key[:-4]!r}" for key in sorted(arrays) if key[:-4] not in KEYS]

    def load(array: KeyAndName, max_bytes: int) -> np.ndarray:
        key, name = array
        with _open_sample(container, name, max_bytes) as (archive, arrays):
            if f"{key}.npy" not in arrays:
                raise InputError(f"{folder}/{name} holds no {key}; it is no cache of MAR")
            return parse_npy(archive.read(f"{key}.npy"), f"{folder}/{name}: {key}")

    # rows 0 ... N − 1 are the samples, N ... 2N − 1 their mirrors
    pairs = [(key, name) for key in KEYS[: 1 + flips] for name in names]
    rows = stack_files(pairs, load, lambda pair: f"{folder}/{pair[1]}: {pair[0]}", budget)
    return LayoutContent(
        hold_if_fits(rows, options.budget),
        "mar",
        labels,
        tuple(classes),
        normalizer=scale_normalizer(SCALE) if options.stored else None,
        moments="logvar",
        flips=flips,
        remarks=describe_unused(others, f"{container.path / names[0]}"),
    )


@contextmanager
def _open_sample(
    container: Container, name: str, max_bytes: int
) -> Iterator[tuple[zipfile.ZipFile, set[str]]]:
    """The archive of one sample, no larger than `max_bytes`, and the files in it."""
    path = container.path / name
    with (
        explain_read_errors(path, "an .npz archive"),
        zipfile.ZipFile(io.BytesIO(container.read(name, max_bytes))) as archive,
    ):
        yield archive, set(check_members(archive, path, max_bytes))
