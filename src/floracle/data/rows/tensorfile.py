"""The .safetensors format: a length, a JSON header, then the bytes of all tensors.

The header gives every tensor a type, a shape and its place among the bytes; places follow each
other without gaps and end with the file. A header that says otherwise is refused, so nothing is
ever read beyond what is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from floracle.run.errors import InputError

from .file_rows import Piece, rows_at
from .rows import Rows
from .source_files import SourceFile, check_exists, explain_read_errors, open_source, source_file

MAX_HEADER_BYTES = 2**20
LENGTH_BYTES = 8  # a little-endian integer before the header
MAX_AXES = 32  # numpy has no more
DTYPES = {
    "BOOL": "?",
    "U8": "u1",
    "U16": "u2",
    "U32": "u4",
    "U64": "u8",
    "I8": "i1",
    "I16": "i2",
    "I32": "i4",
    "I64": "i8",
    "F16": "f2",
    "BF16": "u2",  # numpy has none; torch reads the same two bytes
    "F32": "f4",
    "F64": "f8",
}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file."""

    dtype: str  # as the header writes it: F32, BF16, ...
    shape: tuple[int, ...]
    start: int  # its first byte in the file
    end: int


@dataclass(frozen=True)
class TensorFile:
    """What a header declares."""

    file: SourceFile
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self.file.path

    def rows(self, *names: str) -> tuple[Rows, ...]:
        """Tensors by name, read when they are indexed."""
        return tuple(self._rows(self.entries[name]) for name in names)

    def piece(self, name: str) -> Piece:
        """Where the rows of a tensor lie."""
        entry = self.entries[name]
        return Piece(self.file, entry.start, entry.shape[0])

    def _rows(self, entry: Entry) -> Rows:
        dtype = torch.bfloat16 if entry.dtype == "BF16" else None
        kind = np.dtype(DTYPES[entry.dtype])
        return rows_at(self.file, entry.start, entry.shape, kind, dtype=dtype)


def read_header(path: Path) -> TensorFile:
    """The tensors of a .safetensors file, none of them read."""
    check_exists(path)
    with explain_read_errors(path, "a .safetensors file"):
        with open_source(path) as file:
            source = source_file(path, file)
            size, length = source.state.size, int.from_bytes(file.read(LENGTH_BYTES), "little")
            if size < LENGTH_BYTES or length > min(MAX_HEADER_BYTES, size - LENGTH_BYTES):
                raise InputError(
                    f"{path} is cut short or damaged: its header claims {length} bytes"
                )
            header = json.loads(file.read(length), object_pairs_hook=_refuse_repeated)
        if not isinstance(header, dict):
            raise InputError(f"{path} is damaged: its header is no list of tensors")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            raise InputError(f"{path} is damaged: its metadata are no texts by name")
        begin = LENGTH_BYTES + length
        entries = {key: _parse_entry(path, key, value, begin) for key, value in header.items()}
        _check_places(path, list(entries.values()), begin, size)
    return TensorFile(source, entries, metadata)


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    by_name = dict(pairs)
    if len(by_name) < len(pairs):  # json would keep the last one
        raise ValueError("a name stands in the header twice")
    return by_name


def _parse_entry(path: Path, key: str, value: Any, begin: int) -> Entry:
    """One tensor as the header describes it; its bytes count from `begin`."""
    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= set(value):
        raise InputError(f"{path} is damaged: {key!r} has no type, shape and place")
    dtype, shape, span = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InputError(f"{path}: {key!r} is of type {dtype!r}; types read: {', '.join(DTYPES)}")
    if not (_are_sizes(shape) and _are_sizes(span) and len(span) == 2):
        raise InputError(f"{path} is damaged: {key!r} has shape {shape!r} at {span!r}")
    needed, size = prod(shape) * np.dtype(DTYPES[dtype]).itemsize, span[1] - span[0]
    if size != needed:
        raise InputError(
            f"{path} is damaged: {key!r} {shape} takes {needed} bytes, but its place {span} has"
            f" {size}"
        )
    return Entry(dtype, tuple(shape), begin + span[0], begin + span[1])


def _are_sizes(values: Any) -> bool:
    """Whether these are sizes as an axis or a file may have them; a bool is none."""
    if not isinstance(values, list) or len(values) > MAX_AXES:
        return False
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


def _check_places(path: Path, entries: list[Entry], begin: int, size: int) -> None:
    """Refuse tensors that overlap, leave gaps or end elsewhere than the file."""
    end = begin
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.end)):
        if entry.start != end:
            flaw = "overlap" if entry.start < end else "leave a gap"
            raise InputError(f"{path} is damaged: its tensors {flaw} at byte {end}")
        end = entry.end
    if end != size:
        raise InputError(f"{path} is cut short or damaged: {size} bytes where {end} should be")
