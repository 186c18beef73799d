"""Any saved result, read back as an object of its own class."""

from __future__ import annotations

from pathlib import Path

from floracle.run.errors import InputError
from floracle.run.results import Results, load_results

from .loss.results import LossComparison, OracleLoss
from .mixing.field_switching import SwitchResult
from .mixing.forward_backward import ForwardBackwardResult
from .mixing.landing_test import LandingResult
from .stages.result import Stages
from .trajectories.probe import ProbeResult

AnyResult = (
    Stages
    | OracleLoss
    | LossComparison
    | SwitchResult
    | LandingResult
    | ForwardBackwardResult
    | ProbeResult
)
CLASSES: dict[str, type[AnyResult]] = {
    result.kind: result
    for result in (
        Stages,
        OracleLoss,
        LossComparison,
        SwitchResult,
        LandingResult,
        ForwardBackwardResult,
        ProbeResult,
    )
}


def load(folder: str | Path) -> AnyResult | Results:
    """Read a result that floracle saved.

    A kind without a class of its own comes back as `Results`. Raises `InputError`, which names
    the folder, if the result is damaged or incomplete.
    """
    results = load_results(folder)
    if results.kind not in CLASSES:
        return results
    try:
        return CLASSES[results.kind].of_results(results)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
