"""The files of a packed store: tensors streamed into them, hashes, what is known to be whole.

Tensors are in the .safetensors format, whatever a file is called. A file is *sealed* by its size
and SHA-256. Hashing everything takes as long as reading it, so `verified.json` keeps the size, the
time and the number of every file that was found whole; one where these have not changed is not
hashed again. Bits that rot on the disk change none of the three: that is what `verify` is for.
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

from floracle.data.rows.rows import as_bytes
from floracle.data.rows.source_files import open_source, record_file
from floracle.run.errors import InputError
from floracle.run.files import read_json, write_aside, write_json
from floracle.run.progress import track

OWN_FOLDER = "floracle"
"""The folder inside a packed store that holds what is ours."""
UNFINISHED = f"{OWN_FOLDER}/unfinished"
"""The folder of a store that is being packed, or encoded."""
RECORD = f"{OWN_FOLDER}/verified.json"
CHUNK = 2**22
THREADS = min(4, os.cpu_count() or 1)
NAMES = {
    torch.uint8: "U8",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
}
Stamp = list[int]


@dataclass(frozen=True)
class StoreFile:
    """A file, by its name inside the store, and what it must hold."""

    name: str
    size: int
    sha256: str
    rows: int = 0
    """Of a shard, its points without their mirrors."""


@dataclass(frozen=True)
class TensorStream:
    """A tensor that comes in blocks."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    blocks: Iterable[Tensor]


def one_block(tensor: Tensor) -> TensorStream:
    """A tensor at hand as a stream of one block."""
    return TensorStream(tensor.dtype, tuple(tensor.shape), (tensor,))


def write_tensors(
    folder: Path, name: str, tensors: Mapping[str, TensorStream], metadata: Mapping[str, str]
) -> StoreFile:
    """Write a file in the .safetensors format, block by block; wide types belong first."""
    path, state = folder / name, hashlib.sha256()
    with write_aside(path) as aside:
        with aside.open("wb", buffering=0) as file, ThreadPoolExecutor(1) as pool:
            for content in _contents(tensors, metadata):
                hashed = pool.submit(state.update, content)
                append(file, content)
                hashed.result()
        size = aside.stat().st_size
    return StoreFile(name, size, state.hexdigest())


def append(file: FileIO, content: memoryview) -> None:
    """Write all of it."""
    done = 0
    while done < len(content):
        done += file.write(content[done:])


def _contents(
    tensors: Mapping[str, TensorStream], metadata: Mapping[str, str]
) -> Iterable[memoryview]:
    yield memoryview(_header(tensors, metadata))
    for name, tensor in tensors.items():
        left = prod(tensor.shape) * tensor.dtype.itemsize
        for block in tensor.blocks:
            content = as_bytes(block.contiguous())
            left -= len(content)
            yield content
        if left:
            raise ValueError(f"{name} was to be {tensor.shape}; its blocks are {-left} bytes off")


def _header(tensors: Mapping[str, TensorStream], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name, tensor in tensors.items():
        end = place + prod(tensor.shape) * tensor.dtype.itemsize
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, end],
        }
        place = end
    words = json.dumps(header, separators=(",", ":")).encode()
    words += b" " * (-len(words) % 8)
    return len(words).to_bytes(8, "little") + words


def sha256_of(path: Path) -> str:
    """Of a whole file, read in chunks."""
    state, chunk = hashlib.sha256(), bytearray(CHUNK)
    with open_source(path) as file:
        while got := file.readinto(chunk):
            state.update(memoryview(chunk)[:got])
    return state.hexdigest()


def stamp(path: Path) -> Stamp:
    """How a file looks, as JSON has it."""
    return list(record_file(path))


def stamps_of(folder: Path, files: Iterable[StoreFile]) -> dict[str, Stamp]:
    """How those files of a store that are there look, by their names inside it."""
    paths = {file.name: folder / file.name for file in files}
    return {name: stamp(path) for name, path in paths.items() if path.is_file()}


def flaws(folder: Path, files: Sequence[StoreFile], *, quiet: bool = False) -> list[str]:
    """What is wrong with the content of files, one sentence for each bad one."""
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda file: flaw(folder, file), files)
        watched = track(found, "checking", len(files), quiet=quiet)
        return [words for words in watched if words]


def flaw(folder: Path, file: StoreFile) -> str | None:
    """What is wrong with one file, if anything is."""
    if sizes := misfits(folder, [file]):
        return sizes[0]
    path = folder / file.name
    found = sha256_of(path)
    if found == file.sha256:
        return None
    return f"{path} is damaged: its SHA-256 is {found[:16]}…, not {file.sha256[:16]}…"


def misfits(folder: Path, files: Iterable[StoreFile]) -> list[str]:
    """Files that are missing or of another size than they must have."""
    found = []
    for file in files:
        path = folder / file.name
        held = path.stat().st_size if path.is_file() else None
        if held is None:
            found.append(f"{path} is missing")
        elif held != file.size:
            kind = "is cut short" if held < file.size else "goes on too long"
            found.append(f"{path} {kind}: {held} bytes where {file.size} belong")
    return found


def read_record(folder: Path) -> dict[str, Any]:
    """What was found whole before; empty where nothing readable was kept."""
    with suppress(OSError, ValueError):
        found = read_json(folder / RECORD)
        if isinstance(found, dict) and isinstance(found.get("files"), dict):
            return found
    return {"files": {}}


def changed(
    files: Iterable[StoreFile], stamps: Mapping[str, Stamp], record: Mapping[str, Any]
) -> list[StoreFile]:
    """Files that are not as they were when they were last found whole."""
    whole_then = record["files"]
    return [file for file in files if whole_then.get(file.name) != _seal(file, stamps)]


def write_record(
    folder: Path, files: Iterable[StoreFile], stamps: Mapping[str, Stamp], source: str | None
) -> bool:
    """Keep that these files are whole; False where the folder cannot be written to.

    The stamps are those from before the files were hashed: one that changed meanwhile is unlike
    its stamp, and is hashed again.
    """
    return _write(folder, {file.name: _seal(file, stamps) for file in files}, source)


def remember_source(folder: Path, source: str | None) -> bool:
    """Keep how the files of the packed data look now, and nothing else."""
    return _write(folder, read_record(folder)["files"], source)


def _seal(file: StoreFile, stamps: Mapping[str, Stamp]) -> list[Any]:
    return [file.sha256, *stamps[file.name]]


def _write(folder: Path, files: Mapping[str, Any], source: str | None) -> bool:
    try:
        write_json(folder / RECORD, {"files": files, "source": source})
    except (OSError, InputError):
        return False
    return True
