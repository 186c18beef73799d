"""Folders and .zip archives of EDM's kind, with a dataset.json: pictures, or moments of latents.

EDM2 and REPA store `00000/img-mean-std-00000000.npy` [2C, H, W] = [mean ‖ std] in one and the same
way and feed them differently, so the user says whose they are:

    REPA   z · 0.18215                         (its autoencoder saw pixels in [−1, 1])
    EDM2   z · scale + bias, scale = 0.5 / std, bias = −mean · scale, per channel

`dataset.json` is {"labels": [["00000/img00000000.png", 6], ...]}, or has null for labels.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from floracle.data.normalize import Normalizer, multiplied
from floracle.data.rows.joined import Filed, held
from floracle.run.errors import InputError

from .arrays import MOST_HEADER, parsed
from .containers import Container, Member, open_container
from .content import LayoutContent, readable, shared
from .labels import checked
from .pictures import is_picture_file, open_members
from .read_options import ReadOptions

INDEX = "dataset.json"
LEAST_INDEX = 2**20
OWN = "vae-sd"
MOMENTS = re.compile(r"(.*/)?img-mean-std-\d+\.npy")
REPA_SCALE = 0.18215
EDM2_MEAN = (5.81, 3.25, 0.12, -2.15)
EDM2_STD = (4.17, 4.62, 3.71, 3.28)
EDM2_FINAL_STD = 0.5


def is_edm(path: Path) -> bool:
    """Whether a folder has a dataset.json, or moments by their name, there or in `vae-sd`."""
    if not path.is_dir():
        return path.suffix.lower() == ".zip"
    places = (path, path / OWN)
    return any(os.path.lexists(place / INDEX) or _first_moments(place) for place in places)


def _first_moments(folder: Path) -> bool:
    return any(MOMENTS.fullmatch(f"{file.name}") for file in folder.glob("*/img-mean-std-*"))


def open_edm(path: Path, asked: ReadOptions) -> LayoutContent:
    """Moments where there are any, else pictures with their labels."""
    path = path / OWN if (path / OWN).is_dir() else path
    box = open_container(path, asked.room)
    arrays = [name for name in box.names if name.endswith(".npy")]
    if arrays:
        return _moments(box, arrays, asked)
    if asked.layout is not None:
        raise InputError(
            f"{path} holds no moments, so layout={asked.layout!r} says nothing; drop it"
        )
    pictures = [name for name in box.names if is_picture_file(Path(name))]
    if not pictures:
        raise InputError(f"{path} holds neither pictures nor img-mean-std-....npy")
    labels, classes = _labels(box, pictures, asked.room)
    members = tuple(Member(box, name) for name in pictures)
    return open_members(members, labels, classes, asked.budget)


def _moments(box: Container, names: Sequence[str], asked: ReadOptions) -> LayoutContent:
    if asked.layout not in ("repa", "edm2"):
        raise InputError(
            f"{box.path} holds moments as REPA and EDM2 both write them, but each feeds them"
            " differently; say layout='repa' or layout='edm2'"
        )
    asked.mirrors(box.path, stored=False)
    rows = arrays_of(box, names, asked.room)
    labels, classes = _labels(box, names, asked.room)
    return LayoutContent(
        held(rows, asked.budget),
        asked.layout,
        labels,
        classes,
        normalizer=own_normalizer(asked.layout, rows.shape[1] // 2) if asked.stored else None,
        moments="std",
    )


def arrays_of(box: Container, names: Sequence[str], budget: int) -> Filed[str]:
    """One .npy file a row, all of them of the shape and type of the first."""
    first = parsed(box.read(names[0], budget), f"{box.path}: {names[0]}")
    load = partial(_array, box, first.shape, first.dtype)
    if not first.size or not first.ndim:
        raise InputError(f"{box.path}: {names[0]} is empty: its shape is {first.shape}")
    return Filed(names, load, (len(names), *first.shape), shared(first[None]).dtype)


def _array(box: Container, shape: tuple[int, ...], dtype: np.dtype, name: str) -> np.ndarray:
    most = int(np.prod(shape)) * dtype.itemsize + 2 * MOST_HEADER
    array = parsed(box.read(name, most), f"{box.path}: {name}")
    if (array.shape, array.dtype) != (shape, dtype):
        raise InputError(
            f"{box.path}: {name} is {array.dtype} {list(array.shape)}, but the first file is"
            f" {dtype} {list(shape)}; keep one kind"
        )
    return array


def own_normalizer(layout: str, channels: int) -> Normalizer:
    """How REPA and EDM2 feed their latents; EDM2's numbers are for the 4 channels of its own."""
    if layout == "repa":
        return multiplied(REPA_SCALE)
    mean, std = torch.tensor(EDM2_MEAN), torch.tensor(EDM2_STD)
    if channels != len(mean):
        raise InputError(f"EDM2 knows 4 channels, these are {channels}; say normalize='raw'")
    scale = torch.tensor(EDM2_FINAL_STD) / std
    return multiplied(scale, -(mean * scale))


def _labels(
    box: Container, names: Sequence[str], budget: int
) -> tuple[Tensor | None, tuple[str, ...]]:
    """Labels from dataset.json; without it no labels, or those of class folders."""
    if INDEX not in box.names:
        return _labels_by_folder(box.path, names)
    where = f"{box.path}: {INDEX}"
    with readable(where, "an index"):
        content = json.loads(box.read(INDEX, max(budget // 16, LEAST_INDEX)))
        labels = content.get("labels") if isinstance(content, dict) else None
        if not isinstance(content, dict) or "labels" not in content:
            raise InputError(
                f'{where} has no labels; it should read {{"labels": [[name, class], ...]}}'
            )
        if labels is None:
            return None, ()
        by_name = _by_name(labels, where)
        missing = [name for name in names if name not in by_name]
        strangers = by_name.keys() - set(names)
        if missing or strangers:
            flaw = f"no label for {missing[0]!r}" if missing else f"no file {min(strangers)!r}"
            raise InputError(f"{where} does not fit: there is {flaw}; is something missing?")
        return checked([by_name[name] for name in names], len(names), f"labels in {where}"), ()


def _by_name(labels: Any, where: str) -> dict[str, int]:
    """Classes by file name; null is none, and lists are embeddings."""
    if not isinstance(labels, list):
        raise InputError(f"{where}: its labels are no list")
    found: dict[str, int] = {}
    for pair in labels:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise InputError(f"{where} holds {str(pair)[:80]}, which is no [name, class]")
        name, label = pair[0].replace("\\", "/"), pair[1]
        if isinstance(label, list):
            raise InputError(
                f"{where} labels {name!r} by an embedding; such conditions are not read"
            )
        if label is not None and type(label) is not int:
            raise InputError(f"{where} labels {name!r} by {label!r}; classes are whole numbers")
        if name in found:
            raise InputError(f"{where} labels {name!r} twice")
        found[name] = -1 if label is None else label
    return found


def _labels_by_folder(path: Path, names: Sequence[str]) -> tuple[Tensor | None, tuple[str, ...]]:
    """Ranks of class folders; the numbered folders of EDM are none."""
    folders = [name.split("/")[0] if "/" in name else "" for name in names]
    classes = sorted(set(folders))
    if "" in classes and len(classes) > 1:
        raise InputError(f"{path} holds files both loose and in class folders; keep one kind")
    if classes == [""] or all(re.fullmatch(r"\d{5}", each) for each in classes):
        return None, ()
    return torch.tensor([classes.index(each) for each in folders]), tuple(classes)
