"""Whatever was saved read back as what it was; stages as values and arrays, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from floracle.run.errors import InputError
from floracle.run.results import Results, load_results

from .curves import Curve, Estimate, Landmark
from .loss.results import LossComparison, OracleLoss
from .mixing.field_switching import SwitchResult
from .mixing.forward_backward import ForwardBackwardResult
from .mixing.landing_test import LandingResult
from .stages.pooled import Pool
from .stages.result import ClassStages, Stages
from .trajectories.probe import ProbeResult

Measured = (
    Stages
    | OracleLoss
    | LossComparison
    | SwitchResult
    | LandingResult
    | ForwardBackwardResult
    | ProbeResult
)

LANDMARKS = ("centre", "collapse", "end", "speciation")
NUMBERS = (
    "label",
    "points",
    "pairs",
    "share",
    "max_information",
    "predicted_centre",
    "predicted_collapse",
    "remaining_information",
    "max_class_information",
)


def load(folder: str | Path) -> Measured | Results:
    """Read any saved result of floracle as what it was; what has no class of its own as `Results`.

    A result that is damaged, or not whole, is a mistake that names the folder.
    """
    found = load_results(folder)
    reader = READERS.get(str(found.kind))
    if reader is None:
        return found
    try:
        return reader(found)
    except InputError as mistake:
        raise InputError(f"{folder}: {mistake}") from mistake


def stages_to_results(stages: Stages) -> Results:
    """What `save` writes of stages."""
    arrays: dict[str, Tensor] = {"times": stages.times}
    for group in stages.groups:
        arrays |= group_arrays(group, f"{group.label}/")
    return Results(
        "stages",
        stages.settings,
        {
            "dims": stages.dims,
            "names": list(stages.names),
            "groups": [group_values(group) for group in stages.groups],
        },
        arrays,
        stages.provenance,
    )


def stages_of_results(found: Results) -> Stages:
    """Stages as they were saved."""
    try:
        return Stages(
            times=found.arrays["times"],
            groups=tuple(_groups(found)),
            dims=found.values["dims"],
            names=tuple(found.values["names"]),
            settings=dict(found.settings),
            provenance=dict(found.provenance),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the saved stages are damaged ({error}); compute them again") from error


def part_of_groups(
    groups: Sequence[ClassStages], pool: Pool, settings: Mapping[str, Any]
) -> Results:
    """Some classes and what they add to the pool, for a run that goes on later."""
    arrays = {f"pool/{name}": values for name, values in pool.sums.items()}
    for group in groups:
        arrays |= group_arrays(group, f"{group.label}/")
    return Results("part", settings, {"groups": [group_values(group) for group in groups]}, arrays)


def groups_of_part(part: Results) -> tuple[list[ClassStages], Pool]:
    """What `part_of_groups` was given."""
    sums = {name[5:]: values for name, values in part.arrays.items() if name.startswith("pool/")}
    return _groups(part), Pool(sums)


def _groups(found: Results) -> list[ClassStages]:
    """Groups whose arrays are named LABEL/curve."""
    arrays: dict[str, dict[str, Tensor]] = {}
    for name, values in found.arrays.items():
        label, _, of = name.partition("/")
        arrays.setdefault(label, {})[of] = values
    return [group_of(each, arrays.get(str(each["label"]), {})) for each in found.values["groups"]]


def group_values(group: ClassStages) -> dict[str, Any]:
    """The numbers of a group, for JSON."""
    values: dict[str, Any] = {name: getattr(group, name) for name in NUMBERS}
    for name in LANDMARKS:
        mark: Landmark = getattr(group, name)
        values[name] = {"value": mark.value, "low": mark.low, "high": mark.high}
    values["area"] = {"value": group.area.value, "error": group.area.error}
    values["rivals"] = [list(pair) for pair in group.rivals]
    return values


def group_arrays(group: ClassStages, prefix: str = "") -> dict[str, Tensor]:
    """The curves of a group."""
    arrays = {f"{prefix}predicted_information": group.predicted_information}
    for name, curve in group.curves.items():
        arrays |= {f"{prefix}{name}": curve.mean, f"{prefix}{name}_error": curve.error}
    for name, values in (group.resamples or {}).items():
        arrays[f"{prefix}resamples_{name}"] = values
    return arrays


def group_of(values: dict[str, Any], arrays: Any, prefix: str = "") -> ClassStages:
    """A group from its numbers and curves."""
    own = {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
    curves = {
        name: Curve(own[name], own[f"{name}_error"]) for name in own if f"{name}_error" in own
    }
    resamples = {
        name.removeprefix("resamples_"): array.to(torch.float64)
        for name, array in own.items()
        if name.startswith("resamples_")
    }
    known: dict[str, Any] = {name: values[name] for name in NUMBERS}
    marks: dict[str, Any] = {name: Landmark(**values[name]) for name in LANDMARKS}
    return ClassStages(
        **known,
        **marks,
        curves=curves,
        predicted_information=own["predicted_information"],
        area=Estimate(**values["area"]),
        rivals=tuple((int(a), int(b)) for a, b in values["rivals"]),
        resamples=resamples or None,
    )


READERS: Mapping[str, Callable[[Results], Measured]] = {
    "stages": stages_of_results,
    **{
        one.kind: one.of_results
        for one in (
            OracleLoss,
            LossComparison,
            SwitchResult,
            LandingResult,
            ForwardBackwardResult,
            ProbeResult,
        )
    },
}
"""Who reads each kind of result."""
