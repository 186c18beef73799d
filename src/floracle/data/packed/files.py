"""The files of a store: streams of tensors, hashes, and which files are known to be undamaged.

Tensors are in the .safetensors format, whatever a file is called. A store records the size and
SHA-256 of each of its files. Hashing everything takes as long as reading it, so `verified.json`
keeps the size, time and inode of every file whose hash was right; while these stay the same, the
file is not hashed again. Bits that rot on the disk change none of the three: `verify` finds those.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from floracle.data.destination import OWN_FOLDER
from floracle.data.rows.rows import as_bytes
from floracle.data.rows.source_files import open_source, record_file
from floracle.run.errors import InputError
from floracle.run.files import read_json, write_aside, write_json
from floracle.run.progress import track

VERIFIED = f"{OWN_FOLDER}/verified.json"
HASHED_CHUNK_BYTES = 2**22
HASHING_THREADS = min(4, os.cpu_count() or 1)
DTYPE_NAMES = {
    torch.uint8: "U8",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
}
"""Types by their names in the header of a .safetensors file."""


@dataclass(frozen=True)
class StoreFile:
    """A file of a store: its name inside the store, and its size and hash."""

    name: str
    size: int
    sha256: str
    rows: int = 0
    """Of a shard, its points without their mirrors."""


@dataclass(frozen=True)
class TensorStream:
    """A tensor that is written block by block."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    blocks: Iterable[Tensor]


def one_block(tensor: Tensor) -> TensorStream:
    """A tensor in memory as a stream of one block."""
    return TensorStream(tensor.dtype, tuple(tensor.shape), (tensor,))


# Writing ------------------------------------------------------------------------------------


def write_tensors(
    folder: Path, name: str, tensors: Mapping[str, TensorStream], metadata: Mapping[str, str]
) -> StoreFile:
    """Write a .safetensors file block by block; wide types first, so that all are aligned."""
    path, state = folder / name, hashlib.sha256()
    with write_aside(path) as aside:
        with aside.open("wb", buffering=0) as file, ThreadPoolExecutor(1) as pool:
            for content in _file_contents(tensors, metadata):
                # hashing lets go of the interpreter's lock: it runs while the disk is written
                hashing = pool.submit(state.update, content)
                append(file, content)
                hashing.result()
        size = aside.stat().st_size
    return StoreFile(name, size, state.hexdigest())


def append(file: FileIO, content: memoryview) -> None:
    """Write all of the content; an unbuffered file may take a part of it at a time."""
    written = 0
    while written < len(content):
        written += file.write(content[written:])


def _file_contents(
    tensors: Mapping[str, TensorStream], metadata: Mapping[str, str]
) -> Iterable[memoryview]:
    yield memoryview(_file_header(tensors, metadata))
    for name, tensor in tensors.items():
        missing_bytes = prod(tensor.shape) * tensor.dtype.itemsize
        for block in tensor.blocks:
            content = as_bytes(block.contiguous())
            missing_bytes -= len(content)
            yield content
        if missing_bytes:
            raise ValueError(f"the blocks of {name} {tensor.shape} are {-missing_bytes} bytes off")


def _file_header(tensors: Mapping[str, TensorStream], metadata: Mapping[str, str]) -> bytes:
    """The length of the header (8 bytes, little-endian) and the header in JSON, padded to 8."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name, tensor in tensors.items():
        end = start + prod(tensor.shape) * tensor.dtype.itemsize
        header[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


# Checking -----------------------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    state, chunk = hashlib.sha256(), bytearray(HASHED_CHUNK_BYTES)
    with open_source(path) as file:
        while count := file.readinto(chunk):
            state.update(memoryview(chunk)[:count])
    return state.hexdigest()


def find_all_damage(folder: Path, files: Sequence[StoreFile], *, quiet: bool = False) -> list[str]:
    """Hash files; one sentence for each that is missing, cut short or damaged."""
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        sentences = pool.map(lambda file: find_damage(folder, file), files)
        return [text for text in track(sentences, "checking", len(files), quiet=quiet) if text]


def find_damage(folder: Path, file: StoreFile) -> str | None:
    """What is wrong with one file; None if its hash is right."""
    if fault := find_wrong_size(folder, file):
        return fault
    sha256 = sha256_of(folder / file.name)
    if sha256 == file.sha256:
        return None
    return (
        f"{folder / file.name} is damaged: its SHA-256 is {sha256[:16]}…, not {file.sha256[:16]}…"
    )


def find_wrong_size(folder: Path, file: StoreFile) -> str | None:
    """A sentence on a file that is missing or of another size than recorded; None for others."""
    path = folder / file.name
    if not path.is_file():
        return f"{path} is missing"
    size = path.stat().st_size
    fault = "is cut short" if size < file.size else "is too long"
    return None if size == file.size else f"{path} {fault}: {size} bytes instead of {file.size}"


# What was verified --------------------------------------------------------------------------


def verified_entries(folder: Path, files: Iterable[StoreFile]) -> dict[str, list[Any]]:
    """By name, the recorded hash of each file that exists and how it looks now."""
    paths = {file: folder / file.name for file in files}
    return {
        file.name: [file.sha256, *record_file(path)]
        for file, path in paths.items()
        if path.is_file()
    }


def read_verified(folder: Path) -> dict[str, Any]:
    """The content of verified.json; no files if it is missing or damaged."""
    with suppress(OSError, ValueError):
        verified = read_json(folder / VERIFIED)
        if isinstance(verified, dict) and isinstance(verified.get("files"), dict):
            return verified
    return {"files": {}}


def write_verified(folder: Path, entries: Mapping[str, Any], source: str | None) -> bool:
    """Record that the hashes of these files are right; False if the folder is not writable.

    The entries are those from before hashing: a file that changed during it is hashed again.
    """
    try:
        write_json(folder / VERIFIED, {"files": entries, "source": source})
    except (OSError, InputError):
        return False
    return True
