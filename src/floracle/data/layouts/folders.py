"""Walking folders: everything below one, without what is hidden and without going in circles."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from floracle.run.errors import InputError

FILES = {".npy", ".npz", ".safetensors", ".json", ".png", ".jpg", ".jpeg", ".webp"}
"""Endings of names that only files of data have."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder is the system's own."""
    return name.startswith(".") or name == "__MACOSX"


def below(folder: Path) -> Iterator[Path]:
    """All files below a folder but hidden ones; a folder that links reach twice is read once."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        shown = [Path(place, name) for name in folders if not is_hidden(name)]
        for each in shown:
            check_folder(each)
        folders[:] = [each.name for each in shown if not leads_back(each, folder.parent)]
        yield from (Path(place, name) for name in files if not is_hidden(name))


def check_folder(entry: Path) -> None:
    """Refuse a folder where a file belongs: passed over, its row would be missing unnoticed."""
    if entry.suffix.lower() in FILES:
        raise InputError(f"{entry} is a folder, where its name says file; rename or remove it")


def leads_back(entry: Path, folder: Path) -> bool:
    """Whether a link points to the folder itself or above it."""
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(entry))
