"""floracle: the exact velocity field of your training set, and what it says about your flow model.

The public names are loaded when they are first used, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import VERSION

__version__ = VERSION

if TYPE_CHECKING:
    from .analysis.advice import Advice, advise
    from .analysis.compare import Space
    from .analysis.inspection import Inspection, inspect
    from .analysis.loss.oracle_loss import oracle_loss, oracle_losses
    from .analysis.loss.results import Losses, OracleLoss
    from .analysis.mixing.field_switching import Switched, switched
    from .analysis.mixing.forward_backward import Resumed, resumed
    from .analysis.mixing.landing_test import Landing, landing
    from .analysis.prediction.closed_form import Predicted, predict
    from .analysis.prediction.profile import Profile, profile
    from .analysis.prediction.twin import Twin, twin
    from .analysis.prediction.what_if import WhatIf, what_if
    from .analysis.saved import load
    from .analysis.stages.measure import stages
    from .analysis.stages.result import Stages
    from .analysis.tool_arguments import Arguments, arguments
    from .analysis.trajectories.probe import Probe, probe
    from .analysis.trajectories.settling import Lag, lag
    from .core.clock import Clock
    from .core.fields import VelocityField, as_field, on_path
    from .core.nearest import nearest
    from .core.paths import COSINE, LINEAR, TRIGONOMETRIC, Path, convert
    from .core.point_set import Source
    from .core.seeds import noise
    from .data.normalize import Normalizer
    from .data.store import Store, open_store
    from .models.autoencoders.load import load_autoencoder
    from .models.check import Verdict, check_convention
    from .models.zoo import load_model
    from .oracle.gaussian_data import GaussianOracle
    from .oracle.mixture import Mixture, mixture
    from .oracle.oracle import Oracle
    from .oracle.pairs.forward_pairs import Pairs
    from .oracle.posterior import Posterior
    from .run.errors import InputError
    from .run.results import Results, save
    from .sampling.grid import cut, time_grid
    from .sampling.guidance import guided
    from .sampling.intervals import interval_in
    from .sampling.presets import Preset, preset_grid
    from .sampling.sample import evaluations, sample, trajectory
    from .training.config import Settings
    from .training.loop import train
    from .training.meter import StageMeter
    from .training.train_metrics import Progress

_HOMES = {
    "analysis.advice": ("Advice", "advise"),
    "analysis.tool_arguments": ("Arguments", "arguments"),
    "analysis.compare": ("Space",),
    "analysis.loss.oracle_loss": ("oracle_loss", "oracle_losses"),
    "analysis.stages.result": ("Stages",),
    "analysis.inspection": ("Inspection", "inspect"),
    "analysis.mixing.landing_test": ("Landing", "landing"),
    "analysis.loss.results": ("Losses", "OracleLoss"),
    "analysis.prediction.closed_form": ("Predicted", "predict"),
    "analysis.trajectories.probe": ("Probe", "probe"),
    "analysis.prediction.profile": ("Profile", "profile"),
    "analysis.mixing.forward_backward": ("Resumed", "resumed"),
    "analysis.saved": ("load",),
    "analysis.stages.measure": ("stages",),
    "analysis.mixing.field_switching": ("Switched", "switched"),
    "analysis.trajectories.settling": ("Lag", "lag"),
    "analysis.prediction.twin": ("Twin", "twin"),
    "analysis.prediction.what_if": ("WhatIf", "what_if"),
    "core.clock": ("Clock",),
    "core.fields": ("VelocityField", "as_field", "on_path"),
    "core.nearest": ("nearest",),
    "core.paths": ("COSINE", "LINEAR", "TRIGONOMETRIC", "Path", "convert"),
    "core.seeds": ("noise",),
    "core.point_set": ("Source",),
    "data.normalize": ("Normalizer",),
    "data.store": ("Store", "open_store"),
    "models.autoencoders.load": ("load_autoencoder",),
    "models.check": ("Verdict", "check_convention"),
    "models.zoo": ("load_model",),
    "oracle.gaussian_data": ("GaussianOracle",),
    "oracle.mixture": ("Mixture", "mixture"),
    "oracle.oracle": ("Oracle",),
    "oracle.pairs.forward_pairs": ("Pairs",),
    "oracle.posterior": ("Posterior",),
    "run.errors": ("InputError",),
    "run.results": ("Results", "save"),
    "sampling.grid": ("cut", "time_grid"),
    "sampling.guidance": ("guided",),
    "sampling.intervals": ("interval_in",),
    "sampling.presets": ("Preset", "preset_grid"),
    "sampling.sample": ("evaluations", "sample", "trajectory"),
    "training.config": ("Settings",),
    "training.train_metrics": ("Progress",),
    "training.loop": ("train",),
    "training.meter": ("StageMeter",),
}
_WHERE = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "COSINE",
    "LINEAR",
    "TRIGONOMETRIC",
    "Advice",
    "Arguments",
    "Clock",
    "GaussianOracle",
    "InputError",
    "Inspection",
    "Lag",
    "Landing",
    "Losses",
    "Mixture",
    "Normalizer",
    "Oracle",
    "OracleLoss",
    "Pairs",
    "Path",
    "Posterior",
    "Predicted",
    "Preset",
    "Probe",
    "Profile",
    "Progress",
    "Results",
    "Resumed",
    "Settings",
    "Source",
    "Space",
    "StageMeter",
    "Stages",
    "Store",
    "Switched",
    "Twin",
    "VelocityField",
    "Verdict",
    "WhatIf",
    "advise",
    "arguments",
    "as_field",
    "check_convention",
    "convert",
    "cut",
    "evaluations",
    "guided",
    "inspect",
    "interval_in",
    "lag",
    "landing",
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
    "resumed",
    "sample",
    "save",
    "stages",
    "switched",
    "time_grid",
    "train",
    "trajectory",
    "twin",
    "what_if",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'floracle' has no attribute {name!r}")
    value = getattr(import_module(f"floracle.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
