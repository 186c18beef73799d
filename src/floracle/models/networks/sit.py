"""SiT, DiT's network trained as a flow (Ma et al. 2024), and REPA's (Yu et al. 2025).

Both are LightningDiT with its modern parts off. SiT has 2C outputs, of which nobody uses the
second half (`learn_sigma`). REPA trains the same network against features of another one, through
`projectors` that sampling does not need, and its time is 1 − t.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from torch import Tensor

from floracle.core.fields import Convention
from floracle.core.paths import LINEAR, QUANTITIES, TRIGONOMETRIC, Quantity
from floracle.models.typed_config import Schema, boolean, count, one_of, share, show, text, unused
from floracle.run.errors import InputError, suggestion

from .lightningdit import SIZES, Architecture

DOWNSAMPLING = 8  # pixels of an edge per latent of Stable Diffusion's autoencoder
SIZE_NAMES = {"S": "small", "B": "base", "L": "large", "XL": "xl", "1p0B": "1p0b", "1p6B": "1p6b"}
TRANSPORT_PATHS = {"linear": LINEAR, "gvp": TRIGONOMETRIC, "cosine": TRIGONOMETRIC}
"""REPA's "cosine" is SiT's "GVP": α = sin(πt/2), σ = cos(πt/2)."""
SIT_SCHEMA: Schema = {
    "model": text,
    "image_size": count(),
    "num_classes": count(),
    "path_type": text,
    "prediction": text,
    "learn_sigma": boolean,  # of forks; the tensors say it
    **unused(
        "data_path results_dir epochs global_batch_size global_seed vae num_workers log_every"
        " ckpt_every sample_every cfg_scale wandb ckpt loss_weight sample_eps train_eps"
    ),
}
"""The options of SiT's train.py."""
REPA_SCHEMA: Schema = {
    "model": text,
    "resolution": count(),
    "num_classes": count(),
    "path_type": text,
    "prediction": one_of("v", "velocity"),
    "qk_norm": boolean,
    "encoder_depth": count(0),
    "cfg_prob": share,
    **unused(
        "output_dir exp_name logging_dir report_to sampling_steps resume_step fused_attn data_dir"
        " batch_size allow_tf32 mixed_precision epochs max_train_steps checkpointing_steps"
        " gradient_accumulation_steps learning_rate adam_beta1 adam_beta2 adam_weight_decay"
        " adam_epsilon max_grad_norm seed num_workers enc_type proj_coeff weighting legacy"
    ),
}
"""The options of REPA's train.py."""


def transport_convention(path_type: object, prediction: object, file: object) -> Convention:
    """The convention of SiT's words for a path and a prediction; REPA and LightningDiT share them.

    Its times are ours.
    """
    path, predicts = str(path_type).lower(), str(prediction).lower()
    if path == "vp":
        raise InputError(
            f"{file} was trained on SiT's VP path, on which data is left at t = 0, so it is no"
            f" velocity field on [0, 1]; Linear and GVP are supported"
        )
    if path not in TRANSPORT_PATHS:
        hint = suggestion(path, TRANSPORT_PATHS)
        raise InputError(f"{file}: unknown path_type {show(path_type)}; {hint}")
    if predicts not in QUANTITIES:
        hint = suggestion(predicts, QUANTITIES)
        raise InputError(f"{file}: unknown prediction {show(prediction)}; {hint}")
    return Convention(predicts=cast(Quantity, predicts), path=TRANSPORT_PATHS[path])


def sit_convention(arguments: Mapping[str, Any], file: object) -> Convention:
    """The convention of SiT's options."""
    return transport_convention(
        arguments.get("path_type", "Linear"), arguments.get("prediction", "velocity"), file
    )


def repa_convention(arguments: Mapping[str, Any], file: object) -> Convention:
    """The convention of REPA's options, with time 1 − t."""
    convention = transport_convention(arguments.get("path_type", "linear"), "velocity", file)
    return replace(convention, noise_time=1, data_time=0)


def named_size(model: object, family: str, file: object) -> Architecture:
    """The size with a name like "SiT-XL/2"."""
    match = re.fullmatch(rf"{family}-(\w+)/(\d{{1,3}})", str(model))
    if match is None or match[1] not in SIZE_NAMES:
        names = [f"{family}-{size}/2" for size in SIZE_NAMES]
        hint = suggestion(show(model, quotes=False), names)
        raise InputError(f"{file}: there is no model {show(model)}; {hint}")
    return replace(SIZES[SIZE_NAMES[match[1]]], patch=int(match[2]))


def _plain_size(
    arguments: Mapping[str, Any], measured: Mapping[str, Any], file: object
) -> Architecture:
    """The named size, with the modern parts of LightningDiT off."""
    size = named_size(arguments.get("model"), "SiT", file)
    classes = arguments.get("num_classes", 1000)
    null = measured["rows"] != classes  # label dropout of 0 makes no row for the null label
    return replace(size, rms=False, swiglu=False, rope=False, classes=classes, null=null)


def sit_architecture(
    arguments: Mapping[str, Any], measured: Mapping[str, Any], file: object
) -> Architecture:
    """The architecture of SiT's command line; whether it has 2C outputs, the tensors say."""
    return replace(
        _plain_size(arguments, measured, file),
        side=arguments.get("image_size", 256) // DOWNSAMPLING,
        sigma=arguments.get("learn_sigma", measured["sigma"]),
    )


def repa_architecture(
    arguments: Mapping[str, Any], measured: Mapping[str, Any], file: object
) -> Architecture:
    """The architecture of REPA's command line; its channels are as the tensors say."""
    return replace(
        _plain_size(arguments, measured, file),
        side=arguments.get("resolution", 256) // DOWNSAMPLING,
        channels=measured["channels"],
        qk_norm=arguments.get("qk_norm", False),
        sigma=False,
    )


def is_repa(tensors: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> bool:
    """Whether it is REPA's: by its projectors, its former names, or its options."""
    prefixes = ("projectors.", "decoder_blocks.")
    return "enc_type" in arguments or any(name.startswith(prefixes) for name in tensors)


def sampling_tensors(
    tensors: Mapping[str, Tensor], arguments: Mapping[str, Any], file: object
) -> dict[str, Tensor]:
    """The tensors that sampling needs, under today's names.

    REPA once split its blocks after `encoder_depth`, and numbered the late ones from 0 again.
    """
    early = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    is_split = any(name.startswith("decoder_blocks.") for name in tensors)
    depth = arguments.get("encoder_depth", len(early))
    if is_split and depth != len(early):
        raise InputError(
            f"{file} has {len(early)} blocks before its decoder_blocks, and its encoder_depth is"
            f" {depth}; it was not saved in full, fetch or save it again"
        )
    renamed = {}
    for name, tensor in tensors.items():
        late = re.match(r"decoder_blocks\.(\d{1,6})\.(.*)", name)
        if late:
            renamed[f"blocks.{int(late[1]) + len(early)}.{late[2]}"] = tensor
        elif not name.startswith("projectors."):
            renamed[name] = tensor
    return renamed
