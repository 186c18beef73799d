"""Results of `mix` in files, whose names of arrays and values are those of version 0.1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from floracle.analysis.serialization import check_shapes, dataclass_to_results
from floracle.run.results import Results


def write_fields(result: Any, file_names: Mapping[str, str]) -> Results:
    """A result dataclass as values and arrays; `file_names` maps fields to names in the file."""

    def renamed(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {
            file_names.get(name, name): renamed(value) if isinstance(value, dict) else value
            for name, value in fields.items()
        }

    results = dataclass_to_results(result)
    return replace(results, values=renamed(results.values), arrays=renamed(results.arrays))


def read_arrays(
    results: Results, shapes: Mapping[str, str], file_names: Mapping[str, str]
) -> dict[str, Tensor]:
    """The arrays of a saved result by field; `shapes` are those of `check_shapes`, by field."""
    names = {field: file_names.get(field, field) for field in shapes}
    check_shapes(results.arrays, {names[field]: axes for field, axes in shapes.items()})
    return {field: results.arrays[name] for field, name in names.items()}
