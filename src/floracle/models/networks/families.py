"""Whose checkpoint it is, what network it asks for, and how that is read.

Settings in the file come first and have to agree with the tensors; without them the tensors tell
everything but what is then listed as assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from floracle.models.checkpoints import Checkpoint
from floracle.models.convention import CONVENTIONS, Convention
from floracle.run.errors import InputError

from .lightningdit import SIZES, Architecture
from .sit import (
    is_repa,
    named_size,
    of_repa,
    of_sit,
    repa_convention,
    sit_convention,
    without_projectors,
)
from .tensors import check_agreement, measured, planned
from .transport import transport

PIXELS = 16
"""Pixels of an edge that become one number of VA-VAE's latents, where the settings do not say."""


@dataclass(frozen=True)
class RecognisedCheckpoint:
    """A network of the family, before it is built."""

    name: str
    plan: Architecture
    convention: Convention
    tensors: Mapping[str, Tensor]
    assumed: list[str]


def recognized(
    checkpoint: Checkpoint, convention: Convention | None, heads: int | None
) -> RecognisedCheckpoint:
    """Whose checkpoint it is, and all that follows; `convention` overrides what its kind has."""
    where = checkpoint.path
    if "model" in checkpoint.config:
        found = _lightningdit(checkpoint)
    elif is_repa(checkpoint.tensors, checkpoint.arguments):
        found = _repa(checkpoint, heads)
    elif checkpoint.arguments:
        found = _sit(checkpoint)
    else:
        found = _from_tensors(checkpoint, convention, heads)
    asked = convention or found.convention
    if asked.null_label is None and found.plan.null:
        asked = replace(asked, null_label=found.plan.classes)
    remarks = [*found.assumed, *_remarks(checkpoint, found.plan)]
    if convention is not None:
        remarks.append("read by the convention that was asked for")
    return replace(found, convention=asked, assumed=[*remarks, str(where)])


def title(family: str, plan: Architecture) -> str:
    """A name like LightningDiT-XL/1, or its numbers where it is of no known size."""
    key = plan.depth, plan.width, plan.heads
    named = [name for name, size in SIZES.items() if (size.depth, size.width, size.heads) == key]
    size = named[0] if named else f"{plan.depth}x{plan.width}x{plan.heads}"
    return f"{family}-{size}/{plan.patch}"


def _lightningdit(checkpoint: Checkpoint) -> RecognisedCheckpoint:
    """By the sections of its YAML file."""
    config, where = checkpoint.config, checkpoint.path
    model, data = _section(config, "model"), _section(config, "data")
    plan = replace(
        named_size(model.get("model_type"), "LightningDiT", where),
        channels=int(model.get("in_chans", 4)),
        side=int(data.get("image_size", 256)) // _downsampling(config),
        classes=int(data.get("num_classes", 1000)),
        rms=bool(model.get("use_rmsnorm", False)),
        swiglu=bool(model.get("use_swiglu", False)),
        rope=bool(model.get("use_rope", False)),
        qk_norm=bool(model.get("use_qknorm", False)),
        shift=not model.get("wo_shift", False),
        sigma=bool(model.get("learn_sigma", False)),
    )
    check_agreement(plan, measured(checkpoint.tensors, where), where)
    moved = _section(config, "transport")
    asked = moved.get("path_type", "Linear"), moved.get("prediction", "velocity")
    latents = (
        f"latents {'normalized' if data.get('latent_norm', False) else 'not normalized'}, times"
        f" {data.get('latent_multiplier', 0.18215):g}"
    )
    return RecognisedCheckpoint(
        title("LightningDiT", plan),
        plan,
        transport(*asked, where=where),
        checkpoint.tensors,
        ["its own settings", latents],
    )


def _sit(checkpoint: Checkpoint) -> RecognisedCheckpoint:
    """By SiT's command line."""
    where, arguments = checkpoint.path, checkpoint.arguments
    parts = measured(checkpoint.tensors, where)
    plan = of_sit(arguments, parts, where)
    check_agreement(plan, parts, where)
    convention = sit_convention(arguments, where)
    return RecognisedCheckpoint(
        title("SiT", plan), plan, convention, checkpoint.tensors, ["its own arguments"]
    )


def _repa(checkpoint: Checkpoint, heads: int | None) -> RecognisedCheckpoint:
    """By REPA's command line, or its tensors where that is not there."""
    where, arguments = checkpoint.path, checkpoint.arguments
    tensors = without_projectors(checkpoint.tensors)
    parts = measured(tensors, where)
    if arguments:
        plan, assumed = of_repa(arguments, parts, where), ["its own arguments"]
        check_agreement(plan, parts, where)
    else:
        plan, assumed = planned(parts, heads, where)
    assumed.append("projectors left out")
    convention = repa_convention(arguments, where)
    return RecognisedCheckpoint(title("REPA", plan), plan, convention, tensors, assumed)


def _from_tensors(
    checkpoint: Checkpoint, convention: Convention | None, heads: int | None
) -> RecognisedCheckpoint:
    """By the tensors alone."""
    where, tensors = checkpoint.path, checkpoint.tensors
    parts = measured(tensors, where)
    modern = parts["swiglu"] or parts["rms"] or parts["rope"] or not parts["shift"]
    if not (modern or parts["sigma"] or convention):
        raise InputError(
            f"{where}: its tensors fit SiT, REPA and LightningDiT alike, which read time in"
            f" opposite directions; say whose it is with convention='sit' or 'repa'"
        )
    plan, assumed = planned(parts, heads, where)
    family = "LightningDiT" if modern else "SiT"
    if modern and not plan.rope:
        assumed.append("no rotary positions, since it has no feat_rope tensors")
    if family == "SiT" and convention is None:
        assumed.append("SiT's flow (DiT's own weights, which look the same, are no flow)")
    return RecognisedCheckpoint(title(family, plan), plan, CONVENTIONS["sit"], tensors, assumed)


def _remarks(checkpoint: Checkpoint, plan: Architecture) -> list[str]:
    """What is so of every network of the family."""
    size = " × ".join(map(str, plan.shape))
    remarks = [f"samples of {size}", f"{checkpoint.which or 'its only'} weights"]
    if plan.sigma:
        remarks.append("the second half of its 2C outputs dropped")
    return remarks


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name, {})
    return found if isinstance(found, Mapping) else {}


def _downsampling(config: Mapping[str, Any]) -> int:
    return int(_section(config, "vae").get("downsample_ratio", PIXELS))
