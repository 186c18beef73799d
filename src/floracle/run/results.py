"""Results that carry where they came from: numbers, arrays, settings, versions, data.

A saved result is a folder with `result.json` (everything readable) and `arrays.safetensors`. The
JSON is written last, so a folder that has it is whole.
"""

from __future__ import annotations

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

from .errors import Mistake
from .files import digest, read_json, write_bytes, write_json

FORMAT = 1


@dataclass(frozen=True)
class Results:
    """Anything measured, as values (JSON) and arrays, with settings and provenance."""

    kind: str
    settings: Mapping[str, Any]
    values: Mapping[str, Any]
    arrays: Mapping[str, Tensor]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_results(self) -> Results:
        """Itself."""
        return self


class Saveable(Protocol):
    """What `save` accepts."""

    def to_results(self) -> Results:
        """The result as values and arrays."""
        ...


def provenance(**more: Any) -> dict[str, Any]:
    """Versions and machine, and whatever else should be remembered with a result."""
    return {
        "floracle": VERSION,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        **more,
    }


def save(result: Saveable, folder: str | Path) -> Path:
    """Write a result into a folder; returns the folder."""
    folder, results = Path(folder), result.to_results()
    arrays = {
        name: array.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, array in results.arrays.items()
    }
    content = save_tensors(arrays)
    write_bytes(folder / "arrays.safetensors", content)
    write_json(
        folder / "result.json",
        {
            "format": FORMAT,
            "kind": results.kind,
            "settings": dict(results.settings),
            "values": dict(results.values),
            "provenance": dict(results.provenance),
            "arrays": digest(content),
        },
    )
    return folder


def load_results(folder: str | Path) -> Results:
    """Read what `save` wrote; damaged or foreign folders are named."""
    folder = Path(folder)
    if not (folder / "result.json").exists():
        raise Mistake(f"there is no result in {folder}: result.json is missing")
    written = read_json(folder / "result.json")
    if not isinstance(written, dict) or written.get("format") != FORMAT:
        raise Mistake(f"{folder / 'result.json'} is not a result of this version of floracle")
    try:
        content = (folder / "arrays.safetensors").read_bytes()
        if digest(content) != written["arrays"]:
            raise Mistake(f"{folder / 'arrays.safetensors'} does not belong to its result.json")
        arrays = load_tensors(content)
        return Results(
            written["kind"], written["settings"], written["values"], arrays, written["provenance"]
        )
    except (OSError, SafetensorError, KeyError) as error:
        raise Mistake(f"the result in {folder} is damaged ({error}); compute it again") from error


def differences(asked: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Settings that differ, one sentence each."""
    names = sorted({*asked, *found})
    return [
        f"{name}: {found.get(name)!r} there, {asked.get(name)!r} asked"
        for name in names
        if asked.get(name) != found.get(name)
    ]


def answered(folder: Path, settings: Mapping[str, Any]) -> Results | None:
    """The finished result in `folder`, if there is one; with other settings that is a mistake."""
    if not (folder / "result.json").exists():
        return None
    found = load_results(folder)
    unlike = differences(settings, found.settings)
    if unlike:
        listed = "; ".join(unlike)
        raise Mistake(
            f"{folder} holds a result with other settings ({listed}); choose another --out"
        )
    return found
