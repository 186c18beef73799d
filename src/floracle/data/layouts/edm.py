"""Folders and .zip archives of EDM's kind, with a dataset.json: pictures, or moments of latents.

EDM2 and REPA store `00000/img-mean-std-00000000.npy` [2C, H, W] = [mean ‖ std] in one and the same
way and feed them differently, so the option `layout` says whose they are:

    REPA   z · 0.18215                         (its autoencoder saw pixels in [−1, 1])
    EDM2   z · scale + bias, scale = 0.5 / std, bias = −mean · scale, per channel

`dataset.json` is {"labels": [["00000/img00000000.png", 6], ...]}, or has null for labels.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from floracle.data.normalize import Normalizer, scale_normalizer
from floracle.data.rows.rows import ComputedRows, hold_if_fits
from floracle.data.rows.source_files import explain_read_errors
from floracle.run.errors import InputError

from .containers import Container, Member, open_container, stack_files
from .content import LayoutContent, ReadOptions, describe_unused
from .labels import check_labels
from .npy import parse_npy
from .pictures import describe_unread, is_picture_file, open_picture_files, read_pictures

INDEX = "dataset.json"
MIN_INDEX_BYTES = 2**20  # for the index, however small the budget
LATENTS_FOLDER = "vae-sd"  # where REPA's scripts put them
MOMENTS = re.compile(r"(.*/)?img-mean-std-\d+\.npy")
# Constants of the two projects: of Stable Diffusion's autoencoder, and of EDM2 for its latents.
REPA_SCALE = 0.18215
EDM2_MEAN = (5.81, 3.25, 0.12, -2.15)
EDM2_STD = (4.17, 4.62, 3.71, 3.28)
EDM2_FINAL_STD = 0.5


def is_edm(path: Path) -> bool:
    """Whether a folder has a dataset.json, or moments by their name, there or in `vae-sd`."""
    if not path.is_dir():
        return path.suffix.lower() == ".zip" or bool(MOMENTS.fullmatch(path.name))
    return any(
        os.path.lexists(folder / INDEX)
        or any(MOMENTS.fullmatch(file.name) for file in folder.glob("*/img-mean-std-*"))
        for folder in (path, path / LATENTS_FOLDER)
    )


def open_edm(path: Path, options: ReadOptions) -> LayoutContent:
    """Moments where there are any, else pictures with their labels."""
    path = path / LATENTS_FOLDER if (path / LATENTS_FOLDER).is_dir() else path
    if MOMENTS.fullmatch(path.name) and path.is_file():  # one sample alone
        return _open_moments(Container(path.parent, (path.name,)), [path.name], options)
    container = open_container(path, options.file_budget)
    if LATENTS_FOLDER in container.folders:
        container = container.below(LATENTS_FOLDER)
    arrays = [name for name in container.names if name.endswith(".npy")]
    pictures = [name for name in container.names if is_picture_file(name)]
    if arrays and (options.layout is not None or MOMENTS.fullmatch(arrays[0]) or not pictures):
        return _open_moments(container, arrays, options)
    if options.layout is not None:
        raise InputError(f"{path} holds no moments, so layout={options.layout!r} does not fit")
    if not pictures:
        others = [name for name in container.names if name.endswith((".npz", ".safetensors"))]
        advice = f"; it holds {others[0]}: unpack it" if others else ""
        raise InputError(f"{path} holds neither pictures nor img-mean-std-....npy{advice}")
    if INDEX not in container.names:
        return read_pictures(container, options)
    labels, remarks = _read_index(container, pictures, options.file_budget)
    files = tuple(Member(container, name) for name in pictures)
    content = open_picture_files(files, labels, (), options.budget)
    unread = describe_unread([name for name in container.names if name not in {INDEX, *pictures}])
    return replace(content, remarks=content.remarks + remarks + unread)


def _open_moments(
    container: Container, names: Sequence[str], options: ReadOptions
) -> LayoutContent:
    strange = next((name for name in names if not MOMENTS.fullmatch(name)), None)
    if options.layout is None and strange is not None:
        raise InputError(
            f"{container.path} holds {strange}, and of arrays only moments are read from here,"
            " img-mean-std-....npy; unpack it and name one file, or write all points into one"
        )
    if options.layout not in ("repa", "edm2"):
        raise InputError(
            f"{container.path} holds moments as REPA and EDM2 both write them, but each feeds them"
            " differently; say layout='repa' or layout='edm2'"
        )
    options.check_flips(container.path, stored=False)
    rows = stack_npy_files(container, names, options.file_budget)
    labels, classes, remarks = None, (), ()
    if INDEX in container.names:
        labels, remarks = _read_index(container, names, options.file_budget)
    else:
        labels, classes = _labels_by_folder(container.path, names)
    channels = rows.shape[1] // 2
    return LayoutContent(
        hold_if_fits(rows, options.budget),
        options.layout,
        labels,
        classes,
        normalizer=_normalizer(options.layout, channels) if options.stored else None,
        moments="std",
        remarks=remarks,
    )


def stack_npy_files(container: Container, names: Sequence[str], budget: int) -> ComputedRows:
    """One .npy file a row, all of them of the shape and type of the first."""

    def load(name: str, max_bytes: int) -> np.ndarray:
        return parse_npy(container.read(name, max_bytes), f"{container.path}: {name}")

    return stack_files(names, load, lambda name: f"{container.path}: {name}", budget)


def _normalizer(layout: str, channels: int) -> Normalizer:
    if layout == "repa":
        return scale_normalizer(REPA_SCALE)
    mean, std = torch.tensor(EDM2_MEAN), torch.tensor(EDM2_STD)
    if channels != len(mean):
        raise InputError(f"EDM2 knows 4 channels, these are {channels}; say normalize='raw'")
    scale = torch.tensor(EDM2_FINAL_STD) / std
    return scale_normalizer(scale, -(mean * scale))


def _read_index(
    container: Container, names: Sequence[str], budget: int
) -> tuple[Tensor | None, tuple[str, ...]]:
    """Labels from dataset.json, and what else stands in it."""
    index = f"{container.path}: {INDEX}"
    with explain_read_errors(index, "an index"):
        content = json.loads(container.read(INDEX, max(budget // 16, MIN_INDEX_BYTES)))
        if not isinstance(content, dict) or "labels" not in content:
            raise InputError(f'{index} has no labels; write {{"labels": [[name, class], ...]}}')
        remarks = describe_unused([key for key in content if key != "labels"], INDEX)
        if content["labels"] is None:
            return None, remarks
        by_name = _parse_labels(content["labels"], index)
        missing = [name for name in names if name not in by_name]
        unknown = by_name.keys() - set(names)
        if missing or unknown:
            flaw = f"no label for {missing[0]!r}" if missing else f"no file {min(unknown)!r}"
            raise InputError(f"{index} does not fit: there is {flaw}; is something missing?")
        labels = [by_name[name] for name in names]
        return check_labels(labels, len(names), f"labels in {index}"), remarks


def _parse_labels(pairs: Any, index: str) -> dict[str, int]:
    """Classes by file name; null is none, and lists are embeddings."""
    if not isinstance(pairs, list):
        raise InputError(f"{index}: its labels are no list")
    by_name: dict[str, int] = {}
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise InputError(f"{index} holds {str(pair)[:80]}, which is no [name, class]")
        name, label = pair[0].replace("\\", "/"), pair[1]
        if isinstance(label, list):
            raise InputError(f"{index} labels {name!r} by an embedding; only classes are read")
        if label is not None and type(label) is not int:
            raise InputError(f"{index} labels {name!r} by {label!r}; classes are whole numbers")
        if name in by_name:
            raise InputError(f"{index} labels {name!r} twice")
        by_name[name] = -1 if label is None else label
    return by_name


def _labels_by_folder(path: Path, names: Sequence[str]) -> tuple[Tensor | None, tuple[str, ...]]:
    """Ranks of class folders; the numbered folders of EDM are no classes."""
    folders = [name.split("/")[0] if "/" in name else "" for name in names]
    classes = sorted(set(folders))
    if "" in classes and len(classes) > 1:
        raise InputError(f"{path} holds files both loose and in class folders; keep one kind")
    if classes == [""] or all(re.fullmatch(r"\d{5}", folder) for folder in classes):
        return None, ()
    return torch.tensor([classes.index(folder) for folder in folders]), tuple(classes)
