"""floracle: the exact velocity field of your training set, and what it says about your flow model.

The public names are loaded when they are first used, so that importing this package costs nothing.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from .analysis.advice import Advice, advise
    from .analysis.compare import DataSpace
    from .analysis.inspection import Inspection, inspect
    from .analysis.load import load
    from .analysis.loss.oracle_loss import oracle_loss, oracle_losses
    from .analysis.loss.results import LossComparison, OracleLoss
    from .analysis.mixing.field_switching import SwitchResult, switch_fields
    from .analysis.mixing.forward_backward import ForwardBackwardResult, forward_backward
    from .analysis.mixing.landing_test import LandingResult, landing_test
    from .analysis.prediction.closed_form import PredictedStages, predict
    from .analysis.prediction.profile import Profile, profile
    from .analysis.prediction.twin import Twin, twin
    from .analysis.stages.measure import stages
    from .analysis.stages.result import Stages
    from .analysis.stages.what_if import WhatIf, what_if
    from .analysis.tool_arguments import Arguments, arguments
    from .analysis.trajectories.lag import Lag, lag
    from .analysis.trajectories.probe import ProbeResult, probe
    from .core.fields import Convention, VelocityField, as_field, on_path
    from .core.nearest import nearest
    from .core.paths import COSINE, LINEAR, TRIGONOMETRIC, ProbabilityPath, convert
    from .core.point_set import PointSet
    from .core.seeds import noise
    from .data.normalize import Normalizer
    from .data.store import Store, open_store
    from .models.autoencoders.load import load_autoencoder
    from .models.check import ConventionVerdict, check_convention
    from .models.zoo import load_model
    from .oracle.gaussian_data import GaussianOracle
    from .oracle.mixture import Mixture, mixture
    from .oracle.oracle import Oracle
    from .oracle.pairs.forward_pairs import PairCurves
    from .oracle.posterior import Posterior
    from .run.errors import InputError
    from .run.results import Results, save
    from .sampling.grid import split_grid, time_grid
    from .sampling.guidance import guidance_interval, guided
    from .sampling.presets import Preset, preset_grid
    from .sampling.sample import evaluations, sample, trajectory
    from .training.config import TrainingSettings
    from .training.loop import train
    from .training.meter import StageMeter
    from .training.train_metrics import TrainingProgress

_HOMES = {
    "analysis.advice": ("Advice", "advise"),
    "analysis.compare": ("DataSpace",),
    "analysis.inspection": ("Inspection", "inspect"),
    "analysis.loss.oracle_loss": ("oracle_loss", "oracle_losses"),
    "analysis.loss.results": ("LossComparison", "OracleLoss"),
    "analysis.mixing.field_switching": ("SwitchResult", "switch_fields"),
    "analysis.mixing.forward_backward": ("ForwardBackwardResult", "forward_backward"),
    "analysis.mixing.landing_test": ("LandingResult", "landing_test"),
    "analysis.prediction.closed_form": ("PredictedStages", "predict"),
    "analysis.prediction.profile": ("Profile", "profile"),
    "analysis.prediction.twin": ("Twin", "twin"),
    "analysis.stages.what_if": ("WhatIf", "what_if"),
    "analysis.load": ("load",),
    "analysis.stages.measure": ("stages",),
    "analysis.stages.result": ("Stages",),
    "analysis.tool_arguments": ("Arguments", "arguments"),
    "analysis.trajectories.lag": ("Lag", "lag"),
    "analysis.trajectories.probe": ("ProbeResult", "probe"),
    "core.fields": ("Convention", "VelocityField", "as_field", "on_path"),
    "core.nearest": ("nearest",),
    "core.paths": ("COSINE", "LINEAR", "TRIGONOMETRIC", "ProbabilityPath", "convert"),
    "core.point_set": ("PointSet",),
    "core.seeds": ("noise",),
    "data.normalize": ("Normalizer",),
    "data.store": ("Store", "open_store"),
    "models.autoencoders.load": ("load_autoencoder",),
    "models.check": ("ConventionVerdict", "check_convention"),
    "models.zoo": ("load_model",),
    "oracle.gaussian_data": ("GaussianOracle",),
    "oracle.mixture": ("Mixture", "mixture"),
    "oracle.oracle": ("Oracle",),
    "oracle.pairs.forward_pairs": ("PairCurves",),
    "oracle.posterior": ("Posterior",),
    "run.errors": ("InputError",),
    "run.results": ("Results", "save"),
    "sampling.grid": ("split_grid", "time_grid"),
    "sampling.guidance": ("guidance_interval", "guided"),
    "sampling.presets": ("Preset", "preset_grid"),
    "sampling.sample": ("evaluations", "sample", "trajectory"),
    "training.config": ("TrainingSettings",),
    "training.loop": ("train",),
    "training.meter": ("StageMeter",),
    "training.train_metrics": ("TrainingProgress",),
}
_WHERE = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "COSINE",
    "LINEAR",
    "TRIGONOMETRIC",
    "Advice",
    "Arguments",
    "Convention",
    "ConventionVerdict",
    "DataSpace",
    "ForwardBackwardResult",
    "GaussianOracle",
    "InputError",
    "Inspection",
    "Lag",
    "LandingResult",
    "LossComparison",
    "Mixture",
    "Normalizer",
    "Oracle",
    "OracleLoss",
    "PairCurves",
    "PointSet",
    "Posterior",
    "PredictedStages",
    "Preset",
    "ProbabilityPath",
    "ProbeResult",
    "Profile",
    "Results",
    "StageMeter",
    "Stages",
    "Store",
    "SwitchResult",
    "TrainingProgress",
    "TrainingSettings",
    "Twin",
    "VelocityField",
    "WhatIf",
    "advise",
    "arguments",
    "as_field",
    "check_convention",
    "convert",
    "evaluations",
    "forward_backward",
    "guidance_interval",
    "guided",
    "inspect",
    "lag",
    "landing_test",
    "load",
    "load_autoencoder",
    "load_model",
    "mixture",
    "nearest",
    "noise",
    "on_path",
    "open_store",
    "oracle_loss",
    "oracle_losses",
    "predict",
    "preset_grid",
    "probe",
    "profile",
    "sample",
    "save",
    "split_grid",
    "stages",
    "switch_fields",
    "time_grid",
    "train",
    "trajectory",
    "twin",
    "what_if",
]


_RENAMED = {
    "Clock": "Convention",
    "Landing": "LandingResult",
    "Losses": "LossComparison",
    "Mistake": "InputError",
    "Pairs": "PairCurves",
    "Path": "ProbabilityPath",
    "Predicted": "PredictedStages",
    "Probe": "ProbeResult",
    "Progress": "TrainingProgress",
    "Resumed": "ForwardBackwardResult",
    "Settings": "TrainingSettings",
    "Source": "PointSet",
    "Space": "DataSpace",
    "Switched": "SwitchResult",
    "Verdict": "ConventionVerdict",
    "cut": "split_grid",
    "interval_in": "guidance_interval",
    "landing": "landing_test",
    "resumed": "forward_backward",
    "switched": "switch_fields",
}
"""Names of version 0.1, which work until 0.3."""


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        message = f"floracle.{name} is now floracle.{_RENAMED[name]}; the old name ends with 0.3"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        if name == "Clock":  # whose parameters had other names
            return import_module("floracle.core.fields").clock
        return getattr(import_module("floracle"), _RENAMED[name])
    if name not in _WHERE:
        raise AttributeError(f"module 'floracle' has no attribute {name!r}")
    value = getattr(import_module(f"floracle.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
