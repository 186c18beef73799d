"""Records: small JSON files with their kind, format and version, sealed by a digest.

Settings of runs, results and checkpoints are records. A record that was changed afterwards, or
that is of another kind or format, is refused by name. So is a folder, a pipe or a link in the
place of the file, without waiting for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from floracle.version import VERSION

from .errors import InputError
from .files import digest, read_json, write_json

FORMAT = 2
"""Of all records; floracle 0.1.0 wrote format 1, which has no digest."""
FIELDS = ("kind", "format", "floracle", "digest")
"""What every record has besides its content."""


class OtherFormat(InputError):
    """A record that another version of floracle wrote."""


def write_record(path: Path, kind: str, content: Mapping[str, Any]) -> None:
    """Write a record of values that JSON gives back unchanged."""
    record = {"kind": kind, "format": FORMAT, "floracle": VERSION, **content}
    write_json(path, {**record, "digest": _digest(record)})


def read_record(path: Path, kind: str) -> dict[str, Any]:
    """The content of a record of this kind; anything else in its place is refused."""
    actual_kind, content = read_any_record(path)
    if actual_kind != kind:
        raise InputError(f"{path} is {_with_article(actual_kind)}, not {_with_article(kind)}")
    return content


def read_any_record(path: Path) -> tuple[str, dict[str, Any]]:
    """The kind and the content of a record; anything else in its place is refused."""
    record = read_json(path, links=False)
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        raise InputError(f"{path} is not a record that floracle wrote")
    if record.get("format") != FORMAT or "digest" not in record:
        raise OtherFormat(
            f"{path} is of format {record.get('format')!r}, and this version of floracle reads"
            f" {FORMAT}; read it with floracle {record.get('floracle', '0.1.0')}, or make it again"
        )
    if record.pop("digest") != _digest(record):
        raise InputError(
            f"{path} is damaged: its values are not those that were written; make it again"
        )
    return record["kind"], {name: value for name, value in record.items() if name not in FIELDS}


def is_record(path: Path) -> bool:
    """Whether floracle wrote this file, even if it was damaged since."""
    try:
        record = read_json(path, links=False)
    except InputError:
        return False
    return isinstance(record, dict) and set(FIELDS) <= record.keys()


def _digest(record: Mapping[str, Any]) -> str | None:
    """A digest of the values, independent of the layout of the file; None for infinities."""
    try:
        return digest(json.dumps(record, sort_keys=True, allow_nan=False))
    except (ValueError, RecursionError):
        return None


def _with_article(kind: str) -> str:
    return f"an {kind}" if kind[:1] in "aeiou" else f"a {kind}"
