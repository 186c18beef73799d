"""Which project a checkpoint comes from, its architecture, and its convention.

Settings in the file come first and must agree with the tensors. Without settings the tensors
determine everything but what is then listed as assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from floracle.core.fields import Convention
from floracle.models.checkpoints import Checkpoint
from floracle.models.convention import CONVENTIONS
from floracle.models.state_dict import mixed_types
from floracle.models.typed_config import (
    Schema,
    boolean,
    count,
    number,
    read_settings,
    share,
    text,
    unread,
    unused,
)
from floracle.run.errors import InputError

from .lightningdit import SIZES, Architecture
from .sit import (
    REPA_SCHEMA,
    SIT_SCHEMA,
    is_repa,
    named_size,
    repa_architecture,
    repa_convention,
    sampling_tensors,
    sit_architecture,
    sit_convention,
    transport_convention,
)
from .tensors import check_agreement, infer_architecture, measure_tensors, without_tables

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
    null_trained: bool = True
    """Whether labels were dropped in training, so that the null label means something."""


SECTIONS: Mapping[str, Schema] = {
    "model": {
        "model_type": text,
        "in_chans": count(),
        "class_dropout_prob": share,
        **dict.fromkeys(("use_rmsnorm", "use_swiglu", "use_rope", "use_qknorm"), boolean),
        **dict.fromkeys(("wo_shift", "learn_sigma"), boolean),
        **unused("use_checkpoint"),
    },
    "data": {
        "image_size": count(),
        "num_classes": count(),
        "latent_norm": boolean,
        "latent_multiplier": number,
        **unused("data_path fid_reference_file num_workers sample raw_image_path"),
    },
    "vae": {"downsample_ratio": count(), **unused("model_name")},
    "transport": {
        "path_type": text,
        "prediction": text,
        **unused("loss_weight sample_eps train_eps use_cosine_loss use_lognorm"),
    },
}
"""The sections of LightningDiT's YAML file that describe a network, its latents and its flow."""

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
    if heads is not None and heads != plan.heads:
        raise InputError(
            f"{checkpoint.path} has {plan.heads} heads, not {heads}: its settings or tensors"
            f" determine them; leave out heads="
        )
    if convention.null_label is None and plan.null and recognised.null_trained:
        convention = replace(convention, null_label=plan.classes)

    assumed = [
        *recognised.assumed,
        f"samples of {' × '.join(map(str, plan.shape))}",
        f"{checkpoint.weights or 'its only'} weights",
        *mixed_types(without_tables(recognised.tensors)),
    ]
    if (plan.depth, plan.width) not in {(size.depth, size.width) for size in SIZES.values()}:
        assumed.append(f"{plan.depth} blocks of width {plan.width}, as many as it has tensors for")
    if checkpoint.config and "model" not in checkpoint.config:
        assumed += unread(checkpoint.config, section="config ")
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
    model, data, vae, transport = (
        read_settings(checkpoint.config.get(name, {}), schema, f"section {name!r} of {file}")
        for name, schema in SECTIONS.items()
    )
    measured = measure_tensors(checkpoint.tensors, file)
    classes = data.get("num_classes", 1000)
    plan = replace(
        named_size(model.get("model_type"), "LightningDiT", file),
        channels=model.get("in_chans", 4),
        side=data.get("image_size", 256) // vae.get("downsample_ratio", VAVAE_DOWNSAMPLING),
        classes=classes,
        null=measured["rows"] != classes,
        rms=model.get("use_rmsnorm", False),
        swiglu=model.get("use_swiglu", False),
        rope=model.get("use_rope", False),
        qk_norm=model.get("use_qknorm", False),
        shift=not model.get("wo_shift", False),
        sigma=model.get("learn_sigma", False),
    )
    check_agreement(plan, measured, file)
    normalized = "normalized" if data.get("latent_norm", False) else "not normalized"
    scale = data.get("latent_multiplier", 0.18215)
    unread_sections = [
        phrase
        for name, schema in SECTIONS.items()
        for phrase in unread(checkpoint.config.get(name, {}), schema, section=f"{name}.")
    ]
    return RecognisedCheckpoint(
        network_title("LightningDiT", plan),
        plan,
        transport_convention(
            transport.get("path_type", "Linear"), transport.get("prediction", "velocity"), file
        ),
        checkpoint.tensors,
        ["its own settings", f"latents {normalized}, times {scale:g}", *unread_sections],
        null_trained=model.get("class_dropout_prob", 1) > 0,
    )


def _recognise_sit(checkpoint: Checkpoint, *_: object) -> RecognisedCheckpoint:
    """By SiT's command line."""
    file = checkpoint.path
    arguments = read_settings(checkpoint.arguments, SIT_SCHEMA, f"the arguments in {file}")
    measured = measure_tensors(checkpoint.tensors, file)
    plan = sit_architecture(arguments, measured, file)
    check_agreement(plan, measured, file)
    convention = sit_convention(arguments, file)
    assumed = ["its own arguments", *unread(checkpoint.arguments, SIT_SCHEMA)]
    return RecognisedCheckpoint(
        network_title("SiT", plan), plan, convention, checkpoint.tensors, assumed
    )


def _recognise_repa(
    checkpoint: Checkpoint, _: Convention | None, heads: int | None
) -> RecognisedCheckpoint:
    """By REPA's command line, or by its tensors where there is none."""
    file = checkpoint.path
    arguments = read_settings(checkpoint.arguments, REPA_SCHEMA, f"the arguments in {file}")
    tensors = sampling_tensors(checkpoint.tensors, arguments, file)
    measured = measure_tensors(tensors, file)
    if arguments:
        plan = repa_architecture(arguments, measured, file)
        assumed = ["its own arguments", *unread(checkpoint.arguments, REPA_SCHEMA)]
        check_agreement(plan, measured, file)
    else:
        plan, assumed = infer_architecture(measured, heads, file)
    assumed.append("projectors left out")
    convention = repa_convention(arguments, file)
    title, dropout = network_title("REPA", plan), arguments.get("cfg_prob", 1)
    return RecognisedCheckpoint(
        title, plan, convention, tensors, assumed, null_trained=dropout > 0
    )


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
