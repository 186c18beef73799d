"""Which project a checkpoint comes from, its architecture, and its convention.

Settings in the file come first and must agree with the tensors. Without settings the tensors
determine everything but what is then listed as assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from floracle.core.fields import Convention
from floracle.models.checkpoints import Checkpoint
from floracle.models.convention import CONVENTIONS
from floracle.run.errors import InputError

from .lightningdit import SIZES, Architecture
from .sit import (
    is_repa,
    named_size,
    repa_architecture,
    repa_convention,
    sampling_tensors,
    sit_architecture,
    sit_convention,
    transport_convention,
)
from .tensors import check_agreement, infer_architecture, measure_tensors

VAVAE_DOWNSAMPLING = 16
"""Pixels of an edge per latent of VA-VAE, where the settings do not say."""


@dataclass(frozen=True)
class RecognisedCheckpoint:
    """A network of the family, before it is built."""

    name: str
    plan: Architecture
    convention: Convention
    tensors: Mapping[str, Tensor]
    assumed: list[str]


Recogniser = Callable[[Checkpoint, Convention | None, int | None], RecognisedCheckpoint]


def recognise_checkpoint(
    checkpoint: Checkpoint, declared: Convention | None, heads: int | None
) -> RecognisedCheckpoint:
    """The architecture and convention of a checkpoint; a `declared` convention overrides its own.

    `heads` is needed where neither settings nor tensors determine the number of heads.
    """
    recognise = next(recognise for applies, recognise in FAMILIES if applies(checkpoint))
    recognised = recognise(checkpoint, declared, heads)
    plan = recognised.plan

    convention = declared or recognised.convention
    if convention.null_label is None and plan.null:
        convention = replace(convention, null_label=plan.classes)

    assumed = [
        *recognised.assumed,
        f"samples of {' × '.join(map(str, plan.shape))}",
        f"{checkpoint.weights or 'its only'} weights",
    ]
    if plan.sigma:
        assumed.append("the second half of its 2C outputs dropped")
    if declared is not None:
        assumed.append("the convention as declared")
    return replace(recognised, convention=convention, assumed=[*assumed, str(checkpoint.path)])


def network_title(family: str, plan: Architecture) -> str:
    """A name like LightningDiT-XL/1, or its numbers where it is of no named size."""
    numbers = plan.depth, plan.width, plan.heads
    names = [
        name for name, size in SIZES.items() if (size.depth, size.width, size.heads) == numbers
    ]
    return f"{family}-{names[0] if names else 'x'.join(map(str, numbers))}/{plan.patch}"


def _recognise_lightningdit(checkpoint: Checkpoint, *_: object) -> RecognisedCheckpoint:
    """By the sections of its YAML file; defaults are those of its code."""
    file = checkpoint.path
    model, data, transport, vae = (
        _section(checkpoint.config, name) for name in ("model", "data", "transport", "vae")
    )
    downsampling = int(vae.get("downsample_ratio", VAVAE_DOWNSAMPLING))
    plan = replace(
        named_size(model.get("model_type"), "LightningDiT", file),
        channels=int(model.get("in_chans", 4)),
        side=int(data.get("image_size", 256)) // downsampling,
        classes=int(data.get("num_classes", 1000)),
        rms=bool(model.get("use_rmsnorm", False)),
        swiglu=bool(model.get("use_swiglu", False)),
        rope=bool(model.get("use_rope", False)),
        qk_norm=bool(model.get("use_qknorm", False)),
        shift=not model.get("wo_shift", False),
        sigma=bool(model.get("learn_sigma", False)),
    )
    check_agreement(plan, measure_tensors(checkpoint.tensors, file), file)
    normalized = "normalized" if data.get("latent_norm", False) else "not normalized"
    scale = data.get("latent_multiplier", 0.18215)
    return RecognisedCheckpoint(
        network_title("LightningDiT", plan),
        plan,
        transport_convention(
            transport.get("path_type", "Linear"), transport.get("prediction", "velocity"), file
        ),
        checkpoint.tensors,
        ["its own settings", f"latents {normalized}, times {scale:g}"],
    )


def _recognise_sit(checkpoint: Checkpoint, *_: object) -> RecognisedCheckpoint:
    """By SiT's command line."""
    file, arguments = checkpoint.path, checkpoint.arguments
    measured = measure_tensors(checkpoint.tensors, file)
    plan = sit_architecture(arguments, measured, file)
    check_agreement(plan, measured, file)
    convention = sit_convention(arguments, file)
    return RecognisedCheckpoint(
        network_title("SiT", plan), plan, convention, checkpoint.tensors, ["its own arguments"]
    )


def _recognise_repa(
    checkpoint: Checkpoint, _: Convention | None, heads: int | None
) -> RecognisedCheckpoint:
    """By REPA's command line, or by its tensors where there is none."""
    file, arguments = checkpoint.path, checkpoint.arguments
    tensors = sampling_tensors(checkpoint.tensors)
    measured = measure_tensors(tensors, file)
    if arguments:
        plan, assumed = repa_architecture(arguments, measured, file), ["its own arguments"]
        check_agreement(plan, measured, file)
    else:
        plan, assumed = infer_architecture(measured, heads, file)
    assumed.append("projectors left out")
    convention = repa_convention(arguments, file)
    return RecognisedCheckpoint(network_title("REPA", plan), plan, convention, tensors, assumed)


def _recognise_tensors(
    checkpoint: Checkpoint, declared: Convention | None, heads: int | None
) -> RecognisedCheckpoint:
    """By the tensors alone."""
    file, tensors = checkpoint.path, checkpoint.tensors
    measured = measure_tensors(tensors, file)
    modern = measured["swiglu"] or measured["rms"] or measured["rope"] or not measured["shift"]
    # 2C outputs are SiT's; without them a plain network may be of any of the three projects.
    if not (modern or measured["sigma"] or declared):
        raise InputError(
            f"{file}: its tensors fit SiT, REPA and LightningDiT alike, whose times run in"
            f" opposite directions; pass convention='sit' or 'repa'"
        )
    plan, assumed = infer_architecture(measured, heads, file)
    family = "LightningDiT" if modern else "SiT"
    if modern and not plan.rope:
        assumed.append("no rotary positions, since it has no feat_rope tensors")
    if family == "SiT" and declared is None:
        assumed.append("SiT's flow (DiT's own weights, which look the same, are no flow)")
    title = network_title(family, plan)
    return RecognisedCheckpoint(title, plan, CONVENTIONS["sit"], tensors, assumed)


FAMILIES: tuple[tuple[Callable[[Checkpoint], bool], Recogniser], ...] = (
    (lambda checkpoint: "model" in checkpoint.config, _recognise_lightningdit),
    (lambda checkpoint: is_repa(checkpoint.tensors, checkpoint.arguments), _recognise_repa),
    (lambda checkpoint: bool(checkpoint.arguments), _recognise_sit),
    (lambda _: True, _recognise_tensors),
)
"""How each family is recognised, and read; the first row that applies is taken."""


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name, {})
    return section if isinstance(section, Mapping) else {}
