"""Records: small JSON files that say what they are, sealed by a digest of their own content.

Settings of runs, results, checkpoints and manifests are all kept this way. A record whose bytes
or values were changed afterwards, of another kind or of another version, is refused by name; so is
a folder, a pipe or a link in the place of the file, and none of them is waited for.
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
"""The version of all records; 0.1.0 wrote files of format 1, whose values had no digest."""
OURS = ("kind", "format", "floracle", "digest")
"""Names that every record has besides its content."""


class OtherFormat(InputError):
    """A record that another version of floracle wrote."""


def write_record(path: Path, kind: str, content: Mapping[str, Any]) -> None:
    """Write a record, whole or not at all; its values are what JSON gives back unchanged."""
    said = {"kind": kind, "format": FORMAT, "floracle": VERSION, **content}
    write_json(path, {**said, "digest": _digest(said)})


def read_record(path: Path, kind: str) -> dict[str, Any]:
    """The content of a record of this kind; anything else in its place is a mistake."""
    there, content = read_any_record(path)
    if there != kind:
        raise InputError(f"{path} is {_named(there)}, not {_named(kind)}")
    return content


def read_any_record(path: Path) -> tuple[str, dict[str, Any]]:
    """The kind and the content of a record; anything else in its place is a mistake."""
    said = read_json(path, links=False)
    if not isinstance(said, dict) or not isinstance(said.get("kind"), str):
        raise InputError(f"{path} is not a record that floracle wrote")
    if said.get("format") != FORMAT or "digest" not in said:
        raise OtherFormat(
            f"{path} is of format {said.get('format')!r}, and this version of floracle reads"
            f" {FORMAT}; read it with floracle {said.get('floracle', '0.1.0')}, or make it again"
        )
    if said.pop("digest") != _digest(said):
        raise InputError(
            f"{path} is damaged: its values are not those that were written; make it again"
        )
    return said["kind"], {name: value for name, value in said.items() if name not in OURS}


def is_record(path: Path) -> bool:
    """Whether this was written by floracle, whole or damaged since."""
    try:
        said = read_json(path, links=False)
    except InputError:
        return False
    return isinstance(said, dict) and set(OURS) <= said.keys()


def _digest(said: Mapping[str, Any]) -> str | None:
    """A digest of the values, however they are laid out in the file."""
    try:
        return digest(json.dumps(said, sort_keys=True, allow_nan=False))
    except (ValueError, RecursionError):  # infinities, which JSON has none of
        return None


def _named(kind: str) -> str:
    """The kind with its article."""
    return f"an {kind}" if kind[:1] in "aeiou" else f"a {kind}"
