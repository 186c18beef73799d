"""Results with their provenance: numbers, arrays, settings, versions, data.

A saved result is a folder with `result.json`, a record of everything that is not an array, and
`arrays.safetensors`, whose digest the record holds. The record is written last, so a folder that
has it is complete. It says which part of which run it is, so that a file in the wrong place is
refused.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from floracle.version import VERSION

from .errors import InputError
from .files import digest, read_regular, write_bytes
from .records import is_record, read_any_record, write_record

RESULT, ARRAYS = "result.json", "arrays.safetensors"
RECORD_FIELDS: Mapping[str, type] = {
    "settings": dict,
    "values": dict,
    "provenance": dict,
    "arrays": str,
    "part": str,
}
"""The fields of a result's record, and their types."""
SETTINGS_ADDED_LATER: Mapping[str, Any] = {"path": "linear"}
"""Settings that verbs got after results had been saved without them, and the value they had then.

A result without such a setting counts as saved with this value. A new setting of a verb needs a
line here; without it, every earlier result counts as a result of other settings.
"""


@dataclass(frozen=True)
class Results:
    """A measurement as values (JSON) and arrays, with settings and provenance."""

    kind: str
    settings: Mapping[str, Any]
    values: Mapping[str, Any]
    arrays: Mapping[str, Tensor]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_results(self) -> Results:
        """The result itself."""
        return self


class Saveable(Protocol):
    """What `save` accepts."""

    def to_results(self) -> Results:
        """The result as values and arrays."""
        ...


def provenance(**more: Any) -> dict[str, Any]:
    """Versions and machine, and whatever else should be saved with a result."""
    return {
        "floracle": VERSION,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        **more,
    }


def save(result: Saveable, folder: str | Path, *, part: str = "") -> Path:
    """Write a result into a folder; returns the folder.

    `part` is its name among several results of one run. A result.json that is not a record of
    floracle is never replaced.
    """
    folder, results = Path(folder), result.to_results()
    if os.path.lexists(folder / RESULT) and not is_record(folder / RESULT):
        raise InputError(
            f"{folder / RESULT} is not a result that floracle wrote, and is not replaced; remove"
            " it, or choose another folder"
        )
    arrays = {
        name: array.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, array in results.arrays.items()
    }
    content = save_tensors(arrays)
    write_bytes(folder / ARRAYS, content)
    record = {
        "settings": dict(results.settings),
        "values": dict(results.values),
        "provenance": dict(results.provenance),
        "arrays": digest(content),
        "part": part,
    }
    write_record(folder / RESULT, results.kind, record)
    return folder


def has_result(folder: Path) -> bool:
    """Whether a folder has a result.json, be it a result or something else."""
    return os.path.lexists(folder / RESULT)


def load_results(folder: str | Path, *, part: str | None = None) -> Results:
    """Read what `save` wrote; damaged, foreign and misplaced results are refused and named.

    With `part`, a result that is another part of a run is refused.
    """
    folder = Path(folder)
    if not has_result(folder):
        raise InputError(f"there is no result in {folder}: {RESULT} is missing")
    kind, record = read_any_record(folder / RESULT)
    if {name: type(record.get(name)) for name in RECORD_FIELDS} != RECORD_FIELDS:
        raise InputError(f"{folder / RESULT} is {kind!r}, which is no result")
    if part is not None and record["part"] != part:
        raise InputError(
            f"{folder / RESULT} is the part {record['part']!r} of a run, not {part!r}; remove it"
        )
    content = read_regular(folder / ARRAYS)
    if digest(content) != record["arrays"]:
        raise InputError(
            f"{folder / ARRAYS} is damaged, or does not belong to its {RESULT}; compute it again"
        )
    try:
        arrays = load_tensors(content)
    except SafetensorError as error:
        raise InputError(
            f"the result in {folder} is damaged ({error}); compute it again"
        ) from error
    return Results(kind, record["settings"], record["values"], arrays, record["provenance"])


def setting_of(settings: Mapping[str, Any], name: str) -> Any:
    """The value of a setting, also in results from before it was added; None if there is none."""
    return settings.get(name, SETTINGS_ADDED_LATER.get(name))


def differences(requested: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    """Settings that differ, one sentence each; see `SETTINGS_ADDED_LATER` for absent ones."""
    pairs = {
        name: (setting_of(requested, name), setting_of(saved, name))
        for name in sorted({*requested, *saved})
    }
    return [
        f"{name}: {former!r} there, {value!r} asked"
        for name, (value, former) in pairs.items()
        if value != former
    ]


def stored_answer(folder: Path, settings: Mapping[str, Any]) -> Results | None:
    """The finished result in `folder`; None if there is none. Other settings are refused."""
    if not has_result(folder):
        return None
    results = load_results(folder)
    if unlike := differences(settings, results.settings):
        raise InputError(
            f"{folder} holds a result with other settings ({'; '.join(unlike)}); choose another"
            " --out"
        )
    return results
