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
    from .analysis.arguments import Arguments, arguments
    from .analysis.compare import Space
    from .analysis.errors import oracle_loss, oracle_losses
    from .analysis.groups import Stages
    from .analysis.inspection import Inspection, inspect
    from .analysis.landing import Landing, landing
    from .analysis.loss import Losses, OracleLoss
    from .analysis.prediction import Predicted, predict
    from .analysis.probe import Probe, probe
    from .analysis.profile import Profile, profile
    from .analysis.resuming import Resumed, resumed
    from .analysis.saved import load
    from .analysis.stages import stages
    from .analysis.switching import Switched, switched
    from .analysis.transition import Lag, lag
    from .analysis.twin import Twin, twin
    from .analysis.what_if import WhatIf, what_if
    from .core.clock import Clock
    from .core.fields import VelocityField, as_field, on_path
    from .core.nearest import nearest
    from .core.paths import COSINE, LINEAR, TRIGONOMETRIC, Path, convert
    from .core.seeds import noise
    from .core.source import Source
    from .data.normalize import Normalizer
    from .data.store import Store, open_store
    from .models.autoencoder import load_autoencoder
    from .models.check import Verdict, check_convention
    from .models.zoo import load_model
    from .oracle.gaussians import GaussianOracle
    from .oracle.mixture import Mixture, mixture
    from .oracle.oracle import Oracle
    from .oracle.pairs import Pairs
    from .oracle.posterior import Posterior
    from .run.errors import InputError
    from .run.results import Results, save
    from .sampling.grid import cut, time_grid
    from .sampling.guidance import guided
    from .sampling.intervals import interval_in
    from .sampling.presets import Preset, preset_grid
    from .sampling.sample import evaluations, sample, trajectory
    from .training.config import Settings
    from .training.counting import Progress
    from .training.loop import train
    from .training.meter import StageMeter

_HOMES = {
    "analysis.advice": ("Advice", "advise"),
    "analysis.arguments": ("Arguments", "arguments"),
    "analysis.compare": ("Space",),
    "analysis.errors": ("oracle_loss", "oracle_losses"),
    "analysis.groups": ("Stages",),
    "analysis.inspection": ("Inspection", "inspect"),
    "analysis.landing": ("Landing", "landing"),
    "analysis.loss": ("Losses", "OracleLoss"),
    "analysis.prediction": ("Predicted", "predict"),
    "analysis.probe": ("Probe", "probe"),
    "analysis.profile": ("Profile", "profile"),
    "analysis.resuming": ("Resumed", "resumed"),
    "analysis.saved": ("load",),
    "analysis.stages": ("stages",),
    "analysis.switching": ("Switched", "switched"),
    "analysis.transition": ("Lag", "lag"),
    "analysis.twin": ("Twin", "twin"),
    "analysis.what_if": ("WhatIf", "what_if"),
    "core.clock": ("Clock",),
    "core.fields": ("VelocityField", "as_field", "on_path"),
    "core.nearest": ("nearest",),
    "core.paths": ("COSINE", "LINEAR", "TRIGONOMETRIC", "Path", "convert"),
    "core.seeds": ("noise",),
    "core.source": ("Source",),
    "data.normalize": ("Normalizer",),
    "data.store": ("Store", "open_store"),
    "models.autoencoder": ("load_autoencoder",),
    "models.check": ("Verdict", "check_convention"),
    "models.zoo": ("load_model",),
    "oracle.gaussians": ("GaussianOracle",),
    "oracle.mixture": ("Mixture", "mixture"),
    "oracle.oracle": ("Oracle",),
    "oracle.pairs": ("Pairs",),
    "oracle.posterior": ("Posterior",),
    "run.errors": ("InputError",),
    "run.results": ("Results", "save"),
    "sampling.grid": ("cut", "time_grid"),
    "sampling.guidance": ("guided",),
    "sampling.intervals": ("interval_in",),
    "sampling.presets": ("Preset", "preset_grid"),
    "sampling.sample": ("evaluations", "sample", "trajectory"),
    "training.config": ("Settings",),
    "training.counting": ("Progress",),
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
